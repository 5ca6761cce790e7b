"""The decode loop: requests join the batch, one token a step, finished rows leave.

Shape suffixes: U different prompts of a prefill, T their longest, M rows that join, B live rows, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from open_r1.generation.cache import DecodeCache
from open_r1.generation.engine import Completion, Request, SamplingParams
from open_r1.generation.interruption import check_interruption
from open_r1.generation.rows import Rows
from open_r1.generation.sampling import sample

JOIN_SHARE = 8
"""Requests join once one row in so many is free: a prefill has about the overhead of a decode step."""

BUNDLE_SHARE = 4
"""Requests of one prompt join together, unless they would wait for more than one row in so many to be free."""

PREFILL_TOKENS = 16_384
"""Padded tokens of one prefill forward, which bounds its activations."""


def bundles_longest_first(requests: Sequence[Request], max_rows: int) -> list[list[Request]]:
    """Requests of one prompt, which are prefilled once, in the order in which they join: longest prompt first.

    A prompt that joins later is then never longer than the columns in use, and the prompts of one prefill are of
    about one length.
    """
    groups: dict[tuple[int, ...], list[Request]] = {}
    for request in requests:
        groups.setdefault(request.prompt_ids, []).append(request)
    size = max(1, max_rows // BUNDLE_SHARE)
    ordered = sorted(groups.values(), key=lambda group: -len(group[0].prompt_ids))
    return [group[first : first + size] for group in ordered for first in range(0, len(group), size)]


class Decoder:
    """Decodes ``requests``, at most ``batch_size`` at once."""

    def __init__(
        self,
        model: nn.Module,
        requests: Sequence[Request],
        params: SamplingParams,
        *,
        batch_size: int,
        pad_token_id: int,
        context: int | None,
        device: torch.device,
    ):
        self.model = model
        self.params = params
        self.pad_token_id = pad_token_id
        self.device = device
        self.max_rows = min(batch_size, len(requests))
        self.waiting = bundles_longest_first(requests, self.max_rows)[::-1]
        self.rows = Rows(self.max_rows, params, context, device)
        self.cache = DecodeCache(model.config, self.max_rows, device)

    @torch.no_grad()
    def run(self) -> list[Completion]:
        """Decodes until something finishes; empty when nothing is left.

        ``no_grad`` and not ``inference_mode``: a buffer that a model caches in its forward would be an inference
        tensor, which the next training step could not use.
        """
        while self.waiting or len(self.rows):
            check_interruption()
            if self._should_join():
                self._join()
            else:
                self._step()
            if rows := self.rows.finished():
                completions = self.rows.completions(rows)
                self.rows.drop(rows, *self.cache.drop(rows))
                return completions
        return []

    def _should_join(self) -> bool:
        if not self.waiting:
            return False
        share = -(-self.max_rows // JOIN_SHARE)
        wanted = min(share, sum(map(len, self.waiting[-share:])))
        return self.max_rows - len(self.rows) >= max(wanted, len(self.waiting[-1]))

    def _take(self) -> list[Request]:
        """The bundles that fit into the free rows."""
        free = self.max_rows - len(self.rows)
        requests: list[Request] = []
        while self.waiting and len(requests) + len(self.waiting[-1]) <= free:
            requests += self.waiting.pop()
        return requests

    def _join(self) -> None:
        first, requests = len(self.rows), self._take()
        self.rows.join(requests)
        prompts = list(dict.fromkeys(request.prompt_ids for request in requests))
        repeats = Counter(request.prompt_ids for request in requests)
        logits = []
        while prompts:
            share = prompts[: max(1, PREFILL_TOKENS // len(prompts[0]))]
            del prompts[: len(share)]
            logits_UV, prefilled = self._prefill(share)
            source = [index for index, prompt in enumerate(share) for _ in range(repeats[prompt])]
            source_M = self._tensor(source)
            self.cache.join(prefilled, source_M, [len(share[index]) for index in source])
            logits.append(logits_UV[source_M])
        self.rows.append(*sample(torch.cat(logits), self.rows.next_uniforms(first), self.params), first)

    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[Tensor, DynamicCache]:
        """Logits after each prompt [U, V], and the cache of the prompts, padded on the left."""
        longest = len(prompts[0])
        padded = [(self.pad_token_id,) * (longest - len(prompt)) + prompt for prompt in prompts]
        padding_U = self._tensor([longest - len(prompt) for prompt in prompts])
        columns = torch.arange(longest, device=self.device)
        prefilled = DynamicCache(config=self.model.config)
        outputs = self.model(
            input_ids=self._tensor(padded),
            attention_mask=columns >= padding_U[:, None] if len(prompts[-1]) < longest else None,
            position_ids=(columns - padding_U[:, None]).clamp_(min=0),
            past_key_values=prefilled,
            use_cache=True,
            logits_to_keep=1,
        )
        return outputs.logits[:, -1], prefilled

    def _step(self) -> None:
        position_ids_B1, mask = self.cache.step_inputs()
        outputs = self.model(
            input_ids=self.rows.last_tokens()[:, None],
            attention_mask=mask,
            position_ids=position_ids_B1,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache.advance()
        self.rows.append(*sample(outputs.logits[:, -1], self.rows.next_uniforms(), self.params))

    def _tensor(self, values: Sequence) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self.device)
