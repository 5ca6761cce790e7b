"""The packs that every side of a case of `benchmarks/sft.py` trains on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from sft_job import Job

from open_r1.bench.packs import Repeating, made_up_tokens
from open_r1.config import SFTConfig, parse
from open_r1.data.bad_rows import BadRows
from open_r1.data.pack import Pack
from open_r1.data.tokens import TokenStore
from open_r1.training.sft_source import SFTSource
from open_r1.training.signals import StopSignal

TOKEN_FIELDS = ("input_ids", "loss_mask", "offsets", "rows", "targets")


def token_store(job: Job) -> TokenStore:
    """The sequences of ``job.tokens`` where that is given, else made-up ones."""
    if not job.tokens:
        return made_up_tokens(job.shape["vocab_size"], job.steps * job.packs * job.length, job.length, job.mean)
    with np.load(job.tokens) as stored:
        fields = {name: stored[name] for name in TOKEN_FIELDS}
    return TokenStore(**fields, bad_rows=BadRows(False, 5), cached=True)


def repeating(job: Job) -> Callable[..., SFTSource]:
    """Our source, with the packs of the first ``job.steps`` steps again and again: what is timed was met before."""
    return partial(Repeating, distinct=job.steps)


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
