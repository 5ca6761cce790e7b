"""Alarms on made-up histories: those that a run in trouble leaves, and those of a healthy one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_r1.config.watch import ALARMS
from open_r1.training.alarms import LOOKOUTS, Finding
from open_r1.training.history import History

WINDOW = 10
DATA = Path(__file__).resolve().parents[2] / "data"


def healthy(step: int, of: int = 60) -> dict[str, float]:
    """A run that learns: reward rises, answers grow a little, entropy sinks to a third, KL rises to 0.08."""
    noise = np.random.default_rng(step).normal(size=8)
    done = step / of
    return {
        "reward": 0.2 + 0.5 * done + 0.05 * noise[0],
        "rewards/accuracy": 0.2 + 0.5 * done + 0.05 * noise[0],
        "rewards/repetition_penalty": 0.0,
        "groups_with_signal": float(np.clip(0.7 + 0.1 * noise[1], 0, 1)),
        "completion_length": 150 + 40 * done + 5 * noise[2],
        "truncated": float(np.clip(0.05 + 0.05 * done + 0.03 * noise[3], 0, 1)),
        "entropy": 0.4 - 0.27 * done + 0.01 * noise[4],
        "kl_reference": 0.08 * done + 0.001 * abs(noise[5]),
        "kl_behaviour": 0.002 + 0.0005 * noise[6],
        "mismatch_kl": 0.001 * math.exp(0.3 * noise[7]),
        "reward_timeouts": float(step % 7 == 0),
        "prompts_drawn": 16.0,
        "empty": 0.0,
        "repetition": 0.02,
        "tokens": 10_000.0,
    }


def history(steps: Iterable[dict[str, Any]]) -> History:
    past = History(WINDOW, group_size=8)
    for metrics in steps:
        past.add(metrics)
    return past


def heard(past: History) -> dict[str, Finding]:
    findings = {name: look(past) for name, look in LOOKOUTS.items()}
    return {name: finding for name, finding in findings.items() if finding}


def ramp(start: float, end: float, at: int = 20, over: int = 20) -> Callable[[int], float]:
    """``start`` until step ``at``, then in ``over`` steps to ``end``."""
    return lambda step: start + (end - start) * min(1.0, max(0.0, (step - at) / over))


TROUBLES: dict[str, tuple[str, dict[str, Callable[[int], float]], str]] = {
    "nothing is rewarded": (
        "reward_zero",
        {"reward": lambda _: 0.0, "rewards/accuracy": lambda _: 0.0, "groups_with_signal": lambda _: 0.0},
        "the reward was 0 for every answer of the last 10 steps",
    ),
    "nothing is rewarded any more": (
        "reward_zero",
        {"rewards/accuracy": lambda step: 0.4 if step < 20 else 0.0, "rewards/format": ramp(0.2, 0.9)},
        "rewards/accuracy was 0 for every answer .* it was 0.4 at its best. The policy came apart",
    ),
    "everything is at the penalty": (
        "reward_zero",
        {"reward": lambda _: -0.5, "groups_with_signal": lambda _: 0.0},
        "the reward was -0.5 for every answer",
    ),
    "the format alone is rewarded": (
        "reward_zero",
        {"rewards/accuracy": lambda _: 0.0, "rewards/format": ramp(0.2, 0.9)},
        "rewards/accuracy was 0 for every answer",
    ),
    "all problems are solved": (
        "reward_one",
        {"reward": ramp(0.5, 1.0, over=10), "groups_with_signal": ramp(0.6, 0.0, over=10)},
        "the reward was 1 for nearly every answer",
    ),
    "it comes apart": ("reward_drop", {"reward": ramp(0.6, 0.1)}, r"fell to 0\.1\d* over .* from 0\.6 at its best"),
    "solved or hopeless": (
        "no_signal",
        {"reward": lambda step: 0.4 + 0.1 * (step % 3), "groups_with_signal": lambda step: 0.05 * (step % 4 == 0)},
        r"the same reward in 9\d % of the groups",
    ),
    "answers grow beyond their room": ("truncation", {"truncated": ramp(0.05, 0.6)}, r"\d\d % .* up from 5 %"),
    "nothing ends": (
        "truncation",
        {"truncated": lambda _: 0.97},
        "97 % of the answers .* reached max_comp",
    ),
    "reasoning is left out": (
        "shortening",
        {"completion_length": ramp(230, 40, at=3, over=5)},
        "had 40 tokens, at the start they had 230",
    ),
    "collapse": ("entropy", {"entropy": ramp(0.4, 0.01)}, r"fell to 0\.0\d* nats a token, from 0\.4 at the start"),
    "explosion": ("kl", {"kl_reference": lambda step: 0.01 * 1.2**step}, r"from the reference model is [\d.]+ nats"),
    "too many steps on one batch": ("kl", {"kl_behaviour": ramp(0.002, 0.9)}, "lower num_iterations"),
    "stale weights": ("mismatch", {"mismatch_kl": ramp(0.001, 0.2)}, r"differ from the trainer's by 0\.\d+ nats"),
    "a verifier hangs": ("reward_timeouts", {"reward_timeouts": ramp(0, 40)}, r"\d+ rewards for 1280 answers"),
    "nothing is said": ("empty", {"empty": ramp(0.0, 0.7)}, r"\d\d % of the answers .* were empty"),
    "loops": ("repetition", {"repetition": ramp(0.02, 0.8)}, "repeat themselves"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_is_heard_and_nothing_else(trouble: str) -> None:
    name, changes, said = TROUBLES[trouble]
    past = history(healthy(step) | {key: value(step) for key, value in changes.items()} for step in range(1, 46))
    findings = heard(past)
    assert set(findings) == {name}
    assert re.search(said, findings[name].text), findings[name].text
    assert findings[name].metric in changes
    assert "\n" not in findings[name].text
    assert findings[name].text.count(". ") >= 2  # what is seen, what it means, what to change


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_run_that_recovers_is_quiet_again(trouble: str) -> None:
    name, changes, _ = TROUBLES[trouble]
    steps = [healthy(step) | {key: value(step) for key, value in changes.items()} for step in range(1, 46)]
    past = history(steps + [healthy(step) for step in range(30, 30 + 2 * WINDOW)])
    assert name not in heard(past)


def test_a_healthy_run_is_quiet_at_every_step() -> None:
    past = History(WINDOW, group_size=8)
    for step in range(1, 61):
        past.add(healthy(step))
        assert heard(past) == {}, step


def test_a_run_that_learns_not_to_be_cut_off_is_quiet() -> None:
    shares = ramp(0.85, 0.05, at=0, over=40)
    past = History(WINDOW)
    for step in range(1, 61):
        past.add(healthy(step) | {"truncated": shares(step)})
        assert heard(past) == {}, step


def test_a_model_that_learns_to_end_its_answers_is_quiet() -> None:
    shares, lengths = ramp(0.85, 0.02, at=0, over=30), ramp(500, 120, at=0, over=30)
    past = History(WINDOW)
    for step in range(1, 61):
        past.add(healthy(step) | {"truncated": shares(step), "completion_length": lengths(step)})
        assert "shortening" not in heard(past), step


def replayed(name: str, group_size: int) -> dict[str, int]:
    """The alarms of a run that was made, by the step at which they were first heard."""
    table = json.loads((DATA / name).read_text())
    past, first = History(WINDOW, group_size=group_size), {}
    for values in table["steps"]:
        metrics = dict(zip(table["metrics"], values, strict=True))
        past.add(metrics)
        first |= {alarm: int(metrics["step"]) for alarm in heard(past) if alarm not in first}
    return first


def test_real_runs_are_heard_where_they_went_wrong() -> None:
    """0.5 billion weights on GSM8K: one that learnt, and one that found out that short answers in form are paid for."""
    assert replayed("grpo_learning.json", group_size=16) == {}
    assert replayed("grpo_r1_zero_shortened.json", group_size=8)["shortening"] == 20


def test_a_penalty_that_never_strikes_is_quiet() -> None:
    past = history(healthy(step) | {"rewards/mine.py:no_swearing": 0.0} for step in range(1, 30))
    assert heard(past) == {}


def test_steps_that_trained_nothing_say_nothing_of_tokens() -> None:
    """Their means over no tokens are zero."""
    nothing = {"tokens": 0.0, "entropy": 0.0, "mismatch_kl": 0.0}
    past = history(healthy(step) | (nothing if step > 25 else {}) for step in range(1, 40))
    assert heard(past) == {}


def test_nothing_is_said_before_there_is_a_window() -> None:
    bad = {"reward": 0.0, "groups_with_signal": 0.0, "truncated": 1.0, "kl_reference": math.inf, "empty": 1.0}
    assert heard(history([bad] * (WINDOW - 1))) == {}
    assert set(heard(history([bad] * WINDOW))) == {"reward_zero", "truncation", "empty"}


def test_the_settings_know_every_alarm() -> None:
    assert tuple(LOOKOUTS) == ALARMS
