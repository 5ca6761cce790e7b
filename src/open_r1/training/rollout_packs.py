"""Groups to packs: advantages and loss weights over all ranks, sequences, packs of a token budget."""

from __future__ import annotations

import numpy as np
import torch

from open_r1.config import GRPOConfig
from open_r1.data.pack import Pack, TrainingSequence, make_pack
from open_r1.data.prompts import PromptSet
from open_r1.errors import UserError
from open_r1.model.pack_model import PackModel
from open_r1.parallel.runtime import Runtime
from open_r1.rl.advantages import group_advantages
from open_r1.rl.losses import target_weights
from open_r1.training.completions import completion_sequence, trained_lengths
from open_r1.training.pack_budget import begins_alike, even_packs, even_shared_packs
from open_r1.training.rollouts import Group


def pack_groups(
    config: GRPOConfig,
    runtime: Runtime,
    prompts: PromptSet,
    groups: list[Group],
    rewards: list[list[float]],
    budget: int,
    *,
    share_prompts: bool = False,
) -> list[Pack]:
    """This rank's packs; none where no rank has a group. Collective.

    A completion that can change nothing counts in every mean, and is not computed.

    Args:
        rewards: [P][G], what the completions of ``groups`` are compared by.
        budget: tokens of a pack, more where one sequence needs it.
        share_prompts: compute the prompt of completions that share a pack once; it counts once, too.
    """
    lengths = [trained_lengths(group, config.mask_truncated_completions) for group in groups]
    # Batch statistics and loss weights are over all ranks, so that cutting the batch changes nothing.
    everyone = runtime.gather([(runtime.rank, rewards, lengths)])
    all_rewards = [row for _, rows, _ in everyone for row in rows]
    all_lengths = [length for _, _, rows in everyone for row in rows for length in row]
    if not all_rewards:
        return []
    advantages = group_advantages(torch.tensor(all_rewards, dtype=torch.float64), config.advantage_scale)
    weights = target_weights(config.loss_type, torch.tensor(all_lengths), config.max_completion_length)
    before = sum(len(rows) for rank, rows, _ in everyone if rank < runtime.rank)
    sequences, origins = [], []
    for place, group in enumerate(groups):
        for sample, completion in enumerate(group.completions):
            row = before + place
            advantage = float(advantages[row, sample])
            if lengths[place][sample] and (advantage or not config.indifferent_to_zero_advantage):
                weight = float(weights[row * config.num_generations + sample])
                sequences.append(completion_sequence(prompts.token_ids[group.prompt], completion, weight, advantage))
                origins.append((place, len(prompts.token_ids[group.prompt])))
    return _packs(sequences, origins if share_prompts else None, budget)


def shares_prompts(config: GRPOConfig, pack_model: PackModel) -> bool:
    """Whether a prompt is computed once for all of its completions in a pack.

    Raises:
        UserError: ``share_prompts`` asks for it, and the model's layers do not allow it.
    """
    if config.share_prompts and not pack_model.separable:
        raise UserError(
            f"{type(pack_model.causal_lm).__name__} carries more than attention from token to token, so a prompt is "
            "computed with each of its completions: leave share_prompts out"
        )
    return config.share_prompts is not False and pack_model.separable


def _packs(sequences: list[TrainingSequence], origins: list[tuple[int, int]] | None, budget: int) -> list[Pack]:
    """Packs of sequences; with ``origins``, the group and the prompt's length of each, prompts are shared."""
    if not sequences:
        return []
    lengths = np.array([len(sequence.ids) for sequence in sequences])
    budget = max(budget, int(lengths.max()))
    if origins is None:
        return [make_pack([sequences[index] for index in members]) for members in even_packs(lengths, budget)]
    groups, prompts = np.array(origins).T
    packs = []
    for members in even_shared_packs(lengths, prompts, groups, budget):
        shared = prompts[members] * begins_alike(groups[members])
        packs.append(make_pack([sequences[index] for index in members], shared.tolist()))
    return packs


def level_packs(runtime: Runtime, packs: list[Pack], *, logprobs: bool, share_prompts: bool = False) -> list[Pack]:
    """Adds packs without targets, so that every rank has the same number (at least one). Collective.

    Args:
        logprobs: whether packs carry log-probabilities of the behaviour policy.
        share_prompts: whether they share prompts.
    """
    number = int(runtime.max(float(max(1, len(packs)))))
    zero = np.zeros(1, np.float32)
    empty = TrainingSequence(
        ids=np.zeros(1, np.int64),
        loss_weight=zero,
        advantage=zero,
        behaviour_logprob=zero if logprobs else None,
    )
    return packs + [make_pack([empty], [0] if share_prompts else None)] * (number - len(packs))
