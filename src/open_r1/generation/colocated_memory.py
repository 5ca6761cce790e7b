"""How a GPU's memory is shared between training and an engine on it; bytes."""

from __future__ import annotations

from dataclasses import dataclass

from open_r1.errors import UserError

ENGINE_ROOM = 2.5 * 2**30
"""What vLLM takes beside weights and cache: activations of a batch of prompts, logits, CUDA graphs."""
ASLEEP = 0.75 * 2**30
"""Of that, what it keeps while it sleeps: CUDA graphs and the workspaces of libraries."""
USABLE = 0.95
"""Of what is free, before fragments get in the way."""
LEAST = 0.25
"""Of the cache that all completions of a step would fill: with less vLLM decodes so few at once that sleeping pays."""


@dataclass(frozen=True)
class Share:
    """What the engine gets.

    Attributes:
        cache: bytes of keys and values.
        sleeps: whether it gives its memory back while the policy trains.
        engine: bytes of the engine in all, while it is awake.
    """

    cache: int
    sleeps: bool
    engine: int


def cache_bytes_per_token(layers: int, key_value: int, width: int) -> int:
    """Bytes of a token in the cache.

    Args:
        key_value: key-value heads times head size.
        width: bytes of an element.
    """
    return 2 * layers * key_value * width


def share_memory(
    *,
    memory: float,
    training: float,
    resident: float,
    weights: float,
    wanted: float,
    least: float,
    share: float | None = None,
    sleeps: bool | None = None,
) -> Share:
    """How much cache an engine gets beside training.

    Args:
        memory: that this process can have on the device.
        training: at the peak of a step.
        resident: what training keeps between steps: weights, optimizer state.
        weights: of the engine.
        wanted: the cache that all completions of a step fill.
        least: the cache that the longest completion fills.
        share: of ``memory`` for the engine in all, where the person says so.
        sleeps: where the person says so.

    Raises:
        UserError: what is left does not hold the longest completion.
    """
    fixed = weights + ENGINE_ROOM
    beside, instead = USABLE * memory - training - fixed, USABLE * memory - resident - fixed
    if share is not None:
        given = share * memory - fixed
        asleep = bool(sleeps) if sleeps is not None else given > beside
        room = given
    else:
        asleep = sleeps if sleeps is not None else beside < max(least, LEAST * wanted)
        room = instead if asleep else beside
    cache = min(room, wanted)
    if cache < least:
        gib = 2**30
        raise UserError(
            f"vLLM has {max(0.0, room) / gib:.1f} GiB for keys and values on this GPU, and the longest completion "
            f"needs {least / gib:.1f}: training keeps {resident / gib:.1f} of {memory / gib:.1f} GiB; lower "
            "--max_completion_length, train with less (--optim adamw_8bit, --use_peft), or serve vLLM on another GPU "
            "(--vllm_mode server)"
        )
    return Share(int(cache), asleep, int(fixed + cache))
