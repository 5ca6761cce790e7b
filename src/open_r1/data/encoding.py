"""Text to token ids in batches, with the place in the text where each token starts."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers

Span = tuple[int, int]
"""Start and end (exclusive) of a stretch of text, in characters."""


class Encoder:
    """Encodes texts that already hold their special tokens (a rendered chat), and marks the tokens of given spans.

    The tokens of a byte-level tokenizer are the bytes of its text in order, so that running sums of their lengths say
    where each starts: no offsets are asked for, which the backend is slow to build. A text whose sum is not its length
    in bytes, and every text of another kind of tokenizer, is encoded with offsets.

    It can be sent to another process, where the backend is built when it is first needed.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._loaded: Tokenizer | None = backend
        self._byte_lengths = _byte_lengths(backend)

    @property
    def byte_level(self) -> bool:
        """Whether tokens are bytes of the text."""
        return self._byte_lengths is not None

    @property
    def backend(self) -> Tokenizer:
        """The tokenizer, without padding and truncation, which are its state and which any call of it may have set."""
        if self._loaded is None:
            self._loaded = Tokenizer.from_str(self._json)
        self._loaded.no_padding()
        self._loaded.no_truncation()
        return self._loaded

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_spans(
        self, texts: Sequence[str], spans: Sequence[Sequence[Span]]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each text, ids int32 [T] and a mask uint8 [T]: 1 where the token starts inside one of its spans."""
        if self._byte_lengths is None:
            return self._with_offsets(texts, spans)
        encoded = [
            self._by_lengths(np.asarray(ids, np.int32), text, inside)
            for ids, text, inside in zip(self.encode(texts), texts, spans, strict=True)
        ]
        doubtful = [index for index, pair in enumerate(encoded) if pair is None]
        repeated = self._with_offsets([texts[index] for index in doubtful], [spans[index] for index in doubtful])
        for index, pair in zip(doubtful, repeated, strict=True):
            encoded[index] = pair
        return encoded

    def _by_lengths(
        self, ids: np.ndarray, text: str, spans: Sequence[Span], size: int | None = None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Ids and mask from the lengths of tokens; None where they do not add up to the length of the text.

        Args:
            size: bytes of the text, where it is known that normalizing does not change it.
        """
        starts = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(self._byte_lengths[ids], out=starts[1:])
        edges, total = self._byte_positions(text, [edge for span in spans for edge in span], size)
        if starts[-1] != total:
            return None
        return ids, _inside(starts[:-1], list(zip(edges[::2], edges[1::2], strict=True)))

    def _byte_positions(self, text: str, edges: Sequence[int], size: int | None) -> tuple[list[int], int]:
        """Where ascending character positions lie in the bytes of the normalized text, and the length of these."""
        if text.isascii():
            return list(edges), len(text)
        limits = list(zip((0, *edges), (*edges, len(text)), strict=True))
        longest = max(limits, key=lambda limit: limit[1] - limit[0]) if size is not None else None
        lengths = [0 if limit == longest else self._byte_length(text[slice(*limit)], size) for limit in limits]
        if longest is not None:  # what the others leave, so that it need not be encoded again
            lengths[limits.index(longest)] = size - sum(lengths)
        *positions, total = accumulate(lengths)
        return positions, total

    def _byte_length(self, part: str, size: int | None) -> int:
        return len((part if size is not None else self._normalized(part)).encode())

    def _normalized(self, text: str) -> str:
        if unicodedata.is_normalized("NFC", text) or self.backend.normalizer is None:
            return text
        return self.backend.normalizer.normalize_str(text)  # NFC, where lengths are used

    def _with_offsets(
        self, texts: Sequence[str], spans: Sequence[Sequence[Span]]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        if not texts:
            return []
        encodings = self.backend.encode_batch(texts, add_special_tokens=False)
        return [
            (
                np.array(encoding.ids, np.int32),
                _inside(np.array([start for start, _ in encoding.offsets], np.int64), inside),
            )
            for encoding, inside in zip(encodings, spans, strict=True)
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None, "_json": self.backend.to_str()}


def _inside(starts: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """uint8 [T]: whether each start (ascending) lies in one of the spans."""
    mask = np.zeros(len(starts), np.uint8)
    for first, last in np.searchsorted(starts, np.array(spans, np.int64).reshape(-1, 2)):
        mask[first:last] = 1
    return mask


def _byte_lengths(backend: Tokenizer) -> np.ndarray | None:
    """Bytes of text that each token stands for, int32 [V]; None if the tokenizer is not byte-level.

    A byte-level vocabulary writes each byte as one character (the byte alphabet of GPT-2).
    """
    normalizer = backend.normalizer
    plain = normalizer is None or isinstance(normalizer, normalizers.NFC)
    plain |= isinstance(normalizer, normalizers.Sequence) and not list(normalizer)  # DeepSeek's
    if not plain or not isinstance(backend.decoder, decoders.ByteLevel) or _adds_spaces(backend):
        return None
    vocabulary = backend.get_vocab(with_added_tokens=True)
    lengths = np.zeros(max(vocabulary.values()) + 1, np.int32)
    for token, index in vocabulary.items():
        lengths[index] = len(token)
    for index, added in backend.get_added_tokens_decoder().items():
        lengths[index] = len(added.content.encode())
    return lengths


def _adds_spaces(backend: Tokenizer) -> bool:
    """Whether parts of a text get a space before them: the sums could still agree, where special tokens take others."""
    parts = backend.pre_tokenizer
    parts = list(parts) if isinstance(parts, pre_tokenizers.Sequence) else [parts]
    return any(isinstance(part, pre_tokenizers.ByteLevel) and part.add_prefix_space for part in parts)
