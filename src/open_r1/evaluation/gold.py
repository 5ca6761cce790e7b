"""Right answers through their own verifier: what it rejects can never count as right, whatever the model says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from open_r1.config import EvaluateConfig, GenerateConfig
from open_r1.evaluation.answers import Verifiers
from open_r1.rewards.extract import find_gold
from open_r1.rewards.pool import RewardPool
from open_r1.rewards.spec import RewardSpec

_IN_FLIGHT = 64
"""Answers with the verifier at once: the columns of some are megabytes."""


@dataclass(frozen=True)
class Rejected:
    """A right answer that its verifier does not accept.

    Attributes:
        place: of the answer.
        reward: what the verifier gave; None where it gave nothing.
        why: in words.
    """

    place: int
    reward: float | None
    why: str


def verifier_pool(reward: RewardSpec | str, config: EvaluateConfig | GenerateConfig) -> RewardPool:
    """The processes that verify answers, or right ones, by ``reward``; beside vLLM they give way to it."""
    limits = {"workers": config.reward_workers, "timeout": config.reward_timeout}
    return RewardPool([reward], **limits, gives_way=config.engine == "vllm")


def stated(gold: str) -> str:
    """A completion that gives ``gold`` (bare, or at the end of a worked solution) in the form that tasks ask for."""
    answer = find_gold(gold) or gold
    if not answer.startswith("\\boxed"):
        return answer
    return f"Therefore, the final answer is: ${answer}$. I hope it is correct"


def rejected(
    solutions: Sequence[tuple[str, Mapping[str, Any]]], verifiers: Verifiers, *, right: float | None = 1
) -> list[Rejected]:
    """Those of (completion, verifier's columns) that the verifier does not accept, in order.

    Args:
        right: the reward that means accepted; None takes any.
    """
    found: dict[int, Rejected | None] = {}
    asked = 0
    while len(found) < len(solutions):
        while asked < len(solutions) and asked - len(found) < _IN_FLIGHT:
            completion, columns = solutions[asked]
            verifiers.submit(asked, [completion], {name: [value] for name, value in columns.items()})
            asked += 1
        for place, scores in verifiers.results(block=True):
            reward = scores.values[0][0]
            accepted = reward is not None and right in (None, reward)
            found[place] = None if accepted else Rejected(place, reward, _why(reward, scores.errors))
    return [one for place in range(len(solutions)) if (one := found[place]) is not None]


def rejected_golds(golds: Sequence[str], verifiers: Verifiers) -> list[int]:
    """The places in ``golds`` (mathematical answers) of those that the verifier does not accept as a completion."""
    return [one.place for one in rejected([(stated(gold), {"solution": gold}) for gold in golds], verifiers)]


def _why(reward: float | None, errors: Sequence[str]) -> str:
    if errors:
        return errors[0]
    return "it cannot be verified" if reward is None else "the verifier counts it as wrong"
