"""What is told of an exception: on the screen, in the file, and by which rank."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from open_r1.errors import UserError
from open_r1.troubleshooting.failure import Situation
from open_r1.troubleshooting.secrets import redact, redact_words
from open_r1.troubleshooting.speaker import Rank
from open_r1.troubleshooting.words import say

FULL = OSError(28, "No space left on device", "/data/x")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder


def told(error: BaseException, situation: Situation) -> list[str]:
    said = io.StringIO()
    situation.tell_defect(error, said)
    return said.getvalue().splitlines()


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_the_order_of_the_lines(tmp_path: Path) -> None:
    lines = told(FULL, Situation(["sft", "--config", "a b.yaml"], tmp_path))
    labels = [line.split(" ")[0] for line in lines]
    assert labels[0] == "error:" and labels[1] == "change:" and "see:" in labels
    assert lines[-1] == f"the whole trace is in {tmp_path / 'error-rank0.txt'}"


def test_the_command_is_ready_to_be_planned(tmp_path: Path) -> None:
    error = RuntimeError("CUDA error: out of memory")
    assert "see:    open-r1 plan sft --config 'a b.yaml'" in told(error, Situation(["sft", "--config", "a b.yaml"]))
    assert not any("plan" in line for line in told(error, Situation(["evaluate", "--model", "m"])))


def test_the_file_has_what_a_report_needs(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "loss": 0.5}\n')
    words = ["sft", "--hub_token", "abc", "--model_name_or_path", "https://ada:pw123@host/x"]
    told(raised(ZeroDivisionError("with hf_abcdefghijklmnopqrstuvwxyz in it")), Situation(words, tmp_path))
    text = (tmp_path / "error-rank0.txt").read_text()
    assert "command:  open-r1 sft --hub_token '***' --model_name_or_path 'https://***@host/x'" in text
    assert 'metrics:  {"step": 2, "loss": 0.5}' in text
    assert "torch 2" in text and "python:   3." in text and "rank 0 of 1" in text
    assert "Traceback (most recent call last)" in text and "ZeroDivisionError: with *** in it" in text
    assert "hf_" not in text and "pw123" not in text
    assert not list(tmp_path.glob(".*"))


def test_the_file_of_the_next_failure_replaces_it(tmp_path: Path) -> None:
    told(raised(ValueError("first")), Situation([], tmp_path))
    told(raised(ValueError("second")), Situation([], tmp_path))
    text = (tmp_path / "error-rank0.txt").read_text()
    assert "second" in text and "first" not in text


def test_without_a_folder_the_file_is_a_temporary_one(temporary: Path, tmp_path: Path) -> None:
    for folder in (None, tmp_path / "never made"):
        lines = told(FULL, Situation([], folder))
        assert lines[-1] == f"the whole trace is in {temporary / f'open-r1-{os.getpid()}-error-rank0.txt'}"
    assert not (tmp_path / "never made").exists()


def test_where_no_file_can_be_written_the_trace_is_on_the_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise FULL

    monkeypatch.setattr("open_r1.troubleshooting.trace_file.write_text", full)
    lines = told(raised(RuntimeError("CUDA error: out of memory")), Situation([], tmp_path))
    assert lines[0] == "Traceback (most recent call last):"
    assert any(line.startswith("error: the memory of the GPU is used up") for line in lines)
    assert lines[-1] == "the whole trace is above"


def test_the_first_rank_speaks_and_the_others_are_short(tmp_path: Path) -> None:
    ranks = [Rank(number, 3, "launch", 0.0) for number in range(3)]
    first = told(RuntimeError("CUDA error: out of memory"), Situation([], tmp_path, ranks[1]))
    assert first[0].startswith("error: the memory of the GPU") and len(first) > 5
    for number in (0, 2):
        (line,) = told(raised(RuntimeError("ncclRemoteError: x")), Situation([], tmp_path, ranks[number]))
        file = tmp_path / f"error-rank{number}.txt"
        assert line == f"rank {number} has failed too (NCCL: another process has gone); its trace is in {file}"
        assert "ncclRemoteError" in file.read_text()


def test_a_line_for_the_person_is_said_once(temporary: Path) -> None:
    said = io.StringIO()
    for number, text in enumerate(["learning_rate: no", "learning_rate: no", "no file"]):
        Situation([], None, Rank(number, 3, "launch", 0.0)).tell_user_error(UserError(text), said)
    assert said.getvalue() == "error: learning_rate: no\nrank 2: no file\n"


def test_a_launch_of_yesterday_does_not_silence_this_one(temporary: Path) -> None:
    old = Rank(0, 2, "launch")
    assert old.turn("x") == "first"
    assert Rank(1, 2, "launch", old.started).turn("x") == "same"
    assert Rank(1, 2, "launch", old.started + 3600).turn("x") == "first"
    assert Rank(1, 2, "another").turn("x") == "first"


def test_ranks_are_those_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Rank().number, Rank().of) == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("MASTER_PORT", "29500")
    rank = Rank()
    assert (rank.number, rank.of) == (3, 8)
    assert rank.launch == f"{os.getppid()}-29500"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--hub_token", "x y", "--seed", "1"], ["--hub_token", "***", "--seed", "1"]),
        (["--api-key=abc"], ["--api-key=***"]),
        (["--api_key_env", "MY_KEY"], ["--api_key_env", "MY_KEY"]),
        (["--max_new_tokens", "9", "--eos_token", "</s>"], ["--max_new_tokens", "9", "--eos_token", "</s>"]),
        (["--x", "sk-0123456789abcdefghij"], ["--x", "***"]),
    ],
)  # fmt: skip
def test_secrets_of_a_command_line(words: list[str], shown: list[str]) -> None:
    assert redact_words(words) == shown


def test_secrets_of_a_text() -> None:
    text = json.dumps({"HF_TOKEN": "hf_aaaaaaaaaaaaaaaaaaaaaaaa", "Authorization": "Bearer abcdefghijklmnop"})
    assert "aaaa" not in redact(text) and "abcdef" not in redact(text)
    assert redact("WANDB_API_KEY=0123456789abcdef0123") == "WANDB_API_KEY=***"
    plain = "tokens: 512, token_cache_dir: /data/tokens, step 3"
    assert redact(plain) == plain


def test_a_terminal_gets_its_width_and_a_pipe_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    lines = ["error: " + "word " * 40 + "end", "change: " + "--flag x " * 30]
    piped = io.StringIO()
    say(lines, piped)
    assert piped.getvalue().splitlines() == lines
    assert on_a_terminal(lines, 60)[0].startswith("\033[1;31merror:")
    monkeypatch.setenv("NO_COLOR", "1")
    shown = on_a_terminal(lines, 60)
    sentence = [line for line in shown if not line.startswith("change:")]
    assert len(sentence) > 3 and all(len(line) <= 60 for line in sentence)
    assert all(line.startswith("       ") for line in sentence[1:])
    assert shown[-1] == lines[1], "what is to be pasted is one line"


def on_a_terminal(lines: list[str], columns: int) -> list[str]:
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with os.fdopen(theirs, "w") as stream:
        say(lines, stream)
        shown = b""
        while select.select([ours], [], [], 0.5)[0]:
            shown += os.read(ours, 1 << 16)
    os.close(ours)
    return shown.decode().splitlines()
