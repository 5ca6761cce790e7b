"""Rules that end a run, and how held-out prompts are answered."""

from __future__ import annotations

from typing import Any

import pytest

from open_r1.config import GRPOConfig, parse
from open_r1.config.watch import StopRule, parse_rule
from open_r1.errors import UserError


def grpo(**settings: Any) -> GRPOConfig:
    return GRPOConfig(model_name_or_path="m", dataset_name="d", output_dir="o", **settings)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("reward_zero", ("reward_zero", "", 0.0, 1)),
        ("any", ("any", "", 0.0, 1)),
        ("kl:5", ("kl", "", 0.0, 5)),
        ("kl_reference>1", ("kl_reference", ">", 1.0, 1)),
        ("eval/reward<0.2:3", ("eval/reward", "<", 0.2, 3)),
        (" reward < -1e-3 : 2 ", ("reward", "<", -0.001, 2)),
        ("rewards/mine.py:best>0.5:4", ("rewards/mine.py:best", ">", 0.5, 4)),
    ],
)
def test_rules(text: str, rule: tuple) -> None:
    assert parse_rule(text) == StopRule(text, *rule)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reward_zeros", r"'reward_zeros' is no alarm \(reward_zero, .*, any\); did you mean reward_zero\?"),
        ("reward<", "'reward<' is no rule; a rule is an alarm's name, metric<value or metric>value"),
        ("reward<=1", "'=1' is no number"),
        ("reward=1", "'reward=1' is no alarm"),
        ("reward<high", "'high' is no number"),
        ("kl>1:0", "must be at least 1"),
        ("kl>1:x", "no rule"),
        ("", "no rule"),
    ],
)
def test_what_is_no_rule(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_rule(text)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stop_on": ["rewrd<1"]}, "'rewrd' in 'rewrd<1' is no metric of this run; did you mean reward"),
        ({"stop_on": ["rewards/acuracy<1"]}, "did you mean rewards/accuracy"),
        ({"stop_on": ["eval/reward<1"]}, "eval/reward is never measured while eval_strategy is no"),
        ({"stop_on": ["kl_reference>1"]}, "which beta 0 does not load"),
        ({"stop_on": ["any"], "alarm_steps": 0}, "alarm_steps 0 turns them off"),
        ({"num_generations_eval": 4, "eval_temperature": 0}, "draws the same answer each time"),
    ],
)
def test_what_can_never_be_met_is_refused_at_the_start(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        grpo(**settings)


def test_rules_of_what_is_measured_are_taken() -> None:
    rules = ["any", "kl_reference>1", "eval/rewards/accuracy<0.2:3", "tokens_per_second<10"]
    config = grpo(stop_on=rules, beta=0.1, eval_strategy="steps")
    assert [rule.text for rule in config.stop_rules] == rules


def test_rules_are_a_list_on_the_command_line_too() -> None:
    words = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o", "--stop_on", "kl", "reward<0:3"]
    assert parse(GRPOConfig, words, prog="open-r1 grpo").config.stop_on == ["kl", "reward<0:3"]
