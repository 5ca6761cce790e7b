"""Loading a tokenizer and a causal language model, with one clear line when that fails."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from open_r1.config import ModelConfig
from open_r1.errors import UserError
from open_r1.model.attention import NAME as PACKED_ATTENTION
from open_r1.model.attention import can_replace_attention
from open_r1.model.tokenizer_files import MISSING, has_vocabulary

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
CONFIG = "config.json"
CONFIG_READER = str(Path("transformers", "configuration_utils.py"))


def load_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub id or a local folder.

    Raises:
        UserError: if there is none, it has no tokens but special ones, or no fast backend.
    """
    with explained(name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    # Without a vocabulary transformers builds a blank one of the model's family, which turns every text into nothing.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) - set(tokenizer.get_added_vocab()):
        raise UserError(f"{name}: its tokenizer has no tokens but special ones: {MISSING}")
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
    with explained(name, CONFIG):
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    return getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None) or torch.float32


class explained:  # noqa: N801 - reads as a phrase: with explained(...)
    """Turns the ways in which loading fails into one line."""

    def __init__(self, name: str, what: str) -> None:
        self.name, self.what = name, what

    def __enter__(self) -> None:
        path = Path(self.name)
        looks_local = self.name.startswith((".", "/", "~")) or self.name.count("/") > 1
        if looks_local and not os.path.exists(os.path.expanduser(self.name)):  # leaves ~NOBODY as it is
            raise UserError(f"{self.name}: no such folder; give a hub id or a folder that holds a checkpoint")
        if path.is_dir() and not any(path.glob("*.json")):
            raise UserError(
                f"{self.name}: the folder holds no {self.what} (no JSON files); is the checkpoint complete?"
            )
        if self.what == CONFIG and (path / "adapter_config.json").is_file() and not (path / CONFIG).is_file():
            raise UserError(
                f"{self.name}: the folder holds adapters alone, and a whole model is needed; with --merge_lora true "
                "the run that trains them writes one (of adapters that are there PEFT's merge_and_unload makes one)"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, UserError):
            return
        reason = " ".join(str(error).split())[:300]
        if isinstance(error, (TypeError, AttributeError, RuntimeError, StrictDataclassError)):
            if self.what == CONFIG or _passes(trace, CONFIG_READER):
                said = "its config.json has a value that transformers does not take"
                raise UserError(f"{self.name}: {said} [{reason}]") from error
            return
        if not isinstance(error, (OSError, ValueError, KeyError)):
            return
        path = Path(self.name)
        if self.what == "tokenizer" and path.is_dir() and not has_vocabulary(path):
            raise UserError(f"{self.name}: the tokenizer could not be loaded: {MISSING} [{reason}]") from None
        advice = "" if path.exists() else "; is the name right, and the hub reachable (HF_ENDPOINT, HF_TOKEN)?"
        raise UserError(f"{self.name}: the {self.what} could not be loaded{advice} [{reason}]") from error


def _passes(trace: TracebackType | None, file: str) -> bool:
    """Whether a trace goes through a file, given by the end of its path."""
    return any(frame.f_code.co_filename.endswith(os.sep + file) for frame, _ in traceback.walk_tb(trace))


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
