"""An engine behind a server, for a trainer: it asks for completions, and broadcasts its weights to where they draw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from open_r1.errors import UserError
from open_r1.generation.engine import Completion, Request, SamplingParams, check_requests
from open_r1.generation.server_client import ServerClient, beside
from open_r1.generation.server_process import ServerProcess
from open_r1.generation.server_protocol import GENERATE, OPEN, UPDATE, ServerFacts, pack_requests, unpack_completion
from open_r1.parallel.weight_channel import BUCKET_BYTES, WeightSender


class ServedEngine:
    """Draws completions at a server of ``open-r1 serve-vllm``.

    With several trainer processes each has its own, and one of them sends the weights.

    Args:
        url: of the server, such as ``http://127.0.0.1:8000``.
        device: the trainer's; weights go to a server with GPUs from a GPU, by NCCL, and to one without by Gloo.
        sizes: of the trainer's model (`server_protocol.sizes_of`), which the server's must have too.
        sends_weights: this process is the one that sends them.
        parties: trainer processes, each of which draws its share.
        start_timeout: seconds that the server may take to come up.
        weight_timeout: seconds that it may take for a bucket of weights.
        group_port: port of this machine at which the server's processes meet the trainer; 0 takes a free one.
        process: the server, where this process has started it; it is ended by `close`.

    Raises:
        UserError: no server comes up in time, or it serves another model.
    """

    def __init__(
        self,
        url: str,
        *,
        device: torch.device | str = "cpu",
        sizes: Mapping[str, int] | None = None,
        sends_weights: bool = True,
        parties: int = 1,
        start_timeout: float = 240.0,
        weight_timeout: float = 300.0,
        group_port: int = 0,
        bucket_bytes: int = BUCKET_BYTES,
        process: ServerProcess | None = None,
    ) -> None:
        self._device, self._sends_weights, self._parties = torch.device(device), sends_weights, parties
        self._start_timeout, self._weight_timeout = start_timeout, weight_timeout
        self._group_port, self._bucket_bytes, self._process = group_port, bucket_bytes, process
        self._client = ServerClient(url, process.last_words if process else lambda: "")
        self._channel: WeightSender | None = None
        self._version: int | None = None
        try:
            self.facts = self._answer(process)
            self._check(sizes or {})
        except BaseException:
            self.close()
            raise
        self.context = self.facts.context

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        """Yields each completion as soon as it is finished; every request is answered exactly once.

        Raises:
            UserError: a prompt is empty or leaves no room; the server refuses, has other weights, or is lost.
            ValueError: if two requests share an id, or ``max_new_tokens`` is below 1.
        """
        check_requests(requests, params, self.context)
        return self._stream(list(requests), params)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Sends all ``weights`` (names of a checkpoint, whole tensors); where another process does, only takes them.

        Raises:
            UserError: the server refuses them, is too slow, or is lost.
        """
        version = (self._version or 0) + 1
        if self._sends_weights:
            self._channel = self._channel or self._open()
            try:
                send = partial(self._channel.send, weights)
                beside(self._client, UPDATE, {"version": version}, send, self._weight_timeout)
            except BaseException:
                self._leave()  # what has failed is not used again
                raise
        else:
            for _ in weights:  # they are gathered by all processes together
                pass
        self._version = version

    def close(self) -> None:
        """Leaves the server, and ends it where this process has started it; harmless when repeated."""
        self._leave()
        if self._process is not None:
            self._process.close()

    def _leave(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _stream(self, requests: list[Request], params: SamplingParams) -> Iterator[Completion]:
        if not requests:
            return
        body = pack_requests(requests, params, self._version, self._parties)
        for line in self._client.lines(GENERATE, body, self._start_timeout):
            yield unpack_completion(line)

    def _open(self) -> WeightSender:
        """The way to the processes that hold the model."""
        device = torch.device("cpu") if self.facts.device == "cpu" else self._device
        channel = WeightSender(
            self.facts.workers,
            dtype=getattr(torch, self.facts.dtype),
            device=device,
            port=self._group_port,
            timeout=self._weight_timeout,
            bucket_bytes=self._bucket_bytes,
        )
        body = {"port": channel.port, "processes": self.facts.workers + 1, "timeout": self._weight_timeout}
        try:
            beside(self._client, OPEN, body, channel.connect, self._weight_timeout)
        except BaseException:
            channel.close()
            raise
        return channel

    def _answer(self, process: ServerProcess | None) -> ServerFacts:
        facts = self._client.wait_until_up(self._start_timeout, process.check if process else lambda: None)
        if facts is None:
            raise UserError(
                f"{self._client.url} is not a server of open-r1 serve-vllm: start one there, or give another "
                "--vllm_server_port"
            )
        return facts

    def _check(self, sizes: Mapping[str, int]) -> None:
        for name, size in sizes.items():
            served = self.facts.sizes.get(name, size)
            if served != size:
                raise UserError(
                    f"{self._client.url} serves {self.facts.model} with {name} {served}, and the model that is trained "
                    f"has {size}: start the server with the --model that is trained"
                )
        if self.facts.device == "cuda" and self._device.type != "cuda" and self._sends_weights:
            raise UserError(
                f"{self._client.url} takes weights on GPUs, and this trainer has none: train on a GPU, or serve with "
                "--engine transformers on a machine without one"
            )
