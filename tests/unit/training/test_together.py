"""What ends one rank between two steps ends all of them at one point, where they can save."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

import pytest
from fake_runtime import FakeRuntime
from test_grpo_source import GROUP, LIMIT, Bench, FakeEngine, FakePool, prompt_set
from thread_ranks import LONG, ThreadRuntime, side_by_side

from open_r1.config import GRPOConfig
from open_r1.errors import UserError
from open_r1.generation.engine import SamplingParams
from open_r1.training.held_out_rewards import HeldOutRewards
from open_r1.training.signals import Interrupted, StopSignal
from open_r1.training.together import SharedError, together

LOST = UserError("the server is gone")


def at_rank_1(runtime: ThreadRuntime, what: Exception | None) -> None:
    if runtime.rank == 1 and what:
        raise what


@pytest.mark.parametrize("what", [None, Interrupted(signal.SIGINT), LOST])
def test_all_ranks_end_alike(what: Exception | None) -> None:
    def work(runtime: ThreadRuntime) -> str:
        with together(runtime):
            at_rank_1(runtime, what)
        return "went on"

    ends = side_by_side(work)
    if what is None:
        assert ends == ["went on", "went on"]
    else:
        assert [str(end) for end in ends] == [str(what)] * 2
        assert {type(end) for end in ends} == {SharedError if what is LOST else Interrupted}


def test_a_signal_goes_before_an_error() -> None:
    """Whoever was told to stop is not told of what is lost by then."""

    def work(runtime: ThreadRuntime) -> None:
        with together(runtime):
            raise LOST if runtime.rank == 0 else Interrupted(signal.SIGTERM)

    assert [type(end) for end in side_by_side(work)] == [Interrupted, Interrupted]


def test_of_one_process_all_goes_as_it_comes() -> None:
    with pytest.raises(UserError) as caught, together(FakeRuntime()):
        raise LOST
    assert caught.value is LOST


def told(stop: StopSignal) -> None:
    stop.number = signal.SIGTERM


def lost(_stop: StopSignal) -> None:
    raise LOST


@pytest.mark.parametrize("async_steps", [0, 1])
@pytest.mark.parametrize(("event", "end"), [(told, Interrupted), (lost, SharedError)])
def test_rollouts(event: Callable[[StopSignal], None], end: type[Exception], async_steps: int) -> None:
    """While one rank draws for its third step; what they have drawn before is not lost."""

    def work(runtime: ThreadRuntime) -> tuple[Any, int]:
        bench = Bench(lambda prompt, sample: sample, runtime=runtime, max_steps=9, async_steps=async_steps)
        stop, generate, calls, ended = StopSignal(), bench.engine.generate, [], Event()

        def drawing(*asked: Any) -> Iterator[Any]:
            calls.append(asked)
            if len(calls) == 3 and runtime.rank == 1:
                event(stop)
                assert not async_steps or ended.wait(LONG)  # else the rollouts may be done before they are waited for
            yield from generate(*asked)

        bench.engine.generate = drawing
        for step in range(2):
            bench.source.batch(step, stop)
        with pytest.raises(end) as caught:
            bench.source.batch(2, stop)
        ended.set()
        return caught.value, bench.source.state_dict(2)["cursor"]

    ends = side_by_side(work)
    assert [(type(error), cursor) for error, cursor in ends] == [(end, 2)] * 2, ends


def test_weights() -> None:
    """One rank sends them; when that fails it takes what is left all the same, as the others gather it too."""

    def work(runtime: ThreadRuntime) -> list[int]:
        bench, taken = Bench(lambda prompt, sample: sample, runtime=runtime), []

        def load(weights: Iterator[tuple[str, int]]) -> None:
            for name, _ in weights:
                if runtime.rank == 0 and name == "b":
                    raise LOST

        def weights() -> Iterator[tuple[str, int]]:
            for name in "abcd":
                taken.append(name)
                yield name, 0

        bench.source._weights, bench.engine.load_weights = weights, load
        with pytest.raises(SharedError, match="the server is gone"):
            bench.source.batch(0, StopSignal())
        return taken

    assert side_by_side(work) == [[*"abcd"], [*"abcd"]]


def test_an_engine_that_is_lost_costs_nothing_that_was_drawn() -> None:
    """What was drawn ahead is saved where the weights for the next rollouts cannot be sent."""
    bench = Bench(lambda prompt, sample: sample, max_steps=9, async_steps=1)
    bench.source.batch(0, StopSignal())

    def load(_weights: object) -> None:
        raise LOST

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.engine, "load_weights", load)
        with pytest.raises(UserError, match="the server is gone"):
            bench.source.batch(1, StopSignal())
    state = bench.source.state_dict(1)
    assert (state["cursor"], state["ahead"][0]) == (2, 1)
    drawn = len(bench.engine.seeds)
    again = Bench(lambda prompt, sample: sample, max_steps=2, async_steps=1)
    again.source.load_state_dict(state)
    assert again.packs(1)
    assert (again.engine.seeds, drawn) == ([], 2 * 2 * GROUP)


def test_rollouts_under_way_do_not_hold_up_an_evaluation_that_is_given_up() -> None:
    bench, stop, ended = Bench(lambda prompt, sample: sample, max_steps=9, async_steps=1), StopSignal(), Event()
    generate, calls = bench.engine.generate, []

    def drawing(*asked: Any) -> Iterator[Any]:
        calls.append(asked)
        if len(calls) == 2:
            told(stop)
            assert ended.wait(LONG)
        yield from generate(*asked)

    bench.engine.generate = drawing
    bench.source.batch(0, stop)
    with pytest.raises(Interrupted):
        bench.source.sync(stop)
    ended.set()
    assert bench.source.state_dict(1)["ahead"][0] == 1


def held_out(runtime: ThreadRuntime, event: Callable[[StopSignal], None] | None) -> dict[str, float]:
    """Evaluates on three prompts; ``event`` comes while rank 1 draws."""
    names = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o", "num_generations_eval": GROUP}
    stop, engine = StopSignal(), FakeEngine()
    generate = engine.generate

    def drawing(*asked: Any) -> Iterator[Any]:
        if event and runtime.rank == 1:
            event(stop)
        yield from generate(*asked)

    engine.generate = drawing
    evaluate = HeldOutRewards(
        GRPOConfig(**names, reward_funcs=["fake"]),
        runtime,
        engine,
        FakePool(lambda prompt, sample: float(prompt)),
        prompt_set(3),
        SamplingParams(LIMIT),
        decode=str,
        sync=lambda _stop: None,
        reward_names=["fake"],
    )
    return evaluate(stop)


def test_an_evaluation() -> None:
    for event, end in ((told, Interrupted), (lost, SharedError)):
        ends = side_by_side(lambda runtime, event=event: held_out(runtime, event))
        assert [type(error) for error in ends] == [end, end], ends
    assert [means["eval/reward"] for means in side_by_side(lambda runtime: held_out(runtime, None))] == [1.0, 1.0]
