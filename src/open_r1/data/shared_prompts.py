"""Prompts that several sequences of a pack begin with: computed once, seen by all of them.

The sequences of a pack stay whole: its tokens, lengths and targets are what they are without sharing. Only what is
computed differs: where a sequence begins as the one before it, the tokens that they have in common are computed with
the first of them alone. Attention of what follows sees the keys and values of the common tokens where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

NOWHERE = 64
"""Numbers that stand for no token. Gradients of all that are of one number are added up one after the other."""


@dataclass(frozen=True)
class SharedPrompts:
    """Which of the ``T`` tokens of a pack's ``S`` sequences are computed: ``C`` of them.

    Attributes:
        lengths: of each sequence, how many of its first tokens are not computed, since they are those of the nearest
            sequence before it that is computed whole (0).
        computed_index: int64 [C], the tokens that are computed.
        key_index: int64 [T], of each token which of the computed ones it is; padded, with C to C + `NOWHERE` - 1 beyond
            them: none.
        cu_computed: int32 [S + 1], cumulative numbers of computed tokens by sequence.
    """

    lengths: tuple[int, ...]
    computed_index: Tensor
    key_index: Tensor
    cu_computed: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], shared: Sequence[int]) -> SharedPrompts:
        """Sequences of ``lengths`` tokens, the first ``shared`` of each being those of a sequence before it.

        Raises:
            ValueError: there is no such sequence, it is too short, or nothing of a sequence would be computed.
        """
        length_S, shared_S = np.asarray(lengths, np.int64), np.asarray(shared, np.int64)
        whole_S = np.maximum.accumulate(np.where(shared_S == 0, np.arange(len(shared_S)), -1))
        if whole_S.min() < 0 or (shared_S >= length_S).any() or (shared_S > length_S[whole_S]).any():
            raise ValueError(f"sequences of {tuple(lengths)} tokens cannot share their first {tuple(shared)}")
        computed_S = length_S - shared_S
        cu_computed = np.concatenate([[0], np.cumsum(computed_S)])
        offset_T = np.arange(length_S.sum()) - np.repeat(np.cumsum(length_S) - length_S, length_S)
        shared_T = np.repeat(shared_S, length_S)
        own_T = offset_T >= shared_T
        first_T = np.repeat(cu_computed[:-1], length_S) - shared_T
        key_index = np.where(own_T, first_T, np.repeat(cu_computed[whole_S], length_S)) + offset_T
        return cls(
            lengths=tuple(int(number) for number in shared),
            computed_index=torch.from_numpy(np.flatnonzero(own_T)),
            key_index=torch.from_numpy(key_index),
            cu_computed=torch.from_numpy(cu_computed.astype(np.int32)),
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> SharedPrompts:
        """The same with its tensors changed."""
        return replace(
            self,
            computed_index=change(self.computed_index),
            key_index=change(self.key_index),
            cu_computed=change(self.cu_computed),
        )

    def first_token(self) -> SharedPrompts:
        """Of the first token alone."""
        return SharedPrompts((0,), self.computed_index[:1], self.key_index[:1], self.cu_computed[:2].clamp(max=1))

    def pad(self, missing: int, sequences: int) -> SharedPrompts:
        """With ``missing`` more tokens, all of them computed, as one more sequence where there are any.

        ``key_index`` gets twice as many entries as there are computed tokens then, or four times as many, and so on.

        Args:
            sequences: ``cu_computed`` gets one entry more.
        """
        index, tokens, computed = self.key_index, len(self.key_index), len(self.computed_index)
        keys = 2 * (computed + missing)
        while keys < tokens + missing:
            keys *= 2
        more = torch.arange(missing, device=index.device)
        none = computed + missing + torch.arange(keys - tokens - missing, device=index.device) % NOWHERE
        ends = self.cu_computed.new_full((sequences + 1 - len(self.cu_computed),), computed + missing)
        return SharedPrompts(
            lengths=(*self.lengths, 0) if missing else self.lengths,
            computed_index=torch.cat([self.computed_index, tokens + more]),
            key_index=torch.cat([index, computed + more, none]),
            cu_computed=torch.cat([self.cu_computed, ends]),
        )
