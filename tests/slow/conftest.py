"""A real small model for the slow tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "SmolLM2-135M-Instruct"
NOT_DOWNLOADED = 3


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The checkpoint, fetched once and kept in $OPEN_R1_TEST_MODELS or ~/.cache/open_r1/test-models."""
    models = Path(os.environ.get("OPEN_R1_TEST_MODELS") or "~/.cache/open_r1/test-models").expanduser()
    folder = models / "SmolLM2-135M-Instruct"
    fetch = subprocess.run([sys.executable, RECIPE / "fetch.py", folder], capture_output=True, text=True)
    if fetch.returncode == NOT_DOWNLOADED:
        pytest.skip(fetch.stderr.strip())
    assert fetch.returncode == 0, fetch.stderr
    return folder
