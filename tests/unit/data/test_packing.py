"""Properties of the packing plan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_r1.data.packing import PackPlan, announce, best_fit, overlong_report, pack_numbers, plan

lengths_lists = st.lists(st.integers(1, 60), min_size=1, max_size=80)
budgets = st.integers(2, 40)
seeds = st.integers(0, 5)


def long_traces(count: int, seed: int = 0) -> np.ndarray:
    """Lengths like those of reasoning traces: 5,700 tokens on average, up to 32,768."""
    drawn = np.random.default_rng(seed).lognormal(np.log(4600), 0.65, count)
    return np.clip(drawn, 60, 32768).astype(np.int64)


def sizes(packs: PackPlan) -> list[int]:
    return [int((pack[:, 2] - pack[:, 1]).sum()) for pack in packs]


def one_by_one(lengths: list[int], budget: int) -> list[int]:
    """Best fit decreasing as the textbook has it: rooms left in the packs."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [place for place, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=rooms.__getitem__)] -= length
        else:
            rooms.append(budget - length)
    return sorted(rooms)


@given(lengths_lists, st.integers(60, 200))
def test_packs_are_those_of_best_fit_decreasing(lengths, budget):
    packs = best_fit(np.array(lengths), budget)
    assert sorted(np.concatenate(packs).tolist()) == list(range(len(lengths)))
    assert sorted(budget - int(np.array(lengths)[pack].sum()) for pack in packs) == one_by_one(lengths, budget)


@given(lengths_lists, budgets, seeds)
def test_split_trains_every_target_exactly_once(lengths, budget, seed):
    made = plan(np.array(lengths), budget, seed=seed, epoch=0)
    targets = [(sequence, token) for sequence, start, end in made.segments.tolist() for token in range(start + 1, end)]
    assert sorted(targets) == [(sequence, token) for sequence, n in enumerate(lengths) for token in range(1, n)]
    assert {sequence for sequence, _, _ in made.segments.tolist()} == set(range(len(lengths)))


@given(lengths_lists, budgets, seeds, st.sampled_from(["split", "truncate", "drop"]))
def test_budget_is_kept_and_what_fits_stays_whole(lengths, budget, seed, overlong):
    made = plan(np.array(lengths), budget, seed=seed, epoch=3, overlong=overlong)
    assert all(0 < size <= budget for size in sizes(made))
    segments = made.segments.tolist()
    for sequence, length in enumerate(lengths):
        pieces = [(start, end) for owner, start, end in segments if owner == sequence]
        if length <= budget:
            assert pieces == [(0, length)]
        elif overlong == "truncate":
            assert pieces == [(0, budget)]
        elif overlong == "drop":
            assert pieces == []
        else:
            assert len(pieces) > 1
    over = sum(length > budget for length in lengths)
    fate = {"split": "split", "truncate": "truncated", "drop": "dropped"}[overlong]
    others = {name: 0 for name in ("split", "truncated", "dropped", "untrained") if name != fate}
    assert made.counts == {"whole": len(lengths) - over, fate: over, **others}


@given(lengths_lists, budgets, seeds, st.booleans())
def test_a_plan_is_a_pure_function(lengths, budget, seed, packing):
    first, again = (plan(np.array(lengths), budget, seed=seed, epoch=1, packing=packing) for _ in range(2))
    assert np.array_equal(first.segments, again.segments)
    assert np.array_equal(first.offsets, again.offsets)


def contents(packs: PackPlan) -> set[frozenset[int]]:
    """Which sequences are together."""
    return {frozenset(pack[:, 0].tolist()) for pack in packs}


def test_epochs_and_seeds_differ_in_order_and_in_company():
    lengths = np.repeat([10, 20, 30], 30)
    plans = [plan(lengths, 60, seed=seed, epoch=epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    assert len({len(made) for made in plans}) == 1
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert not np.array_equal(plans[one].segments, plans[other].segments)
        assert contents(plans[one]) != contents(plans[other])


def test_packs_are_not_in_order_of_length():
    made = plan(long_traces(2000), 16384, seed=0, epoch=0)
    longest = np.array([pack[:, 2].max() for pack in made])
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.2


@pytest.mark.parametrize("budget", [2048, 4096, 8192, 16384, 32768])
def test_packs_of_long_traces_are_full(budget):
    made = plan(long_traces(20_000), budget, seed=0, epoch=0)
    sizes_of = made.segments[:, 2] - made.segments[:, 1]
    least = max(made.tokens / budget, (sizes_of > budget / 2).sum())  # no two of these share a pack
    assert len(made) <= 1.005 * least
    assert made.fill == pytest.approx(sum(sizes(made)) / (len(made) * budget))


def short_answers(count: int) -> np.ndarray:
    """Lengths like those of answers to sums: 230 tokens on average, up to 2,000."""
    return np.clip(np.random.default_rng(0).lognormal(5.3, 0.5, count), 10, 2000).astype(np.int64)


def test_packs_of_short_answers_are_full_and_hold_all_lengths():
    lengths = short_answers(50_000)
    made = plan(lengths, 16384, seed=0, epoch=0)
    assert made.fill >= 0.995
    means = np.array([pack[:, 2].mean() for pack in made])
    by_length = np.array([lengths[pack].mean() for pack in best_fit(lengths, 16384)])
    assert means.std() < 0.5 * by_length.std()


def test_short_answers_close_the_gaps_between_long_traces():
    lengths = np.concatenate([long_traces(10_000), short_answers(10_000)])
    assert plan(lengths, 32768, seed=0, epoch=0).fill >= 0.998


@given(lengths_lists, st.integers(60, 100), st.lists(st.integers(0, 100), max_size=20))
def test_rooms_of_packs_that_are_there_already_are_filled_by_best_fit(lengths, budget, rooms):
    pack_of = pack_numbers(np.array(lengths), budget, np.array(rooms, np.int64))
    left = np.array(rooms, np.int64)
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        fitting = left[left >= lengths[item]]
        if pack_of[item] < 0:
            assert not len(fitting)
        else:
            left[pack_of[item]] -= lengths[item]
    assert (left >= 0).all()


def test_without_packing_a_pack_is_a_batch():
    made = plan(np.full(7, 5), 4, seed=0, epoch=0, overlong="truncate", packing=False, batch_size=3)
    assert [len(pack) for pack in made] == [3, 3, 1]
    assert made.fill == 28 / 36


def test_segments_without_a_target_are_left_out():
    lengths = np.array([10, 10, 3])
    targets = np.array([[8, 10], [1, 3], [0, 0]])  # the answer at the end; at the beginning; none
    made = plan(lengths, 4, seed=0, epoch=0, targets=targets)
    assert sorted(made.segments.tolist()) == [[0, 6, 10], [1, 0, 4]]
    assert made.counts["untrained"] == 5


def test_a_target_at_the_start_of_a_piece_belongs_to_the_piece_before():
    # Pieces [0, 4) and [3, 7): token 3 is predicted in the first and context in the second.
    made = plan(np.array([7]), 4, seed=0, epoch=0, targets=np.array([[3, 4]]))
    assert made.segments.tolist() == [[0, 0, 4]]


def test_nothing_to_pack():
    assert best_fit(np.empty(0, np.int64), 10) == []
    made = plan(np.array([50]), 10, seed=0, epoch=0, overlong="drop")
    assert (len(made), made.fill) == (0, 0.0)
    with pytest.raises(IndexError):
        made[0]


def test_impossible_budgets_are_refused():
    with pytest.raises(ValueError, match="11 tokens do not fit"):
        pack_numbers(np.array([11]), 10)
    with pytest.raises(ValueError, match="budget of 1"):
        plan(np.array([3]), 1, seed=0, epoch=0)


def test_what_is_too_long_is_announced_with_the_length_that_keeps_it_whole():
    lengths = np.arange(1, 101) * 10
    report = overlong_report(lengths, 500)
    assert (report.share_over, report.median, report.longest) == (0.5, 505, 1000)
    assert report.length_for_97 == 1024
    assert (lengths <= report.length_for_97).mean() >= 0.97
    text = announce(lengths, 500, "split")
    assert "50% are longer than 500" in text and "--max_length 1024" in text and "nothing is lost" in text
    assert "cut after 500" in announce(lengths, 500, "truncate")
    assert "dropped" in announce(lengths, 500, "drop")
    assert "none of the rows" in announce(np.empty(0, np.int64), 500, "split")
    assert "all fit" in announce(lengths, 1000, "split")
    assert overlong_report(np.array([10, 30]), 11).share_pieces == 0.75
