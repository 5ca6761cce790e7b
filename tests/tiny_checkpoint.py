"""A checkpoint of some thousand random weights whose tokens are bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tiny_checkpoint(
    folder: Path,
    template: str | None = CHATML,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    stops: Sequence[int] = (),
) -> Path:
    """Writes a Qwen2 of two layers with tied embeddings, and its tokenizer of 256 bytes and three special tokens.

    The weights are large for a fresh model, so that every token depends visibly on those before it. It stops at
    ``stops`` too, by its generation_config.json: its own end of turn is drawn once in some hundred tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = template
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).to(dtype)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *stops]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_moe(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The same sizes as a Qwen3-MoE of four experts, which lie apart in the file and are one tensor in memory."""
    save_tiny_checkpoint(folder)
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        **_sizes(folder), head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    )
    Qwen3MoeForCausalLM(config).to(dtype).save_pretrained(folder)
    return folder


def save_tiny_prefixed(folder: Path) -> Path:
    """The same sizes as a Qwen3.5, whose weights the file has under ``model.language_model.``, as the hub's has."""
    save_tiny_checkpoint(folder)
    torch.manual_seed(0)
    linear = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2}
    config = Qwen3_5TextConfig(
        **_sizes(folder),
        **linear,
        linear_num_value_heads=4,
        head_dim=8,
        layer_types=["linear_attention", "full_attention"],
    )
    Qwen3_5ForCausalLM(config).save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    renamed = {re.sub(r"^model\.", "model.language_model.", name): tensor for name, tensor in stored.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _sizes(folder: Path) -> dict[str, Any]:
    """What the configurations of several families have in common."""
    config = Qwen2Config.from_pretrained(folder).to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "max_position_embeddings", "initializer_range", "eos_token_id")
    return {name: config[name] for name in names}


def save_vllm_checkpoint(folder: Path, initializer_range: float, seed: int = 0) -> Path:
    """The same in bf16, with heads of 64, which every kernel of vLLM's has."""
    save_tiny_checkpoint(folder, dtype=torch.bfloat16)
    torch.manual_seed(seed)
    config = Qwen2Config.from_pretrained(folder)
    config.hidden_size, config.intermediate_size = 256, 512
    config.num_attention_heads, config.num_key_value_heads = 4, 2
    config.initializer_range = initializer_range
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder
