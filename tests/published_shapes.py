"""Configurations of Qwen2.5, from the models' published config.json."""

from __future__ import annotations

import torch
from transformers import Qwen2Config

QWEN_0_5B = Qwen2Config(
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    vocab_size=151_936,
    max_position_embeddings=32_768,
    tie_word_embeddings=True,
    dtype=torch.bfloat16,
)
QWEN_1_5B = Qwen2Config(
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    vocab_size=151_936,
    max_position_embeddings=32_768,
    tie_word_embeddings=True,
    dtype=torch.bfloat16,
)
QWEN_7B = Qwen2Config(
    hidden_size=3584,
    intermediate_size=18_944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    vocab_size=152_064,
    max_position_embeddings=32_768,
    tie_word_embeddings=False,
    dtype=torch.bfloat16,
)
QWEN_14B = Qwen2Config(
    hidden_size=5120,
    intermediate_size=13_824,
    num_hidden_layers=48,
    num_attention_heads=40,
    num_key_value_heads=8,
    vocab_size=152_064,
    max_position_embeddings=32_768,
    tie_word_embeddings=False,
    dtype=torch.bfloat16,
)
