"""Rewards on held-out prompts: the policy as it is, asked the same prompts each time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from open_r1.config import GRPOConfig
from open_r1.data.prompts import PromptSet
from open_r1.generation.engine import Completion, Engine, Request, SamplingParams
from open_r1.generation.interruption import interrupted_by
from open_r1.generation.seeds import sample_seed
from open_r1.parallel.runtime import Runtime
from open_r1.rewards.pool import RewardPool, Scores
from open_r1.rl.advantages import combine_rewards
from open_r1.training.rollout_metrics import mean_of, sum_count
from open_r1.training.signals import StopSignal
from open_r1.training.together import together

STEP = -1
"""Stands for the step in the seeds of held-out answers: the same draws each time, so that only the policy changes."""


class HeldOutRewards:
    """Mean rewards, length and truncation of the answers to held-out prompts, all ranks together.

    Nothing of training is touched: draws have seeds of their own, and the pool is only used while it is empty.

    Args:
        prompts: all of them are asked, each rank its share.
        params: how answers are drawn.
        decode: token ids to the text that is scored.
        sync: makes the engine draw from the weights of now; may be interrupted.
        reward_names: in the order of the pool's functions.
    """

    def __init__(
        self,
        config: GRPOConfig,
        runtime: Runtime,
        engine: Engine,
        pool: RewardPool,
        prompts: PromptSet,
        params: SamplingParams,
        *,
        decode: Callable[[Sequence[int]], str],
        sync: Callable[[StopSignal], None],
        reward_names: Sequence[str],
    ) -> None:
        self._runtime, self._engine, self._pool = runtime, engine, pool
        self._prompts, self._params, self._decode, self._sync = prompts, params, decode, sync
        self._size, self._seed, self._names = config.num_generations_eval, config.seed, list(reward_names)
        self._weights = config.reward_weights or [1.0] * len(self._names)
        self._mine = range(runtime.rank, len(prompts), runtime.world_size)

    def __call__(self, stop: StopSignal) -> dict[str, float]:
        """``eval/reward``, ``eval/rewards/NAME``, ``eval/completion_length`` (tokens), ``eval/truncated`` (share).

        Raises:
            Interrupted: by ``stop``, and by that of any rank on all of them.
            UserError: the engine is lost; of any rank on all of them.
        """
        start = time.perf_counter()
        self._sync(stop)
        with together(self._runtime), interrupted_by(stop.check):
            completions, scores = self._answers(stop)
        values = np.full((len(self._names), len(self._mine), self._size), np.nan)
        for place, score in scores.items():
            values[:, place] = np.array(score.values, dtype=np.float64)  # None becomes NaN
        combined = combine_rewards(torch.from_numpy(values), self._weights).numpy()
        lengths = [len(completion.token_ids) for completion in completions]
        cut = [completion.finish_reason == "length" for completion in completions]
        sums = {
            "eval/reward": sum_count(combined),
            **{f"eval/rewards/{name}": sum_count(row) for name, row in zip(self._names, values, strict=True)},
            "eval/completion_length": sum_count(lengths),
            "eval/truncated": sum_count(cut),
        }
        totals = self._runtime.sum(torch.tensor(list(sums.values()), dtype=torch.float64)).tolist()
        means = {name: mean_of(total, count) for name, (total, count) in zip(sums, totals, strict=True)}
        return means | {"seconds_evaluate": self._runtime.max(time.perf_counter() - start)}

    def _answers(self, stop: StopSignal) -> tuple[list[Completion], dict[int, Scores]]:
        """This rank's completions, and the scores of each prompt by its place among this rank's."""
        requests = [
            Request(
                id=place * self._size + sample,
                prompt_ids=self._prompts.token_ids[index],
                seed=sample_seed(self._seed, STEP, index, sample),
            )
            for place, index in enumerate(self._mine)
            for sample in range(self._size)
        ]
        finished: dict[int, dict[int, Completion]] = {}
        scores: dict[int, Scores] = {}
        for completion in self._engine.generate(requests, self._params) if requests else ():
            stop.check()
            place, sample = divmod(completion.request_id, self._size)
            group = finished.setdefault(place, {})
            group[sample] = completion
            if len(group) == self._size:
                self._submit(place, group)
            scores.update(self._scored(block=False))
        while len(scores) < len(self._mine):
            stop.check()
            scores.update(self._scored(block=True))
        return [completion for group in finished.values() for completion in group.values()], scores

    def _submit(self, place: int, group: dict[int, Completion]) -> None:
        token_ids = [list(group[sample].token_ids) for sample in range(self._size)]
        columns = self._prompts.reward_columns(self._mine[place], self._size) | {"completion_ids": token_ids}
        self._pool.submit(
            ("eval", place), [[{"role": "assistant", "content": self._decode(ids)}] for ids in token_ids], columns
        )

    def _scored(self, *, block: bool) -> dict[int, Scores]:
        scores = {}
        for key, score in self._pool.results(block=block):
            if not isinstance(key, tuple):
                raise RuntimeError(f"the reward pool still held rewards of training ({key!r}) during an evaluation")
            scores[key[1]] = score
        return scores


def eval_params(config: GRPOConfig, training: SamplingParams) -> SamplingParams:
    """How held-out answers are drawn: as in training but for the temperature, greedy unless several are asked for."""
    temperature = config.eval_temperature
    if temperature is None:
        temperature = 0.0 if config.num_generations_eval == 1 else config.temperature
    return replace(training, temperature=temperature)
