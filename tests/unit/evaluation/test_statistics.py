from __future__ import annotations

from itertools import combinations, permutations, product

import numpy as np
import pytest

from open_r1.evaluation.statistics import (
    bootstrap,
    bootstrap_means,
    ks,
    paired_difference,
    pass_at_1,
    pass_at_k,
    pass_at_k_scores,
    sign_flip_p_value,
)


def test_pass_at_1_is_the_mean_over_samples_then_problems() -> None:
    assert pass_at_1(np.array([[1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]])) == pytest.approx((0.25 + 1 + 0.5) / 3)


def test_interval_of_two_problems_is_that_of_the_four_equally_likely_draws() -> None:
    # Problems score 0 and 1/2, so a resample of two has mean 0, 1/4, 1/4 or 1/2: 2.5 % and 97.5 % lie at 0 and 1/2.
    interval = bootstrap(np.array([[0, 0], [1, 0]]), seed=1)
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.0, 0.5)
    middle = bootstrap(np.array([[0, 0], [1, 0]]), seed=1, level=0.4)  # the middle 40 % are all 1/4
    assert (middle.low, middle.high) == (0.25, 0.25)


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


@pytest.mark.parametrize(  # P(so many or more) at the lower bound and P(so few or fewer) at the upper are 2.5 %
    ("right", "problems", "low", "high"),
    [
        (1, 30, 0.000844, 0.172169),
        (4, 30, 0.037555, 0.307218),
        (29, 30, 0.827831, 0.999156),
        (1, 2, 0.012579, 0.987421),
    ],
)
def test_few_right_or_few_wrong_have_the_exact_interval(right: int, problems: int, low: float, high: float) -> None:
    interval = bootstrap((np.arange(problems) < right)[:, None], seed=0)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-5)


@pytest.mark.parametrize("rate", [0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.17, 0.2])
def test_intervals_of_few_right_ones_cover_the_true_rate(rate: float) -> None:
    counts, times = np.unique(np.random.default_rng(0).binomial(30, rate, size=4000), return_counts=True)
    intervals = [bootstrap((np.arange(30) < right)[:, None], seed=0) for right in counts]
    covered = [interval.low <= rate <= interval.high for interval in intervals]
    assert times[covered].sum() / 4000 >= 0.93


def test_many_right_and_wrong_ones_and_shares_keep_the_percentiles() -> None:
    scores = np.stack([np.arange(30) < 5, (np.arange(30) < 2) * 0.5], axis=1).astype(float)
    many, shares = bootstrap_means(scores, seed=0)
    assert (many.low, many.high) == pytest.approx((1 / 30, 0.3), abs=0.034)
    assert (shares.low, shares.high) == pytest.approx((0, 5 / 60), abs=0.017)
    (difference,) = bootstrap_means((np.arange(30) < 2)[:, None].astype(float), seed=0, lowest=-1.0)
    assert difference.low == 0


def test_samples_of_a_problem_are_not_taken_for_problems() -> None:
    # Ten problems, each all right or all wrong: a hundred samples of each say no more than one.
    one = np.arange(10)[:, None] < 5
    assert bootstrap(np.repeat(one, 100, axis=1), seed=0) == bootstrap(one, seed=0)


def test_interval_is_seeded_and_does_not_depend_on_the_order_of_the_problems() -> None:
    correct = np.arange(60).reshape(20, 3) % 7 < 3
    whole = bootstrap(correct, seed=5)
    assert bootstrap(correct, seed=5) == whole
    assert len({bootstrap(correct, seed=seed, resamples=50).low for seed in range(9)}) > 1
    assert bootstrap(correct[::-1], seed=5) == pytest.approx(whole)


def test_interval_is_that_of_problems_drawn_one_by_one() -> None:
    scores = np.random.default_rng(3).integers(0, 9, size=40) / 8
    drawn = np.random.default_rng(4).integers(40, size=(20_000, 40))
    (interval,) = bootstrap_means(scores[:, None], seed=1)
    assert (interval.low, interval.high) == pytest.approx(
        np.quantile(scores[drawn].mean(axis=1), [0.025, 0.975]), abs=0.006
    )


def test_every_metric_has_the_interval_that_it_would_have_alone() -> None:
    rng = np.random.default_rng(7)
    correct = rng.random((50, 8)) < rng.random((50, 1))
    scores = np.stack([pass_at_k_scores(correct, 1), np.zeros(50), pass_at_k_scores(correct, 4)], axis=1)
    together = bootstrap_means(scores, seed=2)
    for metric, interval in enumerate(together):
        (alone,) = bootstrap_means(scores[:, [metric]], seed=2)
        assert (interval.mean, interval.low, interval.high) == pytest.approx(
            (alone.mean, alone.low, alone.high), abs=0.01
        )
    assert together[1].high == pytest.approx(1 - 0.025 ** (1 / 50))


@pytest.mark.parametrize(("problems", "samples", "hardness"), [(30, 4, "spread"), (60, 1, "one"), (40, 16, "bimodal")])
def test_intervals_cover_the_true_mean_about_as_often_as_they_say(problems: int, samples: int, hardness: str) -> None:
    rng = np.random.default_rng(2026)
    beta = {"spread": (1.0, 1.0), "one": (60.0, 40.0), "bimodal": (0.4, 0.4)}[hardness]
    true_mean = beta[0] / sum(beta)
    covered = 0
    for seed in range(300):
        correct = rng.random((problems, samples)) < rng.beta(*beta, size=(problems, 1))
        interval = bootstrap(correct, seed=seed, resamples=1000)
        covered += interval.low <= true_mean <= interval.high
    assert 0.90 <= covered / 300 <= 0.99


def test_problems_that_score_alike_give_an_interval_that_is_no_point() -> None:
    half = bootstrap([[1, 0]], seed=0)
    assert (half.low, half.mean, half.high) == pytest.approx((0.0125, 0.5, 0.9875))
    assert bootstrap([[1, 0]] * 50, seed=0).high - 0.5 < 0.04


@pytest.mark.parametrize(
    ("samples", "expected"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (7, [1, 2, 4, 7]), (64, [1, 2, 4, 8, 16, 32, 64])]
)
def test_pass_at_k_is_reported_for_powers_of_two_and_all_samples(samples: int, expected: list[int]) -> None:
    assert ks(samples) == expected


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


def test_pass_at_k_of_many_samples_does_not_overflow() -> None:
    correct = np.zeros((2, 1000))
    correct[0, 0] = 1
    assert pass_at_k_scores(correct, 500) == pytest.approx([0.5, 0.0])


def test_a_small_difference_on_every_problem_is_found_though_the_two_intervals_overlap() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 15, size=100) / 16
    b = a + (rng.random(100) < 0.7) / 16
    compared = paired_difference(a, b, seed=1)
    assert bootstrap_means(a[:, None], seed=1)[0].high > bootstrap_means(b[:, None], seed=1)[0].low
    assert 0 < compared.difference.low < compared.difference.mean == pytest.approx((b - a).mean())
    assert compared.p_value < 0.001
    assert (compared.a, compared.b) == (pytest.approx(a.mean()), pytest.approx(b.mean()))
    assert compared.better + compared.alike == 100 and compared.worse == 0


def test_turning_a_comparison_round_turns_its_numbers_round() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 5, size=(2, 60)) / 4
    there, back = paired_difference(a, b, seed=1), paired_difference(b, a, seed=1)
    assert there.difference.mean == -back.difference.mean
    assert (there.difference.low, there.difference.high) == pytest.approx(
        (-back.difference.high, -back.difference.low), abs=0.01
    )
    assert (there.better, there.worse, there.alike) == (back.worse, back.better, back.alike)
    assert there.p_value == pytest.approx(back.p_value, abs=0.02)


def test_a_comparison_with_itself_finds_nothing_and_is_not_certain_of_it() -> None:
    same = paired_difference([0.5, 0.0, 1.0], [0.5, 0.0, 1.0], seed=0)
    assert (same.difference.mean, same.p_value, same.better, same.worse, same.alike) == (0, 1, 0, 0, 3)
    assert same.difference.low == -same.difference.high < -0.5


def test_the_interval_of_a_difference_covers_it_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for seed in range(300):
        ability = rng.beta(1, 1, size=(40, 1))
        a = (rng.random((40, 4)) < 0.9 * ability).mean(axis=1)
        b = (rng.random((40, 4)) < 0.9 * ability + 0.1).mean(axis=1)
        (difference,) = bootstrap_means((b - a)[:, None], seed=seed, resamples=1000, lowest=-1.0)
        covered += difference.low <= 0.1 <= difference.high
    assert 0.90 <= covered / 300 <= 0.99


def test_the_p_value_of_few_problems_counts_every_flip() -> None:
    differences = np.array([0.5, 0.25, -0.25, 1.0, 0.0, 0.75])
    sums = [abs(np.dot(signs, differences)) for signs in product([1, -1], repeat=6)]
    assert sign_flip_p_value(differences, seed=0) == np.mean([value >= 2.25 - 1e-9 for value in sums])
    assert {sign_flip_p_value(np.array(order), seed=0) for order in permutations([0.5, 0.3, 0.2])} == {0.25}


def test_the_p_value_of_many_problems_agrees_with_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.array([0.5, 0.25, -0.25, 1.0, 0.75, -0.5, 0.5, 0.5, -1.0, 0.25, 0.75, -0.25])
    exact = sign_flip_p_value(differences, seed=0)
    monkeypatch.setattr("open_r1.evaluation.statistics._EXACT_FLIPS", 0)
    assert sign_flip_p_value(differences, seed=0) == pytest.approx(exact, abs=0.02)
    assert sign_flip_p_value(np.ones(200), seed=0) == pytest.approx(1 / 10_001)


def test_without_a_difference_small_p_values_are_as_rare_as_they_should_be() -> None:
    rng = np.random.default_rng(8)
    small = sum(
        sign_flip_p_value(np.diff(rng.integers(0, 5, size=(20, 2)) / 4)[:, 0], seed=s) < 0.05 for s in range(300)
    )
    assert small / 300 <= 0.08
