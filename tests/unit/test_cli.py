"""The command ``open-r1``, and the scripts run as files."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import open_r1
from open_r1.cli import COMMANDS, main, run_main
from open_r1.errors import StopRequested, UserError

SOURCE = Path(open_r1.__file__).parent
SCRIPT = '''
"""A script as the project's own begin."""
if __name__ == "__main__":
    import sys
    from pathlib import Path

    if not __package__:
        sys.path[0] = str(Path(__file__).resolve().parents[1])
    from open_r1.cli import main as open_r1

    sys.exit(open_r1([Path(__file__).stem, *sys.argv[1:]]))

import evaluate


def main(argv):
    print(__name__, evaluate.__file__, argv)
'''


def raising(error: BaseException) -> Callable[[list[str]], None]:
    def command(argv: list[str]) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("seed: 'x' is given"), 2, "error: seed: 'x' is given\n"),
        (StopRequested("saved checkpoint-5"), 143, "saved checkpoint-5\n"),
        (StopRequested("saved", signal.SIGINT), 130, "saved\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(0), 0, ""),
        (SystemExit(3), 3, ""),
    ],
)
def test_exceptions_become_statuses(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture
) -> None:
    assert run_main(raising(error), []) == status
    assert capsys.readouterr() == ("", said)


def test_a_long_message_stays_one_line(capsys: pytest.CaptureFixture) -> None:
    run_main(raising(UserError("word " * 100 + "[bold] [/x]")), [])
    assert capsys.readouterr().err == f"error: {'word ' * 100}[bold] [/x]\n"


def test_a_defect_keeps_its_traceback_and_leaves_a_file(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run_main(raising(ZeroDivisionError("of mine")), ["sft", "--seed", "1"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):")
    assert "\nZeroDivisionError: of mine\nerror: this is a defect of open-r1 or of a library" in said
    (file,) = tmp_path.iterdir()
    assert said.endswith(f"the whole trace is in {file}\n")
    assert "open-r1 sft --seed 1" in file.read_text() and "ZeroDivisionError: of mine" in file.read_text()


def test_what_the_catalogue_knows_comes_without_a_trace(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run_main(raising(OSError(28, "No space left on device", "/data/x")), ["grpo"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: the disk is full: /data/x could not be written.")
    assert lines[1].startswith("change: open-r1 setup --data-disk")
    assert any(line.startswith("see:    open-r1 doctor") for line in lines)
    assert "Traceback" not in "".join(lines)
    (file,) = tmp_path.iterdir()
    assert lines[-1] == f"the whole trace is in {file}" and "Traceback" in file.read_text()


def test_a_user_error_says_what_is_known_of_its_cause(capsys: pytest.CaptureFixture) -> None:
    error = UserError("m: the model could not be loaded")
    error.__cause__ = OSError(
        "You are trying to access a gated repo.\nMake sure to have access to it at https://h.co/a/b."
    )
    assert run_main(raising(error), []) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: m: the model could not be loaded"
    assert lines[1].startswith("change: https://") and lines[-1].endswith("docs/troubleshooting.md#hub-gated")


def test_telemetry_is_off_before_a_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    seen = {}
    assert run_main(lambda argv: seen.update(os.environ), []) == 0
    assert seen["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert seen["TOKENIZERS_PARALLELISM"] == "true", "what the person has set stays"


def test_help_names_every_command(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    words = capsys.readouterr().out.split()
    assert {word for name in COMMANDS for word in name.split()} <= set(words)


def test_the_nearest_command_is_named(capsys: pytest.CaptureFixture) -> None:
    assert main(["evalaute"]) == 2
    assert "'evalaute' is no command of open-r1; did you mean evaluate?" in capsys.readouterr().err
    assert main(["plan", "--help"]) == 2
    assert capsys.readouterr().err == "error: plan needs another word: open-r1 plan sft, or open-r1 plan grpo\n"


def test_a_locale_without_our_characters_ends_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert run_main(lambda argv: print("8 × 2,048 tokens …", flush=True), []) == 0
    assert out.buffer.getvalue() == b"8 ? 2,048 tokens ?\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_settings_are_checked_before_the_command_is_imported(command: str, capsys: pytest.CaptureFixture) -> None:
    before = set(sys.modules)
    assert main([command, "--help"]) == 0
    assert main([command, "--no_such_setting", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: --no_such_setting: unknown setting")
    assert COMMANDS[command].module not in set(sys.modules) - before


def run_file(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("as_module", [False, True])
def test_a_script_run_as_a_file_shadows_no_library(as_module: bool, tmp_path: Path) -> None:
    package = tmp_path / "src" / "open_r1"
    for name in ("config", "machine", "parallel", "troubleshooting"):
        shutil.copytree(SOURCE / name, package / name)
    for name in ("__init__.py", "errors.py", "files.py", "signals.py", "cli.py"):
        shutil.copy(SOURCE / name, package)
    (package / "sft.py").write_text(SCRIPT)
    (package / "evaluate.py").write_text("raise AssertionError('the script shadows the library')")
    library = tmp_path / "src" / "evaluate" / "__init__.py"
    library.parent.mkdir()
    library.write_text("")

    flags = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o"]
    start = ["-m", "open_r1.sft"] if as_module else [package / "sft.py"]
    done = run_file(*start, *flags, cwd=tmp_path / "src" if as_module else tmp_path)
    assert done.stdout.split(maxsplit=2) == ["open_r1.sft", str(library), f"{flags}\n"], done.stderr
    assert run_file(*start, *flags, "--no_such 1", cwd=tmp_path / "src").returncode == 2


@pytest.mark.parametrize("name", ["sft", "grpo", "generate", "evaluate", "../../scripts/generate"])
def test_the_scripts_start_as_files(name: str, tmp_path: Path) -> None:
    done = run_file(SOURCE / f"{name}.py", "--help", cwd=tmp_path)
    assert done.stdout.startswith(f"open-r1 {Path(name).name} "), done.stderr
