"""A run that is killed again and again, without warning, ends bit for bit where the one that nobody touched ends."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fork_server import Forked, ForkServer
from training_runs import Run, assert_same_weights

KILLS = {"sft": 20, "grpo": 5, "grpo ahead": 5}
STEPS = {"sft": 150, "grpo": 50, "grpo ahead": 50}
STEPS_BETWEEN = 7
"""At most so many steps from a start to its kill, so that the run is not over before its last kill."""


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.fixture
def settings(sft_settings: dict[str, Any], grpo_settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """GRPO takes two steps on each set of rollouts, so that every other checkpoint holds rollouts; or it draws the next
    ones while it trains, so that every checkpoint holds some that were just made.
    """
    common = {"warmup_ratio": 0.1, "save_strategy": "steps", "save_total_limit": 2, "resume_from_checkpoint": "true"}
    return {
        "sft": sft_settings | common | {"save_steps": 2, "gradient_accumulation_steps": 2},
        "grpo": grpo_settings | common | {"save_steps": 1, "num_iterations": 2, "beta": 0.05, "learning_rate": 3e-3},
        "grpo ahead": grpo_settings | common | {"save_steps": 1, "async_steps": 1, "learning_rate": 3e-3},
    }


def finish(process: Forked) -> None:
    status = process.wait()
    assert status == 0, f"exit status {status}:\n{process.log.read_text()[-4000:]}"


def wait_until(process: Forked, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert not process.over(), f"it ended by itself:\n{process.log.read_text()[-4000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def steps_logged(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def being_saved(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".checkpoint-*.tmp")]


def kill_at_a_random_moment(process: Forked, folder: Path, chance: random.Random, first_step: int) -> str:
    """Anywhere while it starts, trains or saves; saving is sought, as it is short. Says where the kill landed."""
    return kill(process, folder, chance, first_step, chance.choice(["anywhere", "training", "saving", "saving"]))


def kill(process: Forked, folder: Path, chance: random.Random, first_step: int, aim: str) -> str:
    if aim == "anywhere":
        end = time.monotonic() + chance.uniform(0, 2)
        wait_until(process, lambda: time.monotonic() > end or steps_logged(folder) >= first_step + STEPS_BETWEEN)
    elif aim == "the next save":
        wait_until(process, lambda: steps_logged(folder) > first_step and bool(being_saved(folder)))
    else:
        step = first_step + chance.randint(1, STEPS_BETWEEN)
        wait_until(process, lambda: steps_logged(folder) >= step)
        if aim == "saving":
            wait_until(process, lambda: bool(being_saved(folder)))
        time.sleep(chance.uniform(0, 0.02))
    process.kill(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    if being_saved(folder):
        return "saving"
    return "training" if steps_logged(folder) > first_step else "starting"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", KILLS)
def test_killed_again_and_again(
    case: str, server: ForkServer, settings: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    command = case.split()[0]
    seed = int(os.environ.get("OPEN_R1_TEST_SEED") or time.time_ns() % 1_000_000)
    print(f"again with OPEN_R1_TEST_SEED={seed}")
    chance = random.Random(seed)
    kills, chosen = KILLS[case], settings[case] | {"max_steps": STEPS[case]}
    undisturbed, killed = Run(tmp_path / "undisturbed"), Run(tmp_path / "killed")
    finish(server.start(command, undisturbed.folder, **chosen))
    assert undisturbed.results["train_steps"] == STEPS[case]

    landed = Counter()

    def enough() -> bool:
        return landed["saving"] >= kills // 5 and landed["saving"] + landed["training"] >= kills // 2

    while landed.total() < kills or not enough():
        assert landed.total() < 2 * kills, f"hardly ever while it saves: {dict(landed)}"
        first_step = max(killed.checkpoints, default=0)
        process = server.start(command, killed.folder, **chosen)
        if landed.total() < kills:
            landed[kill_at_a_random_moment(process, killed.folder, chance, first_step)] += 1
        else:  # chance has spared what is to be tested
            landed[kill(process, killed.folder, chance, first_step, "the next save")] += 1
        assert not (killed.folder / "model.safetensors").exists()
    print(f"kills landed: {dict(landed)}; checkpoints after the last: {killed.checkpoints}")
    finish(server.start(command, killed.folder, **chosen))

    assert_same_weights(killed.weights, undisturbed.weights)
    assert killed.losses == undisturbed.losses
    assert killed.results["train_steps"] < STEPS[case]
    assert not list(killed.folder.glob(".*"))
