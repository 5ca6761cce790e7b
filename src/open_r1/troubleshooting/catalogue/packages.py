"""Packages that are missing, and compilers that fail."""

from __future__ import annotations

from open_r1.troubleshooting.entry import Entry, Group

_UNCOMPILED = "--torch_compile false  # goes on without compiling; slower, the same result"

PACKAGES = Group(
    "Packages and compilers",
    (
        Entry(
            "no-compiler",
            "kernels cannot be compiled",
            (
                "RuntimeError: Failed to find C compiler. Please specify via CC environment variable or set "
                "triton.knobs.build.impl.",
                "fatal error: Python.h: No such file or directory",
                "/usr/bin/ld: cannot find -lcuda: No such file or directory",
                "torch._inductor.exc.InvalidCxxCompiler: No working C++ compiler found in "
                "torch._inductor.config.cpp.cxx",
                "FileNotFoundError: [Errno 2] No such file or directory: 'gcc'",
            ),
            (
                r"Failed to find C compiler",
                r"Python\.h: No such file",
                r"cannot find -lcuda",
                r"No working C\+\+ compiler",
                r"No such file or directory: '(?:gcc|g\+\+|cc|c\+\+|clang)'",
            ),
            "triton and torch compile kernels when a run starts, and the C compiler or Python's headers are missing.",
            (
                "apt-get install -y gcc g++ python3-dev  # as root",
                _UNCOMPILED,
            ),
            ("open-r1 doctor --only packages torch",),
        ),
        Entry(
            "compile-failed",
            "torch.compile or triton fails",
            (
                "torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised:",
                "torch._inductor.exc.InductorError: CppCompileError: C++ compile error",
                "triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 131072, Hardware "
                "limit: 101376. "
                "Reducing block sizes or `num_stages` may help.",
                "RuntimeError: No valid triton configs. OutOfMemoryError: out of resource: triton_red_fused_0 "
                "Required: 131072 Hardware limit:101376 Reducing block sizes or `num_stages` may help.",
                "triton.compiler.errors.CompilationError: at 12:24:",
                "RuntimeError: PassManager::run failed",
                "triton.runtime.errors.PTXASError: PTXAS error: Internal Triton PTX codegen error",
            ),
            (
                r"\bBackendCompilerFailed\b",
                r"\bInductorError\b|\bCppCompileError\b",
                r"out of resource: (?:(?P<what>[\w ]+),|\w+) Required: (?P<asked>\d+),? "
                r"Hardware limit: ?(?P<limit>\d+)",
                r"\bNo valid triton configs\b",
                r"\btriton\.(?:compiler|runtime)\.errors\.",
                r"PassManager::run failed",
                r"\bptxas (?:fatal|error)",
            ),
            "a kernel could not be compiled for this chip[[ ({what})]][[: it needs {asked} bytes, and the chip "
            "has {limit}]].",
            (
                _UNCOMPILED,
                "rm -rf ~/.triton/cache  # where a compilation was cut off; it is made again",
                "pip install --force-reinstall -c constraints.txt torch triton  # versions that go together",
            ),
            ("open-r1 doctor --only packages torch attention",),
        ),
        Entry(
            "flash-attn",
            "flash-attn is wanted",
            (
                "ImportError: FlashAttention2 has been toggled on, but it cannot be used due to the following error: "
                "the package "
                "flash_attn seems to be not installed.",
                "ModuleNotFoundError: No module named 'flash_attn'",
                "error: command '/usr/local/cuda/bin/nvcc' failed with exit code 1",
                "OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root.",
            ),
            (
                r"FlashAttention[23]? has been toggled on",
                r"No module named 'flash_attn",
                r"bin/nvcc' failed",
                r"CUDA_HOME environment variable is not set",
            ),
            "something asks for flash-attn, which is built by a compiler for an hour and is not needed here: torch has "
            "a kernel "
            "for packed sequences.",
            (
                "--attn_implementation sdpa  # or leave the setting out: the best that is there is taken",
                "pip install 'open-r1[fa4]'  # on H100, H200 and newer: flash-attn-4, without a compiler",
            ),
            ("open-r1 doctor --only attention", "docs/performance.md"),
        ),
        Entry(
            "python-version",
            "the wrong Python",
            (
                "ERROR: Package 'open-r1' requires a different Python: 3.10.12 not in '>=3.11'",
                "ImportError: cannot import name 'Self' from 'typing'",
                "ModuleNotFoundError: No module named 'tomllib'",
                "ModuleNotFoundError: No module named 'open_r1'",
            ),
            (
                r"requires a different Python: (?P<python>[\d.]+)",
                r"cannot import name '(?:Self|StrEnum|BaseExceptionGroup|assert_never)' from",
                r"No module named '(?:tomllib|open_r1)'",
            ),
            "this is not the Python that open-r1 is installed in[[ ({python})]]; it needs 3.11 or newer.",
            (
                "source .venv/bin/activate  # the environment that it was installed into",
                "python3.12 -m venv .venv && .venv/bin/pip install -c constraints.txt -e .",
            ),
            ("open-r1 doctor --only python packages",),
        ),
        Entry(
            "package-abi",
            "a package was built for another numpy",
            (
                "ValueError: numpy.dtype size changed, may indicate binary incompatibility. Expected 96 from C header, "
                "got 88 from "
                "PyObject",
                "A module that was compiled using NumPy 1.x cannot be run in NumPy 2.1.3 as it may crash.",
            ),
            (r"numpy\.(?:dtype|ufunc) size changed", r"compiled using NumPy 1\.x cannot be run in NumPy 2"),
            "a package was built for another version of numpy than the one that is installed.",
            ("pip install --force-reinstall -c constraints.txt numpy pandas pyarrow",),
            ("open-r1 doctor --only packages",),
        ),
        Entry(
            "package-missing",
            "a package is missing",
            (
                "ModuleNotFoundError: No module named 'vllm'",
                "ImportError: Using `bitsandbytes` 4-bit quantization requires bitsandbytes: `pip install -U "
                "bitsandbytes>=0.46.1`",
                "ImportError: DeepSpeed is not installed => run `pip install deepspeed` or build it from source",
                "ModuleNotFoundError: No module named 'peft'",
                "importlib.metadata.PackageNotFoundError: No package metadata was found for bitsandbytes",
            ),
            (
                r"No module named '(?P<package>(?!open_r1)[\w]+)",
                r"requires (?:the latest version of )?(?P<package>bitsandbytes|peft|accelerate|torchao)\b",
                r"(?P<package>DeepSpeed) is not installed",
                r"No package metadata was found for (?P<package>[\w-]+)",
            ),
            "the package[[ {package}]] is not installed in this Python; some are extras that only some settings need.",
            (
                "pip install 'open-r1[vllm]'  # --use_vllm, --engine vllm, serve-vllm",
                "pip install 'open-r1[quant]'  # --load_in_4bit, --load_in_8bit, --fp8: bitsandbytes, torchao",
                "pip install 'open-r1[deepspeed]'  # zero2.yaml, zero3.yaml",
                "pip install -c constraints.txt PACKAGE  # any other, in the version that goes with the rest",
            ),
            ("open-r1 doctor --only packages python",),
        ),
        Entry(
            "package-versions",
            "packages do not go together",
            (
                "ImportError: cannot import name 'is_torch_fx_available' from 'transformers.utils'",
                "RuntimeError: operator torchvision::nms does not exist",
                "AttributeError: module 'torch' has no attribute 'int1'",
                "ImportError: accelerate>=1.1.0 is required for a normal functioning of this module, but found "
                "accelerate==0.30.0.",
            ),
            (
                r"cannot import name '(?P<name>\w+)' from '(?P<package>(?!open_r1)\w+)",
                r"operator (?P<package>\w+)::\w+ does not exist",
                r"module '(?P<package>torch|transformers|numpy)[\w.]*' has no attribute",
                r"is required for a normal functioning of this module, but found (?P<package>[\w-]+)==",
            ),
            "two packages are of versions that do not go together[[; {package} lacks what another one expects of it]].",
            ("pip install -c constraints.txt -e .  # the versions that were tested with each other",),
            ("open-r1 doctor --only packages torch vllm",),
        ),
    ),
)
