"""How the decoder layers of a `transformers` model are run in training: compiled or not, and how much is recomputed.

Recomputation is a scale:

* ``none``: every activation that the backward pass needs is kept.
* ``selective``: the feed-forward blocks, which hold most of the activations, are computed again in the backward pass;
  attention is not. About an eighth more compute.
* ``full``: of each layer only its input is kept; everything is computed again. About a third more compute.

Each layer is compiled by itself: one compilation serves all of them, and hooks that gather sharded weights stay
outside.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from open_r1.model.joint_projection import join_projections
from open_r1.model.swiglu import has_swiglu, swiglu_block

FEED_FORWARD = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
LEVELS = ("none", "selective", "full")
# Packs come in a few sizes and sequences in a few counts; every combination is compiled once.
MAX_COMPILATIONS = 64


class Layers:
    """Takes over the ``forward`` of a model's decoder layers and of their feed-forward blocks.

    Attributes:
        compiled: whether packs run through compiled layers.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.recompute = "none"
        self.compiled = False
        self._layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        self._has_dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()) or bool(
            getattr(model.config.get_text_config(), "attention_dropout", 0.0)
        )
        self._compiled_forwards: dict[int, Callable[..., Any]] = {}
        for number, layer in enumerate(self._layers):
            for name in FEED_FORWARD:
                if isinstance(block := getattr(layer, name, None), nn.Module):
                    block.__class__ = _recomputing(type(block), has_swiglu(block))
                    block.checkpoint = self._checkpoint_if_selective
            layer.forward = partial(self._run, number, layer.forward)

    def compile(self, *, join: bool = True, backend: str = "inductor") -> None:
        """From here on packs run through compiled layers; compilation happens at the first one.

        Args:
            join: queries, keys and values come from one product (`join_projections`); not where weights are gathered
                for one linear layer at a time (ZeRO-3).
        """
        if join:
            join_projections(self._model)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_COMPILATIONS)
        # It would cut every layer at the borders of DDP's buckets; gradients travel between layers anyway.
        torch._dynamo.config.optimize_ddp = False
        for number, layer in enumerate(self._layers):
            plain = layer.forward.args[1]
            self._compiled_forwards[number] = torch.compile(plain, dynamic=False, backend=backend)
        self.compiled = bool(self._layers)

    @property
    def recompute(self) -> str:
        """What is computed again from here on: "none", "selective" or "full"."""
        return self._recompute

    @recompute.setter
    def recompute(self, level: str) -> None:
        self._recompute = level
        self._selective = level == "selective"  # compiled code looks at this alone: "none" and "full" share it

    def raise_recompute(self) -> str | None:
        """The next level, which needs less memory, from here on; None where there is none."""
        following = LEVELS[LEVELS.index(self.recompute) + 1 :]
        if not following or not self._layers:
            return None
        self.recompute = following[0]
        return self.recompute

    def _run(self, number: int, plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        forward = self._compiled_forwards[number] if self.compiled and "documents" in kwargs else plain
        if self.recompute == "full" and torch.is_grad_enabled() and kwargs.get("past_key_values") is None:
            return self._checkpoint(partial(forward, **kwargs), *args)
        return forward(*args, **kwargs)

    def _checkpoint_if_selective(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._selective and torch.is_grad_enabled():
            return self._checkpoint(function, *args)
        return function(*args)

    def _checkpoint(self, function: Callable[..., Any], *args: Any) -> Any:
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=self._has_dropout)


@cache
def _recomputing(kind: type[nn.Module], fused: bool) -> type[nn.Module]:
    """A subclass whose forward runs inside ``self.checkpoint``, and with one kernel for its gate where it is compiled.

    A class, since the compiler would compile each layer anew for a function that hangs on its block alone.
    """

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        plain = swiglu_block if fused and torch.compiler.is_compiling() else kind.forward
        return self.checkpoint(partial(plain, self, **kwargs), *args)

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
