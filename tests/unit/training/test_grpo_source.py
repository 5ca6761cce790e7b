"""Rollouts become packs: which groups, which tokens, which weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event, Timer
from typing import Any

import numpy as np
import pytest
import torch
from fake_runtime import FakeRuntime
from torch import nn

from open_r1.config import GRPOConfig
from open_r1.data.pack import Pack
from open_r1.data.prompts import PromptSet
from open_r1.errors import UserError
from open_r1.generation.engine import Completion, Request, SamplingParams
from open_r1.rewards.pool import Scores
from open_r1.training import grpo_source
from open_r1.training.grpo_source import GRPOSource
from open_r1.training.rollouts import RolloutCollector
from open_r1.training.signals import StopSignal

GROUP, LIMIT = 4, 6
Rewards = Callable[[int, int], float | None]
"""(prompt, sample) -> reward."""


def prompt_set(size: int) -> PromptSet:
    """Prompt p is the tokens 100 + p, 100 + p."""
    return PromptSet(
        messages=[[{"role": "user", "content": str(p)}] for p in range(size)],
        token_ids=[(100 + p, 100 + p) for p in range(size)],
        rows=[{"number": p} for p in range(size)],
    )


class FakeEngine:
    """Sample s of a prompt is 2 + s tokens 1 + s, the last of which stops it; a longest one is cut."""

    def __init__(self) -> None:
        self.loaded = 0
        self.seeds: list[int] = []

    def load_weights(self, model: nn.Module) -> None:
        self.loaded += 1

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        for request in reversed(requests):
            self.seeds.append(request.seed)
            sample = request.id % GROUP
            ids = (1 + sample,) * (2 + sample if sample < GROUP - 1 else LIMIT)
            reason = "stop" if sample < GROUP - 1 else "length"
            yield Completion(request.id, ids, (-0.5 - sample,) * len(ids), reason)


class FakePool:
    def __init__(self, rewards: Rewards) -> None:
        self._rewards = rewards
        self._finished: list[tuple[int, Scores]] = []
        self.columns: list[dict[str, Any]] = []

    def submit(self, key: int, completions: Sequence[Any], columns: dict[str, Any]) -> None:
        self.columns.append(columns)
        values = [self._rewards(number, sample) for sample, number in enumerate(columns["number"])]
        self._finished.append((key, Scores([values])))

    def results(self, block: bool) -> Iterator[tuple[int, Scores]]:
        while self._finished:
            yield self._finished.pop()


class Bench:
    """A source on fakes, all of which can be looked at."""

    def __init__(
        self, rewards: Rewards, *, groups: int = 2, size: int = 8, runtime: FakeRuntime | None = None, **settings: Any
    ) -> None:
        self.config = GRPOConfig(
            **{
                "model_name_or_path": "m",
                "dataset_name": "d",
                "output_dir": "o",
                "num_generations": GROUP,
                "max_completion_length": LIMIT,
                "reward_funcs": ["fake"],
            }
            | settings
        )
        self.prompts, self.engine, self.pool = prompt_set(size), FakeEngine(), FakePool(rewards)
        params = SamplingParams(LIMIT)
        collector = RolloutCollector(self.engine, self.pool, self.prompts, str, params, GROUP, self.config.seed)
        self.runtime = runtime or FakeRuntime()
        self.source = GRPOSource(
            self.config,
            self.runtime,
            lambda: iter(()),
            self.engine,
            collector,
            self.prompts,
            groups_a_step=groups,
            reward_names=["fake"],
        )

    def packs(self, step: int = 0) -> list[Pack]:
        batch = self.source.batch(step, StopSignal())
        assert batch.denominator == 1.0  # the weights of the targets hold it
        return batch.packs

    def at(self, step: int) -> list[Pack]:
        """The packs of a step, after those before it."""
        return [self.packs(number) for number in range(step + 1)][-1]

    def metrics(self, step: int = 0) -> dict[str, float]:
        return self.source.batch(step, StopSignal()).metrics

    def drawn(self, *numbers: int) -> list[int]:
        return [self.prompts.draw(self.config.seed, number) for number in numbers]


def rising(prompt: int, sample: int) -> float:
    return float(sample)


def rows(packs: list[Pack]) -> list[tuple[int, int, int, list[float], list[float], list[float]]]:
    """(prompt, sample, targets, their weights, advantages and log-probabilities), sorted, each value named once."""
    found = []
    for pack in packs:
        for number, (start, end) in enumerate(zip(pack.cu_seqlens, pack.cu_seqlens[1:], strict=False)):
            ids = pack.input_ids[start:end].tolist()
            mine = pack.sequence_index == number
            if mine.any():
                assert pack.target_index[mine].tolist() == list(range(int(start) + 2, int(end)))
                fields = (pack.loss_weight, pack.advantage, pack.behaviour_logprob)
                found.append(
                    (ids[0] - 100, ids[2] - 1, int(mine.sum()), *(sorted(set(f[mine].tolist())) for f in fields))
                )
    return sorted(found)


def test_packs_by_hand() -> None:
    bench = Bench(rising, loss_type="grpo")
    std = np.std([0, 1, 2, 3], ddof=1) + 1e-4
    lengths = [2, 3, 4, 6]
    expected = [
        (
            prompt,
            sample,
            length,
            [pytest.approx(1 / (8 * length))],  # the mean over 8 sequences of the mean over their tokens
            [pytest.approx((sample - 1.5) / std)],
            [pytest.approx(-0.5 - sample)],
        )
        for prompt in sorted(bench.drawn(0, 1))
        for sample, length in enumerate(lengths)
    ]
    assert rows(bench.packs()) == expected
    metrics = bench.metrics()
    assert metrics["reward"] == metrics["rewards/fake"] == 1.5
    assert metrics["reward_std"] == pytest.approx(std, abs=1e-3)
    assert metrics["completion_length"] == 15 / 4
    assert metrics["truncated"] == 0.25
    assert metrics["groups_with_signal"] == metrics["groups_trained"] == 1.0
    assert metrics["prompts_drawn"] == 2


def test_a_further_step_on_the_same_rollouts_has_drawn_nothing() -> None:
    bench = Bench(lambda prompt, sample: None if sample else 1.0, num_iterations=2)
    first, second = bench.metrics(0), bench.metrics(1)
    assert first["prompts_drawn"] == 2 * 4  # and three rounds, since one answer alone is no signal
    assert second["prompts_drawn"] == 0
    assert all(second[name] == 0 for name in second if name.startswith("seconds_"))
    assert {name: first[name] for name in ("reward", "completion_length")} == {
        name: second[name] for name in ("reward", "completion_length")
    }


def test_no_rank_may_still_draw_when_weights_are_sent() -> None:
    """Nor any ask before they have come."""
    events: list[str] = []
    runtime = FakeRuntime(world_size=2)
    runtime.barrier = lambda: events.append("barrier")
    runtime.gather = lambda items: events.append("meeting") or items
    bench = Bench(rising, runtime=runtime)
    bench.engine.load_weights = lambda weights: events.append("load")
    bench.packs()
    bench.source.sync(StopSignal())
    assert events[:3] == events[-3:] == ["barrier", "load", "meeting"]
    assert events.count("load") == 2


@pytest.mark.parametrize(("pack_length", "packs"), [(8, 8), (16, 4), (4096, 1)])
def test_pack_length(pack_length: int, packs: int) -> None:
    bench = Bench(rising, pack_length=pack_length, groups=2)
    made = bench.packs()
    assert all(len(pack) <= max(pack_length, 8) for pack in made)
    assert len(made) <= packs
    assert rows(made) == rows(Bench(rising).packs())


def test_rewards_see_the_row_the_prompt_and_the_tokens() -> None:
    bench = Bench(rising, groups=1)
    bench.packs()
    (columns,) = bench.pool.columns
    (prompt,) = bench.drawn(0)
    assert columns["number"] == [prompt] * GROUP
    assert columns["prompts"] == [[{"role": "user", "content": str(prompt)}]] * GROUP
    assert columns["completion_ids"] == [[1, 1], [2, 2, 2], [3] * 4, [4] * 6]


def test_groups_without_signal_are_dropped_and_others_drawn_in_their_place() -> None:
    bench = Bench(rising, size=8)
    dull = set(bench.drawn(0, 2))
    bench.pool._rewards = lambda prompt, sample: 1.0 if prompt in dull else float(sample)
    # Draws 0 and 1; 2 in the place of 0; 3 in the place of 2.
    assert sorted({row[0] for row in rows(bench.packs())}) == sorted(bench.drawn(1, 3))
    metrics = bench.metrics()
    assert metrics["prompts_drawn"] == 4
    assert metrics["groups_with_signal"] == 0.5
    assert metrics["groups_trained"] == 1.0
    assert metrics["reward"] == pytest.approx((1 + 1 + 1.5 + 1.5) / 4)  # dropped groups are counted too
    assert sorted({row[0] for row in rows(bench.packs(1))}) == sorted(bench.drawn(4, 5))
    assert len(bench.engine.seeds) == len(set(bench.engine.seeds)) == 6 * GROUP


def test_drawing_again_ends() -> None:
    bench = Bench(lambda prompt, sample: 1.0, max_resample_rounds=2)
    (pack,) = bench.packs()
    assert len(pack.target_index) == 0
    assert pack.advantage.shape == pack.behaviour_logprob.shape == (0,)
    assert bench.metrics()["prompts_drawn"] == 6
    assert bench.metrics()["groups_trained"] == 0.0


def test_groups_without_signal_may_be_kept() -> None:
    bench = Bench(lambda prompt, sample: 1.0, drop_zero_signal_groups=False, entropy_coef=0.01)
    assert {(row[0], *row[4]) for row in rows(bench.packs())} == {(prompt, 0.0) for prompt in bench.drawn(0, 1)}
    assert bench.metrics()["groups_trained"] == 1.0


def test_what_can_change_nothing_counts_and_is_not_computed() -> None:
    """A group without signal, and a completion that is as good as its group's mean."""
    settings = {"drop_zero_signal_groups": False, "loss_type": "dapo", "scale_rewards": False}
    quiet, *_ = Bench(rising).drawn(0)

    def rewards(prompt: int, sample: int) -> float:
        return 1.0 if prompt == quiet else (0.0, 1.0, 2.0, 1.0)[sample]

    spared, whole = Bench(rewards, **settings), Bench(rewards, entropy_coef=0.01, **settings)
    every = rows(whole.packs())
    assert [row for row in every if row[4] != [0.0]] == rows(spared.packs())
    assert len(every) == 8
    assert len(rows(spared.packs())) == 2
    assert spared.metrics()["groups_trained"] == whole.metrics()["groups_trained"] == 1.0


def test_a_completion_without_reward_has_no_advantage() -> None:
    settings = {"groups": 1, "scale_rewards": "none"}
    bench = Bench(lambda prompt, sample: None if sample == 3 else float(sample), entropy_coef=0.01, **settings)
    assert [row[4] for row in rows(bench.packs())] == [[-1.0], [0.0], [1.0], [0.0]]
    assert bench.metrics()["reward"] == 1.0


@pytest.mark.parametrize(
    ("loss", "weights"), [("grpo", [1 / 8, 1 / 12, 1 / 16]), ("dapo", [1 / 9] * 3), ("dr_grpo", [1 / 24] * 3)]
)
def test_truncated_completions_are_left_out_but_counted_in_the_group(loss: str, weights: list[float]) -> None:
    bench = Bench(rising, groups=1, mask_truncated_completions=True, loss_type=loss, scale_rewards="none")
    found = rows(bench.packs())
    assert [(row[1], row[2]) for row in found] == [(0, 2), (1, 3), (2, 4)]
    assert [row[3] for row in found] == [[pytest.approx(weight)] for weight in weights]
    assert [row[4] for row in found] == [[-1.5], [-0.5], [0.5]]


def test_rollouts_serve_several_steps() -> None:
    bench = Bench(rising, num_iterations=2)
    first, second, third = (bench.packs(step) for step in (0, 1, 2))
    assert first is second
    assert first is not third
    assert bench.engine.loaded == 2
    assert bench.source.steps(1) == 8  # 8 prompts, 2 a step, each for two steps


def test_a_state_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    bench, other = Bench(rising, num_iterations=2), Bench(rising, num_iterations=2)
    bench.packs(0)
    torch.save([bench.source.state_dict(step) for step in (1, 2)], tmp_path / "state")
    inside, between = torch.load(tmp_path / "state", weights_only=False)
    assert between["held"] is None
    other.source.load_state_dict(inside)
    assert rows(other.packs(1)) == rows(bench.packs(1))
    assert other.engine.loaded == 0  # from the rollouts in hand
    assert rows(other.packs(2)) == rows(bench.packs(2))
    other.source.load_state_dict(between)
    assert rows(other.packs(2)) == rows(bench.packs(2))


def test_ranks_draw_different_prompts_and_together_what_one_draws() -> None:
    one = Bench(rising, groups=4)
    expected = rows(one.packs())
    ranks = [Bench(rising, groups=4, runtime=FakeRuntime(rank, 2)) for rank in (0, 1)]
    drawn = [{row[0] for row in rows(rank.packs())} for rank in ranks]
    assert [len(prompts) for prompts in drawn] == [2, 2]
    assert drawn[0] | drawn[1] == {row[0] for row in expected}
    assert sorted(ranks[0].engine.seeds + ranks[1].engine.seeds) == sorted(one.engine.seeds)
    with pytest.raises(UserError, match="3 prompts a step cannot be shared evenly by 2 processes"):
        Bench(rising, groups=3, runtime=FakeRuntime(0, 2))


def test_an_interrupted_collection_changes_nothing() -> None:
    bench = Bench(rising)
    bench.packs(0)
    stop = StopSignal()
    stop.number = 15
    with pytest.raises(Exception, match="SIGTERM"):
        bench.source.batch(1, stop)
    assert bench.source.state_dict(1) == {"cursor": 2, "held": None, "ahead": None}
    assert sorted({row[0] for row in rows(bench.packs(1))}) == sorted(bench.drawn(2, 3))


def async_bench(**settings: Any) -> Bench:
    return Bench(rising, async_steps=1, max_steps=4, **settings)


def test_rollouts_of_the_next_step_are_drawn_with_the_weights_before_this_one() -> None:
    bench, plain = async_bench(), Bench(rising)
    bench.packs(0)
    bench.source.close()
    assert bench.engine.loaded == 2  # for this step's rollouts, and for the next step's
    bench = async_bench()
    for step in range(4):
        assert rows(bench.packs(step)) == rows(plain.packs(step))
        assert bench.engine.loaded == min(step + 2, 4)  # nothing is drawn after the last step
    assert bench.engine.seeds == plain.engine.seeds


def test_rollouts_drawn_ahead_go_into_a_checkpoint(tmp_path: Path) -> None:
    bench, other = async_bench(), async_bench()
    bench.packs(0)
    torch.save(bench.source.state_dict(1), tmp_path / "state")
    other.source.load_state_dict(torch.load(tmp_path / "state", weights_only=False))
    assert rows(other.packs(1)) == rows(bench.packs(1))
    assert other.engine.loaded == 1  # for step 2 alone: those of step 1 were in hand
    assert rows(other.packs(2)) == rows(bench.packs(2))


def test_with_several_steps_on_rollouts_the_next_are_drawn_meanwhile() -> None:
    bench, plain = async_bench(num_iterations=2), Bench(rising, num_iterations=2)
    for step in range(4):
        assert rows(bench.packs(step)) == rows(plain.packs(step))
    assert bench.engine.loaded == 2


def test_rollouts_that_nobody_waits_for_are_given_up() -> None:
    bench = async_bench()
    begun, free = Event(), Event()
    generate = bench.engine.generate

    def endless(requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        first, *rest = generate(requests, params)
        yield first
        begun.set()
        free.wait(30)
        yield from rest

    bench.packs(0)
    bench.source.sync(StopSignal())  # those of step 1 are in hand
    bench.engine.generate = endless
    bench.packs(1)
    begun.wait(30)
    Timer(0.2, free.set).start()
    bench.source.close()
    assert len(bench.source.batch(1, StopSignal()).packs) == 1
    bench.engine.generate = generate
    assert rows(bench.packs(2)) == rows(Bench(rising).at(2))


def test_what_fails_while_the_policy_trains_is_raised() -> None:
    bench = async_bench()

    def fails(requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        raise UserError("the engine is gone")
        yield

    bench.packs(0)
    bench.source.sync(StopSignal())
    bench.engine.generate = fails
    bench.packs(1)
    with pytest.raises(UserError, match="the engine is gone"):
        bench.packs(2)


def test_what_failed_while_the_policy_trained_does_not_keep_a_step_from_being_saved() -> None:
    """It is raised by the step that needs it."""
    bench, other = async_bench(), async_bench()

    def fails(requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        raise UserError("the engine is gone")
        yield

    bench.packs(0)
    bench.source.sync(StopSignal())
    bench.engine.generate = fails
    bench.packs(1)
    state = bench.source.state_dict(2)
    assert state["ahead"] is None
    with pytest.raises(UserError, match="the engine is gone"):
        bench.packs(2)
    other.source.load_state_dict(state)
    assert rows(other.packs(2)) == rows(Bench(rising).at(2))


def test_what_one_rank_has_given_up_is_drawn_again_by_all() -> None:
    """Else some would load weights, all together, and others not."""
    bench = async_bench()
    bench.packs(0)
    bench.source.sync(StopSignal())
    assert (bench.engine.loaded, len(bench.engine.seeds)) == (3, 16)
    bench.runtime.max = lambda value: max(value, 1.0)
    assert rows(bench.packs(1)) == rows(Bench(rising).at(1))
    bench.source.close()
    assert bench.engine.loaded == 5  # for step 1 once more, and for step 2
    assert bench.engine.seeds[8:16] == bench.engine.seeds[16:24]


def test_an_engine_without_log_probabilities() -> None:
    bench = Bench(rising)
    generate = bench.engine.generate
    bench.engine.generate = lambda requests, params: (replace(one, logprobs=()) for one in generate(requests, params))
    assert [pack.behaviour_logprob for pack in bench.packs()] == [None]


def test_a_run_that_is_told_to_stop_does_not_wait_for_long_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are given up, and drawn again with the same prompts and seeds when the run goes on."""
    monkeypatch.setattr(grpo_source, "GRACE", 0.1)
    bench, other = async_bench(), async_bench()
    free = Event()
    generate = bench.engine.generate

    def slow(requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        for completion in generate(requests, params):
            free.wait(0.3)
            yield completion

    bench.packs(0)
    bench.source.sync(StopSignal())
    bench.engine.generate = slow
    stop = StopSignal()
    bench.source.batch(1, stop)
    stop.number = 15
    state = bench.source.state_dict(2)
    assert state["ahead"] is None
    drawn = len(bench.engine.seeds)
    bench.engine.generate = generate
    bench.packs(2)
    other.source.load_state_dict(state)
    other.packs(2)
    assert other.engine.seeds[:8] == bench.engine.seeds[drawn : drawn + 8]


def test_what_goes_on_draws_the_same_prompts_with_the_same_seeds() -> None:
    """Whatever the engine makes of them."""
    whole, first, second = Bench(rising), Bench(rising), Bench(rising)
    for step in range(3):
        whole.packs(step)
    first.packs(0)
    second.source.load_state_dict(first.source.state_dict(1))
    second.packs(1)
    second.packs(2)
    assert first.engine.seeds + second.engine.seeds == whole.engine.seeds
