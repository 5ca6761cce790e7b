"""The rule that chooses a kernel, and how sequences are computed together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from open_r1.data.pack import TrainingSequence, make_pack
from open_r1.model import kernels
from open_r1.model.attention import document_mask
from open_r1.model.kernels import PADDING_SHARE, choose_kernel, documents_attention, group_sequences

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "dtype", "wheel", "capability", "varlen", "kernel"),
    [
        (CPU, torch.float32, True, 9, True, "documents"),
        (CPU, torch.bfloat16, True, 9, True, "documents"),
        (CUDA, torch.float32, True, 9, True, "documents"),
        (CUDA, torch.bfloat16, True, 9, True, "fa4"),
        (CUDA, torch.float16, True, 10, True, "fa4"),
        (CUDA, torch.bfloat16, True, 8, True, "varlen"),
        (CUDA, torch.bfloat16, False, 9, True, "varlen"),
        (CUDA, torch.bfloat16, False, 8, False, "documents"),
    ],
)
def test_the_rule(
    device: torch.device,
    dtype: torch.dtype,
    wheel: bool,
    capability: int,
    varlen: bool,
    kernel: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "has_flash_attention_4", lambda: wheel)
    monkeypatch.setattr(kernels, "varlen_parameters", lambda: {"scale"} if varlen else set())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (capability, 0))
    assert choose_kernel(device, dtype) == kernel


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30).map(tuple))
def test_every_token_is_in_one_group(lengths: tuple[int, ...]) -> None:
    seen: list[int] = []
    for index_NL, valid_NL in group_sequences(lengths, CPU):
        valid_NL = torch.ones_like(index_NL, dtype=torch.bool) if valid_NL is None else valid_NL
        assert valid_NL.float().mean() >= 1 - PADDING_SHARE
        seen += index_NL[valid_NL].tolist()
        # Rows are whole sequences from their first token, padded at the right alone.
        assert (valid_NL[:, :-1] >= valid_NL[:, 1:]).all()
        assert (index_NL[:, 1:] - index_NL[:, :-1] == valid_NL[:, 1:].long()).all()
    assert sorted(seen) == list(range(sum(lengths)))


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_documents_are_a_dense_mask(window: int | None, softcap: float | None, key_heads: int) -> None:
    torch.manual_seed(0)
    lengths = (7, 1, 4, 12, 4)
    tokens, dim = sum(lengths), 8
    query, key, value = (torch.randn(heads, tokens, dim) for heads in (4, key_heads, key_heads))
    ones = torch.ones
    pack = make_pack([TrainingSequence(ones(n).numpy(), ones(n).numpy()) for n in lengths])
    scores = query @ key.repeat_interleave(4 // key_heads, 0).transpose(-1, -2) * 0.3
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~document_mask(pack, window)[0], -torch.inf).softmax(-1)
    expected = (weights @ value.repeat_interleave(4 // key_heads, 0)).transpose(0, 1)
    groups = group_sequences(lengths, CPU)
    output = documents_attention(query, key, value, groups, 0.3, 0.0, window, softcap)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


def test_a_document_mask_by_hand() -> None:
    pack = make_pack([TrainingSequence(torch.ones(n).numpy(), torch.ones(n).numpy()) for n in (3, 2)])
    assert document_mask(pack)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert document_mask(pack, window=2)[0, 0].int().tolist()[2] == [0, 1, 1, 0, 0]
