"""The packs that every side of a case of `benchmarks/sft.py` trains on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from sft_job import Job

from open_r1.config import SFTConfig, parse
from open_r1.data.bad_rows import BadRows
from open_r1.data.pack import Pack
from open_r1.data.tokens import TokenStore
from open_r1.training.batches import StepBatch
from open_r1.training.sft_source import SFTSource
from open_r1.training.signals import StopSignal

TOKEN_FIELDS = ("input_ids", "loss_mask", "offsets", "rows", "targets")
PROMPT = 128  # tokens at the start of each sequence that are not trained on
SPREAD = 0.75  # standard deviation of the lengths' logarithm


def token_store(job: Job) -> TokenStore:
    """The sequences of ``job.tokens`` where that is given, else made-up ones."""
    if not job.tokens:
        return made_up(job)
    with np.load(job.tokens) as stored:
        fields = {name: stored[name] for name in TOKEN_FIELDS}
    return TokenStore(**fields, bad_rows=BadRows(False, 5), cached=True)


def made_up(job: Job) -> TokenStore:
    """Seeded sequences with lognormal lengths, their first tokens without loss.

    Tokens at even places follow Zipf's law; the one after each is a fixed function of it: something that can be learnt.
    """
    rng = np.random.default_rng(0)
    vocabulary = job.shape["vocab_size"]
    count = max(400, int(1.3 * job.steps * job.packs * job.length / job.mean))
    lengths = rng.lognormal(np.log(job.mean) - SPREAD**2 / 2, SPREAD, count)
    lengths = lengths.clip(job.mean // 20, max(job.length, 3 * job.mean)).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    weight = 1.0 / (np.arange(vocabulary) + 2.7)
    ranks = np.searchsorted(np.cumsum(weight / weight.sum()), rng.random(int(offsets[-1])))
    ids = rng.permutation(vocabulary)[ranks.clip(max=vocabulary - 1)].astype(np.int32)
    ids[1::2] = rng.permutation(vocabulary)[ids[: len(ids) - 1 : 2]]
    prompt = min(PROMPT, job.mean // 40)
    place = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths)
    return TokenStore(
        input_ids=ids,
        loss_mask=(place >= prompt).astype(np.uint8),
        offsets=offsets,
        rows=np.arange(count),
        targets=np.stack([np.full(count, prompt), lengths], axis=1),
        bad_rows=BadRows(False, 5),
        cached=True,
    )


def repeating(job: Job) -> type[SFTSource]:
    """Our source, which gives the packs of the first ``job.steps`` steps again and again.

    So the timed steps train on packs that the warm-up has met. Libraries choose and load kernels at each new number of
    tokens; a system of changing shapes spends most of its first hundred steps on that, and none later.
    """

    class Repeating(SFTSource):
        def batch(self, step: int, stop: StopSignal) -> StepBatch:
            return super().batch(step % job.steps, stop)

    return Repeating


class JobPacks:
    """The packs of a job, step by step, in the order in which our own source gives them out, again and again."""

    def __init__(self, job: Job) -> None:
        alone = SimpleNamespace(world_size=1, rank=0, is_main=True, sum=lambda values: values)
        arguments = job.arguments(per_device_train_batch_size=1, gradient_accumulation_steps=job.packs)
        config = parse(SFTConfig, arguments, prog="open-r1 sft").config
        self._job, self.store = job, token_store(job)
        self._source = repeating(job)(self.store, config, alone)

    def step(self, number: int) -> list[Pack]:
        """The packs of one optimizer step, each by itself."""
        return self._source.batch(number, StopSignal()).packs

    def timed_lengths(self) -> list[int]:
        """Lengths of the sequences in the timed steps."""
        steps = range(self._job.warmup, self._job.warmup + self._job.steps)
        return [length for number in steps for pack in self.step(number) for length in pack.lengths]


def row_of(pack: Pack) -> dict[str, Any]:
    """A pack as a row of the data set that TRL's packing makes."""
    ids, target = pack.input_ids.numpy(), pack.target_index.numpy()
    labels = np.full_like(ids, -100)
    labels[target] = ids[target]
    return {"input_ids": ids, "labels": labels, "seq_lengths": list(pack.lengths)}
