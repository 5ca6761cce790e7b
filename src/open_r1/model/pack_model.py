"""The module that is trained: a pack goes in, log-probabilities of its targets come out.

This is what gets wrapped for distribution. The head is inside its forward, so that the ordinary hooks gather sharded
weights.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from open_r1.data.pack import Pack
from open_r1.model.attention import attention_arguments
from open_r1.model.head import LogitTransform, TokenLogprobs, target_logprobs


class PackModel(nn.Module):
    """A `transformers` causal language model, perhaps with LoRA, that takes packs.

    Args:
        model: the causal language model, or the PEFT model around it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._transform = LogitTransform.of(self.causal_lm.config)

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The `transformers` model under LoRA's wrapper, if there is one."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def forward(self, pack: Pack, temperature: float = 1.0, entropy: bool = False) -> TokenLogprobs:
        """Log-probabilities [K] of the targets under softmax(logits / temperature), and their entropy if asked."""
        causal_lm = self.causal_lm
        device = pack.input_ids.device
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else next(causal_lm.parameters()).dtype
        output = causal_lm.base_model(
            input_ids=pack.input_ids[None],
            position_ids=pack.position_ids[None],
            use_cache=False,
            **attention_arguments(causal_lm.config, pack, dtype),
        )
        # Target t is predicted from the hidden state at t - 1.
        hidden_KD = output.last_hidden_state[0].index_select(0, pack.target_index - 1)
        return target_logprobs(
            hidden_KD,
            causal_lm.get_output_embeddings(),
            pack.input_ids.index_select(0, pack.target_index),
            temperature=temperature,
            transform=self._transform,
            entropy=entropy,
        )
