"""The watcher's own program: waits beside a run, and tells of its end where the run could not.

It is run as a file with the standard library alone, and reads from standard input what the run writes into the pipe:
the stacks of a fatal signal, or ``ENDED``.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import sys
from contextlib import suppress

ENDED = b"\0ended\0"
UNHEARD = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGPIPE}
"""Signals that are for the run."""

_LONGEST = 1.0
"""Seconds from the end of the run to the end of this."""

_GLANCE = 200
"""Milliseconds between looks at a run whose end the kernel does not announce."""

_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO = struct.Struct("=QQ11Ii")
"""``struct pidfd_info`` of <linux/pidfd.h>: a mask first, the exit status last."""

FATAL = {
    "Segmentation fault": "SIGSEGV",
    "Floating point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
    "Bus error": "SIGBUS",
    "Aborted": "SIGABRT",
}
"""What `faulthandler` calls a signal."""


def main(argv: list[str]) -> None:
    """``argv``: process, its handle, whether stacks go elsewhere, rank, ranks, launch, start, folder, command, paths.

    The handle is a descriptor that is ready once the process has ended; empty where the kernel has none.
    """
    for number in UNHEARD:
        signal.signal(number, signal.SIG_IGN)
    process = int(argv[0])
    kills = out_of_memory_kills()
    handle = int(argv[1]) if argv[1] else None
    received = wait_for_end(process, handle)
    if received.endswith(ENDED):
        os._exit(0)
    status = exit_status(process, handle)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, _LONGEST)
    if status is None or status & 0x7F:  # a process that a library has ended by os._exit was not killed
        tell(argv, received.decode(errors="replace"), status, new_kills(kills))
    os._exit(0)


def wait_for_end(process: int, handle: int | None) -> bytes:
    """Everything that the run wrote into the pipe, once it has ended or said that it is about to."""
    received = b""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    if handle is not None:
        poll.register(handle, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll(_GLANCE if handle is None else None)]
        if 0 in ready:
            block = os.read(0, 1 << 16)
            received += block
            if received.endswith(ENDED):
                return received
            if not block:  # all that held the pipe are gone, or the run has closed it
                poll.unregister(0)
        elif ready or os.getppid() != process:
            return received


def exit_status(process: int, handle: int | None) -> int | None:
    """How the run ended, as ``wait`` would say (signal in the lowest seven bits); None where nobody tells any more."""
    return next((status for ask in (_kept, _told, _kept, _told) if (status := ask(process, handle)) is not None), None)


def _kept(process: int, _handle: int | None) -> int | None:
    """Until the run's parent has asked."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return int(fields[49]) if fields[0] in "ZX" else None
    except (OSError, ValueError, IndexError):
        return None


def _told(_process: int, handle: int | None) -> int | None:
    """After that, by kernels from 6.15 on."""
    if handle is None:
        return None
    try:
        told = fcntl.ioctl(handle, _PIDFD_GET_INFO, _PIDFD_INFO.pack(_PIDFD_INFO_EXIT, *[0] * 13))
    except OSError:
        return None
    mask, *_, status = _PIDFD_INFO.unpack(told)
    return status if mask & _PIDFD_INFO_EXIT else None


def out_of_memory_kills() -> dict[str, int]:
    """How often the kernel has killed for memory: {file: count} of the run's control groups and of the machine."""
    files = ["/proc/vmstat"]
    with suppress(OSError), open("/proc/self/cgroup", encoding="utf-8") as groups:
        for line in groups:
            _, controllers, path = line.strip().split(":", 2)
            if not controllers:
                files += [f"/sys/fs/cgroup{path.rstrip('/')}/memory.events", "/sys/fs/cgroup/memory.events"]
            elif "memory" in controllers.split(","):
                folder = "/sys/fs/cgroup/memory"
                files += [f"{folder}{path.rstrip('/')}/memory.oom_control", f"{folder}/memory.oom_control"]
    counts = {}
    for name in dict.fromkeys(files):
        with suppress(OSError, ValueError), open(name, encoding="utf-8") as file:
            for line in file:
                if line.startswith("oom_kill "):
                    counts[name] = int(line.split()[1])
    return counts


def new_kills(before: dict[str, int]) -> list[str] | None:
    """Files whose count has grown; None where there are no counts."""
    now = out_of_memory_kills()
    return [name for name, count in now.items() if count > before.get(name, count)] if now and before else None


def tell(argv: list[str], stacks: str, status: int | None, kills: list[str] | None) -> None:
    """Says which signal it was; the library is imported only now."""
    sys.path[:] = argv[9:]
    from open_r1.troubleshooting.signal_report import tell_signal

    name = next((FATAL[words] for words in FATAL if f"Fatal Python error: {words}" in stacks), None)
    if name is None and status:
        with suppress(ValueError):
            name = signal.Signals(status & 0x7F).name
    tell_signal([argv[0], *argv[2:9]], name, stacks, kills)


if __name__ == "__main__":
    main(sys.argv[1:])
