"""The policy's weights for an engine: whole, by the names of a checkpoint, one decoder layer after the other.

Everything here is collective, as in `open_r1.parallel.state`, but every rank gets the tensors, where it computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from open_r1.model.stored_weights import StoredWeight, as_stored, causal_lm_of, stored_weights


class WholeTensors(Protocol):
    """How one way of training in parallel makes tensors whole."""

    def whole(self, tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype | None]) -> list[Tensor]:
        """The tensors, whole, on this rank's device and without gradients; the module's own where it has them whole.

        Args:
            dtypes: what each may be cast to on the way; None must not be.
        """


def whole_weights(
    model: nn.Module, shards: WholeTensors, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Each weight of ``model`` (with PEFT's wrapper, if there is one) under its name in a checkpoint. Collective.

    The module stays as it is, and at no time is more than one layer of it held twice. What is yielded may be the
    module's own tensor: it is to be copied before the next step, and not to be written.

    Args:
        dtype: cast floating-point weights to this.

    Raises:
        UserError: adapters that cannot be added into the weights.
    """
    causal_lm = causal_lm_of(model)
    for group in stored_weights(model):
        yield from as_stored(causal_lm, _made(group, shards, dtype)).items()


@torch.no_grad()
def _made(group: list[StoredWeight], shards: WholeTensors, dtype: torch.dtype | None) -> dict[str, Tensor]:
    # What adapters are added into is cast afterwards: the sum is taken in float32.
    sources = [(tensor, dtype if weight.make is None else None) for weight in group for tensor in weight.sources]
    wholes = iter(shards.whole([tensor for tensor, _ in sources], [_floating(*source) for source in sources]))
    made = {}
    for weight in group:
        parts = [next(wholes) for _ in weight.sources]
        tensor = parts[0] if weight.make is None else weight.make(parts)
        target = _floating(tensor, dtype)
        made[weight.name] = tensor if target is None else tensor.to(target)
    return made


def _floating(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype | None:
    return dtype if tensor.is_floating_point() else None
