"""Byte-level tokenizers at memory speed by gigatoken, wherever its ids are sure to be those of tokenizers."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from tokenizers import Tokenizer, pre_tokenizers

from open_r1.data.encoding import Encoder, Span

CACHE_BYTES = 256 << 20
"""The words that gigatoken remembers may take this much memory; then they are forgotten."""

CHECKED_CHARACTERS = 1_500_000
"""Of the sample, at most this much text is compared: a second of the slow encoder on one core."""

ASCII = bytes(range(128))
SELDOM = re.compile(
    "[^\x80-\u02ff\u0391-\u03a1\u03a3-\u03c9\u0410-\u044f\u2010-\u2027\u2190-\u22ff\u3041-\u3096"
    "\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3]"
)
"""Characters beyond ASCII that `_is_plain` has to be asked about; it would say yes to all others."""

HOSTILE = (
    "",
    " ",
    "  x   y\t\tz \n \n\n  \r\n\r\n a\u00a0b\u3000c\u2028d\x85e\x1ff\x00g",
    "don't DON'T it'll I'VE we'Re 's 'S '\u017f x'\u017fy \u2019s can\u2019t",
    "1 12 123 1234 12345 3.14159 1,000,000 \u00bd \u0664\u0665 \u2460 x2y 0x1F 1e-9",
    "\\frac{-b \\pm \\sqrt{b^2-4ac}}{2a} $x_{1}$ \\(a\\) \\[ \\begin{align*} &= 2 \\\\ \\end{align*} ^^ __ {{}}",
    "def f(x):\n    return x**2  # ok\n\n\n\tif x != 0 and y<=3: pass;;;///***",
    "\u4e2d\u6587\u3002\u65e5\u672c\u8a9e\u3067\u3059 \ud55c\uad6d\uc5b4 \u0420\u0443 \u0395\u03bb \u00e9\u00c9",
    "\U0001f600\U0001f468\u200d\U0001f469 \u2200x\u2208\u211d: x\u00b2\u22650 \u2192 \u221e \u2260 \u2248",
)


class FastEncoder(Encoder):
    """An `Encoder` whose ids come from gigatoken, but for texts with unusual characters.

    Normal forms, and what is a letter, differ between versions of Unicode for combining marks, for characters that
    NFC changes and for those unknown to this Python: a text with any of these goes to tokenizers.

    Raises:
        Exception: gigatoken is not there, or does not take this tokenizer.
    """

    def __init__(self, backend: Tokenizer) -> None:
        super().__init__(backend)
        self._source, self._most = _every_byte(backend.to_str())
        self._load()

    def encode_spans(
        self, texts: Sequence[str], spans: Sequence[Sequence[Span]]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """As `Encoder.encode_spans`."""
        encoded = [self._fast_pair(text, inside) for text, inside in zip(texts, spans, strict=True)]
        others = [index for index, pair in enumerate(encoded) if pair is None]
        slow = super().encode_spans([texts[index] for index in others], [spans[index] for index in others])
        for index, pair in zip(others, slow, strict=True):
            encoded[index] = pair
        self._forget_when_large()
        return encoded

    def fast_ids(self, text: str) -> np.ndarray | None:
        """The ids that gigatoken gives, int32 [T]; None where they are not to be relied upon."""
        return self._ids_of(text.encode(), len(text))

    def _fast_pair(self, text: str, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray] | None:
        data = text.encode()
        ids = self._ids_of(data, len(text))
        return None if ids is None else self._by_lengths(ids, text, spans, size=len(data))

    def _ids_of(self, data: bytes, characters: int) -> np.ndarray | None:
        if len(data) != characters and not _all_plain(data):
            return None
        ids = self._fast.encode(data).view(np.int32)
        return None if self._most is not None and len(ids) and ids.max() > self._most else ids

    def _load(self) -> None:
        from gigatoken.gigatoken_rs import load_hf_json

        self._fast = load_hf_json(self._source)
        self._resident = _resident_bytes()

    def _forget_when_large(self) -> None:
        if _resident_bytes() - self._resident > CACHE_BYTES:
            del self._fast
            self._load()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_fast"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load()


_FAST: WeakKeyDictionary[Encoder, FastEncoder] = WeakKeyDictionary()


def fast_version(encoder: Encoder) -> FastEncoder:
    """The `FastEncoder` of an encoder, made once: a vocabulary of 150,000 tokens takes a second to load.

    Raises:
        Exception: as `FastEncoder`.
    """
    if encoder not in _FAST:
        _FAST[encoder] = FastEncoder(encoder.backend)
    return _FAST[encoder]


def choose_encoder(encoder: Encoder, sample: Iterable[str]) -> tuple[Encoder, str | None]:
    """A `FastEncoder` if it is sure to give the ids of ``encoder``, else ``encoder`` and, in one line, why.

    Compared are the tokenizer's added tokens between letters, spaces and newlines, hostile strings, and ``sample``.
    """
    backend = encoder.backend
    if not encoder.byte_level or not _has_byte_level(backend):
        return encoder, None
    try:
        fast = fast_version(encoder)
    except ImportError:
        return encoder, "gigatoken is not installed (pip install gigatoken), which would be many times faster"
    except Exception as error:  # whatever its loader makes of a tokenizer that it does not know
        return encoder, f"gigatoken does not take this tokenizer ({str(error).splitlines()[0][:100]})"
    for what, texts in (
        ("special tokens", list(_around_added(backend))),
        ("hostile strings", list(HOSTILE)),
        ("a sample of the rows", list(_at_most(sample, CHECKED_CHARACTERS))),
    ):
        for text, expected in zip(texts, encoder.encode(texts), strict=True):
            ids = fast.fast_ids(text)
            if ids is not None and not np.array_equal(ids, expected):
                return encoder, f"gigatoken's ids differ from those of tokenizers in {what}"
    return fast, None


def _has_byte_level(backend: Tokenizer) -> bool:
    """Whether text is split into bytes before merges (a vocabulary of bytes may be used otherwise)."""
    parts = backend.pre_tokenizer
    parts = list(parts) if isinstance(parts, pre_tokenizers.Sequence) else [parts]
    return any(isinstance(part, pre_tokenizers.ByteLevel) for part in parts)


def _around_added(backend: Tokenizer) -> Iterator[str]:
    for token in (added.content for added in backend.get_added_tokens_decoder().values()):
        yield f"a{token}b {token} {token}{token}\n{token}\n\n{token}  x {token[:-1]} {token.upper()}\t{token}1{token}"


def _at_most(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        if characters <= 0:
            return
        yield text[:characters]
        characters -= len(text)


def _every_byte(source: str) -> tuple[str, int | None]:
    """The tokenizer with all 256 single bytes in its vocabulary, and its last id where some had to be added.

    tokenizers drops a byte that the vocabulary lacks; gigatoken refuses such a vocabulary. An id past the last one
    tells that the text holds such a byte.
    """
    settings = json.loads(source)
    vocabulary = settings["model"].get("vocab")
    if not isinstance(vocabulary, dict):
        return source, None
    missing = [char for char in pre_tokenizers.ByteLevel.alphabet() if char not in vocabulary]
    if not missing:
        return source, None
    most = max([*vocabulary.values(), *(token["id"] for token in settings["added_tokens"])])
    vocabulary.update({char: most + 1 + place for place, char in enumerate(sorted(missing))})
    return json.dumps(settings, ensure_ascii=False), most


def _all_plain(data: bytes) -> bool:
    """Whether UTF-8 text has no character whose treatment depends on the version of Unicode."""
    return all(map(_is_plain, set(SELDOM.findall(data.translate(None, ASCII).decode()))))


@lru_cache(maxsize=1 << 16)
def _is_plain(char: str) -> bool:
    category = unicodedata.category(char)
    jamo = "\u1160" <= char <= "\u11ff" or "\ud7b0" <= char <= "\ud7ff"  # vowels and finals, which NFC joins
    return category[0] != "M" and category != "Cn" and not jamo and _stands_alone(char)


def _stands_alone(char: str) -> bool:
    return unicodedata.combining(char) == 0 and unicodedata.is_normalized("NFC", char)


def _resident_bytes() -> int:
    """Memory of this process; 0 where the system does not say (only Linux does, in a file)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0
