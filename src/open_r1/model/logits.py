"""From the head's matrix product to logits, a chunk of targets at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 3 * 2**29
MAX_CHUNK = 4096


@dataclass(frozen=True)
class LogitTransform:
    """How a model turns ``hidden @ weight`` into logits: softcap(scale · z) / temperature."""

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, config: Any) -> LogitTransform:
        """Read from a `transformers` configuration.

        Gemma has a softcap; Cohere, Falcon-H1 and HyperCLOVA X multiply, Granite divides by the same name.
        """
        scale = float(getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0)
        if scaling := getattr(config, "logits_scaling", None):
            scale *= scaling if config.model_type == "hyperclovax" else 1.0 / scaling
        return cls(scale, getattr(config, "final_logit_softcapping", None))

    def slope(self, logits: Tensor, temperature: float) -> float | Tensor:
        """The derivative of ``logits`` [C, V], made by `logits_of`, with respect to ``hidden @ weight``."""
        slope = self.scale / temperature
        if self.softcap is None:
            return slope
        return (1 - (logits * (temperature / self.softcap)) ** 2) * slope  # of tanh


PLAIN = LogitTransform()


def logits_of(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform, temperature: float
) -> Tensor:
    """float32 [C, V] of ``hidden`` [C, D], divided by the temperature."""
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    if transform.scale != 1.0:
        logits *= transform.scale
    if transform.softcap is not None:
        logits = torch.tanh(logits / transform.softcap) * transform.softcap
    if temperature != 1.0:
        logits /= temperature
    return logits


def chunk_targets(vocabulary: int, hidden: Tensor) -> int:
    """Targets whose logits are held at a time: a power of two, at most `CHUNK_BYTES` of them in the hidden dtype."""
    fitting = max(1, CHUNK_BYTES // (vocabulary * hidden.element_size()))
    return min(MAX_CHUNK, 1 << (fitting.bit_length() - 1))
