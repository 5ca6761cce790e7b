"""Sequences laid end to end."""

from __future__ import annotations

import numpy as np
import pytest

from open_r1.data.pack import TrainingSequence, make_pack, merge_packs


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
