"""All checks, in the order in which they are shown: what is known at once comes first."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from open_r1.config.doctor import CheckName
from open_r1.doctor.arithmetic_checks import Dtype, check_all_reduce, check_attention, check_matmul
from open_r1.doctor.disk_checks import check_cache_disks, check_output_disk
from open_r1.doctor.finding import Finding
from open_r1.doctor.gpu_checks import (
    check_driver,
    check_gpus,
    check_links,
    check_precision,
    check_torch,
)
from open_r1.doctor.machine_checks import (
    check_core_dumps,
    check_cpu,
    check_memory,
    check_open_files,
    check_python,
    check_shared_memory,
)
from open_r1.doctor.network_checks import check_clock, check_hub, check_tokens
from open_r1.doctor.situation import Situation
from open_r1.doctor.software_checks import check_deepspeed, check_packages, check_vllm
from open_r1.machine.cards import BF16_FROM, FP8_FROM, FP16_FROM
from open_r1.machine.disks import size_text
from open_r1.model.tokenizer_files import has_vocabulary

Found = Finding | list[Finding]


@dataclass(frozen=True)
class Check:
    """A check of the list.

    Attributes:
        child: it runs child processes, and is left out by ``--quick``.
        gpu: it is left out on a machine that has none.
    """

    name: CheckName
    group: str
    run: Callable[[Situation], Found]
    child: bool = False
    gpu: bool = False

    @property
    def waits(self) -> bool:
        """Whether it waits for children, its own or torch's, which have deadlines of their own."""
        return self.child or self.gpu or self.name == "torch"


def _shared_memory(at: Situation) -> Found:
    return check_shared_memory(gpus=len(at.driver.gpus))


def _cache_disks(at: Situation) -> Found:
    model = at.model
    return check_cache_disks(
        model_bytes=model.bytes if model else None, cached_bytes=model.here if model else 0
    ) + _unknown_model(at, "cache_disks")


def _output_disk(at: Situation) -> Found:
    model = at.model
    return check_output_disk(at.config.output_dir, parameters=model.parameters if model else None)


def _unknown_model(at: Situation, check: CheckName) -> list[Finding]:
    if at.config.model is None:
        return []
    folder = Path(os.path.expanduser(at.config.model))
    if at.model is None and (folder.is_dir() or folder.is_absolute()):
        what = "holds no safetensors files" if folder.is_dir() else "is no folder"
        summary = f"{at.config.model} {what}"
        return [Finding("warn", check, summary, fix="--model DIR   # with config.json and *.safetensors, or a hub id")]
    if at.model is None:
        summary = f"the size of {at.config.model} is not known: is the name right, and the hub reachable?"
        return [Finding("warn", check, summary, fix="open-r1 doctor --only hub tokens   # gated models need a token")]
    size = f"{at.model.parameters / 1e9:.2f} billion parameters, {size_text(at.model.bytes)}"
    place = "here already" if at.model.here else "to be downloaded"
    return [Finding("ok", check, f"{at.config.model}: {size}, {place}"), *_without_tokens(at.config.model, check)]


def _without_tokens(model: str, check: CheckName) -> list[Finding]:
    """Of a folder: transformers would build a tokenizer that knows special tokens only, and say nothing."""
    folder = Path(os.path.expanduser(model))
    if not folder.is_dir() or has_vocabulary(folder):
        return []
    fix = f"cp THE_MODEL_IT_WAS_MADE_FROM/tokenizer.json {folder}"
    return [Finding("warn", check, f"{model}: its tokenizer has no tokens: tokenizer.json is missing", fix=fix)]


def _precision(at: Situation) -> Found:
    if not any(gpu.capability for gpu in at.gpus):
        return Finding("skip", "precision", "the chip's abilities are not known without torch")
    return check_precision(at.gpus)


def _matmul(dtype: Dtype, at: Situation) -> Found:
    oldest = {"bf16": BF16_FROM, "fp16": FP16_FROM, "fp8": FP8_FROM}.get(dtype)
    if at.torch.gpus and oldest and (at.torch.gpus[0].capability or oldest) < oldest:
        return Finding("skip", f"matmul_{dtype}", f"this chip has no {dtype}")
    if not at.torch.version or (at.device == "cpu" and dtype in ("fp16", "fp8")):  # never asked of a CPU
        return _no_torch(f"matmul_{dtype}")
    return check_matmul(dtype, at.child("open_r1.doctor.matmul_probe", {"dtype": dtype, "device": at.device}))


def _attention(at: Situation) -> Found:
    if not at.torch.kernels:
        return _no_torch("attention")
    asked = ({"kernel": kernel, "device": at.device} for kernel in at.torch.kernels)
    outcomes = {each["kernel"]: at.child("open_r1.doctor.attention_probe", each) for each in asked}
    return check_attention(outcomes, at.torch.chosen)


def _all_reduce(at: Situation) -> Found:
    gpus = at.torch.gpus
    if not gpus:
        return _no_torch("all_reduce")
    asked = {"ranks": len(gpus), "backend": "nccl", "seconds": at.config.timeout}
    return check_all_reduce(
        gpus, lambda settings: at.child("open_r1.parallel.all_reduce_probe", asked, settings=settings)
    )


def _vllm(at: Situation) -> Found:
    asked = {"module": "vllm", "attribute": "LLM"}
    return check_vllm(lambda: at.child("open_r1.doctor.import_probe", asked, on_gpu=False))


def _deepspeed(at: Situation) -> Found:
    return check_deepspeed(lambda: at.child("open_r1.doctor.import_probe", {"module": "deepspeed"}, on_gpu=False))


def _no_torch(check: str) -> Finding:
    return Finding("skip", check, "torch does not come to it: see the check torch")


CHECKS: tuple[Check, ...] = (
    Check("python", "machine", lambda at: check_python()),
    Check("cpu", "machine", lambda at: check_cpu()),
    Check("memory", "machine", lambda at: check_memory()),
    Check("shared_memory", "machine", _shared_memory),
    Check("open_files", "machine", lambda at: check_open_files()),
    Check("core_dumps", "machine", lambda at: check_core_dumps()),
    Check("cache_disks", "disk", _cache_disks),
    Check("output_disk", "disk", _output_disk),
    Check("hub", "network", lambda at: check_hub(at.reply)),
    Check("clock", "network", lambda at: check_clock(at.reply)),
    Check("tokens", "network", lambda at: check_tokens()),
    Check("packages", "software", lambda at: check_packages()),
    Check("torch", "software", lambda at: check_torch(at.torch, at.driver)),
    Check("deepspeed", "software", _deepspeed, child=True),
    Check("vllm", "software", _vllm, child=True),
    Check("gpus", "GPU", lambda at: check_gpus(at.gpus), gpu=True),
    Check("driver", "GPU", lambda at: check_driver(at.torch, at.driver), gpu=True),
    Check("precision", "GPU", _precision, gpu=True),
    Check("links", "GPU", lambda at: check_links(len(at.gpus), at.driver.topology, at.torch.peers), gpu=True),
    Check("matmul_bf16", "arithmetic", partial(_matmul, "bf16"), child=True),
    Check("matmul_fp16", "arithmetic", partial(_matmul, "fp16"), child=True, gpu=True),
    Check("matmul_fp32", "arithmetic", partial(_matmul, "fp32"), child=True),
    Check("matmul_fp8", "arithmetic", partial(_matmul, "fp8"), child=True, gpu=True),
    Check("attention", "arithmetic", _attention, child=True),
    Check("all_reduce", "arithmetic", _all_reduce, child=True, gpu=True),
)

CAUSES: tuple[CheckName, ...] = ("python", "driver", "torch", "packages")
"""What mostly explains the rest, and so is to be mended first."""
