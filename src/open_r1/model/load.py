"""Loading a tokenizer and a causal language model, with one clear line when that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from open_r1.config import ModelConfig
from open_r1.errors import UserError
from open_r1.model.attention import NAME as PACKED_ATTENTION
from open_r1.model.attention import can_replace_attention

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "auto": "auto"}
# Names of rival kernels: the rule in `attention.choose_kernel` covers what they stand for.
COVERED_ATTENTION = (
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "sdpa",
    "flex_attention",
    PACKED_ATTENTION,
)


def load_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub id or a local folder.

    Raises:
        UserError: if there is none, or it has no fast backend.
    """
    with explained(name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    if not tokenizer.is_fast:
        raise UserError(f"{name}: its tokenizer has no fast (Rust) version, which this project needs")
    return tokenizer


def load_model(
    name: str,
    revision: str | None = None,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    **kwargs: Any,
) -> PreTrainedModel:
    """The causal language model of a hub id or a local folder, led to this project's attention where it allows that.

    Args:
        dtype: "auto" (as stored), "float32", "bfloat16" or "float16".
        attn_implementation: None chooses by the rule of `open_r1.model.attention`; "eager" is a dense document mask.

    Raises:
        UserError: if there is no such model, or it is not a causal language model.
    """
    if dtype not in DTYPES:
        raise UserError(f"torch_dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}")
    packed = attn_implementation is None or attn_implementation in COVERED_ATTENTION
    with explained(name, "model"):
        model = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            dtype=DTYPES[dtype],
            attn_implementation=None if packed else attn_implementation,
            trust_remote_code=trust_remote_code,
            **kwargs,
        )
    if packed and can_replace_attention(model):
        model.set_attn_implementation(PACKED_ATTENTION)
    return model


def stored_dtype(name: str, revision: str | None = None, trust_remote_code: bool = False) -> torch.dtype:
    """The dtype in which a checkpoint says it is stored; float32 where it says nothing."""
    with explained(name, "config.json"):
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    return getattr(config, "dtype", None) or torch.float32


class explained:  # noqa: N801 - reads as a phrase: with explained(...)
    """Turns the ways in which loading fails into one line."""

    def __init__(self, name: str, what: str) -> None:
        self.name, self.what = name, what

    def __enter__(self) -> None:
        path = Path(self.name)
        looks_local = self.name.startswith((".", "/", "~")) or self.name.count("/") > 1
        if looks_local and not path.expanduser().exists():
            raise UserError(f"{self.name}: no such folder; give a hub id or a folder that holds a checkpoint")
        if path.is_dir() and not any(path.glob("*.json")):
            raise UserError(
                f"{self.name}: the folder holds no {self.what} (no JSON files); is the checkpoint complete?"
            )

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None or issubclass(kind, UserError) or not isinstance(error, (OSError, ValueError, KeyError)):
            return
        reason = " ".join(str(error).split())[:300]
        advice = (
            "" if Path(self.name).exists() else "; is the name right, and the hub reachable (HF_ENDPOINT, HF_TOKEN)?"
        )
        raise UserError(f"{self.name}: the {self.what} could not be loaded{advice} [{reason}]") from error


def load_frozen(config: ModelConfig, device: torch.device) -> PreTrainedModel:
    """A copy of the model that training starts from, which does not train, beside the one that does."""
    model = load_model(
        config.model_name_or_path,
        config.model_revision,
        dtype=config.torch_dtype or "float32",
        attn_implementation=config.attn_implementation,
        trust_remote_code=config.trust_remote_code,
    )
    return model.requires_grad_(False).to(device)
