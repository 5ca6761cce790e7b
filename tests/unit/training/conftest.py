"""A run's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from saver import Saver

from open_r1.parallel.runtime import Runtime


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    runtime = Runtime()
    yield runtime
    runtime.close()


@pytest.fixture
def saver(tiny_checkpoint: Path, tmp_path: Path, runtime: Runtime) -> Saver:
    saver = Saver(tiny_checkpoint, tmp_path / "run", runtime)
    saver.step()
    return saver
