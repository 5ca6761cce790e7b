"""Padding a pack to a constant shape, and cutting it in half, change no log-probability and no gradient."""

from __future__ import annotations

import pytest
import torch
from families import ATTENTION, build, random_sequences
from test_packed_is_padded import assert_equal, packed, take_gradients

from open_r1.data.pack import Pack, make_pack, pad_pack, split_pack
from open_r1.model.attention import NAME
from open_r1.model.pack_model import PackModel, padded_sequences, padded_tokens


@pytest.mark.parametrize("attention", [NAME, "eager"])
@pytest.mark.parametrize("family", ATTENTION)
def test_padding(family: str, attention: str) -> None:
    model = build(family)
    model.set_attn_implementation(attention)
    pack = make_pack(random_sequences())
    shapes = [(len(pack) + 13, len(pack.lengths) + 5), (len(pack) + 1, len(pack.lengths) + 1), (len(pack), 64)]
    expected = packed(model, [pack])
    for tokens, sequences in shapes:
        assert_equal(packed(model, [pad_pack(pack, tokens, sequences)]), expected)


@pytest.mark.parametrize("family", ATTENTION)
def test_halves(family: str) -> None:
    model = build(family)
    model.set_attn_implementation(NAME)
    pack = make_pack(random_sequences())
    assert_equal(packed(model, pieces(pack)), packed(model, [pack]))


def pieces(pack: Pack) -> list[Pack]:
    """Halves of halves, down to single sequences."""
    halves = split_pack(pack)
    return [pack] if halves is None else [piece for half in halves for piece in pieces(half)]


def test_few_shapes() -> None:
    """Every size is compiled for: nearly full micro-batches have one, others eight an octave."""
    assert {padded_tokens(tokens, full=1000) for tokens in range(750, 1001)} == {1000}
    assert padded_tokens(749, full=1000) == padded_tokens(749) == 768
    assert padded_tokens(1001, full=1000) == padded_tokens(1001) == 1024
    sizes = {padded_tokens(tokens) for tokens in range(4096, 8192)}
    assert len(sizes) == 9 and max(sizes) == 8192
    assert all(tokens <= padded_tokens(tokens) <= 1.125 * tokens for tokens in range(1024, 9000))
    assert {padded_sequences(count) for count in range(1, 100)} == {16, 32, 64, 128}


def test_a_full_size_changes_nothing() -> None:
    """Compiled layers see a micro-batch that lacks little padded to the full one."""
    torch._dynamo.reset()
    model = build("qwen2")
    model.set_attn_implementation(NAME)
    pack = make_pack(random_sequences())
    expected = packed(model, [pack])
    module = PackModel(model)
    module.layers.compile(backend="aot_eager")
    module.full = len(pack) + len(pack) // 4
    module.train()
    logprobs = module(pack).logprobs
    (-(logprobs * pack.loss_weight).sum() / pack.loss_weight.sum()).backward()
    assert_equal((logprobs.detach(), take_gradients(model)), expected)
