"""What goes between a trainer and a served engine: JSON, one line a completion, tokens and log-probabilities packed."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from open_r1.generation.engine import Completion, Request, SamplingParams

PROTOCOL = 1
"""Raised by every change that an older side would not understand."""

HEARTBEAT_SECONDS = 2.0
"""A stream of completions is never silent for longer while its server lives."""

NO_WEIGHTS = -1
"""Version of weights that were received in part."""

HEALTH, GENERATE, OPEN, UPDATE = "/health", "/generate", "/weights/open", "/weights/update"


@dataclass(frozen=True)
class ServerFacts:
    """What a server says of itself.

    Attributes:
        workers: processes that hold the model, each of which joins the weight channel.
        dtype: of the weights, such as "bfloat16"; they are sent in it.
        device: "cuda" (weights come by NCCL) or "cpu" (by Gloo).
        waits_for_weights: the model is empty until a trainer sends its weights.
        version: of open-r1.
        sizes: ``vocab_size``, ``hidden_size`` and ``num_hidden_layers`` of the model.
    """

    model: str
    engine: str
    context: int | None
    workers: int
    dtype: str
    device: str
    sizes: Mapping[str, int]
    waits_for_weights: bool = False
    protocol: int = PROTOCOL
    version: str = ""


def pack_requests(
    requests: Sequence[Request], params: SamplingParams, version: int | None, parties: int
) -> dict[str, Any]:
    """The body of a request for completions.

    Args:
        version: of the weights that are to draw; None takes any.
        parties: processes that ask at about the same time, whose requests are better decoded together.
    """
    places: dict[tuple[int, ...], int] = {}
    rows = [(request.id, places.setdefault(request.prompt_ids, len(places)), request.seed) for request in requests]
    return {
        "version": version,
        "parties": parties,
        "params": asdict(params),
        "prompts": list(places),
        "requests": rows,
    }


def unpack_requests(body: Mapping[str, Any]) -> tuple[list[Request], SamplingParams]:
    """The other way around.

    Raises:
        KeyError, TypeError, IndexError, ValueError: it is no such body.
    """
    prompts = [tuple(map(int, prompt)) for prompt in body["prompts"]]
    requests = [Request(int(number), prompts[place], int(seed)) for number, place, seed in body["requests"]]
    stops = tuple(body["params"]["stop_token_ids"])
    return requests, SamplingParams(**{**body["params"], "stop_token_ids": stops})


def pack_completion(completion: Completion) -> dict[str, Any]:
    """A line of the answer."""
    return {
        "id": completion.request_id,
        "tokens": _packed(completion.token_ids, "<i4"),
        "logprobs": _packed(completion.logprobs, "<f4"),
        "reason": completion.finish_reason,
    }


def unpack_completion(line: Mapping[str, Any]) -> Completion:
    """The other way around; log-probabilities have been rounded to float32, which is what engines compute in."""
    tokens, logprobs = _unpacked(line["tokens"], "<i4"), _unpacked(line["logprobs"], "<f4")
    return Completion(line["id"], tokens, logprobs, line["reason"])


def _packed(values: Sequence[float], kind: str) -> str:
    return base64.b64encode(np.asarray(values, dtype=kind).tobytes()).decode()


def _unpacked(text: str, kind: str) -> tuple[Any, ...]:
    return tuple(np.frombuffer(base64.b64decode(text), dtype=kind).tolist())


def sizes_of(text_config: Any) -> dict[str, int]:
    """The sizes by which a trainer and a server see that they mean the same model."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers")
    return {name: getattr(text_config, name) for name in names if hasattr(text_config, name)}
