"""Tiny models of different families, and random sequences for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
)

from open_r1.data.pack import TrainingSequence

VOCABULARY = 64
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,  # large, so that what leaks from one sequence into another shows
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
LINEAR = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
SOFTCAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}

ATTENTION: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "mistral, sliding": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)),
    "gemma2, sliding, softcap": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES, head_dim=8, sliding_window=4, **SOFTCAPS)
    ),
    "gpt2, learned positions": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2)
    ),
    "granite, divides logits": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=4.0)),
    "cohere, multiplies logits": lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25)),
}
"""Families whose tokens meet in attention alone."""

OTHERS: dict[str, Callable[[], PreTrainedModel]] = {
    "lfm2, convolution": lambda: Lfm2ForCausalLM(
        Lfm2Config(**SIZES, layer_types=["conv", "full_attention"], block_multiple_of=16)
    ),
    "qwen3.5, linear attention": lambda: Qwen3_5ForCausalLM(
        Qwen3_5TextConfig(**SIZES, head_dim=8, layer_types=["linear_attention", "full_attention"], **LINEAR)
    ),
    "falcon-h1, state space, multiplies logits": lambda: FalconH1ForCausalLM(
        FalconH1Config(
            **SIZES,
            mamba_d_ssm=32,
            mamba_n_heads=4,
            mamba_d_head=8,
            mamba_d_state=8,
            mamba_chunk_size=16,
            lm_head_multiplier=0.3,
        )
    ),
    "gpt-oss, sinks": lambda: GptOssForCausalLM(
        GptOssConfig(**SIZES, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=4)
    ),
}
"""Families whose layers carry something else from token to token, or whose attention these kernels do not have."""


def build(name: str) -> PreTrainedModel:
    """A model in eval mode; the same weights at each call."""
    torch.manual_seed(0)
    return (ATTENTION | OTHERS)[name]().eval()


def random_sequences(lengths: tuple[int, ...] = (9, 3, 14, 1, 6, 17), seed: int = 0) -> list[TrainingSequence]:
    """Sequences whose targets have different weights, a quarter of them 0."""
    rng = np.random.default_rng(seed)
    return [
        TrainingSequence(
            ids=rng.integers(2, VOCABULARY, length),
            loss_weight=rng.choice([0.0, 0.25, 1.0, 3.0], length),
        )
        for length in lengths
    ]
