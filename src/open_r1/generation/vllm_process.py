"""Starting vLLM so that its output goes to a file, a failure becomes one line, and its processes die with this one."""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from open_r1.errors import StopRequested, UserError

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked process cannot use a GPU that this one has asked about
}

SCHEDULED = ("0.26.", "0.28.")
"""Versions of vLLM whose scheduler `decode_scheduler` was held against, step by step."""

_LOG_TAIL = 1 << 18
_LONGEST_CAUSE = 300
_ERROR_LINE = re.compile(r"\b((?:\w+\.)*\w*(?:Error|Exception)): (.+)")
_NO_CAUSE = (
    "Engine core initialization failed",
    "EngineCore encountered",
    "WorkerProc initialization failed",
    "Tokenizer not available",
)
"""What vLLM says after an error that stands further up in its log; and of tokenizers, which it is not given here."""

_ADVICE = (
    (r"larger than the available KV cache|max seq len", "lower --vllm_max_model_length or --max_new_tokens"),
    (r"Free memory on device", "free the GPU, or lower --vllm_gpu_memory_utilization"),
    (r"No available memory for the cache", "raise --vllm_gpu_memory_utilization, or take a larger GPU"),
    (r"out of memory|OutOfMemory", "lower --vllm_gpu_memory_utilization or --batch_size, or take a larger GPU"),
    (r"are not supported|not supported for now|no vLLM implementation", "leave --engine vllm out to use transformers"),
    (r"derived max_model_len|greater than the derived", "lower --vllm_max_model_length"),
    (r"trust_remote_code", "add --trust_remote_code if you trust the model's code"),
    (r"attention heads .*divisible|tensor.parallel", "choose another --vllm_tensor_parallel_size"),
)

STARTS = 3
_PASSING = "Error in memory profiling"
"""Another process gave memory back while vLLM measured how much there is: the next start may find it at rest."""

_WATCH = """
import os, sys
sys.stdin.read()
for pid in sys.argv[1:]:
    try: os.kill(int(pid), 9)
    except OSError: pass
"""


class VllmProcess:
    """A ``vllm.LLM`` whose engine runs in a process of its own.

    Args:
        model: hub id or local folder.
        arguments: of ``vllm.LLM``.
        log: file that takes all that vLLM writes, made anew.

    Attributes:
        llm: the ``vllm.LLM``.

    Raises:
        UserError: vLLM is not installed, there is no GPU, or vLLM does not start; the cause, and what to change.
    """

    def __init__(self, model: str, arguments: dict[str, Any], log: Path) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        check_machine("engine vllm")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        for start in range(1, STARTS + 1):
            try:
                self._start(model, arguments, log)
                break
            except StopRequested:
                raise
            except Exception as error:
                why = explain(log, str(error))
                if start == STARTS or not re.search(_PASSING, why):
                    raise UserError(f"vLLM could not start with {model}: {why}") from error
        log_to(log)
        self._watcher = _watch([child.pid for child in self._children])
        threading.Thread(target=self._end_waiting, name="vllm-death", daemon=True).start()

    @property
    def killed(self) -> str | None:
        """The signal that ended one of the engine's processes, as "SIGKILL"; None where none did."""
        deadline = time.monotonic() + 1  # another thread may be about to note the end of one
        while all(child.exitcode is None for child in self._children) and time.monotonic() < deadline:
            time.sleep(0.01)
        codes = [child.exitcode or 0 for child in self._children]
        return next((signal.Signals(-code).name for code in codes if code < 0), None)

    def _start(self, model: str, arguments: dict[str, Any], log: Path) -> None:
        """Makes ``llm``, or leaves none of its processes behind."""
        before = set(multiprocessing.active_children())
        try:
            with output_to(log):
                self.llm = _load(model, arguments)
        finally:
            self._children = list(set(multiprocessing.active_children()) - before)
            if not hasattr(self, "llm"):  # interrupted or failed
                self._kill()

    def close(self) -> None:
        """Ends the engine's processes; harmless when repeated."""
        if self._watcher is None:
            return
        with suppress(Exception):
            self.llm.llm_engine.engine_core.shutdown()
        self._kill()
        self._watcher.kill()
        self._watcher.wait()
        self._watcher.stdin.close()
        self._watcher = None

    def _end_waiting(self) -> None:
        """Tells whoever waits for the engine's next step that its process is gone: vLLM notices, and waits on."""
        from vllm.v1.engine.exceptions import EngineDeadError

        waits_for = getattr(self.llm.llm_engine.engine_core, "outputs_queue", None)
        if waits_for is not None and self._children:
            wait([child.sentinel for child in self._children])
            waits_for.put(EngineDeadError())

    def _kill(self) -> None:
        for child in self._children:
            with suppress(ValueError):  # vLLM has closed it
                child.kill()
                child.join()


def explain(log: Path, message: str) -> str:
    """A failure in one line: ``message``, or what vLLM's log says where it tells no cause; what to change; the log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL))
        text = file.read().decode(errors="replace")
    found = [match[0] for match in _ERROR_LINE.finditer(text) if _tells(match[0])]
    cause = " ".join((found[-1] if found and not _tells(message) else message).split())
    advice = next((f"; {advice}" for pattern, advice in _ADVICE if re.search(pattern, cause)), "")
    short = cause if len(cause) <= _LONGEST_CAUSE else f"{cause[:_LONGEST_CAUSE]}…"
    return f"{short}{advice} (log: {log})"


def _tells(message: str) -> bool:
    return bool(message.strip()) and not any(words in message for words in _NO_CAUSE)


def decode_scheduler() -> type | None:
    """Our scheduler where this vLLM is known; ``OPEN_R1_DECODE_SCHEDULER=0`` leaves vLLM its own."""
    try:
        if os.environ.get("OPEN_R1_DECODE_SCHEDULER") == "0" or not version("vllm").startswith(SCHEDULED):
            return None
        from open_r1.generation.decode_scheduler import DecodeScheduler
    except ImportError:
        return None
    return DecodeScheduler


def check_machine(asked: str) -> None:
    """Raises UserError where vLLM is not installed or there is no GPU; ``asked`` is the setting that wants it."""
    import torch

    if importlib.util.find_spec("vllm") is None:
        raise UserError(f"{asked}: vLLM is not installed: pip install 'open-r1[vllm]'")
    if not torch.cuda.is_available():
        raise UserError(f"{asked} needs a GPU, and torch finds none: leave --{asked} out to use transformers")


def _load(model: str, arguments: dict[str, Any]) -> Any:
    from vllm import LLM

    return LLM(model=model, **arguments)


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Sends what this process and those that it starts write to their standard outputs to a file.

    By file descriptors, as those of a child that is started meanwhile stay on the file for good. Python's own file
    stays open: a library that was imported meanwhile may have kept it.
    """
    file = log.open("a", encoding="utf-8", buffering=1)
    kept = os.dup(1), os.dup(2)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        with redirect_stdout(file), redirect_stderr(file):
            yield
    finally:
        for number, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)


def log_to(log: Path) -> None:
    """Sends what vLLM's part in this process has to say to the same file."""
    handler = logging.FileHandler(log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(levelname)s %(asctime)s %(name)s: %(message)s"))
    logger = logging.getLogger("vllm")
    logger.handlers[:] = [handler]
    logger.propagate = False


def _watch(processes: Sequence[int | None]) -> subprocess.Popen[bytes]:
    """A process that kills ``processes`` once this one is gone, however it ends: vLLM's would keep the GPU's memory.

    It waits for the end of its input, which the kernel closes with this process.
    """
    command = [sys.executable, "-I", "-S", "-c", _WATCH, *map(str, processes)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
