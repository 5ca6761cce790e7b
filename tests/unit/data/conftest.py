"""Small tokenizers and templates made on the spot; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from watched_rows import PIECE, rows_with_bad_ones

from open_r1.data import rows as rows_module
from open_r1.data import tokenizing
from open_r1.data.chat import ChatFormat

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
TEXT = "the user asks and the assistant answers: six times seven is forty-two.\n\n\nSo it is.\n" * 20


def read_template(name: str | None) -> str | None:
    """The text of ``templates/NAME.jinja``."""
    return name and (Path(__file__).parent / "templates" / f"{name}.jinja").read_text().rstrip()


@pytest.fixture(scope="session")
def byte_level_json() -> str:
    """A byte-level BPE tokenizer like Qwen's, with NFC and a vocabulary of 400."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer.to_str()


@pytest.fixture
def byte_level(byte_level_json: str) -> Callable[..., PreTrainedTokenizerFast]:
    """Makes a byte-level tokenizer with the template of a name; keyword arguments as of PreTrainedTokenizerFast."""

    def make(template: str | None = None, **kwargs: str) -> PreTrainedTokenizerFast:
        settings = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"} | kwargs
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(byte_level_json), **settings)
        tokenizer.chat_template = read_template(template)
        return tokenizer

    return make


@pytest.fixture
def word_level() -> Callable[..., PreTrainedTokenizerFast]:
    """Makes a tokenizer whose tokens are words, newlines and the special tokens; it needs offsets."""

    def make(template: str, **kwargs: str) -> PreTrainedTokenizerFast:
        words = ["?", "\n", "user", "assistant", "system", "be", "brief", "6x7", "8x8", "so", "it", "is", "42", "64"]
        tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="?"))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(" "), "removed"), pre_tokenizers.Split(Regex("\n"), "isolated")]
        )
        settings = {"eos_token": "<|endoftext|>", "unk_token": "?"} | kwargs
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)
        fast.add_special_tokens({"additional_special_tokens": SPECIAL})
        fast.chat_template = read_template(template)
        return fast

    return make


@pytest.fixture
def rows() -> Dataset:
    """Fifty rows, three of them bad."""
    return rows_with_bad_ones()


@pytest.fixture
def chat(byte_level: Callable[..., PreTrainedTokenizerFast]) -> ChatFormat:
    """Qwen2's."""
    return ChatFormat(byte_level("qwen2"))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty rows are many pieces, and worth several processes."""
    monkeypatch.setattr(rows_module, "PIECE_ROWS", PIECE)
    monkeypatch.setattr(tokenizing, "ROWS_WORTH_PROCESSES", 16)
