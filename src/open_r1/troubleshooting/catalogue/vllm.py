"""vLLM: its memory, its start, its end."""

from __future__ import annotations

from open_r1.troubleshooting.catalogue.memory import GPU_MEMORY
from open_r1.troubleshooting.entry import Entry, Group

_GREATER_SHARE = "--vllm_gpu_memory_utilization 0.6  # a greater share for it; serve-vllm: --gpu_memory_utilization"

VLLM = Group(
    "vLLM",
    (
        Entry(
            "vllm-memory-taken",
            "vLLM: the memory that it wants is taken",
            (
                "ValueError: Free memory on device cuda:0 (11.3/79.11 GiB) on startup is less than desired GPU memory "
                "utilization (0.9, 71.2 GiB). Decrease GPU memory utilization or reduce GPU memory used by other "
                "processes.",
            ),
            (r"Free memory on device.*?\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is less than desired",),
            "vLLM wants a share of the GPU's memory that is not free[[: {asked} GiB, and {free} of {total} GiB are]]. "
            "Another process, or the model that is trained, holds the rest.",
            (
                "nvidia-smi  # names the processes that hold memory",
                "--vllm_gpu_memory_utilization 0.3  # a smaller share; serve-vllm: --gpu_memory_utilization",
                "--vllm_mode server --vllm_server_devices 1  # grpo: vLLM on a GPU of its own",
            ),
            ("open-r1 doctor --only gpus", "docs/vllm-server.md"),
            details=(r"utilization \([\d.]+, (?P<asked>[\d.]+) GiB\)",),
        ),
        Entry(
            "vllm-kv-cache",
            "vLLM: no memory for the KV cache",
            (
                "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
                "initializing the engine",
                "ValueError: To serve at least one request with the models's max seq len (32768), (1.75 GiB KV cache "
                "is "
                "needed, which is larger than the available KV cache memory (0.88 GiB).",
            ),
            (
                r"No available memory for the cache blocks",
                r"\(?(?P<asked>[\d.]+) GiB KV cache is needed, which is larger than the available KV cache "
                r"memory \((?P<free>[\d.]+) GiB\)",
            ),
            "beside the weights vLLM has no memory for keys and values[[: a request of the longest length needs "
            "{asked} "
            "GiB, and there are {free}]].",
            (
                _GREATER_SHARE,
                "--vllm_max_model_length 4096  # prompt and answer together; serve-vllm: --max_model_len",
                "--vllm_enforce_eager  # does without CUDA graphs, which take memory too",
            ),
            ("open-r1 plan {words}", "docs/memory.md"),
        ),
        Entry(
            "vllm-out-of-memory",
            "vLLM: out of memory while it draws",
            (
                'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.16 GiB.\n  File ".../vllm/v1/worker/'
                'gpu_model_runner.py", line 3021, in execute_model',
            ),
            (GPU_MEMORY,),
            "vLLM ran out of the memory of the GPU[[: {asked} more were asked for]].",
            (
                "--vllm_gpu_memory_utilization 0.3  # leaves more to what is beside it",
                "--vllm_max_num_seqs 64  # grpo: fewer answers at once; serve-vllm: --max_num_seqs",
                "--vllm_enable_sleep_mode  # grpo: its memory is free while the policy trains",
            ),
            ("open-r1 plan {words}", "docs/vllm-server.md"),
            details=(r"Tried to allocate (?P<asked>[\d.]+ [KMG]iB)",),
            where=r"/vllm/(?:v1|worker|model_executor|engine|entrypoints)/",
        ),
        Entry(
            "vllm-bf16",
            "vLLM: bf16 is only supported on compute capability 8.0",
            (
                "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 "
                "GPU "
                "has compute capability 7.5. You can use float16 instead by explicitly setting the `dtype` flag in "
                "CLI, for "
                "example: --dtype=half.",
            ),
            (r"Bfloat16 is only supported on GPUs with compute capability of at least 8\.0",),
            "the model is stored in bf16, which this GPU[[, a {chip},]] does not compute with; vLLM does not go on in "
            "it.",
            (
                "--torch_dtype float16  # evaluate, generate, grpo; serve-vllm: --dtype float16",
                "--engine transformers  # evaluate, generate, serve-vllm: slower, in any type",
            ),
            ("open-r1 doctor --only precision",),
            details=(r"Your (?P<chip>[\w .-]+?) GPU",),
        ),
        Entry(
            "vllm-died",
            "vLLM: the engine died",
            (
                "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) "
                "for the "
                "root cause.",
            ),
            (r"\bEngineDeadError: ", r"EngineCore encountered an issue"),
            "vLLM's process died while it was drawing. The reason stands in its log, which has the name of the run "
            "with "
            "vllm.log.",
            (
                "grep -n -B5 Error vllm.log  # in output_dir; the first error is the one that counts",
                "python -m open_r1.troubleshooting < vllm.log  # looks that error up in this catalogue",
                "--vllm_enforce_eager  # leaves compiled graphs out",
            ),
            ("open-r1 doctor --only vllm attention",),
        ),
        Entry(
            "vllm-start",
            "vLLM: the engine core could not start",
            ("RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",),
            (r"Engine core initialization failed", r"WorkerProc initialization failed"),
            "vLLM could not start. The reason stands in its log, further up than this message.",
            (
                "grep -n -B5 Error vllm.log  # in output_dir; the first error is the one that counts",
                "python -m open_r1.troubleshooting < vllm.log  # looks that error up in this catalogue",
                "--vllm_enforce_eager  # where compiling is what fails",
            ),
            ("open-r1 doctor --only vllm gpus attention",),
        ),
    ),
)
