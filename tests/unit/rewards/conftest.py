"""Real problem sets, where this machine has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(scope="session")
def real_rows() -> Callable[[str], list[dict[str, Any]]]:
    """Returns the rows of a file of ../shared/data, or skips the test."""

    def read(name: str) -> list[dict[str, Any]]:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"{path} is not here")
        return [json.loads(line) for line in path.read_text().splitlines()]

    return read
