"""What the chip, its driver and CUDA do not take."""

from __future__ import annotations

from open_r1.troubleshooting.entry import Entry, Group

_TORCH_AGAIN = "pip install --force-reinstall -c constraints.txt torch"

CHIPS = Group(
    "The GPU, its driver and CUDA",
    (
        Entry(
            "bf16-unsupported",
            "this chip has no bf16",
            (
                "ValueError: Your setup doesn't support bf16/gpu.",
                "RuntimeError: Current CUDA Device does not support bfloat16. Please switch dtype to float16.",
                "ptxas /tmp/x.ptx, line 55; error : Feature '.bf16' requires .target sm_80 or higher",
                "RuntimeError: FlashAttention only supports Ampere GPUs or newer.",
                "ValueError: bf16 mixed precision requires PyTorch >= 1.10 and a supported device.",
            ),
            (
                r"doesn't support bf16",
                r"(?:does not|doesn't) support bfloat16",
                r"bf16[\w.']* requires \.target sm_80",
                r"only supports Ampere GPUs or newer",
                r"bf16 mixed precision requires",
            ),
            "the chip is older than bf16 (V100, T4, RTX 20 and before): it has 16-bit numbers as fp16 only.",
            (
                "--fp16 --attn_implementation sdpa  # instead of --bf16; the loss is scaled by itself",
                "--torch_dtype float32  # the weights, which fp16 needs to be wide",
            ),
            ("open-r1 doctor --only precision matmul_fp16",),
        ),
        Entry(
            "fp8-unsupported",
            "this chip has no fp8",
            (
                "RuntimeError: torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or "
                "8.9, or "
                "ROCm MI300+",
                "ValueError: type fp8e4nv not supported in this architecture. The supported fp8 dtypes are "
                "('fp8e4b15', "
                "'fp8e5')",
            ),
            (r"_scaled_mm is only supported", r"fp8\w* not supported in this architecture"),
            "fp8 needs a chip of the Ada or Hopper generation or newer (L4, 4090, H20, H100, …); an A100 has none.",
            ("--bf16  # and without --fp8",),
            ("open-r1 doctor --only precision matmul_fp8",),
        ),
        Entry(
            "no-kernel-image",
            "no kernel image for this chip",
            (
                "torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device",
                "NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current PyTorch "
                "installation.",
            ),
            (
                r"no kernel image is available",
                r"^(?P<chip>.*?) with CUDA capability (?P<capability>sm_\w+) is not compatible with the current",
                r"cudaErrorNoKernelImageForDevice",
            ),
            "torch, or a kernel beside it, was not built for this chip[[ ({chip}, {capability})]]: it is newer or "
            "older "
            "than all that the build knows.",
            (
                f"{_TORCH_AGAIN}  # a build that knows the chip",
                "--attn_implementation sdpa --torch_compile false  # where it is an extra kernel that fails",
            ),
            ("open-r1 doctor --only torch driver gpus",),
        ),
        Entry(
            "driver-too-old",
            "the NVIDIA driver is too old",
            (
                "RuntimeError: The NVIDIA driver on your system is too old (found version 12020). Please update your "
                "GPU "
                "driver by downloading and installing a new version",
                "CUDA error: CUDA driver version is insufficient for CUDA runtime version",
                "RuntimeError: CUDA error: the provided PTX was compiled with an unsupported toolchain.",
            ),
            (
                r"NVIDIA driver on your system is too old",
                r"driver version is insufficient",
                r"PTX was compiled with an unsupported toolchain",
            ),
            "the driver[[, which knows CUDA up to {found},]] is older than the CUDA that torch was built with. In a "
            "container "
            "the driver is the host's.",
            (
                "nvidia-smi  # its first line has the driver and the newest CUDA it knows",
                f"{_TORCH_AGAIN}  # a build for an older CUDA",
            ),
            ("open-r1 doctor --only driver torch",),
            details=(r"\(found version (?P<found>\d+)\)",),
        ),
        Entry(
            "cuda-fork",
            "CUDA in a forked process",
            (
                "RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you "
                "must use "
                "the 'spawn' start method",
            ),
            (r"Cannot re-initialize CUDA in forked subprocess",),
            "a process was copied (forked) after CUDA had been used in it, and used CUDA again. A reward or a plug-in "
            "that "
            "uses the GPU in a worker does this.",
            (
                "export VLLM_WORKER_MULTIPROCESSING_METHOD=spawn  # where it is vLLM",
                "--reward_workers 1  # and keep the GPU out of reward functions",
            ),
            ("docs/rewards.md",),
        ),
        Entry(
            "no-gpu",
            "torch finds no GPU",
            (
                "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and "
                "installed a "
                "driver",
                "RuntimeError: No CUDA GPUs are available",
                "AssertionError: Torch not compiled with CUDA enabled",
                "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment, e.g. "
                "changing env "
                "variable CUDA_VISIBLE_DEVICES after program start.",
                "CUDA initialization: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet "
                "initialized",
                "RuntimeError: CUDA error: no CUDA-capable device is detected",
            ),
            (
                r"Found no NVIDIA driver",
                r"No CUDA GPUs are available",
                r"not compiled with CUDA enabled",
                r"CUDA unknown error - this may be due",
                r"Unexpected error from cudaGetDeviceCount",
                r"no CUDA-capable device",
            ),
            "torch does not find the GPU: there is none, it is hidden (CUDA_VISIBLE_DEVICES, a container without "
            "--gpus), "
            "the driver does not run, or torch was built for CPUs.",
            (
                "nvidia-smi  # fails too? then the driver, or the container, is to be mended",
                "unset CUDA_VISIBLE_DEVICES",
                "docker run --gpus all …",
                "sudo systemctl restart nvidia-fabricmanager  # for error 802, on machines with NVSwitch",
            ),
            ("open-r1 doctor --only driver torch gpus",),
        ),
        Entry(
            "device-ordinal",
            "more processes than GPUs",
            ("torch.AcceleratorError: CUDA error: invalid device ordinal",),
            (r"invalid device ordinal", r"Duplicate GPU detected"),
            "more processes were started than there are GPUs, or two of them were given the same one.",
            (
                "accelerate launch --num_processes 1 …  # as many as nvidia-smi -L lists",
                "unset CUDA_VISIBLE_DEVICES",
            ),
            ("open-r1 doctor --only gpus", "docs/distributed.md"),
        ),
        Entry(
            "device-assert",
            "CUDA error: device-side assert triggered",
            (
                "torch.AcceleratorError: CUDA error: device-side assert triggered",
                "Assertion `srcIndex < srcSelectDimSize` failed.",
                "Assertion `t >= 0 && t < n_classes` failed.",
            ),
            (r"device-side assert triggered", r"Assertion `(?:srcIndex|index|t >= 0|ind >= 0|idx)\b.*failed"),
            "a number was outside of a table on the GPU: nearly always a token id that the model has no row for, "
            "because "
            "tokenizer and model are not of the same checkpoint. The trace is of a later line, not of the guilty one.",
            (
                "CUDA_LAUNCH_BLOCKING=1 open-r1 {words}  # the trace is then of the guilty line",
                "--model_name_or_path MODEL  # whose tokenizer has no more tokens than the model has rows",
            ),
            ("open-r1 doctor --only torch",),
        ),
        Entry(
            "gpu-broken",
            "the GPU fell off, or its memory has errors",
            (
                "RuntimeError: CUDA error: uncorrectable ECC error encountered",
                "Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost.  Reboot the system to recover "
                "this GPU",
                "NVRM: Xid (PCI:0000:3b:00): 79, pid=4711, GPU has fallen off the bus.",
                "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
            ),
            (
                r"uncorrectable (?:ECC|NVLink) error",
                r"GPU is lost|fallen off the bus",
                r"\bXid \(PCI",
                r"device\(?s?\)? (?:is/)?are busy or unavailable",
            ),
            "the GPU itself fails: its memory has errors, it has fallen off the bus, or another process holds it "
            "alone.",
            (
                "nvidia-smi -q -d ECC,PAGE_RETIREMENT  # the errors it has counted; dmesg | grep Xid names the fault",
                "export CUDA_VISIBLE_DEVICES=1  # another GPU; give this machine back",
                "--resume_from_checkpoint true  # goes on from the last checkpoint",
            ),
            ("open-r1 doctor --only gpus driver",),
        ),
        Entry(
            "illegal-access",
            "CUDA error: an illegal memory access",
            (
                "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
                "RuntimeError: CUDA error: misaligned address",
                "CUDA error: unspecified launch failure",
            ),
            (
                r"illegal memory access was encountered",
                r"CUDA error: misaligned address",
                r"unspecified launch failure",
            ),
            "a kernel on the GPU used memory that is not its own. The trace is of a later line, not of the guilty one.",
            (
                "CUDA_LAUNCH_BLOCKING=1 open-r1 {words}  # the trace is then of the guilty line",
                "--attn_implementation sdpa --torch_compile false  # goes on without kernels of its own",
            ),
            ("open-r1 doctor --only attention matmul_bf16",),
        ),
        Entry(
            "cublas",
            "CUBLAS_STATUS_…",
            (
                "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
                "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
                "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic`",
                "RuntimeError: CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasCreate(handle)`",
            ),
            (r"(?P<status>CUBLAS_STATUS_(?!ALLOC)[A-Z_]+)",),
            "the library of matrix products, cuBLAS, failed[[ ({status})]]. At its start that is mostly a GPU without "
            "free "
            "memory; in the midst a cuBLAS that is not the one torch came with, or an earlier fault on the GPU.",
            (
                "nvidia-smi  # is the memory taken by another process?",
                "unset LD_LIBRARY_PATH  # so that torch loads the cuBLAS that it came with",
                "CUDA_LAUNCH_BLOCKING=1 open-r1 {words}  # the trace is then of the guilty line",
            ),
            ("open-r1 doctor --only gpus matmul_bf16 matmul_fp32",),
        ),
        Entry(
            "mixed-libraries",
            "a shared library is missing, or of another version",
            (
                "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory",
                "OSError: libcublas.so.12: undefined symbol: cublasLtGetEnvironmentMode, version libcublasLt.so.12",
                "ImportError: .../site-packages/flash_attn_2_cuda.cpython-311-x86_64-linux-gnu.so: undefined symbol: "
                "_ZN3c105Error",
                "ImportError: /lib/x86_64-linux-gnu/libstdc++.so.6: version `GLIBCXX_3.4.32' not found",
                "ImportError: /lib64/libc.so.6: version `GLIBC_2.32' not found",
                "Unable to load any of {libcudnn_ops.so.9.1.0, libcudnn_ops.so.9.1, libcudnn_ops.so.9, "
                "libcudnn_ops.so}",
            ),
            (
                r"(?P<library>[\w.+-]+\.so[\w.]*): cannot open shared object file",
                r"(?P<library>[\w.+-]+\.so[\w.]*): undefined symbol",
                r"(?P<library>[\w.+-]+\.so[\w.]*): version `\w+_[\d.]+' not found",
                r"Unable to load any of \{lib",
            ),
            "a library of native code[[ ({library})]] does not find what it was built with: it was built for another "
            "torch "
            "or CUDA, or another one comes first in LD_LIBRARY_PATH.",
            (
                "unset LD_LIBRARY_PATH",
                f"{_TORCH_AGAIN}",
                "pip uninstall -y flash-attn  # where it is the one that is named: it is not needed here",
            ),
            ("open-r1 doctor --only packages torch vllm deepspeed",),
        ),
    ),
)
