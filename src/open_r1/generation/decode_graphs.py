"""For how many completions at once vLLM is to capture CUDA graphs of a step of decoding."""

from __future__ import annotations

USUAL = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
"""vLLM's own sizes, where it may decode as many: it captures none that is larger."""
STRIDE = 64
"""Of further ones. A step is padded to the next size, and each takes a moment of the start."""


def compilation_config(completions: int | None, eager: bool) -> dict[str, list[int]] | None:
    """What vLLM is to be told, where its own graphs do not go far enough."""
    sizes = None if eager or not completions else capture_sizes(completions)
    return {"cudagraph_capture_sizes": sizes} if sizes else None


def capture_sizes(completions: int) -> list[int] | None:
    """Sizes up to as many ``completions`` as are decoded at once; None where vLLM's own go as far.

    Beyond the largest the host launches each kernel of each layer by itself, which takes a small model longer than the
    GPU needs to run them.
    """
    if completions <= USUAL[-1]:
        return None
    return [*USUAL, *range(USUAL[-1] + STRIDE, completions, STRIDE), completions]
