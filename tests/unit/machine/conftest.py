"""A person's home folder of their own, and a data disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from own_home import own_home, short_folder


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Path]:
    """The home folder of somebody who has set nothing."""
    with own_home(tmp_path) as home:
        yield home


@pytest.fixture
def data_disk() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder
