"""vLLM's own server as an engine for a trainer: ``vllm serve`` with its weight transfer switched on.

It is asked for one completion a request, tokens in and tokens out, and takes weights by vLLM's own NCCL protocol, one
packed bucket at a time. `open_r1.generation.served_engine` is lighter on both sides where open-r1 itself serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from http.client import HTTPException
from typing import Any

import torch
from torch import Tensor

from open_r1.background import Background
from open_r1.errors import UserError
from open_r1.generation.engine import Completion, Request, SamplingParams, check_requests
from open_r1.generation.server_client import ServerClient, beside
from open_r1.generation.server_port import free_port
from open_r1.parallel.weight_channel import BUCKET_BYTES, Bucket, fill_buckets

CONNECTIONS = 1024
"""Requests in flight at once: as many as vLLM decodes at once, as each is one completion."""

FLAGS = '--weight-transfer-config \'{"backend": "nccl"}\' --logprobs-mode processed_logprobs'
_LONGEST_COMPLETION = 3600.0
_WHOLE_BUCKET = 1 << 62  # a chunk is one bucket, whatever its size


class StockServerEngine:
    """Draws completions at a ``vllm serve``.

    Args: as `ServedEngine`, whose ``sizes`` this server does not tell.

    Raises:
        UserError: it was started without what a trainer needs.
    """

    def __init__(
        self,
        client: ServerClient,
        *,
        device: torch.device | str,
        sends_weights: bool = True,
        weight_timeout: float = 300.0,
        group_port: int = 0,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self._client, self._device, self._sends_weights = client, torch.device(device), sends_weights
        self._weight_timeout, self._group_port, self._bucket_bytes = weight_timeout, group_port, bucket_bytes
        self._broadcast: Callable[[Tensor], None] | None = None
        model = self._config()["model_config"]
        self._dtype = getattr(torch, str(model["dtype"]).split(".")[-1])
        self._processed = model.get("logprobs_mode") == "processed_logprobs"
        self.context: int | None = model.get("max_model_len")

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        """Yields each completion as soon as it is finished, without log-probabilities where the server has others.

        Raises:
            UserError: a prompt is empty or leaves no room; the server refuses, or is lost.
            ValueError: if two requests share an id, or ``max_new_tokens`` is below 1.
        """
        check_requests(requests, params, self.context)
        return self._stream(list(requests), params)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Sends all ``weights`` (names of a checkpoint, whole tensors); where another process does, only takes them.

        Raises:
            UserError: the server refuses them, is too slow, or is lost.
        """
        if not self._sends_weights:
            for _ in weights:  # they are gathered by all processes together
                pass
            return
        if self._broadcast is None:
            self._broadcast = self._open()
        self._post("/pause?mode=wait")
        try:
            self._send(weights, self._broadcast)
        except BaseException:
            with suppress(UserError):  # the first failure is the one to tell
                self._post("/resume")
            raise
        self._post("/resume")

    def close(self) -> None:
        """Leaves the server."""
        self._broadcast = None

    def _stream(self, requests: list[Request], params: SamplingParams) -> Iterator[Completion]:
        if not requests:
            return
        pool = ThreadPoolExecutor(min(len(requests), CONNECTIONS), "completion")
        try:
            for done in as_completed([pool.submit(self._draw, request, params) for request in requests]):
                yield done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _draw(self, request: Request, params: SamplingParams) -> Completion:
        # The server's are of the logits as they are, or of what top-p and top-k have left: other than a trainer's.
        scaled = self._processed or params.temperature in (0, 1)
        wanted = scaled and params.top_p == 1 and params.top_k == 0
        sampling = {
            "n": 1,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "max_tokens": params.max_new_tokens,
            "stop_token_ids": list(params.stop_token_ids),
            "ignore_eos": True,
            "seed": request.seed,
            "detokenize": False,
            **({"logprobs": 0} if wanted else {}),
        }
        body = {"token_ids": list(request.prompt_ids), "sampling_params": sampling, "stream": False}
        choice = self._client.post("/inference/v1/generate", body, _LONGEST_COMPLETION)["choices"][0]
        if choice["finish_reason"] not in ("stop", "length"):
            raise UserError(f"{self._client.url}: a completion ended with {choice['finish_reason']!r}")
        logprobs = tuple(entry["logprob"] for entry in choice["logprobs"]["content"]) if wanted else ()
        return Completion(request.id, tuple(choice["token_ids"]), logprobs, choice["finish_reason"])

    def _open(self) -> Callable[[Tensor], None]:
        """The way to the server's processes."""
        if self._device.type != "cuda":
            raise UserError(f"{self._client.url} takes weights on GPUs, and this trainer has none: train on a GPU")
        _, said = self._client.get("/get_world_size")
        address, port = self._client.own_address(), self._group_port or free_port()
        meeting = {"master_address": address, "master_port": port, "world_size": said["world_size"] + 1}
        joined = Background(join_group, meeting, self._device)

        def wait(check: Callable[[], None]) -> None:
            while joined.running:
                check()
                joined.wait(0.05)

        body = {"init_info": {**meeting, "rank_offset": 1}}
        beside(self._client, "/init_weight_transfer_engine", body, wait, self._weight_timeout)
        return joined.result()

    def _send(self, weights: Iterable[tuple[str, Tensor]], broadcast: Callable[[Tensor], None]) -> None:
        self._post("/start_weight_update")
        buckets = fill_buckets(weights, dtype=self._dtype, device=self._device, bucket_bytes=self._bucket_bytes)
        for bucket in buckets:
            body = {"update_info": update_info(bucket)}
            data = bucket.flat.view(torch.uint8)
            beside(self._client, "/update_weights", body, lambda _, data=data: broadcast(data), self._weight_timeout)
        self._post("/finish_weight_update")
        self._post("/reset_prefix_cache")

    def _post(self, path: str) -> None:
        self._client.post(path, {}, self._weight_timeout)

    def _config(self) -> Mapping[str, Any]:
        """The server's configuration."""
        url = self._client.url
        try:
            status, said = self._client.get("/server_info?config_format=json", timeout=60.0)
        except (OSError, HTTPException) as error:
            raise self._client.lost("", error) from error
        if status != 200 or not isinstance(said, dict) or "vllm_config" not in said:
            raise UserError(
                f"{url} is no server of open-r1 serve-vllm, nor a vllm serve that takes weights: start open-r1 "
                f"serve-vllm there, or VLLM_SERVER_DEV_MODE=1 vllm serve MODEL {FLAGS}"
            )
        config = said["vllm_config"]
        if not config.get("weight_transfer_config"):
            raise UserError(f"{url} takes no weights: start vllm serve with {FLAGS}")
        return config


def update_info(bucket: Bucket) -> dict[str, Any]:
    """What vLLM has to know of a bucket: all of one type, in one broadcast."""
    dtype = str(bucket.flat.dtype).removeprefix("torch.")
    return {
        "names": [name for name, _ in bucket.entries],
        "shapes": [list(shape) for _, shape in bucket.entries],
        "dtype_names": [dtype] * len(bucket.entries),
        "packed": True,
        "packed_buffer_size_bytes": _WHOLE_BUCKET,
    }


def join_group(meeting: Mapping[str, Any], device: torch.device) -> Callable[[Tensor], None]:
    """A broadcast to the server's processes by vLLM's own NCCL communicator, of which this process is rank 0.

    Raises:
        UserError: vLLM is not installed here too, or NCCL fails.
    """
    try:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine
    except ImportError as error:
        raise UserError(
            "weights go to a vllm serve by vLLM's own protocol, and vLLM is not installed here: pip install "
            "'open-r1[vllm]', or start open-r1 serve-vllm instead"
        ) from error
    torch.cuda.set_device(device)
    try:
        group = NCCLWeightTransferEngine.trainer_init(dict(meeting))
    except RuntimeError as error:
        raise UserError(f"NCCL does not reach the server's processes: {' '.join(str(error).split())[:200]}") from error
    return lambda data: group.broadcast(data, src=0, stream=torch.cuda.current_stream())
