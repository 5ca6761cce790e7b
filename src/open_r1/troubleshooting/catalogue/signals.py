"""Processes that are ended by a signal."""

from __future__ import annotations

from open_r1.troubleshooting.entry import Entry, Group

SIGNALS = Group(
    "A process is ended by a signal",
    (
        Entry(
            "sigfpe",
            "Signal 8 (SIGFPE): the H20 and cuBLAS",
            (
                "Signal 8 (SIGFPE) received by PID 4711",
                "traceback : Signal 8 (SIGFPE) received by PID 4711\nexitcode  : -8 (pid: 4711)",
                "Fatal Python error: Floating point exception",
                "Floating point exception (core dumped)",
            ),
            (r"Floating point exception",),
            "a library divided by zero (SIGFPE). On an H20 it is cuBLAS before 12.4.5, which does so for products of "
            "some "
            "shapes in bf16 and in fp16 alike: another precision is no way out, a newer cuBLAS is.",
            ('pip install "nvidia-cublas-cu12==12.4.5.8"  # then the probe again, to be sure',),
            ("open-r1 doctor --only matmul_bf16 matmul_fp16",),
            signals=("SIGFPE",),
        ),
        Entry(
            "sigill",
            "SIGILL: illegal instruction",
            ("Illegal instruction (core dumped)", "Fatal Python error: Illegal instruction", "Signal 4 (SIGILL)"),
            (r"\bIllegal instruction",),
            "a library uses an instruction that this CPU does not have (SIGILL): it was built on a newer machine, or "
            "the "
            "virtual machine hides AVX.",
            (
                "export ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2",
                "pip install --force-reinstall --no-cache-dir -c constraints.txt torch  # no local build",
            ),
            ("open-r1 doctor --only torch matmul_fp32 packages",),
            signals=("SIGILL",),
        ),
        Entry(
            "sigkill",
            "Killed, SIGKILL, exitcode -9",
            (
                "Signal 9 (SIGKILL) received by PID 4711",
                "exitcode  : -9 (pid: 4711)",
                "died with <Signals.SIGKILL: 9>",
                "./run.sh: line 3: 12345 Killed                  open-r1 sft --config recipe.yaml",
                "[1]+  Killed                  open-r1 sft --config recipe.yaml",
                "exit code 137",
                "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed.",
                "concurrent.futures.process.BrokenProcessPool: A process in the process pool was terminated abruptly "
                "while "
                "the future was running or pending.",
                "One of the subprocesses has abruptly died during map operation.",
            ),
            (
                r"^(?:\w+:)? *Killed\b|^zsh: killed\b",
                r"\bOOMKilled\b",
                r"process pool was terminated abruptly",
                r"subprocesses has abruptly died",
            ),
            "a process was killed from outside (SIGKILL): nearly always by the kernel, because the memory of the "
            "machine or "
            "of the container was used up; else by a person, a scheduler, or a launcher after another process had "
            "failed.",
            (
                "--dataset_num_proc 1  # fewer processes that prepare data",
                "--reward_workers 2  # grpo: fewer processes that verify answers",
                "docker run --memory 64g …  # raise the container's limit",
                "--resume_from_checkpoint true  # goes on from the last checkpoint",
            ),
            ("open-r1 doctor --only memory cpu",),
            signals=("SIGKILL",),
        ),
        Entry(
            "killed-from-outside",
            "killed, and not for want of memory",
            (),
            (),
            "a person, a scheduler or a launcher did that: the kernel has killed nothing for want of memory meanwhile.",
            (
                "--resume_from_checkpoint true  # goes on from the last checkpoint",
                "grep -n -m1 -A5 '^error:' train.log  # several GPUs: what the process said that failed first",
            ),
            ("docs/never-lose-a-run.md",),
        ),
        Entry(
            "sigsegv",
            "Segmentation fault",
            (
                "Segmentation fault (core dumped)",
                "Fatal Python error: Segmentation fault",
                "Signal 11 (SIGSEGV) received by PID 4711",
                "!!!!!!! Segfault encountered !!!!!!!",
            ),
            (r"\bSegmentation fault", r"\bSegfault encountered"),
            "a library of native code used memory that is not its own (SIGSEGV). Most often parts of two installations "
            "are "
            "mixed: a kernel built for another torch, or another CUDA first in LD_LIBRARY_PATH.",
            (
                "unset LD_LIBRARY_PATH  # so that torch loads the CUDA that it came with",
                "pip install --force-reinstall -c constraints.txt torch  # and what was built for another torch",
                "--torch_compile false --attn_implementation sdpa  # goes on without kernels of its own",
            ),
            ("open-r1 doctor --only packages torch attention",),
            signals=("SIGSEGV",),
        ),
        Entry(
            "sigabrt",
            "Aborted (SIGABRT)",
            (
                "Fatal Python error: Aborted",
                "terminate called without an active exception\nAborted (core dumped)",
                "Signal 6 (SIGABRT) received by PID 4711",
            ),
            (r"^Fatal Python error: Aborted", r"\bAborted \(core dumped\)"),
            "a library ended the process by itself (SIGABRT); it says why in the lines before. Among GPUs it is mostly "
            "NCCL's watchdog, after it waited in vain for another process.",
            (
                "export TORCH_NCCL_BLOCKING_WAIT=1  # NCCL raises an error with a trace instead",
                "--resume_from_checkpoint true  # goes on from the last checkpoint",
            ),
            ("open-r1 doctor --only all_reduce links",),
            signals=("SIGABRT",),
        ),
        Entry(
            "sighup",
            "SIGHUP: the terminal was closed",
            ("Signal 1 (SIGHUP) received by PID 4711", "Received 1 death signal, shutting down workers"),
            (r"Received (?:1|Signals\.SIGHUP(?:: 1)?) death signal", r"got signal: 1\b"),
            "the terminal or the connection that the run was started from was closed (SIGHUP). A run saves a "
            "checkpoint first, and says so in after-hangup.log of its folder.",
            (
                "tmux new -s train  # start it there; tmux attach -t train comes back to it",
                "nohup open-r1 {words} > train.log 2>&1 &",
                "--resume_from_checkpoint true  # goes on from the last checkpoint",
            ),
            ("docs/never-lose-a-run.md",),
            signals=("SIGHUP",),
        ),
        Entry(
            "sigterm",
            "SIGTERM: somebody asked it to end",
            ("Signal 15 (SIGTERM) received by PID 4711", "Received 15 death signal, shutting down workers"),
            (r"Received (?:15|Signals\.SIGTERM(?:: 15)?) death signal", r"got signal: 15\b"),
            "a person, a scheduler, a spot machine or a launcher asked the process to end (SIGTERM). A run saves a "
            "checkpoint first.",
            ("--resume_from_checkpoint true  # goes on from it",),
            ("docs/never-lose-a-run.md",),
            signals=("SIGTERM",),
        ),
    ),
)
