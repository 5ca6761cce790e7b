"""Made-up packs with the lengths of reasoning traces, so that a rate does not depend on data that somebody has."""

from __future__ import annotations

import numpy as np

from open_r1.config import SFTConfig
from open_r1.data.bad_rows import BadRows
from open_r1.data.tokens import TokenStore
from open_r1.parallel.runtime import Runtime
from open_r1.training.batches import StepBatch
from open_r1.training.sft_source import SFTSource
from open_r1.training.signals import StopSignal

MEAN = 5500
"""Tokens of a trace, before it is split to fit a pack."""
SPREAD = 0.75
"""Standard deviation of the lengths' logarithm."""
PROMPT = 128
"""Tokens at the start of each that are not trained on."""


def trace_lengths(tokens: int, longest: int, mean: int = MEAN) -> np.ndarray:
    """int64 lengths, seeded and lognormal, of sequences that have at least ``tokens`` tokens together.

    Args:
        longest: tokens of a pack; a sequence may be longer, and is split then.
    """
    rng = np.random.default_rng(0)
    count = max(64, 2 * tokens // mean)
    lengths = rng.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD, count)
    return lengths.clip(max(2, mean // 20), max(longest, 3 * mean)).astype(np.int64)


def made_up_tokens(vocabulary: int, tokens: int, longest: int, mean: int = MEAN) -> TokenStore:
    """Sequences of `trace_lengths` whose ids follow Zipf's law, half of them a function of the one before."""
    lengths = trace_lengths(tokens, longest, mean)
    rng = np.random.default_rng(1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    weight = 1.0 / (np.arange(vocabulary) + 2.7)
    ranks = np.searchsorted(np.cumsum(weight / weight.sum()), rng.random(int(offsets[-1])))
    ids = rng.permutation(vocabulary)[ranks.clip(max=vocabulary - 1)].astype(np.int32)
    ids[1::2] = rng.permutation(vocabulary)[ids[: len(ids) - 1 : 2]]
    prompt = min(PROMPT, mean // 40)
    place = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths)
    return TokenStore(
        input_ids=ids,
        loss_mask=(place >= prompt).astype(np.uint8),
        offsets=offsets,
        rows=np.arange(len(lengths)),
        targets=np.stack([np.full(len(lengths), prompt), lengths], axis=1),
        bad_rows=BadRows(False, 5),
        cached=True,
    )


class Repeating(SFTSource):
    """The packs of the first ``distinct`` steps again and again.

    So what is timed was met before: libraries choose kernels at each new number of tokens, which a long run does once.
    """

    def __init__(self, store: TokenStore, config: SFTConfig, runtime: Runtime, distinct: int) -> None:
        super().__init__(store, config, runtime)
        self._distinct = distinct

    def batch(self, step: int, stop: StopSignal) -> StepBatch:
        return super().batch(step % self._distinct, stop)
