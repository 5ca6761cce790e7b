"""Matrix products, attention and sums over GPUs: what children that tried them have come to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Literal

from open_r1.doctor.finding import Finding
from open_r1.doctor.gpus import Gpu
from open_r1.machine.child import Outcome

Dtype = Literal["bf16", "fp16", "fp32", "fp8"]

CUBLAS_MENDED = (12, 4, 5)
"""Before it, bf16 and fp16 products of some shapes die by SIGFPE on the H20; mended in nvidia-cublas-cu12 12.4.5.8."""

CUBLAS_DEFECT = "A defect of cuBLAS before 12.4.5 on the H20; the types of 16 bits share it, so fp16 is no way out."
CUBLAS_FIX = 'pip install "nvidia-cublas-cu12==12.4.5.8"'
CUBLAS_WHEELS = ("nvidia-cublas", "nvidia-cublas-cu13", "nvidia-cublas-cu12", "nvidia-cublas-cu11")
NO_OWN_CUBLAS = "unset LD_LIBRARY_PATH   # so that torch loads the cuBLAS that it came with"
PLAIN_CPU = "export ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2"
NO_SPACE = "nvidia-smi   # names what takes the memory; end it, or choose another GPU with CUDA_VISIBLE_DEVICES"

NCCL_ATTEMPTS: tuple[dict[str, str], ...] = (
    {},
    {"NCCL_P2P_DISABLE": "1"},
    {"NCCL_SHM_DISABLE": "1"},
    {"NCCL_IB_DISABLE": "1"},
    {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1", "NCCL_NVLS_ENABLE": "0"},
)
"""Settings that the sum is tried with, until it succeeds."""


def check_matmul(dtype: Dtype, outcome: Outcome, wheels: Mapping[str, str] | None = None) -> Finding:
    """What became of the products in one type.

    Args:
        wheels: versions of the installed cuBLAS packages by name; None looks.
    """
    name, facts = f"matmul_{dtype}", outcome.facts
    where = facts.get("at") or "the start"
    if outcome.signal_name or outcome.timed_out:
        how = f"die by {outcome.signal_name}" if outcome.signal_name else "do not end"
        fix = _fix_of_a_death(outcome, facts, installed_cublas() if wheels is None else wheels)
        known = CUBLAS_DEFECT if fix == CUBLAS_FIX else ""
        detail = "\n".join(filter(None, (outcome.errors.strip(), _cublas_text(facts, wheels), known)))
        return Finding("fail", name, f"{dtype} products {how} at {where}", detail, fix)
    if not outcome.ended_well:
        busy = "out of memory" in outcome.errors
        fix = NO_SPACE if busy else _fix_of_the_library(facts, wheels)
        return Finding("fail", name, f"{dtype} products fail at {where}: {outcome.last_error}", outcome.errors, fix)
    tried, wrong, too_large = facts["tried"], facts["wrong"], facts["too_large"]
    if wrong:
        lines = "\n".join([_cublas_text(facts, wheels), *wrong])
        fix = _fix_of_the_library(facts, wheels)
        return Finding("fail", name, f"{len(wrong)} of {tried} {dtype} products are wrong: {wrong[0]}", lines, fix)
    left_out = f"; {too_large} are too large for the memory that is free" if too_large else ""
    return Finding("ok", name, f"{tried} products of models' shapes are right{left_out}", _cublas_text(facts, wheels))


def installed_cublas() -> dict[str, str]:
    """Versions of the cuBLAS packages that are installed, by name."""
    found = {}
    for name in CUBLAS_WHEELS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _fix_of_a_death(outcome: Outcome, facts: Mapping[str, object], wheels: Mapping[str, str]) -> str:
    if outcome.signal_name == "SIGILL":
        return PLAIN_CPU
    if outcome.signal_name == "SIGKILL":
        return "raise the container's memory (docker run --memory): the kernel's out-of-memory killer sends SIGKILL"
    if outcome.timed_out and "cublas" not in facts:
        return "nvidia-smi   # if it hangs too, restart the machine; else give more time: --timeout 600"
    return _fix_of_the_library(facts, wheels)


def _fix_of_the_library(facts: Mapping[str, object], wheels: Mapping[str, str] | None) -> str:
    """The library that is loaded decides: another than torch's own, the one with the known defect, or any."""
    wheels = installed_cublas() if wheels is None else wheels
    loaded = facts.get("cublas")
    if isinstance(loaded, dict):
        if wheels and not re.search(r"/(site|dist)-packages/", loaded["file"]):
            return NO_OWN_CUBLAS
        if (12,) <= _numbers(loaded["version"]) < CUBLAS_MENDED:
            return CUBLAS_FIX
    for name, version in wheels.items():
        if name.endswith("cu12") and _numbers(version)[:3] < CUBLAS_MENDED:
            return CUBLAS_FIX
    if wheels:
        return f"pip install --force-reinstall --no-deps {next(iter(wheels))}"
    return "pip uninstall -y torch && pip install -c constraints.txt torch"


def _cublas_text(facts: Mapping[str, object], wheels: Mapping[str, str] | None) -> str:
    loaded = facts.get("cublas")
    if not isinstance(loaded, dict):
        return ""
    wheels = installed_cublas() if wheels is None else wheels
    installed = ", ".join(f"{name} {version}" for name, version in wheels.items()) or "no package of it"
    return f"cuBLAS {loaded['version']} from {loaded['file']}; installed: {installed}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def check_attention(outcomes: Mapping[str, Outcome], chosen: str) -> list[Finding]:
    """What became of each attention kernel.

    Args:
        outcomes: of the kernels that are there.
        chosen: the one that training takes.
    """
    findings, good = [], []
    for kernel, outcome in outcomes.items():
        trouble = _attention_trouble(outcome)
        if not trouble:
            good.append(KERNELS[kernel])
            continue
        level: Literal["fail", "warn"] = "fail" if kernel == chosen else "warn"
        summary = f"{KERNELS[kernel]}{', which would be chosen,' if kernel == chosen else ''} {trouble}"
        fix = "pip uninstall -y flash-attn-4" if kernel == "fa4" else "--attn_implementation sdpa   # for sft and grpo"
        detail = "\n".join([*outcome.facts.get("wrong", []), outcome.errors]).strip()
        findings.append(Finding(level, "attention", summary, detail, fix))
    if any(finding.level == "fail" for finding in findings):
        return findings
    others = [name for name in good if name != KERNELS[chosen]]
    also = f"; {' and '.join(others)} work{'s' * (len(others) == 1)} too" if others else ""
    return [Finding("ok", "attention", f"{KERNELS[chosen]} is right, and will be chosen{also}"), *findings]


KERNELS = {"fa4": "flash-attn-4", "varlen": "torch's varlen_attn", "documents": "SDPA"}
"""What a person calls the kernels of `open_r1.model.kernels`."""


def _attention_trouble(outcome: Outcome) -> str:
    if outcome.timed_out:
        return "does not end"
    if outcome.signal_name:
        return f"dies by {outcome.signal_name}"
    if not outcome.ended_well:
        return f"fails: {outcome.last_error}"
    return f"computes something else: {outcome.facts['wrong'][0]}" if outcome.facts["wrong"] else ""


def check_all_reduce(gpus: Sequence[Gpu], attempt: Callable[[Mapping[str, str]], Outcome]) -> Finding:
    """Sums over all GPUs, at first as things are, then with NCCL's ways switched off one by one.

    Args:
        attempt: runs the child with variables added to its environment.
    """
    if len(gpus) < 2:
        return Finding("skip", "all_reduce", "one GPU")
    first: Outcome | None = None
    for settings in NCCL_ATTEMPTS:
        outcome = attempt(settings)
        trouble = _sum_trouble(outcome, len(gpus))
        if not trouble and first is None:
            rate = outcome.facts["bandwidth"] / 1e9
            return Finding("ok", "all_reduce", f"sums over {len(gpus)} GPUs are right, {rate:.0f} GB/s")
        first = first or outcome
        if not trouble:
            export = " ".join(f"{name}={value}" for name, value in settings.items())
            summary = f"NCCL {_sum_trouble(first, len(gpus))}; with {export} it works"
            return Finding("fail", "all_reduce", summary, first.errors, f"export {export}")
    return Finding(
        "fail",
        "all_reduce",
        f"NCCL {_sum_trouble(first, len(gpus))}, whatever is switched off",
        first.errors,
        "NCCL_DEBUG=INFO open-r1 doctor --only all_reduce --details   # says how far it comes",
    )


def _sum_trouble(outcome: Outcome, ranks: int) -> str:
    joined = len({line["joined"] for line in outcome.lines if "joined" in line})
    where = "in a sum" if joined == ranks else f"while connecting ({joined} of {ranks} processes did)"
    wrong = [line["wrong"] for line in outcome.lines if "wrong" in line]
    if outcome.timed_out:
        return f"hangs {where}"
    if wrong:
        return f"computes something else: {wrong[0]}"
    if outcome.ended_well and "bandwidth" in outcome.facts:
        return ""
    return f"fails {where}: {outcome.signal_name or outcome.last_error}"
