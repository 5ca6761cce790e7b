"""Driver, torch's build, and what the GPUs are and can do."""

from __future__ import annotations

import os
import re
from collections import Counter

from open_r1.doctor.finding import Finding
from open_r1.doctor.gpus import Driver, Gpu, Torch
from open_r1.machine.cards import BF16_FROM, FP8_FROM, FP16_FROM
from open_r1.machine.disks import size_text

OLDEST_DRIVER = {13: 580, 12: 525, 11: 450}
"""By the major version of CUDA (NVIDIA, CUDA compatibility, minor version compatibility)."""

BUSY_SHARE = 0.1
REINSTALL_TORCH = "pip uninstall -y torch && pip install -c constraints.txt torch"


def check_torch(torch: Torch, driver: Driver, visible_devices: str | None = None) -> Finding:
    """Torch can be imported, and finds the GPUs that the driver has.

    Args:
        visible_devices: CUDA_VISIBLE_DEVICES.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible_devices is None else visible_devices
    there = len(driver.gpus)
    if not torch.version:
        return Finding("fail", "torch", torch.error, torch.outcome.errors, _fix_of_a_death(torch))
    build = f"CUDA {torch.cuda}" if torch.cuda else f"ROCm {torch.hip}" if torch.hip else "for CPUs only"
    summary = f"{torch.version.split('+')[0]} ({build})"
    if there and not torch.cuda:
        what = f"{there} GPU{'s' * (there > 1)}"
        return Finding("fail", "torch", f"{summary} cannot use the {what} of this machine", fix=REINSTALL_TORCH)
    if there and not torch.gpus:
        if visible is not None and visible.strip() in ("", "-1"):
            hidden = f"CUDA_VISIBLE_DEVICES={visible!r} hides the GPUs"
            return Finding("warn", "torch", f"{summary}: {hidden}", fix="unset CUDA_VISIBLE_DEVICES")
        said = " ".join(torch.error.split("\n")[0].split())
        return Finding(
            "fail",
            "torch",
            f"{summary} finds no GPU, the driver has {there}: {said or 'without a reason'}",
            f"{torch.error}\n{torch.outcome.errors}".strip(),
            "nvidia-smi   # if that is well too: restart the container with --gpus all, or the machine",
        )
    if not torch.outcome.ended_well:
        return Finding("fail", "torch", f"{summary}: {torch.error}", torch.outcome.errors, _fix_of_a_death(torch))
    strange = [gpu for gpu in torch.gpus if torch.built_for and not _is_built_for(gpu, torch.built_for)]
    if strange and not torch.hip:
        chip = "sm_{}{}".format(*strange[0].capability or (0, 0))
        return Finding(
            "fail",
            "torch",
            f"{summary} has no kernels for the {strange[0].name} ({chip})",
            f"It has them for {', '.join(torch.built_for)}.",
            REINSTALL_TORCH,
        )
    return Finding("ok", "torch", summary)


def check_driver(torch: Torch, driver: Driver) -> Finding:
    """The driver works, and is new enough for the CUDA that torch was built with."""
    if driver.error:
        return Finding(
            "fail",
            "driver",
            f"nvidia-smi fails: {driver.error[:120]}",
            driver.error,
            "sudo reboot   # after an update of the driver; in a container: restart it with --gpus all",
        )
    if driver.version is None:
        unknown = "its version is not known: nvidia-smi is not here" if torch.gpus else "no NVIDIA driver"
        return Finding("skip", "driver", unknown)
    major = int(torch.cuda.split(".")[0]) if torch.cuda else None
    oldest = OLDEST_DRIVER.get(major or 0)
    if oldest and int(driver.version.split(".")[0]) < oldest:
        if torch.gpus and torch.built_for:  # CUDA has started: by a compatibility package, as data centres' images have
            note = f"older than the {oldest} that CUDA {torch.cuda} asks for; CUDA starts all the same"
            return Finding("ok", "driver", f"{driver.version}, {note}")
        return Finding(
            "fail",
            "driver",
            f"{driver.version} is too old for torch's CUDA {torch.cuda}, which needs {oldest} or newer",
            "On a rented machine take an image with a newer driver; a container uses the driver of its host.",
            f"sudo apt install nvidia-driver-{oldest}   # or a torch that is built with an older CUDA",
        )
    return Finding("ok", "driver", driver.version)


def check_gpus(gpus: tuple[Gpu, ...]) -> list[Finding]:
    """Which GPUs there are, and whether something else has their memory."""
    kinds = Counter((gpu.name, gpu.memory) for gpu in gpus)
    named = ", ".join(f"{count} × {name}, {size_text(memory)}" for (name, memory), count in kinds.items())
    findings = []
    if len(kinds) > 1:
        findings.append(
            Finding(
                "warn",
                "gpus",
                f"{named}: GPUs of several kinds, of which the smallest sets the size of a batch",
                fix="export CUDA_VISIBLE_DEVICES=0   # numbers of GPUs of one kind",
            )
        )
    busy = {number: gpu for number, gpu in enumerate(gpus) if gpu.memory - gpu.free > BUSY_SHARE * gpu.memory}
    for number, gpu in busy.items():
        used = f"{size_text(gpu.memory - gpu.free)} of {size_text(gpu.memory)}"
        findings.append(
            Finding(
                "warn",
                "gpus",
                f"GPU {number} ({gpu.name}): {used} are taken by other processes",
                fix="nvidia-smi   # names them; end them, or choose another GPU with CUDA_VISIBLE_DEVICES",
            )
        )
    return findings or [Finding("ok", "gpus", named)]


def check_precision(gpus: tuple[Gpu, ...]) -> Finding:
    """The types that the chips multiply in their tensor cores."""
    capability = min(gpu.capability for gpu in gpus if gpu.capability)
    known = {"bf16": BF16_FROM, "fp16": FP16_FROM, "fp8": FP8_FROM}
    there = [name for name, oldest in known.items() if capability >= oldest]
    if "bf16" not in there:
        return Finding(
            "warn",
            "precision",
            f"{' and '.join(there) or 'float32 only'}: this generation has no bf16, which recipes ask for",
            fix="--bf16 false --fp16 true   # for sft and grpo" if there else "--bf16 false   # for sft and grpo",
        )
    return Finding("ok", "precision", ", ".join(there))


def check_links(count: int, topology: str, peers: bool) -> Finding:
    """How the GPUs are tied together.

    Args:
        topology: of ``nvidia-smi topo -m``.
        peers: whether all of them reach each other's memory.
    """
    if count < 2:
        return Finding("skip", "links", "one GPU")
    kinds = link_kinds(topology)
    words = ", ".join(f"{kind} ({times} of {kinds.total()} pairs)" for kind, times in kinds.most_common())
    summary = next(iter(kinds)) if len(kinds) == 1 else words
    if not peers:
        return Finding(
            "warn",
            "links",
            f"{summary or 'unknown links'}: GPUs do not reach each other's memory, so exchange goes through the host",
            "FSDP and ZeRO-3 move all weights in every step, DDP and ZeRO-2 only gradients.",
            "accelerate launch --config_file recipes/accelerate_configs/zero2.yaml …   # rather than zero3 or fsdp",
        )
    return Finding("ok", "links", summary or "GPUs reach each other's memory", topology)


def link_kinds(topology: str) -> Counter[str]:
    """NVLink or PCIe, of each pair of GPUs in the matrix that ``nvidia-smi topo -m`` prints."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", topology).splitlines()
    rows = [line.split() for line in lines if re.match(r"GPU\d+\s", line)]
    found: Counter[str] = Counter()
    for number, row in enumerate(rows):
        for link in row[number + 2 : len(rows) + 1]:
            found["NVLink" if link.startswith("NV") else "PCIe"] += 1
    return found


def _is_built_for(gpu: Gpu, built_for: tuple[str, ...]) -> bool:
    """A chip runs kernels of its own major version up to its minor one, and compiles any older ``compute_`` code."""
    major, minor = gpu.capability or (0, 0)
    for name in built_for:
        kind, _, digits = name.partition("_")
        digits = re.sub(r"\D", "", digits)
        if len(digits) < 2:
            continue
        of = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and of[0] == major and of[1] <= minor:
            return True
        if kind == "compute" and of <= (major, minor):
            return True
    return False


def _fix_of_a_death(torch: Torch) -> str:
    if torch.outcome.signal_name == "SIGILL":
        return "export ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2"
    if torch.outcome.timed_out:
        return "nvidia-smi   # if it hangs too, restart the machine; else try CUDA_VISIBLE_DEVICES=0"
    return REINSTALL_TORCH
