"""What an engine is: prompts in, finished completions out, in the order in which they finish."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from open_r1.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SamplingParams:
    """How completions are drawn.

    Attributes:
        max_new_tokens: the longest completion, in tokens.
        temperature: divides the logits; 0 means greedy.
        top_p: nucleus mass in (0, 1]; 1 is off.
        top_k: number of most likely tokens kept; 0 is off.
        stop_token_ids: a completion ends after any of these, which is kept as its last token.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Request:
    """One completion to draw: ``prompt_ids`` and ``seed`` decide the draw, whatever else is in the batch."""

    id: int
    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Completion:
    """A finished completion.

    Attributes:
        request_id: the id of its request.
        token_ids: what was sampled, with the stop token if there was one.
        logprobs: log-probability of each token under softmax(logits / temperature) (temperature 1 when greedy),
            before top-p and top-k; nats. Empty where the engine does not give them: only training needs them.
        finish_reason: "stop" (a stop token), or "length" (truncated).
    """

    request_id: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]


class Engine(Protocol):
    """Draws completions from a model."""

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        """Yields each completion as soon as it is finished; every request is answered exactly once."""

    def close(self) -> None:
        """Gives back memory and processes; the engine is not used afterwards."""


class TrainableEngine(Engine, Protocol):
    """Draws completions, with their log-probabilities, from a model whose weights change between two calls."""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Makes the engine sample from ``weights``: (name in a checkpoint, whole tensor), each copied as it comes.

        They are gathered while they are taken: every rank takes all of them, or none does.
        """


def check_requests(requests: Sequence[Request], params: SamplingParams, context: int | None) -> None:
    """What every engine asks of its requests.

    Args:
        context: longest prompt and completion together, in tokens; None where there is no limit.

    Raises:
        UserError: if a prompt is empty, or leaves no room in the model's context.
        ValueError: if two requests share an id, or ``max_new_tokens`` is below 1.
    """
    if params.max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {params.max_new_tokens}: it must be at least 1")
    if len({request.id for request in requests}) < len(requests):
        raise ValueError("two requests share an id")
    for request in requests:
        length = len(request.prompt_ids)
        if length == 0:
            raise UserError(f"request {request.id}: the prompt is empty; give at least one token")
        if context is not None and length >= context:
            raise UserError(
                f"request {request.id}: the prompt has {length} tokens, which leaves no room in the model's context "
                f"of {context}; shorten the prompt (max_prompt_length)"
            )
