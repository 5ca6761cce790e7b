"""The engine's log-probabilities of what it drew are the trainer's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import build

from open_r1.data.pack import TrainingSequence, make_pack
from open_r1.generation.engine import Request, SamplingParams
from open_r1.generation.transformers_engine import TransformersEngine
from open_r1.model.attention import NAME
from open_r1.model.pack_model import PackModel

FAMILIES = ["qwen2", "mistral, sliding", "gemma2, sliding, softcap", "granite, divides logits", "lfm2, convolution"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampling", [{"temperature": 0.7}, {"temperature": 1.3, "top_p": 0.8, "top_k": 20}])
def test_logprobs(family: str, sampling: dict[str, float]) -> None:
    model = build(family)
    model.set_attn_implementation(NAME)
    rng = np.random.default_rng(0)
    requests = [
        Request(index, tuple(rng.integers(2, 64, length).tolist()), index) for index, length in enumerate([5, 5, 11, 3])
    ]
    params = SamplingParams(max_new_tokens=14, stop_token_ids=(1, 5), **sampling)
    completions = sorted(
        TransformersEngine(model, pad_token_id=0, batch_size=3).generate(requests, params),
        key=lambda completion: completion.request_id,
    )
    sequences = []
    for request, completion in zip(requests, completions, strict=True):
        prompt, answer = len(request.prompt_ids), len(completion.token_ids)
        sequences.append(
            TrainingSequence(
                ids=np.array(request.prompt_ids + completion.token_ids),
                loss_weight=np.repeat([0.0, 1.0], [prompt, answer]),
                behaviour_logprob=np.concatenate([np.zeros(prompt), completion.logprobs]),
            )
        )
    pack = make_pack(sequences)
    with torch.no_grad():
        logprobs = PackModel(model)(pack, temperature=sampling["temperature"]).logprobs
    assert len(logprobs) > 30
    torch.testing.assert_close(logprobs, pack.behaviour_logprob, atol=1e-5, rtol=0)
