"""The settings file: read by every command, written whole, never in the way of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from open_r1.cli import run_main
from open_r1.errors import UserError
from open_r1.machine.home import (
    APPLIED,
    DataDisk,
    MachineSettings,
    applied,
    apply_settings,
    home,
    read_settings,
    settings_file,
    without_data_disk,
    write_settings,
)


def save(folder: Path, **environment: str) -> None:
    write_settings(MachineSettings(DataDisk(str(folder), environment)))


def test_what_is_written_is_read(person: Path) -> None:
    assert read_settings() == MachineSettings() and not settings_file().exists()
    settings = MachineSettings(DataDisk("/data", {"TMPDIR": "/data/tmp"}), {"later": [1, {"a": 2}]})
    write_settings(settings)
    assert read_settings() == settings
    assert json.loads(settings_file().read_text())["version"] == 1
    assert os.listdir(home()) == ["settings.json"], "no half-written file is left"


def test_keys_of_other_versions_stay(person: Path) -> None:
    home().mkdir()
    settings_file().write_text('{"version": 1, "later": "kept"}')
    save_and_undo = MachineSettings(DataDisk("/data", {}), read_settings().other)
    write_settings(save_and_undo)
    write_settings(without_data_disk(read_settings()))
    assert json.loads(settings_file().read_text()) == {"version": 1, "later": "kept"}


def test_a_file_that_says_nothing_is_no_file(person: Path) -> None:
    save(person)
    write_settings(MachineSettings())
    assert not settings_file().exists()
    write_settings(MachineSettings())


def test_a_link_stays_a_link(person: Path) -> None:
    home().mkdir()
    (home() / "settings.json").symlink_to(person / "dotfiles.json")
    save(person)
    assert (home() / "settings.json").is_symlink() and (person / "dotfiles.json").is_file()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no settings"),
        ('{"version": 2}', "update open-r1"),
        ('{"data_disk": {"folder": "/d"}}', "data_disk is damaged"),
        ('{"data_disk": {"folder": "/d", "environment": {"A": 1}}}', "data_disk is damaged"),
    ],
)
def test_a_damaged_file_is_one_warning_and_the_run_goes_on(
    text: str, said: str, person: Path, capsys: pytest.CaptureFixture
) -> None:
    home().mkdir()
    settings_file().write_text(text)
    with pytest.raises(UserError, match=said):
        read_settings()
    assert run_main(lambda argv: None, []) == 0
    warned = capsys.readouterr().err
    assert warned.startswith("warning: ") and said in warned and warned.count("\n") == 1
    apply_settings()
    assert not capsys.readouterr().err, "children of a process that has said it say nothing"


def test_a_folder_in_the_place_of_the_file_stops_nothing(person: Path, capsys: pytest.CaptureFixture) -> None:
    (home() / "settings.json").mkdir(parents=True)
    apply_settings()
    assert "cannot be read" in capsys.readouterr().err


def test_variables_are_set_before_a_command_runs(person: Path) -> None:
    save(person, HF_HUB_CACHE="/data/hub", HF_HUB_DISABLE_TELEMETRY="0")
    os.environ.pop("HF_HUB_DISABLE_TELEMETRY", None)
    seen: dict[str, str] = {}
    assert run_main(lambda argv: seen.update(os.environ), []) == 0
    assert seen["HF_HUB_CACHE"] == "/data/hub"
    assert seen["HF_HUB_DISABLE_TELEMETRY"] == "0", "before the defaults of the command line"
    assert "HF_HUB_CACHE" in applied()


def test_what_the_person_has_set_wins(person: Path) -> None:
    save(
        person,
        HF_HUB_CACHE="/data/hub",
        HF_DATASETS_CACHE="/data/datasets",
        PIP_CACHE_DIR="/data/pip",
        TMPDIR="/data/t",
    )
    environment = {"HF_HOME": "/mine", "PIP_CACHE_DIR": "/mine/pip"}
    apply_settings(environment)
    assert environment == {
        "HF_HOME": "/mine",
        "PIP_CACHE_DIR": "/mine/pip",
        "TMPDIR": "/data/t",
        APPLIED: "TMPDIR",
    }, "HF_HOME moves the hub and datasets, and it is the person's"


def test_children_know_what_came_from_the_file(person: Path) -> None:
    save(person, CUDA_CACHE_PATH="/data/cuda")
    apply_settings()
    script = "from open_r1.machine.home import applied, apply_settings; apply_settings(); print(applied())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "['CUDA_CACHE_PATH']\n"


def test_a_disk_that_is_not_mounted_is_said_and_nothing_is_applied(person: Path, capsys: pytest.CaptureFixture) -> None:
    save(person / "gone", TMPDIR="/data/t")
    environment: dict[str, str] = {}
    apply_settings(environment)
    assert "TMPDIR" not in environment
    assert f"{person}/gone is not there: mount its disk" in capsys.readouterr().err


def test_no_file_loads_nothing_more(person: Path) -> None:
    script = (
        "import sys; from open_r1.machine.home import apply_settings; before = set(sys.modules); apply_settings(); "
        "assert set(sys.modules) == before; assert 'json' not in before"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_a_script_that_a_launcher_starts_reads_the_file(name: str, person: Path) -> None:
    """``accelerate launch src/open_r1/sft.py`` runs the file, which hands over to the command line."""
    import open_r1

    home().mkdir()
    settings_file().write_text("{")
    script = Path(open_r1.__file__).parent / f"{name}.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, cwd=person)
    assert done.returncode == 0 and "is not JSON" in done.stderr
