"""What is kept beside the cache for each row that is being decoded, in preallocated tensors on the device.

Shape suffixes: R rows of storage, B live rows, M rows that join or move, N new tokens at most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from open_r1.generation.engine import Completion, Request, SamplingParams
from open_r1.generation.sampling import uniforms


class Rows:
    """Live rows are ``[0, len(requests))``; each remembers its request, its tokens so far and its uniforms to come."""

    def __init__(self, max_rows: int, params: SamplingParams, context: int | None, device: torch.device):
        self.params = params
        self.context = context
        self.device = device
        self.requests: list[Request] = []
        size = (max_rows, params.max_new_tokens)
        self.token_ids_RN = torch.zeros(size, dtype=torch.int64, device=device)
        self.logprobs_RN = torch.zeros(size, dtype=torch.float32, device=device)
        self.uniforms_RN = torch.zeros(size, dtype=torch.float32, device=device)
        self.count_R = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self.limit_R = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self.row_R = torch.arange(max_rows, device=device)
        self.stop_ids = torch.tensor(params.stop_token_ids, dtype=torch.int64, device=device)

    def __len__(self) -> int:
        return len(self.requests)

    def join(self, requests: Sequence[Request]) -> None:
        first, self.requests = len(self), [*self.requests, *requests]
        rows = slice(first, len(self))
        longest = self.params.max_new_tokens
        if self.params.temperature != 0:
            draws = np.stack([uniforms(request.seed, longest) for request in requests])
            self.uniforms_RN[rows] = torch.from_numpy(draws).to(self.device)
        limits = [longest if self.context is None else min(longest, self.context - len(request.prompt_ids))
                  for request in requests]  # fmt: skip
        self.limit_R[rows] = torch.tensor(limits).to(self.device)
        self.count_R[rows] = 0

    def next_uniforms(self, first: int = 0) -> Tensor:
        """The uniform of the next token of each row from ``first`` on, [B - first]."""
        rows = slice(first, len(self))
        return self.uniforms_RN[self.row_R[rows], self.count_R[rows]]

    def append(self, token_ids: Tensor, logprobs: Tensor, first: int = 0) -> None:
        """Adds one token [B - first] to each row from ``first`` on."""
        rows = slice(first, len(self))
        index = self.row_R[rows], self.count_R[rows]
        self.token_ids_RN[index] = token_ids
        self.logprobs_RN[index] = logprobs
        self.count_R[rows] += 1

    def last_tokens(self) -> Tensor:
        """The newest token of each row, [B]."""
        rows = slice(0, len(self))
        return self.token_ids_RN[self.row_R[rows], self.count_R[rows] - 1]

    def finished(self) -> list[int]:
        """Rows whose newest token is a stop token or their last; the one place where the host waits for the device."""
        stopped_B = torch.isin(self.last_tokens(), self.stop_ids)
        full_B = self.count_R[: len(self)] >= self.limit_R[: len(self)]
        return (stopped_B | full_B).nonzero()[:, 0].tolist()

    def completions(self, rows: Sequence[int]) -> list[Completion]:
        index = torch.tensor(rows).to(self.device)
        counts = self.count_R[index].tolist()
        token_ids = self.token_ids_RN[index, : max(counts)].tolist()
        logprobs = self.logprobs_RN[index, : max(counts)].tolist()
        return [
            Completion(
                request_id=self.requests[row].id,
                token_ids=tuple(ids[:count]),
                logprobs=tuple(values[:count]),
                finish_reason="stop" if ids[count - 1] in self.params.stop_token_ids else "length",
            )
            for row, count, ids, values in zip(rows, counts, token_ids, logprobs, strict=True)
        ]

    def drop(self, rows: Sequence[int], source_M: Tensor, target_M: Tensor) -> None:
        """Removes ``rows`` by the moves that the cache made."""
        if len(source_M):
            for array in (self.token_ids_RN, self.logprobs_RN, self.uniforms_RN, self.count_R, self.limit_R):
                array[target_M] = array[source_M]
        for source, target in zip(source_M.tolist(), target_M.tolist(), strict=True):
            self.requests[target] = self.requests[source]
        del self.requests[len(self) - len(rows) :]
