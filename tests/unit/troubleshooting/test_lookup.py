"""``python -m open_r1.troubleshooting``."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from open_r1.troubleshooting.__main__ import main
from open_r1.troubleshooting.page import page


def test_a_log_is_looked_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    log = b"\xff step 3\nRuntimeError: CUDA error: out of memory\n"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(log), isatty=lambda: False))
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("error: the memory of the GPU is used up.")


def test_an_entry_or_a_message_is_looked_up(capsys: pytest.CaptureFixture) -> None:
    assert main(["nccl-timeout"]) == 0
    assert main(["OSError: [Errno 28] No space left on device"]) == 0
    said = capsys.readouterr().out
    assert "#nccl-timeout" in said and "#disk-full" in said
    assert main(["all is well"]) == 1
    assert main(["--what"]) == 2


def test_the_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    assert main([]) == 0
    assert "  gpu-memory" in capsys.readouterr().out


def test_the_page_is_written(tmp_path: Path) -> None:
    assert main(["--write", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page()
