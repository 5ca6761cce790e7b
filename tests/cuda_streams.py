"""CUDA streams of a made-up GPU, for tests that run where there is none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


class Stream:
    """Notes what it waits for; ``broken`` is what an illegal memory access leaves behind."""

    def __init__(self) -> None:
        self.waits: list[Stream] = []
        self.broken = False

    def wait_stream(self, other: Stream) -> None:
        self.waits.append(other)

    def synchronize(self) -> None:
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


class Streams:
    """Which stream is current, in each thread."""

    def __init__(self) -> None:
        self.default = Stream()
        self._of_thread = threading.local()

    def current(self) -> Stream:
        return getattr(self._of_thread, "stream", self.default)

    def set(self, stream: Stream) -> None:
        self._of_thread.stream = stream

    @contextmanager
    def within(self, stream: Stream | None) -> Iterator[None]:
        before = self.current()
        self.set(stream or before)
        try:
            yield
        finally:
            self.set(before)


def make_up_streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    """Puts them in place of torch's."""
    streams = Streams()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", streams.within)
    monkeypatch.setattr(torch.cuda, "current_stream", streams.current)
    return streams
