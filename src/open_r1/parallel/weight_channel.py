"""Weights from a trainer to the processes of a served engine, in flat buckets, by a process group of their own.

The group is built beside the trainer's, which it does not touch: one TCP store, and NCCL or Gloo on it. What a bucket
holds is said through the store; its bytes go by one broadcast. Whoever waits here looks at the clock, so that neither
side outlives the other for long.
"""

from __future__ import annotations

import itertools
import json
import math
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from open_r1.errors import UserError

BUCKET_BYTES = 256 << 20
"""Large enough that a broadcast runs at the speed of the link, small beside the memory that a model takes."""

_POLL_SECONDS = 0.0002
_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 10.0
_END, _FAILED = "end", "failed"


class Bucket(NamedTuple):
    """Neighbouring weights, one after the other in ``flat`` [elements]; ``entries`` are their names and shapes."""

    entries: tuple[tuple[str, tuple[int, ...]], ...]
    flat: Tensor


def fill_buckets(
    weights: Iterable[tuple[str, Tensor]], *, dtype: torch.dtype, device: torch.device, bucket_bytes: int = BUCKET_BYTES
) -> Iterator[Bucket]:
    """Copies weights into flat buckets of ``dtype``; a weight is never parted, and one that is larger has its own.

    All buckets share one buffer: a bucket is gone when the next one is asked for.
    """
    capacity = max(1, bucket_bytes // dtype.itemsize)
    buffer = torch.empty(0, dtype=dtype, device=device)
    entries: list[tuple[str, tuple[int, ...]]] = []
    filled = 0
    for name, weight in weights:
        size = weight.numel()
        if entries and filled + size > capacity:
            yield Bucket(tuple(entries), buffer[:filled])
            entries, filled = [], 0
        if filled + size > len(buffer):  # only ever while the bucket is empty
            buffer = torch.empty(max(capacity, size), dtype=dtype, device=device)
        buffer[filled : filled + size].copy_(weight.detach().reshape(-1), non_blocking=True)
        entries.append((name, tuple(weight.shape)))
        filled += size
    if entries:
        yield Bucket(tuple(entries), buffer[:filled])


class WeightSender:
    """The trainer's end.

    Args:
        receivers: processes at the other end.
        device: where buckets are filled: a GPU for NCCL, the CPU for Gloo.
        port: of the store; 0 takes a free one.
        timeout: seconds that the other side may take for one step.

    Raises:
        UserError: the port is taken.
    """

    def __init__(
        self,
        receivers: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        port: int = 0,
        timeout: float = 300.0,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self._dtype, self._device, self._bucket_bytes = dtype, device, bucket_bytes
        self._updates = 0
        self._link = _Link("0.0.0.0", port, 0, receivers + 1, device, timeout)

    @property
    def port(self) -> int:
        """Where the store listens."""
        return self._link.store.port

    def connect(self, check: Callable[[], None] = lambda: None) -> None:
        """Waits for the receivers, and tries the way to them.

        Args:
            check: called over and over while waiting; what it raises ends the wait.

        Raises:
            UserError: they did not come in time.
        """
        self._link.meet(check)

    def send(self, weights: Iterable[tuple[str, Tensor]], check: Callable[[], None] = lambda: None) -> None:
        """Sends all ``weights``, which are consumed bucket by bucket.

        Raises:
            UserError: the other side did not take a bucket in time; and whatever ``weights`` and ``check`` raise.
        """
        update, sent, outcome = self._updates, 0, _FAILED
        self._updates += 1
        try:
            buckets = fill_buckets(weights, dtype=self._dtype, device=self._device, bucket_bytes=self._bucket_bytes)
            for bucket in buckets:
                self._link.say(update, sent, json.dumps(bucket.entries))
                self._link.broadcast(bucket.flat, check)
                self._link.store.delete_key(_key(update, sent))  # everybody has read it
                sent += 1
            outcome = _END
        finally:
            self._link.say(update, sent, outcome)

    def close(self) -> None:
        """Leaves the channel, whose port is free again; harmless when repeated."""
        self._link.close()


class WeightReceiver:
    """The end of one of the engine's processes: number ``rank`` (from 1) of ``world_size``, the trainer among them.

    Raises:
        UserError: the trainer cannot be reached, or the others did not come in time.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        rank: int,
        world_size: int,
        dtype: torch.dtype,
        device: torch.device,
        timeout: float,
    ) -> None:
        self._dtype, self._device = dtype, device
        self._updates = 0
        self._link = _Link(host, port, rank, world_size, device, timeout)
        self._link.meet()

    def receive(self) -> Iterator[tuple[str, Tensor]]:
        """One update: names and whole weights, each a view into its bucket.

        Raises:
            UserError: the trainer is gone, too slow, or has given this update up.
        """
        update = self._updates
        self._updates += 1
        for number in itertools.count():
            said = self._link.hear(update, number)
            if said == _END:
                return
            if said == _FAILED:
                raise UserError("the trainer gave up in the middle of its weights: they have to be sent again")
            entries = json.loads(said)
            sizes = [math.prod(shape) for _, shape in entries]
            flat = torch.empty(sum(sizes), dtype=self._dtype, device=self._device)
            self._link.broadcast(flat)
            for (name, shape), part in zip(entries, flat.split(sizes), strict=True):
                yield name, part.view(shape)


class TrainerWatch:
    """Sees whether the trainer whose store is at ``host`` and ``port`` is still there: it keeps a connection to it.

    Raises:
        OSError: nobody is there to begin with.
    """

    def __init__(self, host: str, port: int) -> None:
        self._line = socket.create_connection((host, port), timeout=_ANSWER_SECONDS)
        self._line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine may go without a word
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                self._line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._line.setblocking(False)

    def lives(self) -> bool:
        """Whether the other end is open; nothing ever comes from there."""
        try:
            return bool(self._line.recv(1))
        except BlockingIOError:
            return True
        except OSError:
            return False


class _Link:
    """The store, and the group on it; ``rank`` 0 is the trainer, at which the store is."""

    def __init__(self, host: str, port: int, rank: int, world_size: int, device: torch.device, timeout: float) -> None:
        self._rank, self._world_size, self._device, self._timeout = rank, world_size, device, timeout
        try:
            self.store = dist.TCPStore(host, port, None, rank == 0, timedelta(seconds=timeout), wait_for_workers=False)
        except RuntimeError as error:
            advice = "choose another --vllm_group_port" if rank == 0 else "can this machine reach the trainer's?"
            raise UserError(f"no way for weights over {host}:{port}: {_short(error)}; {advice}") from error

    def meet(self, check: Callable[[], None] = lambda: None) -> None:
        """Waits until everybody is there, builds the group, and sends one number around it."""
        self.store.set(f"here/{self._rank}", "yes")
        everybody = [f"here/{rank}" for rank in range(self._world_size)]
        self._poll(lambda: self.store.check(everybody), check, f"the {self._world_size} processes to meet")
        limit = timedelta(seconds=2 * self._timeout)  # the clock here strikes first
        if self._device.type == "cuda":
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = limit
            self._group = dist.ProcessGroupNCCL(self.store, self._rank, self._world_size, options)
        else:
            self._group = dist.ProcessGroupGloo(self.store, self._rank, self._world_size, limit)
        self.broadcast(torch.zeros(1, device=self._device), check)

    def broadcast(self, tensor: Tensor, check: Callable[[], None] = lambda: None) -> None:
        """The trainer's ``tensor`` to everybody; returns when it is there."""
        options = dist.BroadcastOptions()
        options.rootRank = options.rootTensor = 0
        try:
            with self._aborting():
                work = self._group.broadcast([tensor], options)
                self._poll(work.is_completed, check, f"a bucket of {tensor.nbytes >> 20} MiB")
                work.wait()
        except RuntimeError as error:
            advice = (
                "trainer and server are on one GPU: start the server with another CUDA_VISIBLE_DEVICES"
                if "Duplicate GPU" in str(error)
                else "has the other side ended?"
            )
            raise UserError(f"weights did not get through: {_short(error)}; {advice}") from error

    def close(self) -> None:
        self._group = self.store = None

    def say(self, update: int, number: int, text: str) -> None:
        self.store.set(_key(update, number), text)

    def hear(self, update: int, number: int) -> str:
        """What the trainer says of a bucket, once it does."""
        key = _key(update, number)
        self._poll(lambda: self.store.check([key]), lambda: None, "the trainer's next weights")
        return self.store.get(key).decode()

    @contextmanager
    def _aborting(self) -> Iterator[None]:
        """Aborts the group where something fails: a broadcast to nobody would hold the GPU, and this process's end."""
        try:
            yield
        except BaseException:
            with suppress(RuntimeError):
                self._group.abort()
            raise

    def _poll(self, done: Callable[[], bool], check: Callable[[], None], what: str) -> None:
        """Waits until ``done``, and looks now and then whether the trainer's store still answers."""
        start = looked = time.monotonic()
        try:
            while not done():
                check()
                now = time.monotonic()
                if now - start > self._timeout:
                    raise UserError(f"weights: waited {self._timeout:g} s for {what}; is the other side alive?")
                if now - looked > _LOOK_SECONDS:
                    looked = now
                    self.store.check(["here/0"])
                time.sleep(_POLL_SECONDS)
        except RuntimeError as error:
            raise UserError(f"weights: the other side has gone while this one waited for {what}") from error


def _key(update: int, number: int) -> str:
    return f"weights/{update}/{number}"


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
