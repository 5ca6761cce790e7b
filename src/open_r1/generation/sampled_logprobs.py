"""Log-probabilities of the tokens that vLLM draws, without asking vLLM for them.

Asked for by ``SamplingParams.logprobs`` they pass through Python objects of every token, which halves the speed of
decoding a thousand sequences at once. Here the sampler of vLLM's newer model runner is followed where it draws: the
number of each token goes into a table on the GPU, one row a request that is being decoded, one column a position, and
a row leaves the GPU when somebody reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Key = tuple[str, int]
"""A request by the name it was handed in with, and which of its completions."""

_INTERNAL_NAME = re.compile(r"(?:(\d+)_)?([^-_]+)(?:-\w+)?")
"""vLLM's own name of a completion: its number where a request has several, the request's name, random letters."""


class Deferred:
    """Log-probabilities [L] that are still on the GPU; ``np.asarray`` fetches them."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def __len__(self) -> int:
        return self._values.numel()

    def __reduce__(self) -> tuple[Any, ...]:
        return np.array, (np.asarray(self),)  # what goes into a checkpoint leaves the GPU

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._values.cpu().numpy().astype(dtype or np.float32)


class SampledLogprobs:
    """Follows the sampler of a model runner (``vllm.v1.worker.gpu``).

    Args:
        runner: the model runner; its sampler's ``sample`` and its book of requests are wrapped.
        token_logprobs: log-softmax of logits [B, V] at token ids [B], float32 [B].

    Raises:
        AttributeError: the runner is another one, whose sampler cannot be followed so.
    """

    def __init__(self, runner: Any, token_logprobs: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._states, self._token_logprobs = runner.req_states, token_logprobs
        rows, columns = self._states.max_num_reqs, self._states.max_model_len + 1
        self._table = torch.zeros(rows, columns, dtype=torch.float32, device=self._states.device)
        self._rows: dict[Key, int] = {}
        self._left: dict[Key, Tensor] = {}
        self._sample, self._remove, self._add = runner.sampler.sample, runner._remove_request, self._states.add_request
        runner.sampler.sample, runner._remove_request = self.sample, self.remove
        self._states.add_request = self.add

    def sample(self, logits: Tensor, states: Tensor, states_np: np.ndarray, position: Tensor, *rest: Any, **more: Any):
        """Draws as before, and notes what was drawn: ``position`` [B] is that of the token before."""
        sampled, processed = self._sample(logits, states, states_np, position, *rest, **more)
        self._table[states, position + 1] = self._token_logprobs(processed, sampled)
        return sampled, processed

    def add(self, req_id: str, *rest: Any, **more: Any) -> None:
        """A request takes a row: an empty one, or what it had drawn before it was put off for want of memory."""
        self._add(req_id, *rest, **more)
        row, key = self._states.req_id_to_index[req_id], key_of(req_id)
        self._rows[key] = row
        if (before := self._left.pop(key, None)) is not None:
            self._table[row] = before

    def remove(self, req_id: str) -> bool:
        """A request gives its row up: it has ended, or is put off."""
        row = self._states.req_id_to_index.get(req_id)
        if row is not None:
            key = key_of(req_id)
            self._left[key] = self._table[row].clone()
            self._rows.pop(key, None)
        return self._remove(req_id)

    def read(self, key: Key, prompt: int, tokens: int) -> Deferred:
        """Log-probabilities of the ``tokens`` tokens that follow a prompt of ``prompt`` tokens; once for each key."""
        row = self._left.pop(key, None)
        if row is None:
            row = self._table[self._rows[key]]
        return Deferred(row[prompt : prompt + tokens].clone())

    def clear(self) -> None:
        """Forgets what nobody has read."""
        self._left.clear()


def key_of(req_id: str) -> Key:
    """The request and the number of the completion that vLLM calls ``req_id``."""
    number, name = _INTERNAL_NAME.fullmatch(req_id).groups()
    return name, int(number or 0)


def follow_sampler(llm: Any) -> SampledLogprobs | None:
    """Follows the sampler of an engine in this process; None where its model runner is another one."""
    try:
        from open_r1.model.policy_kernel import score

        worker = llm.llm_engine.model_executor.driver_worker.worker
        return SampledLogprobs(worker.model_runner, lambda logits, ids: score(logits, ids, 1.0, entropy=False)[0])
    except (ImportError, AttributeError):
        return None
