"""Programs on this machine, in boxes that need no account and no daemon."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

from open_r1.machine.limits import cores_of_rank
from open_r1.sandbox.binaries import Binaries
from open_r1.sandbox.coverage import Coverage
from open_r1.sandbox.languages import COMPILE_LIMITS, LARGEST_BINARY, Language, files_of, language_of, limit_fields
from open_r1.sandbox.pool import WorkerPool
from open_r1.sandbox.program import Limits, Outcome, Program, SandboxFailure, Status

Isolation = Literal["auto", "bubblewrap", "namespaces", "process"]

_GRACE_SECONDS = 20.0
_SOURCES = (".c", ".cc", ".cpp")
_SLACK_BYTES = 2**17


class LocalSandbox:
    """Runs programs on this machine with warm workers, as many at a time as there are workers.

    It takes the best box that the machine gives; ``coverage`` says in one line which that is and what it lacks.

    - ``bubblewrap``, ``namespaces``: the worker sees the system's folders and Python, read-only, and no network. Each
      program gets pid and mount namespaces of its own in it, a /proc, and one empty folder in memory.
    - ``process``, where the kernel refuses those (most containers): Landlock limits files, seccomp forbids sockets,
      and root gives each worker's programs a user id that nobody has.

    In all of them: a process group that is killed whole, with whatever left it; limits on processor time, wall time,
    memory, processes, files and output; no capability and no way to gain one; no dangerous system call; no environment
    but PATH and the like; no descriptor but 0, 1 and 2. Nothing of an earlier program is in a later one's memory or
    files. Expected outputs do not come here at all.

    Not covered:

    - holes of the kernel, and what shared hardware tells: timing, caches;
    - memory that no process has mapped: of the kernel (pipes, sockets), and of the folder, up to ``file_bytes``.
      Resident memory is looked at every few milliseconds, and each process has a limit on its address space; there is
      no control group;
    - in ``process``: names, sizes and modes of files can be asked for; the folder's size is looked at ten times a
      second and deleted files that are still open do not count; semaphores of ``multiprocessing`` (Pool, Queue, Lock)
      and UNIX sockets are refused, and without a user id of their own programs share that of the caller;
    - in ``process`` without Landlock: a program reads what its user may. ``coverage`` says so;
    - other systems than Linux: limits of resources only, and not all of them on macOS.

    A Python program is forked from an interpreter that is up and runs as ``python main.py`` would, with a fixed hash
    seed and Python's own library, and numpy if the caller's Python has it. ``compile_error`` is said of Python where
    ``compile()`` fails. Programs that die for want of memory are told by how they end: killed over the limit, or with
    the words that Python, C++ and node have for it.
    """

    def __init__(self, workers: int | None = None, *, isolation: Isolation = "auto", nested: bool = True) -> None:
        """Starts nothing yet.

        Args:
            workers: programs that run at the same time; None is one a core (`cores_of_rank`).
            isolation: the box; ``auto`` is the best that this machine gives.
            nested: False gives each program a box of its own rather than namespaces within one that is up; it is what
                remains where the kernel refuses those.
        """
        if isolation not in get_args(Isolation):
            raise ValueError(f"isolation must be one of {', '.join(get_args(Isolation))}, not {isolation!r}")
        self._pool = WorkerPool(workers or cores_of_rank(), isolation, nested)
        self._binaries = Binaries()
        self._finalizer = weakref.finalize(self, self._pool.close)

    @property
    def coverage(self) -> str:
        """What programs are kept from on this machine, and what not, in one line; the first call starts a worker."""
        return str(self.details)

    @property
    def details(self) -> Coverage:
        """The parts of ``coverage``.

        Raises:
            UserError: the asked isolation is not to be had here.
            SandboxFailure: nothing works here.
        """
        return self._pool.coverage

    def run(self, program: Program, stdin: str, limits: Limits) -> Outcome:
        """Runs a program once; a compiled one is compiled once for all its runs.

        Raises:
            SandboxFailure: the sandbox failed; nothing is known about the program.
            UserError: the language is not offered or not installed, or a file has an unfit name.
        """
        language = language_of(program)
        files = files_of(program, language)
        if language.compile is not None:
            made = self._binaries.get(program.language, files, lambda: self._compile(language, files))
            if isinstance(made, Outcome):
                return made
            files = {_executable(language): made, **dict(list(files.items())[1:])}
        text = stdin.encode("utf-8", "surrogatepass")
        outcome, _ = self._run(language, language.run, files, text, limits)
        return outcome

    def close(self) -> None:
        """Ends the workers and what they run; harmless when repeated."""
        self._pool.close()

    def __enter__(self) -> LocalSandbox:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _compile(self, language: Language, files: Mapping[str, bytes]) -> bytes | Outcome:
        """The binary, or what to say of a program that has none."""
        name = _executable(language)
        *command, libraries = language.compile
        further = [file for file in files if file != language.file and file.endswith(_SOURCES)]
        outcome, binary = self._run(language, (*command, *further, libraries), files, b"", COMPILE_LIMITS, fetch=name)
        if outcome.status == "ok" and binary:
            return binary
        return replace(outcome, status="compile_error", stdout="")

    def _run(
        self,
        language: Language,
        command: tuple[str, ...] | None,
        files: Mapping[str, bytes],
        stdin: bytes,
        limits: Limits,
        fetch: str | None = None,
    ) -> tuple[Outcome, bytes]:
        request = {
            "files": list(files),
            "command": command,
            "limits": limit_fields(language, limits),
            "fetch": fetch,
            "fetch_bytes": LARGEST_BINARY,
        }
        most = 2 * limits.output_bytes + (LARGEST_BINARY if fetch else 0) + _SLACK_BYTES
        seconds = limits.wall_seconds + _GRACE_SECONDS
        with self._pool.worker() as worker:
            header, output = worker.ask(request, [*files.values(), stdin], seconds=seconds, most=most)
            return _outcome(header, output), output[2]


def _outcome(header: Mapping[str, Any], output: list[bytes]) -> Outcome:
    """A reply as an outcome; a worker that a program has got hold of could send anything.

    Raises:
        SandboxFailure: it is none.
    """
    code, number = header.get("exit_code"), header.get("signal")
    seconds = [header.get("cpu_seconds"), header.get("wall_seconds")]
    fit = all(value is None or isinstance(value, int) for value in (code, number))
    fit = fit and all(isinstance(value, float) for value in seconds) and len(output) == 3
    if not fit or header.get("status") not in get_args(Status):
        raise SandboxFailure("a worker sent an unfit reply")
    stdout, stderr = (part.decode("utf-8", "replace") for part in output[:2])
    return Outcome(header["status"], stdout, stderr, code, number, *seconds)


def _executable(language: Language) -> str:
    assert language.run is not None
    return language.run[0].removeprefix("./")
