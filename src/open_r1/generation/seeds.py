"""Seeds that depend on what is drawn, never on the order in which it is drawn."""

from __future__ import annotations

from hashlib import blake2b

SEED_BITS = 63


def sample_seed(run_seed: int, step: int, prompt: int, sample: int) -> int:
    """The seed of one completion: a stable 63-bit hash of its four coordinates.

    The same coordinates give the same seed in every process, on every machine and in every Python version (unlike
    ``hash``), so a resumed run draws what the run that never stopped would have drawn.

    Args:
        run_seed: the run's seed.
        step: the optimizer step, or any other index of the round of generation.
        prompt: the prompt's index in its data set.
        sample: which of the prompt's completions.
    """
    key = f"{run_seed},{step},{prompt},{sample}".encode()
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little") >> (64 - SEED_BITS)
