"""Query, key and value of compiled layers from one matrix product.

With grouped queries, keys and values are narrow: their own products, and even more those of their weights' gradients,
fill the chip badly. While a layer is compiled the three weights are laid end to end and multiplied at once; parameters,
their names and what runs uncompiled stay as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Query(nn.Linear):
    """Computes for all three, and leaves their parts with the other two."""

    def forward(self, hidden: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return super().forward(hidden)
        modules = (self, *self.narrow)
        weight = torch.cat([module.weight for module in modules])
        bias = None if self.bias is None else torch.cat([module.bias for module in modules])
        parts = F.linear(hidden, weight, bias).split([module.out_features for module in modules], dim=-1)
        for module, part in zip(self.narrow, parts[1:], strict=True):
            module.part = part
        return parts[0]


class _Narrow(nn.Linear):
    """Takes what the query's product has left for it."""

    def forward(self, hidden: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return super().forward(hidden)
        part, self.part = self.part, None
        return part


def join_projections(model: nn.Module) -> int:
    """Joins ``q_proj``, ``k_proj`` and ``v_proj`` wherever all three are plain linear layers; how many were joined."""
    joined = 0
    for module in model.modules():
        three = [getattr(module, name, None) for name in ("q_proj", "k_proj", "v_proj")]
        if any(type(projection) is not nn.Linear for projection in three):
            continue
        query, *narrow = three
        alike = {(part.in_features, part.weight.requires_grad, part.bias is None) for part in three}
        if len(alike) > 1:
            continue
        query.__class__ = _Query
        query.narrow = tuple(narrow)
        for part in narrow:
            part.__class__ = _Narrow
            part.part = None
        joined += 1
    return joined
