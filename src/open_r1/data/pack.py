"""The pack: a flat stream of tokens that holds several sequences, and the one currency of training.

Every per-token field at index ``t`` describes token ``t`` as a *target*, that is, as predicted from the hidden state at
``t - 1`` of the same sequence. The first token of a sequence is never a target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from open_r1.data.shared_prompts import SharedPrompts


@dataclass(frozen=True)
class Pack:
    """One micro-batch: ``T`` tokens of ``S`` sequences, no padding between them.

    Attributes:
        input_ids: int64 [T].
        position_ids: int64 [T], restarting at 0 with each sequence.
        cu_seqlens: int32 [S + 1], cumulative sequence lengths, ``cu_seqlens[0] == 0`` and ``cu_seqlens[-1] == T``.
        lengths: the same lengths as Python integers, so that nothing has to be read back from the GPU.
        target_index: int64 [K], the positions whose ``loss_weight`` is not zero; the head is evaluated only there.
        loss_weight: float32 [K], the weight of each target in the loss.
        advantage, behaviour_logprob, reference_logprob: float32 [K] or None; reinforcement learning only.
        sequence_index: int64 [K], which of the S sequences a target belongs to.
        padding: how many tokens at the end are padding (`pad_pack`), as a last sequence of their own.
        shared: where sequences begin alike and that is computed once; None: every token is computed.
    """

    input_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    lengths: tuple[int, ...]
    target_index: Tensor
    loss_weight: Tensor
    sequence_index: Tensor
    advantage: Tensor | None = None
    behaviour_logprob: Tensor | None = None
    reference_logprob: Tensor | None = None
    padding: int = 0
    shared: SharedPrompts | None = None

    def __len__(self) -> int:
        return self.input_ids.numel()

    @property
    def computed(self) -> int:
        """How many of the T tokens are computed."""
        return len(self) if self.shared is None else len(self.shared.computed_index)

    @property
    def trained_lengths(self) -> tuple[int, ...]:
        """Lengths of the sequences without padding; none where no target is: such a pack only keeps ranks in step."""
        if not len(self.target_index):
            return ()
        return self.lengths[:-1] if self.padding else self.lengths

    def to(self, device: torch.device | str) -> Pack:
        """The same pack with its tensors on ``device`` (asynchronously where the memory is pinned)."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Pack:
        """The same pack in page-locked memory, from which `to` copies without waiting."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Pack:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        shared = None if self.shared is None else self.shared.map(change)
        tensors = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, shared=shared, **tensors)


@dataclass(frozen=True)
class TrainingSequence:
    """One sequence before packing: ``ids`` [L] and per-token fields [L] aligned to the targets (index 0 is ignored)."""

    ids: np.ndarray
    loss_weight: np.ndarray
    advantage: np.ndarray | None = None
    behaviour_logprob: np.ndarray | None = None
    reference_logprob: np.ndarray | None = None


RL_FIELDS = ("advantage", "behaviour_logprob", "reference_logprob")


def make_pack(sequences: Sequence[TrainingSequence], shared: Sequence[int] | None = None) -> Pack:
    """Lays sequences end to end.

    Args:
        shared: `SharedPrompts.lengths`; of the tokens that they count none may be a target.

    Raises:
        ValueError: if there is no sequence, one is empty, or only some of them carry an RL field.
    """
    if not sequences or any(len(sequence.ids) == 0 for sequence in sequences):
        raise ValueError("a pack needs at least one sequence, and each at least one token")
    lengths = tuple(len(sequence.ids) for sequence in sequences)
    starts = np.cumsum((0, *lengths))
    weight = np.concatenate([sequence.loss_weight for sequence in sequences]).astype(np.float32)
    weight[starts[:-1]] = 0.0
    target_index = np.flatnonzero(weight)

    rl = {}
    for name in RL_FIELDS:
        values = [getattr(sequence, name) for sequence in sequences]
        present = [value is not None for value in values]
        if any(present) and not all(present):
            raise ValueError(f"{name} is given for some sequences of the pack and not for others")
        if all(present):
            rl[name] = torch.from_numpy(np.concatenate(values).astype(np.float32)[target_index])
    return Pack(
        input_ids=torch.from_numpy(np.concatenate([sequence.ids for sequence in sequences]).astype(np.int64)),
        position_ids=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])),
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        lengths=lengths,
        target_index=torch.from_numpy(target_index),
        loss_weight=torch.from_numpy(weight[target_index]),
        sequence_index=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)[target_index]),
        shared=None if shared is None else SharedPrompts.of(lengths, shared),
        **rl,
    )


def merge_packs(packs: Sequence[Pack]) -> Pack:
    """Lays packs end to end, every token computed; a list of one is returned as it is."""
    if len(packs) == 1:
        return packs[0]
    token_starts = np.cumsum([0, *(len(pack) for pack in packs)])
    sequence_starts = np.cumsum([0, *(len(pack.lengths) for pack in packs)])
    shifted_ends = [pack.cu_seqlens[1:] + int(start) for pack, start in zip(packs, token_starts[:-1], strict=True)]
    rl = {
        name: torch.cat([getattr(pack, name) for pack in packs])
        for name in RL_FIELDS
        if all(getattr(pack, name) is not None for pack in packs)
    }
    return Pack(
        input_ids=torch.cat([pack.input_ids for pack in packs]),
        position_ids=torch.cat([pack.position_ids for pack in packs]),
        cu_seqlens=torch.cat([packs[0].cu_seqlens[:1], *shifted_ends]),
        lengths=tuple(length for pack in packs for length in pack.lengths),
        target_index=torch.cat(
            [pack.target_index + int(start) for pack, start in zip(packs, token_starts[:-1], strict=True)]
        ),
        loss_weight=torch.cat([pack.loss_weight for pack in packs]),
        sequence_index=torch.cat(
            [pack.sequence_index + int(start) for pack, start in zip(packs, sequence_starts[:-1], strict=True)]
        ),
        **rl,
    )


def pad_pack(pack: Pack, tokens: int, sequences: int) -> Pack:
    """The pack in a constant shape: ``tokens`` computed tokens, and ``cu_seqlens`` of ``sequences`` + 1 entries.

    The missing tokens are one sequence of token 0 at the end, without targets, so that nothing sees them; the missing
    sequences are empty ones, which repeat the last entry of ``cu_seqlens``. Neither waits for the GPU.

    Raises:
        ValueError: if the pack does not fit, or is padded already.
    """
    missing = tokens - pack.computed
    lengths = (*pack.lengths, missing) if missing else pack.lengths
    if missing < 0 or len(lengths) > sequences or pack.padding:
        raise ValueError(
            f"a pack of {pack.computed} tokens ({pack.padding} of padding) in {len(pack.lengths)} sequences "
            f"cannot be padded to {tokens} tokens in {sequences}"
        )
    cu_seqlens, device, total = pack.cu_seqlens, pack.input_ids.device, len(pack) + missing
    ends = torch.full((sequences + 1 - len(cu_seqlens),), total, dtype=cu_seqlens.dtype, device=device)
    return replace(
        pack,
        input_ids=torch.cat([pack.input_ids, pack.input_ids.new_zeros(missing)]),
        position_ids=torch.cat([pack.position_ids, torch.arange(missing, device=device)]),
        cu_seqlens=torch.cat([cu_seqlens, ends]),
        lengths=lengths,
        padding=missing,
        shared=None if pack.shared is None else pack.shared.pad(missing, sequences),
    )


def split_pack(pack: Pack) -> tuple[Pack, Pack] | None:
    """Two packs, cut where a sequence ends nearest to half of the tokens; None for a pack of one sequence.

    Raises:
        ValueError: for a padded pack.
    """
    if pack.padding:
        raise ValueError("a padded pack cannot be split")
    if len(pack.lengths) < 2:
        return None
    ends = np.cumsum(pack.lengths)
    sequence = int(np.abs(2 * ends[:-1] - ends[-1]).argmin()) + 1
    token = int(ends[sequence - 1])
    target = int(torch.searchsorted(pack.target_index, token))

    def part(tokens: slice, targets: slice, first_token: int, first_sequence: int, last_sequence: int) -> Pack:
        per_target = {name: getattr(pack, name) for name in ("loss_weight", *RL_FIELDS)}
        lengths = pack.lengths[first_sequence:last_sequence]
        # What the first one had in common with one before it is computed with it now, for those after it too.
        shared = pack.shared and (0, *pack.shared.lengths[first_sequence + 1 : last_sequence])
        return Pack(
            input_ids=pack.input_ids[tokens],
            position_ids=pack.position_ids[tokens],
            cu_seqlens=pack.cu_seqlens[first_sequence : last_sequence + 1] - first_token,
            lengths=lengths,
            target_index=pack.target_index[targets] - first_token,
            sequence_index=pack.sequence_index[targets] - first_sequence,
            shared=shared and SharedPrompts.of(lengths, shared),
            **{name: None if values is None else values[targets] for name, values in per_target.items()},
        )

    return (
        part(slice(token), slice(target), 0, 0, sequence),
        part(slice(token, None), slice(target, None), token, sequence, len(ends)),
    )


def empty_like(pack: Pack) -> Pack:
    """A pack of one token and no target, with the fields of ``pack``: it keeps ranks in step where one has no more."""
    per_target = ("target_index", "loss_weight", "sequence_index", *RL_FIELDS)
    values = {name: getattr(pack, name) for name in per_target}
    return replace(
        pack,
        input_ids=pack.input_ids[:1],
        position_ids=pack.position_ids[:1],
        cu_seqlens=pack.cu_seqlens[:2].clamp(max=1),
        lengths=(1,),
        padding=0,
        shared=pack.shared and pack.shared.first_token(),
        **{name: None if value is None else value[:0] for name, value in values.items()},
    )
