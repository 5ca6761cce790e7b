"""Whether an answer is in a loop, by how far its second half can be compressed."""

from __future__ import annotations

import zlib

SHORTEST = 256  # bytes of a second half; in less, a table or a sum looks like a loop
RATIO = 8.0
"""Prose and solutions shrink to a half or a third, code and tables to a fifth at most, a loop to a twentieth."""


def in_a_loop(text: str) -> bool:
    """Whether the second half of ``text`` says the same again and again. Loops run to the end, once they have begun."""
    data = text.encode("utf-8", "replace")
    tail = data[len(data) // 2 :]
    return len(tail) >= SHORTEST and len(tail) > RATIO * len(zlib.compress(tail, 1))
