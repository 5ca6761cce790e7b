"""A device that has too little memory for some packs, for tests on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from open_r1.data.pack import Pack
from open_r1.model.pack_model import PackModel

ROUNDING = 2e-5
TOO_MUCH = "CUDA out of memory. Tried to allocate 2.00 GiB"


@dataclass
class Card:
    """A device without room for some packs; `install` on a `PackModel`.

    Attributes:
        fits: of a pack and the recomputation.
        late: fails in the backward pass, when gradients of some weights have been added already.
        tried: tokens and recomputation of each pack.
    """

    fits: Callable[[Pack, str], bool]
    late: bool = False
    tried: list[tuple[int, str]] = field(default_factory=list)

    def install(self, module: PackModel) -> None:
        forward = module.forward

        def limited(pack: Pack, **kwargs: Any) -> Any:
            level = module.layers.recompute
            self.tried.append((len(pack), level))
            if self.fits(pack, level):
                return forward(pack, **kwargs)
            if not self.late:
                raise torch.OutOfMemoryError(TOO_MUCH)
            embedding = module.causal_lm.get_input_embeddings()
            handle = embedding.register_forward_hook(_fail_in_backward)
            try:
                return forward(pack, **kwargs)
            finally:
                handle.remove()

        module.forward = limited


def _fail_in_backward(_module: nn.Module, _input: Any, output: Tensor) -> None:
    output.register_hook(_raise)


def _raise(_gradient: Tensor) -> None:
    raise torch.OutOfMemoryError(TOO_MUCH)


def up_to(tokens: int) -> Callable[[Pack, str], bool]:
    return lambda pack, _level: len(pack) <= tokens


def said(capsys: Any) -> list[str]:
    """The lines about memory."""
    return [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
