"""Padding a pack to a constant shape, and cutting it in half, change no log-probability and no gradient."""

from __future__ import annotations

import pytest
from families import ATTENTION, build, random_sequences
from test_packed_is_padded import assert_equal, packed

from open_r1.data.pack import Pack, make_pack, pad_pack, split_pack
from open_r1.model.attention import NAME


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
