"""Our scheduler schedules as vLLM's does: beside a small one of the same shape, and beside vLLM's own where it is
installed. Two steps are in flight, as in vLLM's engine."""

from __future__ import annotations

import copy
import importlib.util
import random
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from small_scheduler import VLLM, AsyncScheduler, Request

OURS = "open_r1.generation.decode_scheduler"
BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "scheduling.py"


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """Our scheduler on top of the small one."""
    for name, values in VLLM.items():
        module = ModuleType(f"vllm.{name}")
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, OURS, raising=False)
    yield importlib.import_module(OURS).DecodeScheduler
    sys.modules.pop(OURS, None)


def drive(scheduler: Any, seed: int, streams: float = 0.0) -> tuple[list[Any], dict[str, Any], int]:
    """Random requests, some aborted: every step, every completion, and how many pieces they came in."""
    rng, history, texts, flying, pieces = random.Random(seed), [], {}, deque(), 0
    for turn in range(400):
        if turn < 60 and rng.random() < 0.4:
            prompt = [rng.randrange(2, 9) for _ in range(rng.randrange(1, 12))]
            request = Request(f"r{turn}", prompt, rng.randrange(1, 40), streams=rng.random() < streams)
            scheduler.add_request(request)
        if rng.random() < 0.05:
            scheduler.abort(f"r{rng.randrange(60)}")
        step = scheduler.schedule()
        names = list(step.num_scheduled_tokens)
        tables = {name: list(scheduler.kv_cache_manager.tables[name]) for name in names}
        kept = {name: dict(vars(request), sampling_params=None) for name, request in scheduler.requests.items()}
        kept = copy.deepcopy((kept, scheduler.kv_cache_manager.cached))
        history.append((vars(step) | {"scheduled_cached_reqs": vars(step.scheduled_cached_reqs)}, tables, kept))
        rows = [[rng.randrange(1, 25)] for _ in names]
        order = {name: index for index, name in enumerate(names)}
        flying.append((step, SimpleNamespace(sampled_token_ids=rows, req_id_to_index=order, num_nans_in_logits=None)))
        if len(flying) == 2:
            for made in (scheduler.update_from_output(*flying.popleft()).get(0) or SimpleNamespace(outputs=())).outputs:
                text, _ = texts.get(made.request_id, ([], None))
                texts[made.request_id] = [*text, *made.new_token_ids], (made.finish_reason, made.stop_reason)
                pieces += 1
    assert not scheduler.requests
    return history, {name: text for name, text in texts.items() if text[1][0]}, pieces


SIZES = ({"seats": 8, "blocks": 200, "batch": 16}, {"seats": 16, "blocks": 14, "batch": 64})
"""Room for all, and room for a few, which puts requests off."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(6))
def test_steps_and_completions_are_the_ordinary_ones(ours: type, size: dict[str, int], seed: int) -> None:
    scheduler = ours(**size)
    history, completions, pieces = drive(scheduler, seed)
    same_history, same_completions, more_pieces = drive(AsyncScheduler(**size), seed)
    assert history == same_history
    assert completions == same_completions
    assert pieces < 0.7 * more_pieces
    assert (scheduler._preemptions > 0) == (size["blocks"] == 14)
    assert not scheduler._handed


@pytest.mark.parametrize("streams", [0.1, 1.0])
def test_a_request_that_streams_gets_its_tokens_one_by_one(ours: type, streams: float) -> None:
    theirs, mine = (drive(kind(**SIZES[1]), 3, streams) for kind in (AsyncScheduler, ours))
    assert mine[:2] == theirs[:2]
    assert (mine[2] == theirs[2]) == (streams == 1.0)


@pytest.mark.parametrize(
    "change", [{"log_stats": True}, {"lora_config": "some"}, {"prev_step_scheduled_req_ids": None}]
)
def test_another_engine_is_left_to_vllm(ours: type, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: AsyncScheduler, **size: int) -> None:
        begin(self, **size)
        for name, value in change.items():
            setattr(self, name, value) if value else delattr(self, name)

    begin = AsyncScheduler.__init__
    monkeypatch.setattr(AsyncScheduler, "__init__", start)
    assert drive(ours(**SIZES[1]), 5) == drive(AsyncScheduler(**SIZES[1]), 5)


def test_it_is_taken_where_vllm_is_known(ours: type, monkeypatch: pytest.MonkeyPatch) -> None:
    from open_r1.generation import vllm_process

    monkeypatch.setattr(vllm_process, "version", lambda name: "0.26.0")
    assert vllm_process.decode_scheduler() is ours
    monkeypatch.setenv("OPEN_R1_DECODE_SCHEDULER", "0")
    assert vllm_process.decode_scheduler() is None
    monkeypatch.delenv("OPEN_R1_DECODE_SCHEDULER")
    monkeypatch.setattr(vllm_process, "version", lambda name: "0.99.0")
    assert vllm_process.decode_scheduler() is None


def test_it_is_done_without_where_vllm_has_other_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    from open_r1.generation import vllm_process

    monkeypatch.setattr(vllm_process, "version", lambda name: "0.26.0")
    monkeypatch.setitem(sys.modules, "vllm.v1.core.sched.async_scheduler", ModuleType("empty"))
    monkeypatch.delitem(sys.modules, OURS, raising=False)
    assert vllm_process.decode_scheduler() is None


@pytest.fixture
def benchmark() -> ModuleType:
    """`benchmarks/scheduling.py`, beside vLLM itself."""
    pytest.importorskip("vllm.v1.core.sched.async_scheduler", reason="vLLM is not installed", exc_type=ImportError)
    spec = importlib.util.spec_from_file_location("scheduling", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def disturb(benchmark: ModuleType, kind: type, seed: int, *, v2: bool) -> Any:
    """An engine that got random requests of like prompts, some aborted, its prefix cache reset at times."""
    rng = random.Random(seed)
    size = {"seats": rng.choice([4, 16, 64]), "blocks": rng.choice([26, 60, 400]), "longest": rng.choice([96, 192])}
    engine = benchmark.Engine(kind, **size, batch=rng.choice([64, 128, 8192]), v2=v2)
    prompts = [[rng.randrange(3, 9) for _ in range(rng.randrange(1, 70))] for _ in range(4)]
    added, busy = 0, False
    while busy or added < 10:
        if added < 10 and (not busy or rng.random() < 0.1):
            stops = rng.choice([5, 20, 1 << 30])
            prompt = benchmark.Prompt(list(rng.choice(prompts)), rng.choice([1, 2, 17, 100]), rng.choice([1, 8]), stops)
            engine.add(str(added), prompt)
            added += 1
        if rng.random() < 0.02:
            engine.abort(str(rng.randrange(added)))
        if rng.random() < 0.01:
            engine.scheduler.reset_prefix_cache(reset_running_requests=rng.random() < 0.5)
        busy = engine.step()
    return engine


@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_steps_and_completions_are_vllms(benchmark: ModuleType, seed: int, v2: bool) -> None:
    theirs, ours = (disturb(benchmark, kind(), seed, v2=v2) for kind in (benchmark.theirs, benchmark.ours))
    assert ours.history == theirs.history
    assert ours.completions == theirs.completions
    assert ours.completions
    assert not ours.scheduler.requests
    assert not ours.scheduler._handed


def test_vllm_is_asked_little(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    theirs = benchmark.theirs()
    whole = theirs._update_request_with_output
    monkeypatch.setattr(theirs, "_update_request_with_output", lambda *given: calls.append(0) or whole(*given))
    prompt = benchmark.Prompt([5] * 40, max_new_tokens=50)
    benchmark.answer(benchmark.ours, [prompt], seats=8, blocks=400, longest=192)
    assert len(calls) == 8  # the first token of each completion
