"""Gold answers through their own verifier: what it rejects can never count as right, whatever the model says."""

from __future__ import annotations

from collections.abc import Sequence

from open_r1.evaluation.answers import Verifiers
from open_r1.rewards.extract import find_gold


def stated(gold: str) -> str:
    """A completion that gives ``gold`` (bare, or at the end of a worked solution) in the form that tasks ask for."""
    answer = find_gold(gold) or gold
    if not answer.startswith("\\boxed"):
        return answer
    return f"Therefore, the final answer is: ${answer}$. I hope it is correct"


def rejected_golds(golds: Sequence[str], verifiers: Verifiers) -> list[int]:
    """The places in ``golds`` of those that the verifier does not accept when they are given as a completion."""
    for place, gold in enumerate(golds):
        verifiers.submit(place, [stated(gold)], {"solution": [gold]})
    rewards: dict[int, float | None] = {}
    while len(rewards) < len(golds):
        rewards |= {place: scores.values[0][0] for place, scores in verifiers.results(block=True)}
    return [place for place in range(len(golds)) if rewards[place] != 1]
