"""Text to token ids in batches, with the place in the text where each token starts."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import decoders, normalizers

from open_r1.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Start and end (exclusive) of a stretch of text, in characters."""


class Encoder:
    """Encodes texts that already hold their special tokens (a rendered chat), and marks the tokens of given spans.

    The tokens of a byte-level tokenizer are the bytes of its text in order, so that running sums of their lengths say
    where each starts: no offsets are asked for, which the backend is slow to build. A text whose sum is not its length
    in bytes, and every text of another kind of tokenizer, is encoded with offsets.

    Raises:
        UserError: the tokenizer has no fast backend.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(f"{tokenizer.name_or_path}: its tokenizer has no fast version (no tokenizer.json)")
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._byte_lengths = _byte_lengths(self._backend)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        self._without_limits()
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_spans(
        self, texts: Sequence[str], spans: Sequence[Sequence[Span]]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each text, ids int32 [T] and a mask uint8 [T]: 1 where the token starts inside one of its spans."""
        if self._byte_lengths is None:
            return self._with_offsets(texts, spans)
        encoded = [
            self._by_lengths(np.array(ids, np.int32), text, inside)
            for ids, text, inside in zip(self.encode(texts), texts, spans, strict=True)
        ]
        doubtful = [index for index, pair in enumerate(encoded) if pair is None]
        repeated = self._with_offsets([texts[index] for index in doubtful], [spans[index] for index in doubtful])
        for index, pair in zip(doubtful, repeated, strict=True):
            encoded[index] = pair
        return encoded

    def _by_lengths(self, ids: np.ndarray, text: str, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray] | None:
        """Ids and mask from the lengths of tokens; None where they do not add up to the length of the text."""
        ends = np.cumsum(self._byte_lengths[ids])
        edges, total = self._byte_positions(text, [edge for span in spans for edge in span])
        if (ends[-1] if len(ends) else 0) != total:
            return None
        return ids, _inside(ends - self._byte_lengths[ids], list(zip(edges[::2], edges[1::2], strict=True)))

    def _byte_positions(self, text: str, edges: Sequence[int]) -> tuple[list[int], int]:
        """Where ascending character positions lie in the bytes of the normalized text, and the length of these."""
        if text.isascii():
            return list(edges), len(text)
        positions, byte, char = [], 0, 0
        for edge in (*edges, len(text)):
            byte += len(self._normalized(text[char:edge]).encode())
            positions.append(byte)
            char = edge
        return positions[:-1], byte

    def _normalized(self, text: str) -> str:
        normalizer = self._backend.normalizer  # none or NFC, where lengths are used
        if normalizer is None or unicodedata.is_normalized("NFC", text):
            return text
        return normalizer.normalize_str(text)

    def _with_offsets(
        self, texts: Sequence[str], spans: Sequence[Sequence[Span]]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        if not texts:
            return []
        self._without_limits()
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        return [
            (
                np.array(encoding.ids, np.int32),
                _inside(np.array([start for start, _ in encoding.offsets], np.int64), inside),
            )
            for encoding, inside in zip(encodings, spans, strict=True)
        ]

    def _without_limits(self) -> None:
        """Padding and truncation are state of the backend, which any call of the tokenizer may have set."""
        self._backend.no_padding()
        self._backend.no_truncation()


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
    plain = backend.normalizer is None or isinstance(backend.normalizer, normalizers.NFC)
    if not plain or not isinstance(backend.decoder, decoders.ByteLevel):
        return None
    vocabulary = backend.get_vocab(with_added_tokens=True)
    lengths = np.zeros(max(vocabulary.values()) + 1, np.int32)
    for token, index in vocabulary.items():
        lengths[index] = len(token)
    for index, added in backend.get_added_tokens_decoder().items():
        lengths[index] = len(added.content.encode())
    return lengths
