"""A working folder with a tiny pipeline, and a way to run it in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_pipeline import Folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)


@pytest.fixture
def run(folder: Folder) -> Callable[..., list[str]]:
    """Runs ``pipeline.yaml`` in this process; returns the stages that ran."""
    from open_r1.pipeline.main import main

    def run_once(*flags: str) -> list[str]:
        main(["pipeline.yaml", *flags])
        return folder.ran()

    return run_once
