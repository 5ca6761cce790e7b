"""How a GRPO run is watched: answers to held-out prompts, alarms, and the rules that end it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from open_r1.config.settings import NonNegativeFloat, NonNegativeInt, PositiveInt, Settings, did_you_mean
from open_r1.errors import UserError

ALARMS = (
    "reward_zero",
    "reward_one",
    "reward_drop",
    "no_signal",
    "truncation",
    "shortening",
    "entropy",
    "kl",
    "mismatch",
    "reward_timeouts",
    "empty",
    "repetition",
)
"""What `open_r1.training.alarms` looks out for."""

ANY = "any"

METRICS = (
    *("reward", "reward_std", "completion_length", "completion_length_max", "truncated", "empty", "repetition"),
    *("groups_with_signal", "groups_trained", "prompts_drawn", "reward_timeouts", "reward_errors"),
    *("loss", "grad_norm", "learning_rate", "epoch", "tokens", "sequences", "skipped", "tokens_per_second", "mfu"),
    *("entropy", "ratio", "clip_low", "clip_high", "mismatch", "mismatch_kl", "importance_capped"),
    *("kl_reference", "kl_behaviour"),
    *("seconds_sync", "seconds_generate", "seconds_reward_wait", "seconds_reference", "seconds_evaluate"),
    *("seconds_train", "seconds_idle", "peak_memory_gib", "peak_reserved_gib"),
    *("eval/reward", "eval/completion_length", "eval/truncated"),
)
"""What a rule may compare, beside ``rewards/NAME`` and ``eval/rewards/NAME``."""

_RULE = re.compile(r"(?P<subject>[^\s<>]+?)\s*(?:(?P<sign>[<>])\s*(?P<bound>[^\s<>:]+))?\s*(?::\s*(?P<times>\d+))?")
_GRAMMAR = "a rule is an alarm's name, metric<value or metric>value, perhaps with :N for N times in a row"


@dataclass(frozen=True)
class StopRule:
    """When a run is to end.

    Attributes:
        text: as it was given.
        subject: an alarm, `ANY` of them, or a metric.
        sign: "<" or ">" for a metric, else "".
        bound: what the metric is compared with.
        times: how many values of the metric, or steps of an alarm, have to be so in a row.
    """

    text: str
    subject: str
    sign: str = ""
    bound: float = 0.0
    times: int = 1


def parse_rule(text: str) -> StopRule:
    """A rule from ``reward_zero``, ``any``, ``kl:5``, ``kl_reference>1`` or ``eval/reward<0.2:3``.

    Raises:
        UserError: it is none; what a rule looks like, or the nearest alarm, is named.
    """
    match = _RULE.fullmatch(text.strip())
    if match is None:
        raise UserError(f"stop_on: {text!r} is no rule; {_GRAMMAR}")
    subject, sign, times = match["subject"], match["sign"] or "", int(match["times"] or 1)
    if times < 1:
        raise UserError(f"stop_on: {text!r}: the number after the colon must be at least 1")
    if not sign:
        if subject not in (*ALARMS, ANY):
            nearest = did_you_mean(subject, (*ALARMS, ANY))
            raise UserError(f"stop_on: {subject!r} is no alarm ({', '.join((*ALARMS, ANY))}){nearest}")
        return StopRule(text, subject, times=times)
    try:
        bound = float(match["bound"])
    except ValueError:
        raise UserError(f"stop_on: {text!r}: {match['bound']!r} is no number; {_GRAMMAR}") from None
    return StopRule(text, subject, sign, bound, times)


@dataclass(kw_only=True)
class WatchConfig(Settings):
    """Watching a run"""

    num_generations_eval: PositiveInt = 1
    """Answers to each held-out prompt (eval_strategy says when)."""

    eval_temperature: NonNegativeFloat | None = None
    """Temperature of held-out answers; unset is 0 (greedy) for one answer, and temperature for several."""

    max_eval_prompts: PositiveInt = 256
    """Held-out prompts used, drawn once by the seed; the same ones each time."""

    eval_holdout: NonNegativeInt = 0
    """Training prompts kept apart to evaluate on, instead of dataset_test_split."""

    alarm_steps: NonNegativeInt = 10
    """Steps that an alarm looks back over; 0 turns alarms off."""

    stop_on: list[str] | None = None
    """Rules that end the run, each an alarm's name, any, metric<value or metric>value; with :N, N times in a row."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_generations_eval > 1 and self.eval_temperature == 0:
            raise UserError(
                f"num_generations_eval {self.num_generations_eval} with eval_temperature 0 draws the same answer each "
                "time: set num_generations_eval to 1, or leave eval_temperature out"
            )
        for rule in self.stop_rules:
            self._check_rule(rule)

    @property
    def stop_rules(self) -> list[StopRule]:
        """``stop_on``, taken apart."""
        return [parse_rule(text) for text in self.stop_on or ()]

    def _check_rule(self, rule: StopRule) -> None:
        """Holds a rule to what this run measures; raises UserError where it could never be met."""
        if not rule.sign:
            if not self.alarm_steps:
                raise UserError(f"stop_on: {rule.text!r} waits for an alarm and alarm_steps 0 turns them off")
            return
        metric = rule.subject
        rewards = [f"rewards/{name}" for name in getattr(self, "reward_funcs", ())]
        known = [*METRICS, *rewards, *(f"eval/{name}" for name in rewards)]
        if metric not in known:
            near = did_you_mean(metric, known) or f" (there are {', '.join(known[:6])}, …; metrics.jsonl has all)"
            raise UserError(f"stop_on: {metric!r} in {rule.text!r} is no metric of this run{near}")
        if metric.startswith("eval/") and getattr(self, "eval_strategy", "no") == "no":
            raise UserError(f"stop_on: {metric} is never measured while eval_strategy is no: set it to steps")
        if metric == "kl_reference" and not getattr(self, "beta", 0):
            raise UserError("stop_on: kl_reference is measured against a reference, which beta 0 does not load")
