"""A generation is ended between two steps of decoding, in the thread that was told to, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from transformers import AutoModelForCausalLM

from open_r1.generation.engine import Completion, Request, SamplingParams
from open_r1.generation.interruption import check_interruption, interrupted_by
from open_r1.generation.transformers_engine import TransformersEngine


class Enough(Exception):  # noqa: N818 (a request, not an error)
    pass


def after(calls: int) -> Callable[[], None]:
    """Raises at call number ``calls`` (from 0)."""
    left = iter(range(calls))

    def check() -> None:
        if next(left, None) is None:
            raise Enough

    return check


def test_between_two_steps_of_the_transformers_engine(tiny_checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint).train()
    engine = TransformersEngine(model, pad_token_id=0)

    def draw(calls: int) -> list[Completion]:
        with interrupted_by(after(calls)):
            return list(engine.generate([Request(0, (65, 66), seed=1)], SamplingParams(20)))

    assert len(draw(20)) == 1
    with pytest.raises(Enough):
        draw(19)
    assert model.training


def test_other_threads_go_on() -> None:
    failed: list[BaseException] = []

    def look() -> None:
        try:
            check_interruption()
        except Enough as error:
            failed.append(error)

    with interrupted_by(after(0)):
        thread = Thread(target=look)
        thread.start()
        thread.join()
        with pytest.raises(Enough):
            check_interruption()
    check_interruption()
    assert not failed
