"""Groups to packs: advantages and loss weights over all ranks, sequences, packs of a token budget."""

from __future__ import annotations

import numpy as np
import torch

from open_r1.config import GRPOConfig
from open_r1.data.pack import Pack, TrainingSequence, make_pack
from open_r1.data.prompts import PromptSet
from open_r1.parallel.runtime import Runtime
from open_r1.rl.advantages import group_advantages
from open_r1.rl.losses import target_weights
from open_r1.training.completions import completion_sequence, trained_lengths
from open_r1.training.pack_budget import even_packs
from open_r1.training.rollouts import Group


def pack_groups(
    config: GRPOConfig,
    runtime: Runtime,
    prompts: PromptSet,
    groups: list[Group],
    rewards: list[list[float]],
    budget: int,
) -> list[Pack]:
    """This rank's packs; none where no rank has a group. Collective.

    A completion that can change nothing counts in every mean, and is not computed.

    Args:
        rewards: [P][G], what the completions of ``groups`` are compared by.
        budget: tokens of a pack, more where one sequence needs it.
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
    sequences = []
    for place, group in enumerate(groups):
        for sample, completion in enumerate(group.completions):
            row = before + place
            advantage = float(advantages[row, sample])
            if lengths[place][sample] and (advantage or not config.indifferent_to_zero_advantage):
                weight = float(weights[row * config.num_generations + sample])
                sequences.append(completion_sequence(prompts.token_ids[group.prompt], completion, weight, advantage))
    return _packs(sequences, budget)


def _packs(sequences: list[TrainingSequence], budget: int) -> list[Pack]:
    if not sequences:
        return []
    lengths = np.array([len(sequence.ids) for sequence in sequences])
    budget = max(budget, int(lengths.max()))
    return [make_pack([sequences[index] for index in members]) for members in even_packs(lengths, budget)]


def level_packs(runtime: Runtime, packs: list[Pack], *, logprobs: bool) -> list[Pack]:
    """Adds packs without targets, so that every rank has the same number (at least one). Collective.

    Args:
        logprobs: whether packs carry log-probabilities of the behaviour policy.
    """
    number = int(runtime.max(float(max(1, len(packs)))))
    zero = np.zeros(1, np.float32)
    empty = TrainingSequence(
        ids=np.zeros(1, np.int64),
        loss_weight=zero,
        advantage=zero,
        behaviour_logprob=zero if logprobs else None,
    )
    return packs + [make_pack([empty])] * (number - len(packs))
