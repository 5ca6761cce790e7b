"""The same answers for both sides of `benchmarks/grpo.py --check`, and the gradients that they give.

The record is a file of what TRL drew in its first step: for each prompt, by its tokens, the tokens of every answer,
the log-probabilities that they were drawn with, and their rewards. Each side's gradient lies beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from grpo_job import Job
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from open_r1.generation.engine import Completion


def record_draws(job: Job, stack: ExitStack) -> None:
    """Has TRL write down what it draws in its first step."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    draw, judge = GRPOTrainer._generate_and_score_completions, GRPOTrainer._calculate_rewards
    rewards: list[Tensor] = []

    def judged(trainer: Any, *arguments: Any, **named: Any) -> Tensor:
        rewards.append(judge(trainer, *arguments, **named))
        return rewards[-1]

    def drawn(trainer: Any, inputs: Any) -> Any:
        output = draw(trainer, inputs)
        logprobs = output.get("sampling_per_token_logps")
        if logprobs is None:  # what transformers draws comes without: those of the model itself
            logprobs = _logprobs(trainer, output)
        record: dict[tuple[int, ...], list[dict[str, Any]]] = {}
        for row, mask in enumerate(output["completion_mask"].bool()):
            prompt = tuple(output["prompt_ids"][row][output["prompt_mask"][row].bool()].tolist())
            ids = output["completion_ids"][row][mask].tolist()
            answer = {
                "ids": ids,
                "logprobs": logprobs[row][mask].tolist(),
                "reason": "stop" if ids[-1] in trainer.eos_token_ids else "length",
                "reward": float(rewards[-1][row, 0]),
                "advantage": float(output["advantages"][row]),
            }
            record.setdefault(prompt, []).append(answer)
        torch.save(record, job.record)
        return output

    stack.enter_context(mock.patch.object(GRPOTrainer, "_calculate_rewards", judged))
    stack.enter_context(mock.patch.object(GRPOTrainer, "_generate_and_score_completions", drawn))


@torch.no_grad()
def _logprobs(trainer: Any, output: dict[str, Tensor]) -> Tensor:
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
    kept = output["completion_ids"].size(1)
    return trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, kept, batch_size=8)[0]


class ReplayEngine:
    """Gives recorded answers instead of drawing.

    Raises:
        KeyError: a prompt was not recorded: the sides do not draw the same prompts, or do not encode them alike.
    """

    context = None

    def __init__(self, record: dict[tuple[int, ...], list[dict[str, Any]]]) -> None:
        self._record = record

    def load_weights(self, *_: Any, **__: Any) -> None:
        """Nothing: it has none."""

    def close(self) -> None:
        """Nothing: it holds nothing."""

    def generate(self, requests: Sequence[Any], params: Any) -> Iterator[Completion]:
        """The answers to each prompt, in the order in which they were recorded."""
        left = {prompt: list(answers) for prompt, answers in self._record.items()}
        for request in requests:
            answer = left[tuple(request.prompt_ids)].pop(0)
            yield Completion(request.id, tuple(answer["ids"]), tuple(answer["logprobs"]), answer["reason"])


def replayed(job: Job, stack: ExitStack) -> None:
    """Has `open-r1 grpo` learn from the record, and its first gradient written down."""
    import open_r1.grpo

    load, record = open_r1.grpo.load_policy, torch.load(job.record)

    def load_policy(*arguments: Any, **named: Any) -> Any:
        policy = load(*arguments, **named)
        # Not `policy.module.model`: it may be wrapped for several processes.
        stack.enter_context(Gradients(lambda: _bare(policy.module).named_parameters(), job.record, "ours"))
        return policy

    def build_engine(*_: Any, **__: Any) -> ReplayEngine:
        return ReplayEngine(record)

    stack.enter_context(mock.patch.object(open_r1.grpo, "load_policy", load_policy))
    stack.enter_context(mock.patch.object(open_r1.grpo, "build_engine", build_engine))


def _bare(module: nn.Module) -> nn.Module:
    """The transformers model inside a `PackModel`."""
    return getattr(module, "causal_lm", None) or module.module.causal_lm


class Gradients:
    """Writes the gradients of the first optimizer step, after clipping, beside the record: ``RECORD.NAME``."""

    def __init__(self, parameters: Callable[[], Iterator[tuple[str, nn.Parameter]]], record: str, name: str) -> None:
        self._parameters, self._path = parameters, Path(f"{record}.{name}")

    def __enter__(self) -> None:
        self._handle = register_optimizer_step_pre_hook(self._write)

    def __exit__(self, *_: Any) -> None:
        self._handle.remove()

    def _write(self, *_: Any) -> None:
        if not self._path.exists():
            gradients = {name: p.grad.detach().cpu() for name, p in self._parameters() if p.grad is not None}
            torch.save(gradients, self._path)


def compare_gradients(record: str) -> dict[str, float]:
    """Cosine of the two sides' gradients over all parameters, and the smallest of any parameter of note.

    Returns:
        ``cosine``, ``lowest_cosine`` (of parameters with at least 1e-4 of the squared norm), ``parameters``.
    """
    theirs, ours = (torch.load(f"{record}.{name}", mmap=True) for name in ("trl", "ours"))
    if theirs.keys() != ours.keys():
        raise ValueError(f"the sides train other parameters: {sorted(theirs.keys() ^ ours.keys())[:4]}")
    dots, squares = [], []
    for name, gradient in theirs.items():
        a, b = gradient.flatten().double(), ours[name].flatten().double()
        dots.append(float(a @ b))
        squares.append((float(a @ a), float(b @ b)))
    whole = [sum(values) for values in zip(*squares, strict=True)]
    cosines = [dot / (a * b) ** 0.5 for dot, (a, b) in zip(dots, squares, strict=True) if min(a, b) > 1e-4 * whole[0]]
    cosine = sum(dots) / (whole[0] * whole[1]) ** 0.5
    return {"cosine": cosine, "lowest_cosine": min(cosines), "parameters": float(len(dots))}
