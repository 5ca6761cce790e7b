from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from open_r1.generation.engine import SamplingParams
from open_r1.generation.sampling import BLOCK, NUCLEUS_CANDIDATES, sample, uniforms
from open_r1.generation.seeds import sample_seed

JUST_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))


def params(**settings) -> SamplingParams:
    return SamplingParams(max_new_tokens=1, **settings)


def drawn_shares(logits: torch.Tensor, parameters: SamplingParams, draws: int = 40_000) -> torch.Tensor:
    """The share of each token when the unit interval is cut evenly: a quadrature of the sampler, without noise."""
    u = (torch.arange(draws) + 0.5) / draws
    tokens, _ = sample(logits.expand(draws, -1), u, parameters)
    return torch.bincount(tokens, minlength=logits.shape[-1]) / draws


@pytest.mark.parametrize("vocabulary", [3, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_draws_follow_the_exact_distribution(vocabulary, temperature):
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 2
    exact = (logits.double() / temperature).softmax(-1)
    shares = drawn_shares(logits, params(temperature=temperature))
    assert (shares - exact).abs().max() < 1e-4
    assert (shares.cumsum(-1) - exact.cumsum(-1)).abs().max() < 1e-4


def test_logprob_is_that_of_the_untruncated_distribution_at_the_temperature():
    logits = torch.randn(50, 300)
    u = torch.rand(50)
    tokens, logprobs = sample(logits, u, params(temperature=0.7, top_k=5, top_p=0.8))
    expected = (logits / 0.7).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected, atol=2e-6, rtol=0)


def test_greedy_takes_the_largest_and_gives_its_logprob_at_temperature_one():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, -1.0, 0.0]])
    tokens, logprobs = sample(logits, torch.tensor([0.99, 0.99]), params(temperature=0))
    assert tokens.tolist() == [1, 0]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).amax(-1))


def test_top_k_by_hand():
    logits = torch.tensor([4.0, 1.0, 2.0, 3.0]).log()  # probabilities 0.4, 0.1, 0.2, 0.3
    shares = drawn_shares(logits, params(top_k=2))
    torch.testing.assert_close(shares, torch.tensor([4 / 7, 0, 0, 3 / 7]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.39, [1, 0, 0, 0]),
        (0.41, [4 / 7, 0, 0, 3 / 7]),
        (0.69, [4 / 7, 0, 0, 3 / 7]),
        (0.71, [4 / 9, 0, 2 / 9, 3 / 9]),
    ],
)
def test_top_p_by_hand(top_p, kept):
    logits = torch.tensor([4.0, 1.0, 2.0, 3.0]).log()
    shares = drawn_shares(logits, params(top_p=top_p))
    torch.testing.assert_close(shares, torch.tensor(kept, dtype=torch.float32), atol=1e-4, rtol=0)


def test_top_p_is_taken_of_what_top_k_leaves():
    logits = torch.tensor([4.0, 1.0, 2.0, 3.0]).log()
    # Of the two kept, the first holds 4/7 = 0.571.
    assert drawn_shares(logits, params(top_k=2, top_p=0.57))[3] == 0
    assert drawn_shares(logits, params(top_k=2, top_p=0.58))[3] > 0


def test_wide_and_narrow_nuclei_in_one_batch_match_a_full_sort():
    vocabulary = 4 * NUCLEUS_CANDIDATES
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, vocabulary, generator=generator) * torch.tensor([0.01, 5.0, 0.1, 9.0, 0.5, 3.0])[:, None]
    for row in logits:
        probs, order = row.double().softmax(-1).sort(descending=True)
        nucleus = order[(probs.cumsum(-1) - probs) < 0.9]
        drawn = drawn_shares(row, params(top_p=0.9), draws=2_000).nonzero()[:, 0]
        assert set(drawn.tolist()) <= set(nucleus.tolist())
    u = torch.full((6,), JUST_BELOW_ONE)
    together, _ = sample(logits, u, params(top_p=0.9))
    alone = torch.cat([sample(row[None], u[:1], params(top_p=0.9))[0] for row in logits])
    assert torch.equal(together, alone)


@settings(max_examples=200, deadline=None)
@given(
    logits=st.lists(st.one_of(st.just(-math.inf), st.floats(-80, 80, width=32)), min_size=1, max_size=3 * BLOCK),
    u=st.one_of(st.sampled_from([0.0, JUST_BELOW_ONE, 1.0]), st.floats(0, 1, width=32)),
)
def test_never_draws_a_token_of_probability_zero(logits, u):
    row = torch.tensor([logits])
    if row.isinf().all():
        return
    token, logprob = sample(row, torch.tensor([u], dtype=torch.float32), params())
    assert row.softmax(-1)[0, token] > 0
    assert logprob.isfinite().all()


def test_uniforms_are_a_stream_of_the_seed_alone():
    short, long = uniforms(5, 10), uniforms(5, 1000)
    assert short.dtype == np.float32
    assert np.array_equal(short, long[:10])
    assert not np.array_equal(short, uniforms(6, 10))
    assert long.min() >= 0
    assert long.max() < 1
    assert abs(long.mean() - 0.5) < 0.03


def test_sample_seed_is_stable_and_differs_by_every_coordinate():
    assert sample_seed(1, 2, 3, 4) == 9187138123186481832  # a change here changes every recorded run
    seeds = {sample_seed(*np.add((1, 2, 3, 4), delta)) for delta in np.eye(4, dtype=int)}
    assert len(seeds) == 4
    assert sample_seed(1, 23, 4, 5) != sample_seed(12, 3, 4, 5)
    assert all(0 <= seed < 2**63 for seed in seeds)
