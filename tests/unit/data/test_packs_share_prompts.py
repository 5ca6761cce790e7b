"""Where sequences of a pack begin alike, and what is computed of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from open_r1.data.pack import Pack, TrainingSequence, empty_like, make_pack, merge_packs, pad_pack, split_pack
from open_r1.data.shared_prompts import NOWHERE, SharedPrompts

PROMPT, OTHER = [7, 8], [9]
ANSWERS = [[1, 2], [3], [4, 5]]


def sequence(prompt: list[int], answer: list[int]) -> TrainingSequence:
    weight = np.array([0] * len(prompt) + [1] * len(answer), np.float32)
    return TrainingSequence(np.array(prompt + answer), weight)


def pack() -> Pack:
    """Three answers to one prompt, one to another."""
    return make_pack([*(sequence(PROMPT, answer) for answer in ANSWERS), sequence(OTHER, [6])], [0, 2, 2, 0])


def computed_ids(of: Pack) -> list[int]:
    return of.input_ids[of.shared.computed_index].tolist()


def assert_whole(of: Pack) -> None:
    """Every token is computed once, or is the same token at the same place of another sequence."""
    shared = of.shared
    for tensor in (of.input_ids, of.position_ids):
        assert tensor[shared.computed_index][shared.key_index[: len(of)]].tolist() == tensor.tolist()
    assert (
        shared.cu_computed.tolist()[: len(of.lengths) + 1]
        == np.cumsum([0, *(length - own for length, own in zip(of.lengths, shared.lengths, strict=True))]).tolist()
    )


def test_a_pack_by_hand() -> None:
    one = pack()
    assert one.lengths == (4, 3, 4, 2) and len(one) == 13 and one.computed == 9
    assert one.input_ids.tolist() == [7, 8, 1, 2, 7, 8, 3, 7, 8, 4, 5, 9, 6]
    assert computed_ids(one) == [7, 8, 1, 2, 3, 4, 5, 9, 6]
    assert one.shared.key_index.tolist() == [0, 1, 2, 3, 0, 1, 4, 0, 1, 5, 6, 7, 8]
    assert one.shared.cu_computed.tolist() == [0, 4, 5, 7, 9] and one.shared.cu_computed.dtype == torch.int32
    assert one.target_index.tolist() == [2, 3, 6, 9, 10, 12]
    assert_whole(one)


@pytest.mark.parametrize(
    ("lengths", "shared"), [((4, 3), (2, 0)), ((4, 3), (0, 3)), ((2, 9), (0, 3)), ((9, 2, 9), (0, 0, 3))]
)
def test_what_cannot_be_shared(lengths: tuple[int, ...], shared: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot share"):
        SharedPrompts.of(lengths, shared)


def test_a_cut_within_a_group_computes_the_prompt_in_both_halves() -> None:
    first, second = split_pack(pack())
    assert (first.lengths, first.shared.lengths) == ((4, 3), (0, 2))
    assert (second.lengths, second.shared.lengths) == ((4, 2), (0, 0))
    assert computed_ids(second) == [7, 8, 4, 5, 9, 6]
    again = split_pack(make_pack([sequence(PROMPT, answer) for answer in ([1] * 9, *ANSWERS)], [0, 2, 2, 2]))[1]
    assert again.shared.lengths == (0, 2, 2)
    for half in (first, second, again):
        assert_whole(half)


def test_padding() -> None:
    padded = pad_pack(pack(), tokens=12, sequences=7)
    assert padded.computed == 12 and padded.padding == 3 and padded.trained_lengths == (4, 3, 4, 2)
    assert padded.cu_seqlens.tolist() == [0, 4, 7, 11, 13, 16, 16, 16]
    assert padded.shared.cu_computed.tolist() == [0, 4, 5, 7, 9, 12, 12, 12]
    assert padded.shared.key_index.tolist()[13:] == [9, 10, 11, *range(12, 20)]  # from 12 on: none
    assert_whole(padded)
    for tokens in (9, 10, 14):
        assert len(pad_pack(pack(), tokens, 7).shared.key_index) == 2 * tokens
    many = make_pack([sequence([1] * 20, [2])] * 8, [0] + [20] * 7)
    assert (len(many), many.computed) == (168, 28)
    assert len(pad_pack(many, 30, 9).shared.key_index) == 8 * 30
    none = pad_pack(many, 30, 9).shared.key_index[170:]
    assert none.min() == 30 and none.max() == 30 + NOWHERE - 1 and none.bincount().max() == 2


def test_merged_and_emptied() -> None:
    merged = merge_packs([pack(), pack()])
    assert merged.shared is None and merged.computed == 26
    empty = empty_like(pack())
    assert empty.computed == len(empty) == 1 and empty.shared.lengths == (0,)
    assert empty.shared.cu_computed.tolist() == [0, 1] and empty.shared.key_index.tolist() == [0]


def test_tensors_go_along() -> None:
    moved = pack().to("meta")
    assert {moved.shared.key_index.device.type, moved.shared.cu_computed.device.type} == {"meta"}
    assert moved.shared.lengths == (0, 2, 2, 0) and moved.computed == 9
