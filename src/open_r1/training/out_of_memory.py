"""Out of memory within a step: smaller micro-batches, the same step.

A micro-batch that does not fit is halved, and so is every later one of its size; the batch of a step and its
denominator stay, so its loss and gradient do. When a single sequence does not fit, more of the layers' activations are
computed again in the backward pass; when that is exhausted, the person is told what is left to do.
"""

from __future__ import annotations

import gc

import torch
from rich.console import Console

from open_r1.data.pack import Pack, empty_like, split_pack
from open_r1.errors import UserError
from open_r1.model.pack_model import PackModel
from open_r1.parallel.runtime import Runtime

console = Console(stderr=True, soft_wrap=True)

ALLOCATION_FAILED = ("out of memory", "_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED")
"""Parts of what a RuntimeError says when a library could not allocate for itself."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the accelerator's memory is exhausted."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in ALLOCATION_FAILED)


def empty_caches() -> None:
    """Frees what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class MicroBatches:
    """How a step's packs are cut into what is computed at once: as they come, until one does not fit."""

    def __init__(self, runtime: Runtime, pack_model: PackModel) -> None:
        self._runtime, self._pack_model = runtime, pack_model
        self._most_tokens: int | None = None

    def of(self, packs: list[Pack]) -> list[tuple[int, Pack]]:
        """The micro-batches of a step, as many on every rank, each with the number of the pack that it is part of."""
        if self._most_tokens is None:
            return list(enumerate(packs))
        parts = [(number, part) for number, pack in enumerate(packs) for part in self._parts(pack)]
        missing = int(self._runtime.max(len(parts))) - len(parts)
        return [*parts, *[(len(packs) - 1, empty_like(packs[-1]))] * missing]

    def _parts(self, pack: Pack) -> list[Pack]:
        halves = split_pack(pack) if len(pack) > self._most_tokens else None
        if halves is None:
            return [pack.pin_memory() if self._runtime.device.type == "cuda" else pack]
        return [part for half in halves for part in self._parts(half)]

    def shrink(self, step: int, failed: Pack | None) -> None:
        """Makes room after step ``step`` (from 0) did not fit; collective, each rank with what failed on it, if any.

        Raises:
            UserError: when nothing is left to make smaller.
        """
        single = self._runtime.max(float(failed is not None and len(failed.lengths) == 1))
        tokens = int(self._runtime.max(float(len(failed) if failed is not None else 0)))
        empty_caches()
        if not single:
            self._most_tokens = tokens // 2
            self._say(
                f"out of memory in step {step + 1}: micro-batches of {tokens:,} tokens are halved to "
                f"{self._most_tokens:,} from here on; the batch of a step stays the same"
            )
            return
        level = getattr(self._pack_model, "raise_recompute", lambda: None)()
        if level is None:
            raise UserError(
                f"out of memory in step {step + 1}: one sequence of {tokens:,} tokens does not fit, even with all "
                "activations recomputed; lower --max_length (for GRPO --max_completion_length), train adapters with "
                "--use_peft, take --optim adamw_8bit, or spread the model over more GPUs with zero3.yaml"
            )
        self._say(
            f"out of memory in step {step + 1}: one sequence of {tokens:,} tokens does not fit; "
            f"gradient_checkpointing is {level} from here on"
        )

    def _say(self, line: str) -> None:
        if self._runtime.is_main:
            console.print(f"[yellow]{line}[/]", highlight=False)


def sharded_advice(step: int) -> UserError:
    """What to do where a rank that fails alone cannot be waited for."""
    return UserError(
        f"out of memory in step {step + 1}: the other processes wait for this one's part of what is exchanged, so the "
        "step cannot be repeated with smaller micro-batches; lower --per_device_train_batch_size or --max_length, set "
        "--gradient_checkpointing full, and continue with --resume_from_checkpoint true"
    )


def optimizer_advice(step: int) -> UserError:
    """What to do where the optimizer's own state does not fit."""
    return UserError(
        f"out of memory in the optimizer of step {step + 1}: its state does not fit beside the model; take --optim "
        "adamw_8bit or paged_adamw_8bit, train adapters with --use_peft, or share the state among GPUs with zero2.yaml"
    )
