"""What is measured on a machine, in which order, and about how long each takes."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from open_r1.bench.cases import ON_CPU, SFTCase, gpu_cases
from open_r1.config.bench import BenchPart
from open_r1.doctor.gpus import Torch
from open_r1.machine.cards import BF16_FROM, FP8_FROM

PROBES = "open_r1.bench"
ALL_REDUCE = "open_r1.parallel.all_reduce_probe"
SQUARE = {"cuda": 8192, "cpu": 1024}
ROWS = {"cuda": 16_384, "cpu": 1024}
LENGTHS = {"cuda": (2048, 16_384), "cpu": (256, 2048)}
LARGE_GPU = 20e9
"""Bytes from which on an engine is given 512 sequences."""


@dataclass(frozen=True)
class Part:
    """What one child process measures.

    Attributes:
        title: for a person.
        module: the probe.
        asked: of it.
        usual: seconds that it takes where nothing was compiled before; half of them is the least to begin with.
        gated: whether it waits at a gate (`open_r1.bench.gate`), so that it can be started while another measures.
    """

    name: BenchPart
    title: str
    module: str
    asked: Mapping[str, Any] = field(default_factory=dict)
    usual: float = 10.0
    gated: bool = True


def choose_parts(torch: Torch, only: Sequence[BenchPart] | None, *, vllm: bool | None = None) -> list[Part]:
    """The parts for a machine, those that tell most first.

    Args:
        torch: what torch says of it.
        only: these alone; None is all.
        vllm: whether it is installed; None looks.
    """
    if vllm is None:
        vllm = importlib.util.find_spec("vllm") is not None
    parts = _on_gpu(torch, vllm) if torch.gpus else _on_cpu()
    return [part for part in parts if only is None or part.name in only]


def _on_gpu(torch: Torch, vllm: bool) -> list[Part]:
    gpu = torch.gpus[0]
    capability = gpu.capability or (0, 0)
    half = "bf16" if capability >= BF16_FROM else "fp16"
    dtypes = [*dict.fromkeys((half, "fp16")), *(["fp8"] if capability >= FP8_FROM else [])]
    first, *more = gpu_cases(gpu.free, capability) or [[]]
    kernels = sorted(torch.kernels, key=lambda kernel: kernel != torch.chosen)
    attention = [_attention("cuda", kernel, "1.5B", half) for kernel in kernels]
    return [
        _products("cuda", dtypes, ("0.5B", "1.5B", "7B"), copied=1 << 30, usual=12),
        *([_sft(first, capability)] if first else []),
        *attention[:1],  # its kernels were compiled for the part before
        _engine("cuda", "0.5B", {"bf16": "bfloat16", "fp16": "float16"}[half], vllm, large=gpu.memory >= LARGE_GPU),
        *(_sft(cases, capability) for cases in more),
        *attention[1:],
        *(_several(len(torch.gpus), half) if len(torch.gpus) > 1 else []),
    ]


def _on_cpu() -> list[Part]:
    return [
        _products("cpu", ["fp32", "bf16"], ("demo",), copied=1 << 27, usual=8),
        _attention("cpu", "documents", "demo", "fp32"),
        _sft([ON_CPU], None),
        _engine("cpu", "demo", "float32", vllm=False, large=False),
    ]


def _products(device: str, dtypes: list[str], shapes: tuple[str, ...], *, copied: int, usual: float) -> Part:
    asked = {"device": device, "dtypes": dtypes, "shapes": shapes, "copied": copied}
    asked |= {"square": SQUARE[device], "rows": ROWS[device]}
    return Part("products", "matrix products and copies", f"{PROBES}.products_probe", asked, usual)


def _attention(device: str, kernel: str, shape: str, dtype: str) -> Part:
    asked = {"device": device, "kernel": kernel, "shape": shape, "dtype": dtype}
    asked |= {"tokens": LENGTHS[device][-1], "lengths": LENGTHS[device]}
    usual = {"fa4": 12.0}.get(kernel, 10.0)
    return Part("attention", f"attention, {kernel}", f"{PROBES}.attention_probe", asked, usual)


def _sft(cases: Sequence[SFTCase], capability: tuple[int, int] | None) -> Part:
    """Of cases of one model."""
    asked = {"cases": [asdict(case) for case in cases], "capability": capability}
    title = " and ".join([f"training {cases[0].title}", *(f"{case.length:,}" for case in cases[1:])])
    return Part("sft", title, f"{PROBES}.sft_probe", asked, sum(case.usual for case in cases))


def _engine(device: str, shape: str, dtype: str, vllm: bool, *, large: bool) -> Part:
    on_gpu = device == "cuda"
    asked = {
        "device": device,
        "vllm": vllm,
        "shape": shape,
        "dtype": dtype,
        "sequences": (512 if large and vllm else 256) if on_gpu else 64,
        "prompt": 128 if on_gpu else 32,
        "tokens": 256 if on_gpu else 64,
    }
    title = f"drawing completions, {'vLLM' if vllm else 'transformers'}"
    return Part("engine", title, f"{PROBES}.engine_probe", asked, (50.0 if vllm else 30.0) if on_gpu else 12.0)


def _several(count: int, dtype: str) -> list[Part]:
    devices = [f"cuda:{number}" for number in range(count)]
    asked = {"devices": devices, "square": SQUARE["cuda"], "dtype": dtype}
    links = {"ranks": count, "backend": "nccl", "seconds": 30.0}
    return [
        Part("gpus", f"all {count} GPUs at once", f"{PROBES}.gpus_probe", asked, 8.0 + count),
        Part("gpus", "sums over all GPUs", ALL_REDUCE, links, 15.0, gated=False),
    ]
