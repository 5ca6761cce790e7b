"""How many tokens GRPO's packs hold, and which completions share one.

Packs are full and of one size, so that layers are compiled once. Larger ones keep the GPU busier, but past some
thousands of tokens only a little; so before activations are computed again for want of memory, packs are halved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from open_r1.config import GRPOConfig
from open_r1.data.packing import best_fit
from open_r1.generation.colocated_memory import ASLEEP, ENGINE_ROOM, LEAST, cache_bytes_per_token
from open_r1.model.memory import ModelShape
from open_r1.model.pack_model import padded_tokens

SMALLEST_PACK = 4096
"""Tokens; of a CPU's packs, and of those of a GPU before anything is recomputed so that larger ones fit."""
LARGEST_PACK = 16_384
HALVINGS = 4
MOST_SEQUENCES = 1024
SLACK = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1)
"""By which shares of a pack an even one may be larger than the mean, tried in this order."""


def longest_sequence(config: GRPOConfig) -> int:
    """Tokens of the longest prompt and completion that the settings allow; without max_prompt_length, no prompt's."""
    return (config.max_prompt_length or 0) + config.max_completion_length


def pack_sizes(config: GRPOConfig, device: torch.device) -> list[int]:
    """Tokens that a pack may hold on this device, the largest size first; each holds the longest sequence.

    Where neither ``pack_length`` nor a CPU decides, these are halves of 16,384, none more than twice of what all
    completions of a step can fill.

    Args:
        config: whose batch is solved (`solve_batch`).
    """
    longest = longest_sequence(config)
    if config.pack_length or device.type != "cuda":
        return [max(config.pack_length or SMALLEST_PACK, longest)]
    step = longest * _completions(config)
    halves = [LARGEST_PACK >> number for number in range(HALVINGS + 1)]
    sizes = [size for size in halves if size > longest and size // 2 < step]
    return [*sizes, padded_tokens(longest)]


def choose_pack(sizes: Sequence[int], levels: Sequence[str], fits: Callable[[int, str], bool]) -> tuple[int, str]:
    """The size, and the level of recomputation, that a step is to have.

    The least recomputation with which packs of at least `SMALLEST_PACK` fit, and the largest of them; smaller ones, and
    last the smallest, where none does.

    Args:
        sizes: tokens, the largest first; ``levels``: the least recomputation first.
        fits: whether a step of packs of a size fits into memory with a level.
    """
    for level in levels:
        for size in large_packs(sizes):
            if fits(size, level):
                return size, level
    for size in sizes:
        if fits(size, levels[-1]):
            return size, levels[-1]
    return sizes[-1], levels[-1]


def large_packs(sizes: Sequence[int]) -> list[int]:
    """Those for whose sake nothing is recomputed: of at least `SMALLEST_PACK` tokens, or the largest."""
    return [size for size in sizes if size >= min(SMALLEST_PACK, sizes[0])]


def may_sleep(config: GRPOConfig) -> bool:
    """Whether a colocated engine may give its memory back while the policy trains."""
    return not config.async_steps and config.vllm_enable_sleep_mode is not False


def engine_bytes(config: GRPOConfig, shape: ModelShape, width: int, memory: int) -> float:
    """Bytes that a colocated engine is to be left while the policy trains: the least with which it need not sleep, or
    what stays where it is to sleep.

    Args:
        width: bytes of an element of the compute dtype.
        memory: bytes of the device.
    """
    if not config.use_vllm or config.vllm_mode != "colocate":
        return 0.0
    if config.vllm_enable_sleep_mode:
        return ASLEEP
    if config.vllm_gpu_memory_utilization:
        return config.vllm_gpu_memory_utilization * memory
    sequences = config.vllm_max_num_seqs or min(_completions(config), MOST_SEQUENCES)
    longest = config.vllm_max_model_length or longest_sequence(config)
    cache = cache_bytes_per_token(shape.layers, shape.key_value, width) * sequences * longest
    return width * shape.parameters + ENGINE_ROOM + LEAST * cache


def frozen_bytes(config: GRPOConfig, shape: ModelShape, stored: torch.dtype) -> float:
    """Bytes of whole copies of the model beside the policy: the reference, and what transformers draws from meanwhile.

    Args:
        stored: the dtype of the checkpoint, which ``torch_dtype: auto`` keeps.
    """
    name = config.torch_dtype or "float32"
    dtype = stored if name == "auto" else getattr(torch, name)
    copies = int(bool(config.beta) and not config.use_peft) + int(bool(config.async_steps) and not config.use_vllm)
    return float(copies * dtype.itemsize * shape.parameters)


def even_packs(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Packs of about the same size, as few as `best_fit` makes, each as the int64 indices of its items.

    Best fit fills all but the last, whose size is another in every step: another shape for the compiler.

    Args:
        lengths: int [N], tokens of each item, each at most ``budget``.
    """
    return _evenly(partial(best_fit, lengths), lambda pack: int(lengths[pack].sum()), int(lengths.max()), budget)


def even_shared_packs(lengths: np.ndarray, prompts: np.ndarray, groups: np.ndarray, budget: int) -> list[np.ndarray]:
    """Packs of about the same size in which a prompt counts once, each as the int64 indices of its sequences.

    Groups come one after another; one that meets the end of a pack goes on in the next, with its prompt once more. That
    costs less than the room that whole groups would leave.

    Args:
        lengths: int [N], tokens of each sequence with its prompt, each at most ``budget``.
        prompts: int [N], how many of them are its prompt.
        groups: int [N], the group of each; sequences of a group are next to each other.
    """

    def size_of(pack: np.ndarray) -> int:
        return int((lengths[pack] - prompts[pack] * begins_alike(groups[pack])).sum())

    return _evenly(partial(_in_turn, lengths, prompts, groups), size_of, int(lengths.max()), budget)


def begins_alike(groups: np.ndarray) -> np.ndarray:
    """Boolean [N]: whether the one before is of the same group; ``groups`` are not negative."""
    return np.diff(groups, prepend=-1) == 0


def _evenly(
    packs_of: Callable[[int], list[np.ndarray]], size_of: Callable[[np.ndarray], int], longest: int, budget: int
) -> list[np.ndarray]:
    """What ``packs_of`` makes of the least budget with which there are no more packs than of the whole ``budget``."""
    packs = packs_of(budget)
    if len(packs) < 2:
        return packs
    mean = sum(map(size_of, packs)) / len(packs)
    for slack in SLACK:
        even = max(int(np.ceil(mean + slack * budget)), longest)
        if even >= budget:
            break
        if len(tried := packs_of(even)) == len(packs):
            return tried
    return packs


def _in_turn(lengths: np.ndarray, prompts: np.ndarray, groups: np.ndarray, budget: int) -> list[np.ndarray]:
    """Groups in their order; of each the sequences that still fit, the longest first, the rest in the next pack."""
    packs: list[list[int]] = [[]]
    room = budget
    for group in np.unique(groups):
        left = sorted(np.flatnonzero(groups == group).tolist(), key=lambda index: -lengths[index])
        begun = False
        while left:
            over = prompts[left[0]] if begun else 0
            fitting = next((index for index in left if lengths[index] - over <= room), None)
            if fitting is None:
                packs.append([])
                room, begun = budget, False
                continue
            packs[-1].append(fitting)
            left.remove(fitting)
            room, begun = room - (lengths[fitting] - over), True
    return [np.array(pack, np.int64) for pack in packs]


def _completions(config: GRPOConfig) -> int:
    """Of a step, of one process."""
    return config.per_device_train_batch_size * config.gradient_accumulation_steps
