"""The catalogue: every entry is found by what libraries print, and names only what there is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from open_r1.cli import COMMANDS, find_command
from open_r1.config import parse
from open_r1.config.settings import names_of
from open_r1.troubleshooting import Entry, explain
from open_r1.troubleshooting.catalogue import ENTRIES
from open_r1.troubleshooting.catalogue.solved import SOLVED
from open_r1.troubleshooting.entry import fill
from open_r1.troubleshooting.page import page
from open_r1.troubleshooting.words import aligned, lines_of

ROOT = Path(__file__).resolve().parents[3]
SPEC_ROWS = {
    "preparation-time": "93,733 rows",
    "fragments": "fragments",
    "accumulation-advice": "8 × 16,384",
    "fp16-advice": "fp16 crashes too",
    "cache-advice": "rm -rf ~/.cache",
    "installation": "flash-attn is compiled from source",
    "tracker-question": "55 minutes",
    "never-stops": "pad = EOS",
    "wrong-rewards": "gold answer",
    "verification-hangs": "time limit",
    "collapse": "100 steps",
    "resume-grpo": "kill -9",
    "evaluation-differs": "64 were asked",
    "raw-traces": "NCCL time-out",
}
"""The rows of the behaviour specification's section 3, each with words of it."""

OTHER_TOOLS = {"num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port", "config_file",
               "force-reinstall", "no-cache-dir", "upgrade", "force-download", "repo-type", "shm-size", "ipc", "memory",
               "gpus", "ulimit", "pids-limit", "write", "only"}  # fmt: skip
"""Flags of accelerate, pip, hf and docker."""


def texts() -> Iterator[tuple[str, str]]:
    for entry in ENTRIES:
        for line in (*entry.change, *entry.see):
            yield entry.name, fill(line, {"words": "sft --config recipe.yaml"})


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_what_libraries_print_is_found(entry: Entry) -> None:
    for text in entry.says:
        found = explain(text)
        assert found is entry, f"{text!r} is taken for {found and found.name}"
    assert entry.says or entry.name == "killed-from-outside"


def test_a_message_is_found_in_the_midst_of_a_log() -> None:
    for entry in ENTRIES:
        for text in entry.says:
            log = f"sft 1/8 · loss 1.438 · 92 tokens/s\n[rank1]: {text}\nsomething after it\n"
            assert explain(log) is not None, text


@pytest.mark.parametrize("name", [path.name for path in (ROOT / "docs").glob("*.md")] + ["README.md"])
def test_nothing_is_found_in_ordinary_prose(name: str) -> None:
    if name in ("troubleshooting.md", "log.md", "never-lose-a-run.md", "doctor.md"):  # they quote failures
        return
    path = ROOT / "docs" / name if name != "README.md" else ROOT / name
    for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
        found = explain(paragraph)
        assert found is None, f"{found.name}: {paragraph}"


def test_names_are_unique_and_plain() -> None:
    names = [entry.name for entry in ENTRIES] + [solved.name for solved in SOLVED]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_sentences_can_be_filled(entry: Entry) -> None:
    known = {name for pattern in (*entry.patterns, *entry.details) for name in re.compile(pattern).groupindex}
    asked = set(re.findall(r"\{(\w+)\}", entry.happened))
    assert asked <= known, "a gap that no pattern fills"
    bare = fill(entry.happened, {})
    assert "{" not in bare
    assert "[[" not in bare and "  " not in bare and " ." not in bare
    assert entry.happened[0].islower() or entry.happened.split()[0] in (
        "vLLM",
        "vLLM's",
        "NCCL,",
        "HF_HUB_OFFLINE",
        "/dev/shm,",
    )
    assert entry.change


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_lines_fit_a_screen(entry: Entry) -> None:
    for line in lines_of(entry, {}, "sft …")[1:]:
        assert len(line) <= 112, line


@pytest.mark.parametrize("name", ["disk-full", "killed-from-outside", "sigterm"])
def test_a_command_without_checkpoints_is_told_of_none(name: str) -> None:
    entry = next(entry for entry in ENTRIES if entry.name == name)
    assert "--resume_from_checkpoint" in "\n".join(lines_of(entry, {}, "sft --config a.yaml"))
    said = "\n".join(lines_of(entry, {}, "evaluate --model m"))
    assert not re.search("checkpoint true|--save_", said)
    assert re.search(r"open-r1 evaluate --model m +# the same again goes on where this ended", said)
    assert "goes on" not in "\n".join(lines_of(entry, {}, "evaluate --model m --overwrite_output_dir true"))


def test_remarks_stand_in_one_column() -> None:
    assert aligned(["--a 1  # one", "--longer 22  # two", "x" * 80 + "  # three", "bare"]) == [
        "--a 1        # one",
        "--longer 22  # two",
        "x" * 80 + "  # three",
        "bare",
    ]


def test_settings_that_are_named_exist() -> None:
    known = {name for command in COMMANDS.values() for name in names_of(command.settings).settings}
    for entry, text in texts():
        command = text.partition("  # ")[0]
        remark = text.partition("  # ")[2]
        ours = command if command.startswith("--") or "open-r1 " in command else ""
        for flag in re.findall(r"(?<![\w-])--([\w-]+)", f"{ours} {remark}"):
            allowed = known | {"config"} | (set() if ours else OTHER_TOOLS)
            assert flag.replace("-", "_") in allowed, f"{entry}: --{flag}"
        for flag in re.findall(r"(?<![\w-])--([\w-]+)", command if not ours else ""):
            assert flag in OTHER_TOOLS, f"{entry}: --{flag}"


def test_commands_that_are_named_run() -> None:
    checked = 0
    for entry, text in texts():
        command = text.partition("  # ")[0].strip()
        match = re.match(r"(?:open-r1) (doctor|setup) (.+)$", command)
        if match:
            name, words = find_command(shlex.split(f"{match[1]} {match[2]}"))
            parse(COMMANDS[name].settings, words, prog=entry)
            checked += 1
    assert checked > len(ENTRIES) / 2


def test_pages_that_are_named_exist() -> None:
    for entry in ENTRIES:
        for text in entry.see:
            assert text.startswith(("open-r1 ", "docs/")), f"{entry.name}: {text}"
            assert not text.startswith("docs/") or (ROOT / text).is_file(), f"{entry.name}: {text}"
    anchors = {f"#{entry.name}" for entry in ENTRIES}
    for solved in SOLVED:
        for text in solved.see:
            assert not text.startswith("docs/") or (ROOT / text).is_file(), text
            assert not text.startswith("[") or re.search(r"\((.+)\)", text)[1] in anchors, text


def test_every_row_of_the_specification_is_there() -> None:
    assert [solved.name for solved in SOLVED] == list(SPEC_ROWS)
    for solved in SOLVED:
        everything = " ".join(str(getattr(solved, field.name)) for field in fields(solved))
        assert SPEC_ROWS[solved.name] in everything, solved.name


def test_the_page_is_the_catalogue() -> None:
    assert (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8") == page(), (
        "make it again: python -m open_r1.troubleshooting --write docs/troubleshooting.md"
    )


def test_the_page_shows_every_message_word_for_word() -> None:
    text = page()
    for entry in ENTRIES:
        assert f'<a id="{entry.name}"></a>' in text
        assert all(said in text for said in entry.says)
    assert set(re.findall(r"\(#([\w-]+)\)", text)) <= set(re.findall(r'<a id="([\w-]+)">', text))


@pytest.mark.parametrize(
    ("signal", "entry"),
    [("SIGFPE", "sigfpe"), ("SIGILL", "sigill"), ("SIGSEGV", "sigsegv"), ("SIGBUS", "shared-memory"),
     ("SIGKILL", "sigkill"), ("SIGABRT", "sigabrt"), ("SIGHUP", "sighup"), ("SIGTERM", "sigterm")],
)  # fmt: skip
def test_every_signal_has_one_entry(signal: str, entry: str) -> None:
    assert [each.name for each in ENTRIES if signal in each.signals] == [entry]
    number = {
        "SIGFPE": 8,
        "SIGILL": 4,
        "SIGSEGV": 11,
        "SIGBUS": 7,
        "SIGKILL": 9,
        "SIGABRT": 6,
        "SIGHUP": 1,
        "SIGTERM": 15,
    }
    for text in (f"Signal {number[signal]} ({signal}) received", f"exitcode : -{number[signal]} (pid: 5)",
                 f"<Signals.{signal}: {number[signal]}>", f"terminated with signal {signal}"):  # fmt: skip
        assert explain(text).name == entry, text
