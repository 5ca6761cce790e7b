from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from open_r1.evaluation.statistics import bootstrap, pass_at_1, pass_at_k


def test_pass_at_1_is_the_mean_over_samples_then_problems() -> None:
    assert pass_at_1(np.array([[1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]])) == pytest.approx((0.25 + 1 + 0.5) / 3)


def test_interval_of_two_problems_is_that_of_the_four_equally_likely_draws() -> None:
    # Problems score 0 and 1, so a resample of two has mean 0, 1/2, 1/2 or 1: the 2.5 % and 97.5 % points are 0 and 1.
    interval = bootstrap(np.array([[0], [1]]), seed=1)
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.0, 1.0)
    middle = bootstrap(np.array([[0], [1]]), seed=1, level=0.4)  # the middle 40 % are all 1/2
    assert (middle.low, middle.high) == (0.5, 0.5)


def test_interval_agrees_with_every_resample_of_a_small_set() -> None:
    scores = np.array([0.0, 0.25, 0.75, 1.0, 1.0])
    exact = np.sort([np.mean(draw) for draw in product(scores, repeat=5)])
    correct = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]])
    interval = bootstrap(correct, seed=0)
    assert interval.low == pytest.approx(np.quantile(exact, 0.025), abs=0.051)  # one step of the means is 0.05
    assert interval.high == pytest.approx(np.quantile(exact, 0.975), abs=0.051)


def test_interval_of_many_problems_is_the_normal_one() -> None:
    correct = np.arange(2000)[:, None] % 4 == 0
    interval = bootstrap(correct, seed=3)
    half_width = 1.96 * np.sqrt(0.25 * 0.75 / 2000)
    assert interval.mean == 0.25
    assert interval.low == pytest.approx(0.25 - half_width, abs=0.0015)
    assert interval.high == pytest.approx(0.25 + half_width, abs=0.0015)


@pytest.mark.parametrize("samples", [1, 4])
def test_none_right_of_a_few_does_not_mean_that_none_ever_is(samples: int) -> None:
    none = bootstrap(np.zeros((24, samples)), seed=0)
    assert (none.mean, none.low) == (0, 0)
    assert (1 - none.high) ** 24 == pytest.approx(0.025)  # at that rate, 24 wrong in a row are this unlikely
    every = bootstrap(np.ones((24, samples)), seed=0)
    assert (every.mean, every.low, every.high) == (1, pytest.approx(1 - none.high), 1)


def test_samples_of_a_problem_are_not_taken_for_problems() -> None:
    # Ten problems, each all right or all wrong: a hundred samples of each say no more than one.
    one = np.arange(10)[:, None] < 5
    assert bootstrap(np.repeat(one, 100, axis=1), seed=0) == bootstrap(one, seed=0)


def test_interval_is_seeded_and_does_not_depend_on_how_much_is_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = np.arange(60).reshape(20, 3) % 7 < 3
    whole = bootstrap(correct, seed=5)
    assert bootstrap(correct, seed=5) == whole != bootstrap(correct, seed=6)
    monkeypatch.setattr("open_r1.evaluation.statistics._DRAWS_AT_ONCE", 50)
    assert bootstrap(correct, seed=5) == whole


def test_pass_at_k_counts_the_subsets_that_hold_a_right_answer() -> None:
    correct = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]])
    for k in range(1, 6):
        by_hand = np.mean([np.mean([max(subset) for subset in combinations(row, k)]) for row in correct])
        assert pass_at_k(correct, k) == pytest.approx(by_hand)
    assert pass_at_k(correct, 1) == pytest.approx(pass_at_1(correct))


@pytest.mark.parametrize("k", [0, 6])
def test_pass_at_k_needs_as_many_samples(k: int) -> None:
    with pytest.raises(ValueError, match="5 samples"):
        pass_at_k(np.zeros((2, 5)), k)
