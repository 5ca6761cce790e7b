from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from open_r1.cli import main
from open_r1.errors import UserError
from open_r1.files import make_output_folder, read_json, write_json
from open_r1.machine.run_files import checkpoints_in
from open_r1.troubleshooting.trace_file import write_somewhere


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "a.json", {"n": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "a.json", {"n": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert read_json(tmp_path / "a.json") == {"n": 1}


@pytest.mark.parametrize("name", ["file/below", "file", "n" * 300, "/proc/none"])
def test_an_output_folder_that_cannot_be_made_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("somebody's")
    with pytest.raises(UserError, match=r"^output_dir .* cannot be used \(.*\): name a folder that you may write to$"):
        make_output_folder(tmp_path / name, "output_dir")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_output_folder_is_made_with_nothing_in_it(tmp_path: Path) -> None:
    make_output_folder(tmp_path / "a b" / "ü", "output_dir")
    assert list((tmp_path / "a b" / "ü").iterdir()) == []


def test_an_output_folder_on_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> BinaryIO:
        return Path("/dev/full").open("wb")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(UserError, match="No space left"):
        make_output_folder(tmp_path, "output_dir")


@pytest.mark.parametrize("command", ["evaluate", "generate", "run"])
def test_commands_say_so_with_status_2_before_they_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "p.yaml").write_text(f"stages:\n  - {{name: a, kind: script, run: {tmp_path}/w.py}}\n")
    (tmp_path / "w.py").touch()
    folder = str(tmp_path / "file" / "x")
    words = {
        "evaluate": ["--model", "no/model", "--tasks", "gsm8k", "--output_dir", folder],
        "generate": ["--model", "no/model", "--dataset", "none", "--output", f"{folder}/a.jsonl"],
        "run": [str(tmp_path / "p.yaml"), "--output_dir", folder],
    }
    assert main([command, *words[command]]) == 2
    assert "cannot be used (Not a directory)" in " ".join(capsys.readouterr().err.split())


def test_a_name_that_no_folder_can_have_holds_no_checkpoints(tmp_path: Path) -> None:
    assert checkpoints_in(tmp_path / ("n" * 300)) == []


def test_a_trace_is_written_elsewhere_where_its_folder_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    written = write_somewhere("text", "error.txt", tmp_path / ("n" * 300))
    assert written is not None and written.parent == tmp_path
