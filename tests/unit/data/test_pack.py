"""Sequences laid end to end."""

from __future__ import annotations

import numpy as np
import pytest

from open_r1.data.pack import (
    RL_FIELDS,
    Pack,
    TrainingSequence,
    empty_like,
    make_pack,
    merge_packs,
    pad_pack,
    split_pack,
)


def sequence(ids: list[int], weight: list[float], **fields: list[float]) -> TrainingSequence:
    arrays = {name: np.array(values) for name, values in fields.items()}
    return TrainingSequence(np.array(ids), np.array(weight), **arrays)


def test_a_pack_by_hand():
    pack = make_pack([sequence([5, 6, 7], [1, 0, 0.5]), sequence([8, 9], [1, 1]), sequence([4], [1])])
    assert len(pack) == 6
    assert pack.input_ids.tolist() == [5, 6, 7, 8, 9, 4]
    assert pack.position_ids.tolist() == [0, 1, 2, 0, 1, 0]
    assert pack.cu_seqlens.tolist() == [0, 3, 5, 6]
    assert pack.lengths == (3, 2, 1)
    assert pack.target_index.tolist() == [2, 4]  # the first token of a sequence is no target
    assert pack.loss_weight.tolist() == [0.5, 1.0]
    assert pack.sequence_index.tolist() == [0, 1]
    assert pack.advantage is None


def test_fields_of_reinforcement_learning_follow_the_targets():
    pack = make_pack(
        [sequence([1, 2], [0, 1], advantage=[9, 0.25]), sequence([3, 4, 5], [0, 0, 1], advantage=[9, 9, -0.5])]
    )
    assert pack.advantage.tolist() == [0.25, -0.5]


def test_packs_merged_are_the_pack_of_all_sequences():
    sequences = [sequence([n, n, n + 1], [0, n, 1], advantage=[0, n, -n]) for n in range(1, 6)]
    merged = merge_packs([make_pack(sequences[:2]), make_pack(sequences[2:3]), make_pack(sequences[3:])])
    whole = make_pack(sequences)
    assert merged.lengths == whole.lengths
    for name in (
        "input_ids",
        "position_ids",
        "cu_seqlens",
        "target_index",
        "loss_weight",
        "sequence_index",
        "advantage",
    ):
        assert getattr(merged, name).tolist() == getattr(whole, name).tolist(), name
        assert getattr(merged, name).dtype == getattr(whole, name).dtype, name


def test_what_is_no_pack_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        make_pack([])
    with pytest.raises(ValueError, match="at least one"):
        make_pack([sequence([], [])])
    with pytest.raises(ValueError, match="advantage"):
        make_pack([sequence([1, 2], [0, 1], advantage=[0, 1]), sequence([1, 2], [0, 1])])


TENSORS = ("input_ids", "position_ids", "cu_seqlens", "target_index", "loss_weight", "sequence_index", *RL_FIELDS)


def assert_same_pack(one: Pack, other: Pack) -> None:
    assert one.lengths == other.lengths
    assert one.padding == other.padding
    for name in TENSORS:
        left, right = getattr(one, name), getattr(other, name)
        assert (left is None) == (right is None), name
        assert left is None or (left.dtype == right.dtype and left.tolist() == right.tolist()), name


def some_sequences(*lengths: int) -> list[TrainingSequence]:
    """Distinct tokens, every third of them no target."""
    starts = np.cumsum((0, *lengths))
    fields = [np.arange(start, start + length) for start, length in zip(starts, lengths, strict=False)]
    return [sequence(f, f % 3, advantage=f + 0.5, behaviour_logprob=-f, reference_logprob=-2 * f) for f in fields]


def test_a_padded_pack_by_hand():
    pack = make_pack([sequence([5, 6, 7], [1, 0, 0.5]), sequence([8, 9], [1, 1])])
    padded = pad_pack(pack, tokens=9, sequences=5)
    assert padded.input_ids.tolist() == [5, 6, 7, 8, 9, 0, 0, 0, 0]
    assert padded.position_ids.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert padded.cu_seqlens.tolist() == [0, 3, 5, 9, 9, 9]
    assert padded.lengths == (3, 2, 4)
    assert padded.padding == 4
    assert padded.trained_lengths == pack.trained_lengths == (3, 2)
    for name in ("input_ids", "position_ids", "cu_seqlens"):
        assert getattr(padded, name).dtype == getattr(pack, name).dtype
    for name in ("target_index", "loss_weight", "sequence_index"):
        assert getattr(padded, name) is getattr(pack, name)


def test_a_full_pack_needs_no_sequence_of_padding():
    padded = pad_pack(make_pack(some_sequences(3, 2)), tokens=5, sequences=4)
    assert padded.cu_seqlens.tolist() == [0, 3, 5, 5, 5]
    assert (padded.lengths, padded.padding) == ((3, 2), 0)


@pytest.mark.parametrize(("tokens", "sequences"), [(4, 9), (9, 2), (5, 1)])
def test_what_does_not_fit_is_not_padded(tokens: int, sequences: int):
    with pytest.raises(ValueError, match="cannot be padded"):
        pad_pack(make_pack(some_sequences(3, 2)), tokens, sequences)


@pytest.mark.parametrize(
    ("lengths", "first"),
    [((4, 4), 1), ((1, 9, 2), 2), ((9, 1, 1), 1), ((1, 1, 9), 2), ((3, 3, 3), 1), ((2, 3, 1, 4), 2), ((1, 1), 1)],
)
def test_halves_are_packs_of_their_sequences(lengths: tuple[int, ...], first: int):
    sequences = some_sequences(*lengths)
    halves = split_pack(make_pack(sequences))
    assert_same_pack(halves[0], make_pack(sequences[:first]))
    assert_same_pack(halves[1], make_pack(sequences[first:]))
    assert_same_pack(merge_packs(halves), make_pack(sequences))


def test_a_half_without_fields_of_reinforcement_learning_has_none():
    halves = split_pack(make_pack([sequence([1, 2], [0, 1]), sequence([3, 4], [0, 1])]))
    assert [half.advantage for half in halves] == [None, None]


def test_what_cannot_be_split():
    assert split_pack(make_pack(some_sequences(5))) is None
    with pytest.raises(ValueError, match="padded"):
        split_pack(pad_pack(make_pack(some_sequences(3, 2)), 8, 8))


def test_an_empty_pack_has_the_same_fields():
    empty = empty_like(make_pack(some_sequences(4, 3)))
    (first, *_) = some_sequences(4)
    one = {name: getattr(first, name)[:1] for name in RL_FIELDS}
    assert_same_pack(empty, make_pack([TrainingSequence(first.ids[:1], first.loss_weight[:1], **one)]))
    assert empty.trained_lengths == ()
    assert_same_pack(empty_like(empty), empty)
