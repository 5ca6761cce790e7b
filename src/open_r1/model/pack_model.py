"""The module that is trained: a pack goes in, its loss or the log-probabilities of its targets come out.

This is what gets wrapped for distribution. The head is inside its forward, so that the ordinary hooks gather sharded
weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from open_r1.data.pack import Pack, pad_pack
from open_r1.model.attention import attention_arguments, keeps_sequences_apart
from open_r1.model.head import call_by_targets
from open_r1.model.kernels import group_sequences
from open_r1.model.layers import Layers
from open_r1.model.logits import LogitTransform
from open_r1.model.policy_head import PolicyObjective, PolicyTargets, TokenLogprobs

MIN_SEQUENCES = 16


class PackModel(nn.Module):
    """A `transformers` causal language model, perhaps with LoRA, that takes packs.

    Args:
        model: the causal language model, or the PEFT model around it.

    Attributes:
        layers: how the decoder layers are run: compiled, recomputed.
        full: tokens of a full micro-batch, 0 where there is no such size.
        sequences, longest: for how many sequences, and for how long a one, packs run through compiled layers at least:
            what varies below is not compiled for.
        separable: whether a pack is computed in one pass; else in several, as many as its lengths ask for.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.layers = Layers(self.causal_lm)
        self.full = 0
        self.sequences = MIN_SEQUENCES
        self.longest = 0
        self._transform = LogitTransform.of(self.causal_lm.config)
        self.separable = keeps_sequences_apart(self.causal_lm)
        call_by_targets(self.causal_lm.get_output_embeddings())

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The `transformers` model under LoRA's wrapper, if there is one."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def forward(
        self,
        pack: Pack,
        temperature: float = 1.0,
        entropy: bool = False,
        nll: bool = False,
        objective: PolicyObjective | None = None,
    ) -> TokenLogprobs | Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Log-probabilities [K] of the targets under softmax(logits / temperature), and their entropy if asked.

        With ``nll`` instead the float32 scalar Σ loss_weight · −logprob over the targets, and with a pointwise
        ``objective`` its loss and metrics, both at a lower cost: the gradient is made on the way.
        """
        before_K = pack.target_index - 1  # target t is predicted from the hidden state at t - 1
        if self.separable and pack.shared is not None:
            before_K = pack.shared.key_index.index_select(0, before_K)
        hidden_KD = (self._hidden(pack) if self.separable else self._hidden_by_rows(pack)).index_select(0, before_K)
        if objective is not None:
            options = {"objective": objective, "policy_targets": PolicyTargets.of(pack)}
        else:
            options = {"loss_weight": pack.loss_weight} if nll else {"entropy": entropy}
        return self.causal_lm.get_output_embeddings()(
            hidden_KD,
            targets=pack.input_ids.index_select(0, pack.target_index),
            temperature=temperature,
            transform=self._transform,
            **options,
        )

    def raise_recompute(self) -> str | None:
        """Recomputes more from here on, for less memory; the new level, or None where there is none."""
        return self.layers.raise_recompute()

    def run_like(self, other: PackModel) -> None:
        """Compiles the layers if those of ``other`` are, for the same shapes."""
        self.full, self.sequences, self.longest = other.full, other.sequences, other.longest
        if other.layers.compiled:
            self.layers.compile()

    def _hidden(self, pack: Pack) -> Tensor:
        """Hidden states [C, D] of what is computed, as one row; of compiled layers, those of padding too."""
        causal_lm = self.causal_lm
        device = pack.input_ids.device
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else next(causal_lm.parameters()).dtype
        if self.layers.compiled:
            sequences = max(self.sequences, padded_sequences(len(pack.lengths) + 1))
            pack = pad_pack(pack, padded_tokens(pack.computed, self.full), sequences)
        ids, positions = pack.input_ids, pack.position_ids
        if pack.shared is not None:
            ids, positions = (tensor.index_select(0, pack.shared.computed_index) for tensor in (ids, positions))
        output = causal_lm.base_model(
            input_ids=ids[None],
            position_ids=positions[None],
            use_cache=False,
            **attention_arguments(
                causal_lm.config, pack, dtype, constant_shape=self.layers.compiled, longest=self.longest
            ),
        )
        return output.last_hidden_state[0]

    def _hidden_by_rows(self, pack: Pack) -> Tensor:
        """Hidden states [T, D] with the sequences as rows of batches, padded at the right, where nothing looks."""
        parts, places = [], []
        for index_NL, valid_NL in group_sequences(pack.lengths, pack.input_ids.device):
            output = self.causal_lm.base_model(input_ids=pack.input_ids[index_NL], use_cache=False)
            valid_NL = torch.ones_like(index_NL, dtype=torch.bool) if valid_NL is None else valid_NL
            parts.append(output.last_hidden_state[valid_NL])
            places.append(index_NL[valid_NL])
        hidden_TD = torch.cat(parts)
        return hidden_TD.new_empty(hidden_TD.shape).index_copy(0, torch.cat(places), hidden_TD)


def padded_tokens(tokens: int, full: int = 0) -> int:
    """``full`` where not more than a quarter of it is missing, else the next of eight sizes an octave.

    Each size is compiled once, which takes longer than many steps.
    """
    if 0 <= full - tokens <= full // 4:
        return full
    step = max(16, 1 << max(0, (tokens - 1).bit_length() - 4))
    return -(-tokens // step) * step


def padded_sequences(sequences: int) -> int:
    """The next power of two, at least `MIN_SEQUENCES`."""
    return max(MIN_SEQUENCES, 1 << (sequences - 1).bit_length())
