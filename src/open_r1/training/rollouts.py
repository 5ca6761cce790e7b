"""Rollouts: completions to prompts, scored while others still decode."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from open_r1.data.prompts import PromptSet
from open_r1.errors import UserError
from open_r1.generation.engine import Completion, Engine, Request, SamplingParams
from open_r1.generation.interruption import interrupted_by
from open_r1.generation.seeds import sample_seed
from open_r1.rewards.pool import RewardPool, Scores
from open_r1.training.signals import StopSignal

SILENT_AT_FIRST, SILENT_GROUPS = 4, 8
"""Prompts in a row whose every completion the reward functions fail on, after which a run ends: before any completion
has had a reward, and later."""


@dataclass(frozen=True)
class Group:
    """All completions to one prompt.

    Attributes:
        draw: the number under which the prompt was drawn; no two groups of a run share one.
        prompt: the prompt's index in the prompt set.
        completions: G of them, in the order of their samples.
        texts: their texts, without special tokens.
        rewards: float64 [F, G], a value of each reward function for each completion; NaN where none can be given.
    """

    draw: int
    prompt: int
    completions: tuple[Completion, ...]
    texts: tuple[str, ...]
    rewards: np.ndarray


@dataclass
class RolloutMeter:
    """Where the time of a collection went, and what went wrong in the rewards."""

    generate_seconds: float = 0.0
    reward_wait_seconds: float = 0.0
    timeouts: int = 0
    errors: list[str] = field(default_factory=list)


class RolloutCollector:
    """Draws groups of completions and has them scored.

    Args:
        decode: token ids to the text that is scored.
        size: completions in a group.
        seed: of the run; a sample's draws depend on it, the step, the prompt's draw number and the sample alone.
    """

    def __init__(
        self,
        engine: Engine,
        pool: RewardPool,
        prompts: PromptSet,
        decode: Callable[[Sequence[int]], str],
        params: SamplingParams,
        size: int,
        seed: int,
    ) -> None:
        self._engine, self._pool, self._prompts, self._decode = engine, pool, prompts, decode
        self._params, self._size, self._seed = params, size, seed
        self._silent, self._most_silent = 0, SILENT_AT_FIRST

    def collect(self, draws: Sequence[int], step: int, stop: StopSignal, meter: RolloutMeter) -> list[Group]:
        """One group for each draw number, in their order.

        Raises:
            Interrupted: by ``stop``, between two steps of decoding where the engine can stop there.
            UserError: when the reward functions failed on every completion of too many prompts in a row.
        """
        indices = [self._prompts.draw(self._seed, draw) for draw in draws]
        requests = [
            Request(
                id=place * self._size + sample,
                prompt_ids=self._prompts.token_ids[index],
                seed=sample_seed(self._seed, step, draw, sample),
            )
            for place, (draw, index) in enumerate(zip(draws, indices, strict=True))
            for sample in range(self._size)
        ]
        finished: dict[int, dict[int, Completion]] = {place: {} for place in range(len(draws))}
        texts: dict[int, tuple[str, ...]] = {}
        scores: dict[int, Scores] = {}

        start = time.perf_counter()
        with interrupted_by(stop.check):
            for completion in self._engine.generate(requests, self._params):
                stop.check()
                place, sample = divmod(completion.request_id, self._size)
                finished[place][sample] = completion
                if len(finished[place]) == self._size:
                    texts[place] = self._submit(place, indices[place], finished[place])
                scores.update(self._pool.results(block=False))
        decoded = time.perf_counter()
        while len(scores) < len(draws):
            stop.check()
            scores.update(self._pool.results(block=True))

        meter.generate_seconds += decoded - start
        meter.reward_wait_seconds += time.perf_counter() - decoded
        self._note_failures(scores, meter)
        return [
            Group(
                draw=draw,
                prompt=indices[place],
                completions=tuple(finished[place][sample] for sample in range(self._size)),
                texts=texts[place],
                rewards=_as_array(scores[place]),
            )
            for place, draw in enumerate(draws)
        ]

    def _submit(self, place: int, index: int, finished: dict[int, Completion]) -> tuple[str, ...]:
        """Hands a whole group to the reward workers; returns its texts."""
        token_ids = [list(finished[sample].token_ids) for sample in range(self._size)]
        texts = tuple(self._decode(ids) for ids in token_ids)
        columns = self._prompts.reward_columns(index, self._size) | {"completion_ids": token_ids}
        self._pool.submit(place, [[{"role": "assistant", "content": text}] for text in texts], columns)
        return texts

    def _note_failures(self, scores: dict[int, Scores], meter: RolloutMeter) -> None:
        """A row that no verifier can judge costs its group; a verifier that judges none would cost the whole run."""
        for _place, score in sorted(scores.items()):
            meter.timeouts += score.timeouts
            meter.errors.extend(score.errors)
            if any(value is not None for row in score.values for value in row):
                self._silent, self._most_silent = 0, SILENT_GROUPS
            elif score.errors:
                self._silent += 1
                if self._silent >= self._most_silent:
                    raise UserError(
                        f"the rewards failed on every completion of {self._silent} prompts in a row; "
                        f"the last error: {score.errors[0]}"
                    )


def _as_array(scores: Scores) -> np.ndarray:
    return np.array([[np.nan if value is None else value for value in row] for row in scores.values], dtype=np.float64)
