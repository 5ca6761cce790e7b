"""What a benchmark number is: pass@1, pass@k, their bootstrap intervals, and the paired difference of two. Only numpy.

A resample draws problems with replacement, each with all its samples, because samples of one problem are not
independent (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13). Scores are laid out [problems,
metrics], and all metrics of a task share the resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import comb

import numpy as np

RESAMPLES = 10_000
"""Bootstrap resamples behind every interval, and sign flips behind a p-value that is not exact."""

_FEW = 5
"""Problems that are right, or wrong: fewer give an exact binomial interval."""

_EXACT_FLIPS = 14
"""Up to so many problems that differ, all 2^n sign flips are counted."""


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its confidence interval, all as fractions of 1."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """How much B is above A over the same problems.

    Attributes:
        a, b: mean score of each.
        difference: mean of B - A over problems, with its interval.
        p_value: how often flipping the sign of each problem's difference at random gives a mean as far from 0.
        better, worse, alike: problems on which B scores above A, below it, and the same.
    """

    a: float
    b: float
    difference: Interval
    p_value: float
    better: int
    worse: int
    alike: int


def pass_at_1(correct: np.ndarray) -> float:
    """Mean over samples, then over problems.

    Args:
        correct: [problems, samples], 1 where the answer was verified as right.
    """
    return float(np.asarray(correct, dtype=np.float64).mean(axis=1).mean())


def pass_at_k(correct: np.ndarray, k: int) -> float:
    """Unbiased pass@k: the mean over problems of `pass_at_k_scores`."""
    return float(pass_at_k_scores(correct, k).mean())


def pass_at_k_scores(correct: np.ndarray, k: int) -> np.ndarray:
    """For each problem 1 - C(n - c, k) / C(n, k), with c of n samples right: [problems].

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
    return 1 - np.prod([np.clip(wrong_P - i, 0, None) / (n - i) for i in range(k)], axis=0)


def ks(samples: int) -> list[int]:
    """The k for which pass@k is reported: 1, 2, 4, … up to ``samples``, and ``samples`` itself."""
    powers = takewhile(lambda k: k < samples, (2**exponent for exponent in range(samples)))
    return [*powers, samples]


def bootstrap(correct: np.ndarray, *, seed: int, resamples: int = RESAMPLES, level: float = 0.95) -> Interval:
    """pass@1 with its interval: that of `bootstrap_means`.

    Args:
        correct: [problems, samples], 1 where the answer was verified as right; at least one problem.
        seed, resamples, level: as for `bootstrap_means`.
    """
    scores_P = np.asarray(correct, dtype=np.float64).mean(axis=1)
    return bootstrap_means(scores_P[:, None], seed=seed, resamples=resamples, level=level)[0]


def bootstrap_means(
    scores: np.ndarray, *, seed: int, resamples: int = RESAMPLES, level: float = 0.95, lowest: float = 0.0
) -> list[Interval]:
    """The mean of each column with its percentile bootstrap interval, or an exact one where few problems decide it.

    Where all problems score alike, all resamples are alike too and would give an interval without width. What can be
    said then is that the share of problems that score otherwise is below h, the upper bound of Clopper and Pearson
    (1934) for none among so many; those may score anything between ``lowest`` and 1. For scores of 0 or 1 this is the
    exact binomial interval: of 24 problems with none right, 0 to 14.2 %.

    Where problems score 0 or 1 and fewer than `_FEW` score one of them, the interval is the exact binomial one too:
    resamples that miss all of the few give bounds too close to 0 or 1, and cover the truth in 85 % of the cases only
    (of 30 problems with one right: 0 to 10 % instead of 0.1 to 17.2 %). Between scores that are no such counts, and of
    differences, nothing exact is known, and theirs stay the percentiles.

    Args:
        scores: [problems, metrics], from ``lowest`` to 1; at least one problem.
        seed: of the resampling; the same seed gives the same intervals.
        resamples: how many times the problems are drawn.
        level: share of the resampled means between ``low`` and ``high``, or the confidence of an exact interval.
        lowest: the least that a problem can score: 0, and -1 for a difference.

    Returns:
        One interval a metric.
    """
    scores = np.asarray(scores, dtype=np.float64)
    tail = (1 - level) / 2
    alike = (scores == scores[0]).all(axis=0)
    intervals = [_interval_of_equals(score, len(scores), tail, lowest) for score in scores[0]]
    varied = np.flatnonzero(~alike)
    if len(varied):
        means = _resampled_means(scores[:, varied], seed, resamples)
        bounds = np.quantile(means, [tail, 1 - tail], axis=0).T
        for metric, (low, high) in zip(varied, bounds, strict=True):
            if lowest == 0 and (exact := _interval_of_few(scores[:, metric], tail)):
                low, high = exact
            intervals[metric] = Interval(float(scores[:, metric].mean()), float(low), float(high))
    return intervals


def _interval_of_equals(score: float, problems: int, tail: float, lowest: float) -> Interval:
    others = 1 - tail ** (1 / problems)
    return Interval(float(score), float(score - others * (score - lowest)), float(score + others * (1 - score)))


def _interval_of_few(scores: np.ndarray, tail: float) -> tuple[float, float] | None:
    """Clopper and Pearson's bounds of the share of ones; None where scores are others than 0 and 1, or many of each."""
    problems, ones = len(scores), int((scores == 1).sum())
    few = min(ones, problems - ones)
    if few >= _FEW or ones + (scores == 0).sum() < problems:
        return None
    low = _share_at(few - 1, problems, 1 - tail) if few else 0.0
    high = _share_at(few, problems, tail)
    return (low, high) if ones == few else (1 - high, 1 - low)


def _share_at(most: int, problems: int, probability: float) -> float:
    """The share of problems at which a draw of them has ``most`` or fewer with this probability, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(50):
        share = (low + high) / 2
        at_most = sum(comb(problems, k) * share**k * (1 - share) ** (problems - k) for k in range(most + 1))
        low, high = (share, high) if at_most > probability else (low, share)
    return (low + high) / 2


def _resampled_means(scores: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Means over problems drawn with replacement: [resamples, metrics].

    A mean does not tell apart problems that score alike, and how often each kind of problem is drawn is multinomial:
    the same distribution as that of drawing problems one by one, at a cost that does not grow with their number.
    """
    kinds, counts = np.unique(scores, axis=0, return_counts=True)
    times = np.random.default_rng(seed).multinomial(len(scores), counts / len(scores), size=resamples)
    return times @ kinds / len(scores)


def paired_difference(a: Sequence[float], b: Sequence[float], *, seed: int) -> PairedDifference:
    """Compares two scores of the same problems, problem by problem.

    The problems that A and B find hard are much the same, so the difference of each varies far less than either score;
    two intervals that overlap may well belong to a clear difference.

    Args:
        a, b: one score from 0 to 1 a problem, in the same order; at least one.
        seed: of the bootstrap and of the sign flips.
    """
    a_P, b_P = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    differences_P = b_P - a_P
    (interval,) = bootstrap_means(differences_P[:, None], seed=seed, lowest=-1.0)
    better, worse = int((differences_P > 0).sum()), int((differences_P < 0).sum())
    return PairedDifference(
        a=float(a_P.mean()),
        b=float(b_P.mean()),
        difference=interval,
        p_value=sign_flip_p_value(differences_P, seed=seed),
        better=better,
        worse=worse,
        alike=len(differences_P) - better - worse,
    )


def sign_flip_p_value(differences: np.ndarray, *, seed: int) -> float:
    """Two-sided p-value of Fisher's paired randomisation test: were A and B alike, every sign would be as likely.

    Exact where few problems differ; else over random flips, counting the observed one too, so that it is never 0
    (Phipson and Smyth 2010, doi 10.2202/1544-6115.1585).
    """
    differing = np.asarray(differences, dtype=np.float64)
    differing = differing[differing != 0]
    count = len(differing)
    observed = abs(differing.sum()) - 1e-9  # sums of the same numbers in another order differ in the last place
    if count <= _EXACT_FLIPS:
        flips = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return float((abs((1 - 2 * flips) @ differing) >= observed).mean())
    sizes, counts = np.unique(abs(differing), return_counts=True)
    positive = np.random.default_rng(seed).binomial(counts, 0.5, size=(RESAMPLES, len(sizes)))
    extreme = int((abs((2 * positive - counts) @ sizes) >= observed).sum())
    return (extreme + 1) / (RESAMPLES + 1)
