"""How long completions take to be drawn: each step of decoding reads the weights and the cache once."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from open_r1.config import GRPOConfig
from open_r1.generation.colocated_memory import cache_bytes_per_token
from open_r1.machine.cards import Card
from open_r1.machine.rates import Rate, measured_on
from open_r1.model.published import SHAPES
from open_r1.model.shape import ModelShape
from open_r1.training.pack_budget import longest_sequence
from open_r1.training.rollout_engine import MOST_SEQUENCES

BANDWIDTH, PRODUCTS = 0.6, 0.5
"""Of a card's bandwidth, and of its bf16 peak, that decoding reaches."""
A_STEP, A_SEQUENCE, A_SERVED_SEQUENCE = 2e-3, 3.5e-6, 13e-6
"""Seconds of a step of decoding beside that, and for each sequence in it (512 answers of 512 tokens from 0.5B on an
H200: 2.5 s); a served vLLM has a scheduler of its own (5.0 s).
"""


def is_served(settings: GRPOConfig) -> bool:
    """Whether completions are drawn on GPUs that do not train."""
    return settings.use_vllm and settings.vllm_mode == "server"


def drawing_seconds(
    settings: GRPOConfig, shape: ModelShape, card: Card, width: int, rates: Sequence[Rate] = (), processes: int = 1
) -> float:
    """Seconds of an optimizer step in which its completions are drawn, all of full length.

    Each process draws its own; a server draws those of all, on one card of this kind or as many as
    ``vllm_server_devices`` names.

    Args:
        width: bytes of an element of weights and cache.
        rates: of ``open-r1 bench``; one of this engine on this kind of card corrects the formula by a factor.
        processes: that train.
    """
    served = is_served(settings)
    completions = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    completions *= processes if served else 1
    most = settings.vllm_max_num_seqs if settings.use_vllm else settings.generation_batch_size
    at_once = min(completions, most or MOST_SEQUENCES)
    cache = cache_bytes_per_token(shape.layers, shape.key_value, width) * longest_sequence(settings) / 2
    turns = math.ceil(completions / at_once) * settings.max_completion_length
    factor = measured_factor("vllm" if settings.use_vllm else "transformers", shape.parameters, card, rates)
    a_sequence = A_SERVED_SEQUENCE if served else A_SEQUENCE
    many = (settings.vllm_server_devices or "").count(",") + 1 if served else 1
    whole = replace(card, bf16=card.bf16 and many * card.bf16, fp16=many * card.fp16, bandwidth=many * card.bandwidth)
    return factor * turns * step_seconds(shape.parameters, at_once, whole, width, cache, a_sequence)


def step_seconds(
    parameters: float,
    sequences: int,
    card: Card,
    width: int,
    cache: float = 0.0,
    a_sequence: float = A_SEQUENCE,
) -> float:
    """Seconds in which one token is drawn for each of some sequences.

    Args:
        cache: bytes of keys and values of one of them.
        a_sequence: seconds that the engine needs for one beside what the GPU does.
    """
    read = (width * parameters + sequences * cache) / (BANDWIDTH * card.bandwidth)
    computed = 2 * parameters * sequences / (PRODUCTS * (card.bf16 or card.fp16))
    return max(read, computed) + A_STEP + a_sequence * sequences


def measured_factor(engine: str, parameters: float, card: Card, rates: Sequence[Rate]) -> float:
    """How much longer drawing took than `step_seconds` says, of the measured model whose size is nearest; 1 without."""

    like = [
        rate
        for rate in rates
        if rate.kind == "engine"
        and rate.settings.get("engine") == engine
        and rate.settings.get("sequences")
        and measured_on(rate, card)
        and drawn_parameters(rate.shape)
    ]
    if not like:
        return 1.0
    nearest = min(like, key=lambda rate: abs(math.log(drawn_parameters(rate.shape) / parameters)))
    sequences, width = nearest.settings["sequences"], 4 if nearest.settings.get("dtype") == "float32" else 2
    return sequences / nearest.value / step_seconds(drawn_parameters(nearest.shape), sequences, card, width)


def drawn_parameters(shape: str) -> float:
    """Of a model by the name of its shape, ``1.5B`` or one of `SHAPES`; 0 where that does not tell."""
    if re.fullmatch(r"[\d.]+B", shape):
        return 1e9 * float(shape[:-1])
    if shape not in SHAPES:
        return 0.0
    known = SHAPES[shape]
    products = known.layers * sum(inputs * outputs for inputs, outputs in known.products)
    return products + known.vocabulary * known.hidden * (1 if known.tied else 2)
