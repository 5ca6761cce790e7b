"""Memory of the GPU and of the machine."""

from __future__ import annotations

from open_r1.troubleshooting.entry import Entry, Group

GPU_MEMORY = r"\bOutOfMemoryError: (?!out of resource)"
"""Not of torch's compiler, which so names shared memory that a kernel asks for in vain."""

_OUT_OF_MEMORY = (GPU_MEMORY, r"CUDA out of memory\.", r"CUDA (?:driver )?error: out of memory")
_DETAILS = (
    r"Tried to allocate (?P<asked>[\d.]+ [KMG]iB)",
    r"GPU (?P<gpu>\d+) has a total capacity of (?P<total>[\d.]+ [KMG]iB) of which (?P<free>[\d.]+ [KMG]iB) is free",
)
_TEXT = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.32 GiB. GPU 0 has a total capacity of 23.64 GiB "
    "of "
    "which 1.06 GiB is free. Including non-PyTorch memory, this process has 22.57 GiB memory in use."
)
_MORE = "[[: {asked} more were asked for]][[, and {free} of the {total} of GPU {gpu} are free]]"

MEMORY = Group(
    "Memory",
    (
        Entry(
            "gpu-memory-loading",
            "out of memory while the model is loaded",
            (_TEXT + '\n  File ".../transformers/modeling_utils.py", line 5048, in from_pretrained',),
            _OUT_OF_MEMORY,
            f"the weights of the model do not fit into the memory of the GPU{_MORE}. Nothing has been trained yet.",
            (
                "nvidia-smi  # first: does another process hold the memory?",
                "--use_peft --load_in_4bit  # adapters on weights of 4 bits: a quarter of the memory",
                "--use_peft --torch_dtype bfloat16  # adapters on weights of 16 bits",
                "accelerate launch --config_file recipes/accelerate_configs/zero3.yaml src/open_r1/sft.py …",
            ),
            ("open-r1 plan {words}", "docs/memory.md"),
            details=_DETAILS,
            where=r"modeling_utils\.py.*from_pretrained|model/load\.py|quantizers",
        ),
        Entry(
            "gpu-memory",
            "CUDA out of memory",
            (
                _TEXT,
                "RuntimeError: CUDA error: out of memory",
                "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            ),
            (*_OUT_OF_MEMORY, r"CUBLAS_STATUS_ALLOC_FAILED", r"CUDNN_STATUS_(?:INTERNAL_ERROR_HOST_)?ALLOC\w*_FAILED"),
            f"the memory of the GPU is used up{_MORE}. Accumulating more (gradient_accumulation_steps alone) frees "
            "nothing.",
            (
                "--gradient_checkpointing full  # activations are computed again; the result stays",
                "--per_device_train_batch_size 1  # with so much more --gradient_accumulation_steps",
                "--optim adamw_8bit  # a quarter of the optimizer's memory",
                "--use_peft  # adapters: no gradients and optimizer of the weights",
                "--max_length 8192  # grpo: --max_completion_length",
                "nvidia-smi  # does another process hold the memory?",
            ),
            ("open-r1 plan {words}", "docs/memory.md"),
            details=_DETAILS,
        ),
        Entry(
            "host-memory",
            "the machine's memory (RAM) is used up",
            (
                "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
                "memory: "
                "you tried to allocate 68719476736 bytes. Error code 12 (Cannot allocate memory)",
                "MemoryError",
                "OSError: [Errno 12] Cannot allocate memory",
                "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 12.5 GiB for an array",
            ),
            (
                r"DefaultCPUAllocator: can't allocate memory",
                r"^(?:\w+\.)*_?\w*MemoryError\b(?!.*CUDA|: out of resource)",
                r"\[Errno 12\]|\bCannot allocate memory",
            ),
            "the memory of the machine, not that of the GPU, is used up[[: {asked} bytes were asked for at once]].",
            (
                "--dataset_num_proc 1  # fewer processes that prepare data",
                "--reward_workers 2  # grpo: fewer processes that verify answers",
                "docker run --memory 64g …  # a container's limit is often far below the machine's",
            ),
            ("open-r1 doctor --only memory cpu",),
            details=(r"you tried to allocate (?P<asked>\d+) bytes",),
        ),
        Entry(
            "shared-memory",
            "/dev/shm is full",
            (
                "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible that "
                "dataloader's "
                "workers are out of shared memory. Please try to raise your shared memory limit.",
                "Error while creating shared memory segment /dev/shm/nccl-Xq2b1S (size 9637888)",
                "RuntimeError: unable to open shared memory object </torch_4711_1> in read-write mode: "
                "No space left on device (28)",
                "Signal 7 (SIGBUS) received by PID 4711",
                "Bus error (core dumped)",
            ),
            (
                r"killed by signal: Bus error",
                r"shared memory segment /dev/shm",
                r"unable to (?:open|write|mmap|resize).{0,30}(?:shared memory|</torch_)",
                r"No space left on device.{0,20}/dev/shm|/dev/shm.*No space left on device",
                r"^Fatal Python error: Bus error",
            ),
            "/dev/shm, the memory that processes share, is full: a container gets 64 MB of it by default, and NCCL and "
            "worker processes need more. A file on a full or vanished disk ends a process in the same way.",
            (
                "docker run --shm-size 16g …  # or --ipc host",
                "mount -o remount,size=16g /dev/shm  # as root, in a running container",
                "export NCCL_SHM_DISABLE=1  # where neither can be done: slower between GPUs",
            ),
            ("open-r1 doctor --only shared_memory cache_disks output_disk",),
            signals=("SIGBUS",),
        ),
    ),
)
