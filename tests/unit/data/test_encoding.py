"""Masks from the lengths of tokens equal those from the backend's offsets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from open_r1.data.encoding import Encoder


@pytest.fixture(scope="module")
def encoder(byte_level_json: str) -> Encoder:
    return Encoder(Tokenizer.from_str(byte_level_json))


@given(st.text(max_size=20), st.text(max_size=40), st.text(max_size=10))
def test_lengths_agree_with_offsets(encoder, before, inside, after):
    text = f"{before}<|im_start|>{inside}<|im_end|>{after}"
    start = len(before) + len("<|im_start|>")
    spans = [(start, start + len(inside) + len("<|im_end|>"))]
    ((ids, mask),) = encoder.encode_spans([text], [spans])
    ((expected_ids, expected),) = encoder._with_offsets([text], [spans])
    assert np.array_equal(ids, expected_ids)
    assert np.array_equal(mask, expected)


def test_a_text_that_normalizing_changes_keeps_its_mask(encoder):
    text = "e\u0301e\u0301<|im_start|>e\u0301<|im_end|>e\u0301"
    ((ids, mask),) = encoder.encode_spans([text], [[(16, 28)]])
    assert encoder._by_lengths(ids, text, [(16, 28)]) is not None
    special = ids.tolist().index(0)
    assert mask.tolist() == [0] * (special + 1) + [1, 1, 1, 0, 0]


def test_tokens_that_do_not_add_up_are_encoded_with_offsets(byte_level):
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    encoder = Encoder(tokenizer.backend_tokenizer)
    ((ids, mask),) = encoder.encode_spans(["So   <mask>So"], [[(11, 13)]])
    assert tokenizer.batch_decode(ids[:, None]) == ["So", "<mask>", "So"]
    assert mask.tolist() == [0, 0, 1]


def test_spaces_that_a_tokenizer_adds_do_not_make_up_for_those_that_a_token_takes(byte_level_json):
    backend = Tokenizer.from_str(byte_level_json)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.add_special_tokens([AddedToken("<|end|>", rstrip=True, special=True)])
    ((ids, mask),) = Encoder(backend).encode_spans(["<|im_start|>a\nb<|end|>\n"], [[(14, 22)]])
    assert [backend.id_to_token(index) for index in ids[-3:]] == ["Ċ", "b", "<|end|>"]
    assert mask[-3:].tolist() == [0, 1, 1]


def test_a_sequence_of_no_normalizers_is_as_good_as_none(byte_level_json):
    backend = Tokenizer.from_str(byte_level_json)
    backend.normalizer = normalizers.Sequence([])  # as DeepSeek's tokenizers have it
    encoder, text, spans = Encoder(backend), "e\u0301 é<|im_end|>", [(3, 14)]
    assert encoder.byte_level
    ((ids, mask),), ((expected_ids, expected),) = (
        each([text], [spans]) for each in (encoder.encode_spans, encoder._with_offsets)
    )
    assert (ids.tolist(), mask.tolist()) == (expected_ids.tolist(), expected.tolist())
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase()])
    assert not Encoder(backend).byte_level


def test_no_texts_no_tokens(encoder):
    assert encoder.encode_spans([], []) == []
    ((ids, mask),) = encoder.encode_spans([""], [[]])
    assert len(ids) == len(mask) == 0
