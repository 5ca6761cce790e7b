"""What a benchmark number is: pass@1, its bootstrap interval, and pass@k. Only numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
"""Bootstrap resamples behind every interval."""

_DRAWS_AT_ONCE = 1 << 22
"""Problem indices held at a time while resampling (32 MiB of int64)."""


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its confidence interval, all as fractions of 1."""

    mean: float
    low: float
    high: float


def pass_at_1(correct: np.ndarray) -> float:
    """Mean over samples, then over problems.

    Args:
        correct: [problems, samples], 1 where the answer was verified as right.
    """
    return float(np.asarray(correct, dtype=np.float64).mean(axis=1).mean())


def bootstrap(correct: np.ndarray, *, seed: int, resamples: int = RESAMPLES, level: float = 0.95) -> Interval:
    """pass@1 with its percentile bootstrap interval.

    Problems are drawn with replacement and keep all their samples, because samples of one problem are not independent
    (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13).

    Where no answer is right, or every one, all resamples are alike and would give an interval without width. The exact
    binomial one (Clopper and Pearson 1934), with a problem as one trial, is given instead: of 24 problems with none
    right, 0 to 14.2 %.

    Args:
        correct: [problems, samples], 1 where the answer was verified as right; at least one problem.
        seed: of the resampling; the same seed gives the same interval.
        resamples: how many times the problems are drawn.
        level: share of the resampled means between ``low`` and ``high``.
    """
    scores_P = np.asarray(correct, dtype=np.float64).mean(axis=1)
    tail = (1 - level) / 2
    if (scores_P == 0).all():
        return Interval(0.0, 0.0, 1 - tail ** (1 / len(scores_P)))
    if (scores_P == 1).all():
        return Interval(1.0, tail ** (1 / len(scores_P)), 1.0)
    rng = np.random.default_rng(seed)
    problems = len(scores_P)
    at_once = max(1, _DRAWS_AT_ONCE // problems)
    means = [
        scores_P[rng.integers(problems, size=(min(at_once, resamples - start), problems))].mean(axis=1)
        for start in range(0, resamples, at_once)
    ]
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(scores_P.mean()), float(low), float(high))


def pass_at_k(correct: np.ndarray, k: int) -> float:
    """Unbiased pass@k: the mean over problems of 1 - C(n - c, k) / C(n, k), with c of n samples right.

    Equation 1 of Chen et al. 2021 (arXiv 2107.03374), in its product form, which cannot overflow.

    Args:
        correct: [problems, samples], 1 where the answer was verified as right.
        k: at most the number of samples.

    Raises:
        ValueError: k is not between 1 and the number of samples.
    """
    correct = np.asarray(correct)
    n = correct.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs 1 <= k <= {n} samples a problem")
    wrong_P = n - correct.sum(axis=1)
    still_wrong_P = np.prod([np.clip(wrong_P - i, 0, None) / (n - i) for i in range(k)], axis=0)
    return float(1 - still_wrong_P.mean())
