"""The fast encoder's ids are those of tokenizers, or it is not used and says why."""

from __future__ import annotations

import io
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from open_r1.data import fast_encoding
from open_r1.data.chat import ChatFormat
from open_r1.data.columns import Columns
from open_r1.data.encoding import Encoder
from open_r1.data.fast_encoding import HOSTILE, FastEncoder, choose_encoder
from open_r1.data.tokens import sample_lengths, tokenize

DEMO = Path(__file__).parents[3] / "recipes" / "demo" / "base" / "tokenizer.json"
SPLIT = (  # as published with the models, which differ in how many digits stay together
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPLITS = {"qwen2": SPLIT.replace("DIGITS", r"\p{N}"), "llama3": SPLIT.replace("DIGITS", r"\p{N}{1,3}")}
PIECES = st.sampled_from(
    [*HOSTILE, "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_", "\n", "  ", "e\u0301", "\r\n"]
)
HOSTILE_TEXT = st.lists(st.one_of(PIECES, st.text(max_size=12)), max_size=6).map("".join)

pytest.importorskip("gigatoken")


@pytest.fixture(scope="module", params=["gpt2", "qwen2", "llama3", "demo"])
def backend(request: pytest.FixtureRequest, byte_level_json: str) -> Tokenizer:
    """A small vocabulary with the ways of splitting text of three families, and the demo's model."""
    if request.param == "demo":
        return Tokenizer.from_str(DEMO.read_text())
    return Tokenizer.from_str(split_by(byte_level_json, SPLITS.get(request.param)))


def split_by(tokenizer: str, pattern: str | None) -> str:
    """A byte-level tokenizer that splits text by another pattern than GPT-2's."""
    settings = json.loads(tokenizer)
    if pattern is not None:
        settings["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        }
    return json.dumps(settings)


@pytest.fixture(scope="module")
def fast(backend: Tokenizer) -> FastEncoder:
    return FastEncoder(backend)


def spans_of(text: str) -> list[tuple[int, int]]:
    """Two spans that no token need begin or end with."""
    third = len(text) // 3
    return [(third // 2, third), (2 * third, len(text))]


def assert_same(fast: Encoder, slow: Encoder, texts: list[str]) -> None:
    spans = [spans_of(text) for text in texts]
    pairs = zip(fast.encode_spans(texts, spans), slow.encode_spans(texts, spans), texts, strict=True)
    for (ids, mask), (expected_ids, expected_mask), text in pairs:
        assert (ids.dtype, mask.dtype) == (np.int32, np.uint8)
        assert ids.tolist() == expected_ids.tolist(), text
        assert mask.tolist() == expected_mask.tolist(), text


@given(st.lists(HOSTILE_TEXT, max_size=4))
def test_ids_and_masks_are_those_of_tokenizers(backend, fast, texts):
    assert_same(fast, Encoder(backend), texts)


def test_hostile_strings_and_special_tokens(backend, fast):
    special = list(backend.get_added_tokens_decoder().values())
    assert special
    around = [f"x{token.content} {token.content}\n{token.content}{token.content[:-1]}" for token in special]
    assert_same(fast, Encoder(backend), [*HOSTILE, *around])


def test_a_word_at_each_plain_character(backend, fast):
    """Every character of the first planes, so that no table of letters or digits can differ unseen."""
    texts = [f"a{char} {char}{char}1{char}\n{char}" for char in map(chr, range(0x3000)) if not char.isspace()]
    assert_same(fast, Encoder(backend), texts)


def test_texts_with_unusual_characters_go_to_tokenizers(backend, fast):
    plain = ["x² ≥ 0 → ∞", "“quoted”, élan", "中文。", "日本語です", "한국어", "Привет", "λ", "😀"]
    unusual = [
        "e\u0301",
        "\u0e01\u0e34",
        "\u0915\u093c",
        "\ufb01",
        "\u212b",
        "\u1100\u1161\u11a8",
        "\U0001fad9\u0301",
        "\u0378",
    ]
    assert all(fast.fast_ids(text) is not None for text in plain)
    refused = [text for text in unusual if fast.fast_ids(text) is None]
    assert refused == [text for text in unusual if text != "\ufb01"]  # a ligature stays itself under NFC
    assert_same(fast, Encoder(backend), [f"{text} and {other}" for text in unusual for other in plain])


def test_it_can_be_sent_to_another_process(backend, fast):
    assert_same(pickle.loads(pickle.dumps(fast)), Encoder(backend), list(HOSTILE))


def test_what_is_remembered_is_bounded(monkeypatch, backend):
    fast = FastEncoder(backend)
    loaded = []
    monkeypatch.setattr(fast, "_load", lambda load=fast._load: (loaded.append(1), load()))
    texts = list(HOSTILE)
    fast.encode_spans(texts, [[]] * len(texts))
    assert not loaded
    grown = fast._resident + fast_encoding.CACHE_BYTES + 1
    monkeypatch.setattr(fast_encoding, "_resident_bytes", lambda: grown)
    assert_same(fast, Encoder(backend), texts)
    assert len(loaded) == 1  # and now the memory that it begins with is the larger one
    assert_same(fast, Encoder(backend), texts)
    assert len(loaded) == 1


def test_it_is_chosen_where_it_agrees(backend):
    chosen, why = choose_encoder(Encoder(backend), ["a sample of the rows"])
    assert isinstance(chosen, FastEncoder) and why is None


@pytest.mark.parametrize(
    ("only_for", "what"),
    [
        ("<|im_end|>", "special tokens"),
        ("frac", "hostile strings"),
        ("forty-two", "a sample of the rows"),
    ],
)
def test_one_id_that_differs_is_enough_to_refuse_it(monkeypatch, byte_level_json, only_for, what):
    right = FastEncoder.fast_ids

    def wrong(self: FastEncoder, text: str) -> np.ndarray | None:
        ids = right(self, text)
        return ids[:-1] if only_for in text else ids

    monkeypatch.setattr(FastEncoder, "fast_ids", wrong)
    encoder = Encoder(Tokenizer.from_str(byte_level_json))
    chosen, why = choose_encoder(encoder, ["it is twelve", "it is forty-two"])
    assert chosen is encoder
    assert why == f"gigatoken's ids differ from those of tokenizers in {what}"


def test_without_gigatoken_the_slow_one_is_taken_and_the_fast_one_is_named(monkeypatch, byte_level_json):
    monkeypatch.setitem(sys.modules, "gigatoken.gigatoken_rs", None)
    encoder = Encoder(Tokenizer.from_str(byte_level_json))
    chosen, why = choose_encoder(encoder, [])
    assert chosen is encoder
    assert why.startswith("gigatoken is not installed (pip install gigatoken)")


def test_a_tokenizer_that_gigatoken_does_not_take(monkeypatch, byte_level_json):
    encoder = Encoder(Tokenizer.from_str(split_by(byte_level_json, "(?<=q)u|x{3}")))
    chosen, why = choose_encoder(encoder, ["queue xxx"])
    assert chosen is encoder
    assert why.startswith("gigatoken") and "\n" not in why


def test_other_kinds_of_tokenizer_are_left_alone_without_a_word(word_level):
    encoder = Encoder(word_level("qwen2").backend_tokenizer)
    assert choose_encoder(encoder, ["so it is"]) == (encoder, None)
    bytes_without_splitting = Tokenizer(models.BPE())
    bytes_without_splitting.decoder = decoders.ByteLevel()
    bytes_without_splitting.pre_tokenizer = pre_tokenizers.Whitespace()
    bytes_without_splitting.add_tokens(["a"])
    encoder = Encoder(bytes_without_splitting)
    assert choose_encoder(encoder, ["a"]) == (encoder, None)


def test_added_tokens_that_take_up_spaces(byte_level):
    """Either gigatoken strips as tokenizers does, or it is refused."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, special=True)])
    encoder = Encoder(tokenizer.backend_tokenizer)
    chosen, why = choose_encoder(encoder, [])
    assert why is not None or isinstance(chosen, FastEncoder)
    assert_same(chosen, encoder, ["So  <mask>  so", "<mask>\n\n<mask> 1"])


ROWS = Dataset.from_dict({"prompt": ["why?", "e\u0301?"], "completion": ["it is forty-two", "forty-two"]})
COLUMNS = Columns(prompt="prompt", completion="completion")


def said(chat: ChatFormat, folder: Path, **settings: str) -> str:
    console = Console(file=io.StringIO(), width=200)
    tokenize(ROWS, chat, COLUMNS, cache_dir=folder, num_proc=1, console=console, **settings)
    return console.file.getvalue()


def test_the_tokens_and_their_key_do_not_depend_on_the_encoder(byte_level, tmp_path):
    chat = ChatFormat(byte_level("qwen2"))
    fast, slow = (
        tokenize(ROWS, chat, COLUMNS, cache_dir=tmp_path / name, encoder=name) for name in ("auto", "tokenizers")
    )
    assert fast.input_ids.tolist() == slow.input_ids.tolist()
    assert fast.loss_mask.tolist() == slow.loss_mask.tolist()
    assert [path.name for path in sorted((tmp_path / "auto").iterdir())] == [
        path.name for path in sorted((tmp_path / "tokenizers").iterdir())
    ]
    lengths = [sample_lengths(ROWS, chat, COLUMNS, encoder=name).tolist() for name in ("auto", "tokenizers")]
    assert lengths[0] == lengths[1] == fast.lengths.tolist()


def test_a_refused_encoder_is_said_once_and_only_where_tokens_are_made(monkeypatch, byte_level, tmp_path):
    chat = ChatFormat(byte_level("qwen2"))
    assert "encoder" not in said(chat, tmp_path / "agreeing")
    monkeypatch.setattr(FastEncoder, "fast_ids", lambda self, text: np.zeros(1, np.int32))
    line = "encoder: tokenizers, because gigatoken's ids differ"
    assert said(chat, tmp_path / "differing").count(line) == 1
    assert "encoder" not in said(chat, tmp_path / "differing")  # from the cache
    assert "encoder" not in said(chat, tmp_path / "asked", encoder="tokenizers")
