"""Child process: what torch says of itself, of the GPUs, and of the attention kernels that open-r1 would choose."""

from __future__ import annotations

from typing import Any

from open_r1.machine.answer import Answer


def main() -> None:
    """Tells ``version``, ``cuda``, ``error``, ``gpus``, ``built_for``, ``peers``, ``kernels`` and ``chosen``.

    ``kernels`` are those that can be tried on the first GPU, or on the CPU; ``chosen`` is the one for training there.
    """
    answer = Answer()
    answer.begin("import torch")
    import torch

    answer.say(version=str(torch.__version__), cuda=torch.version.cuda, hip=torch.version.hip)
    answer.begin("CUDA initialisation")
    error, count = "", 0
    if torch.version.cuda is not None or torch.version.hip is not None:
        try:
            torch.cuda.init()
            count = torch.cuda.device_count()
        except (RuntimeError, AssertionError) as failure:
            error = str(failure)
    answer.say(error=error, gpus=[_gpu(number) for number in range(count)])
    if count:
        pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
        answer.say(
            built_for=torch.cuda.get_arch_list(),
            peers=all(torch.cuda.can_device_access_peer(a, b) for a, b in pairs),
        )
    answer.begin("attention kernels")
    answer.say(**_kernels(count > 0))


def _gpu(number: int) -> dict[str, Any]:
    import torch

    facts = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    return {"name": facts.name, "capability": [facts.major, facts.minor], "memory": total, "free": free}


def _kernels(on_gpu: bool) -> dict[str, Any]:
    import torch

    from open_r1.model.flash import has_flash_attention_4, varlen_parameters
    from open_r1.model.kernels import choose_kernel

    if not on_gpu:
        return {"kernels": ["documents"], "chosen": choose_kernel(torch.device("cpu"), torch.float32)}
    capability = torch.cuda.get_device_capability(0)
    dtype = torch.bfloat16 if capability >= (8, 0) else torch.float16
    there = {"fa4": has_flash_attention_4() and capability[0] >= 9, "varlen": bool(varlen_parameters())}
    kernels = [name for name, is_there in there.items() if is_there]
    return {"kernels": [*kernels, "documents"], "chosen": choose_kernel(torch.device("cuda", 0), dtype)}


if __name__ == "__main__":
    main()
