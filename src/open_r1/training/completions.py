"""Completions of a group as sequences to train on."""

from __future__ import annotations

import numpy as np
import torch

from open_r1.data.pack import TrainingSequence
from open_r1.generation.engine import Completion
from open_r1.rl.filters import drop_truncated
from open_r1.training.rollouts import Group


def trained_lengths(group: Group, mask_truncated: bool) -> list[int]:
    """How many tokens of each completion are trained on: all, or none of one that was cut off."""
    lengths = torch.tensor([len(completion.token_ids) for completion in group.completions])
    if mask_truncated:
        truncated = torch.tensor([completion.finish_reason == "length" for completion in group.completions])
        lengths = drop_truncated(lengths, truncated)
    return lengths.tolist()


def completion_sequence(
    prompt_ids: tuple[int, ...], completion: Completion, weight: float, advantage: float
) -> TrainingSequence:
    """Prompt and completion as one sequence whose targets are the completion's tokens.

    Without ``behaviour_logprob`` where the engine gave no log-probabilities.
    """
    prompt, answer = len(prompt_ids), len(completion.token_ids)
    is_target = np.concatenate([np.zeros(prompt, np.float32), np.ones(answer, np.float32)])
    logprobs = np.asarray(completion.logprobs, dtype=np.float32)
    return TrainingSequence(
        ids=np.array(prompt_ids + completion.token_ids, dtype=np.int64),
        loss_weight=is_target * np.float32(weight),
        advantage=is_target * np.float32(advantage),
        behaviour_logprob=np.concatenate([np.zeros(prompt, np.float32), logprobs]) if len(logprobs) == answer else None,
    )
