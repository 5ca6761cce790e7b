"""``open-r1 setup``: what it shows, writes, says and undoes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_home import own_home, short_folder

from open_r1.cli import main
from open_r1.machine import data_disk as data_disk_module
from open_r1.machine import disks, overview
from open_r1.machine.data_disk import ROOT
from open_r1.machine.disks import Disk
from open_r1.machine.home import APPLIED, read_settings, settings_file

MODEL = b"x" * 2_000_000


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Path]:
    """The home folder of somebody who has set nothing, with a model in the hub's cache."""
    with own_home(tmp_path) as home:
        hub = home / ".cache/huggingface/hub"
        hub.mkdir(parents=True)
        (hub / "weights").write_bytes(MODEL)
        os.environ.update(COLUMNS="120", TMPDIR=str(home))
        yield home


@pytest.fixture
def disk() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture(autouse=True)
def any_disk_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_disk_module, "refuse_unfit", lambda *given, **options: None)


def setup(*words: str | Path) -> int:
    """A new process, as far as the environment goes: what an earlier command applied is not inherited."""
    for name in os.environ.pop(APPLIED, "").split(","):
        os.environ.pop(name, None)
    return main(["setup", *map(str, words)])


def shown(capsys: pytest.CaptureFixture, *words: str | Path) -> dict:
    assert setup("--json", *words) == 0
    return json.loads(capsys.readouterr().out)


def test_alone_it_shows_and_changes_nothing(person: Path, capsys: pytest.CaptureFixture) -> None:
    before = sorted(person.rglob("*"))
    assert setup() == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["hub:", "models,", "data", "2.0", "MB", "~/.cache/huggingface/hub", "HF_HUB_CACHE", "default"] in rows
    assert ["pip", "–", "~/.cache/pip", "PIP_CACHE_DIR", "default"] in rows
    assert sorted(person.rglob("*")) == before


def test_a_data_disk_moves_every_cache(person: Path, disk: Path, capsys: pytest.CaptureFixture) -> None:
    del os.environ["TMPDIR"]
    assert setup("--data-disk", disk) == 0
    out = capsys.readouterr().out
    assert f"cp -a {person}/.cache/huggingface/hub/. {disk}/{ROOT}/hub/" in out
    assert 'eval "$(open-r1 setup --print-env)"' in out
    after = shown(capsys)
    assert {cache["set_by"] for cache in after["caches"]} == {"settings file"}
    assert all(cache["path"].startswith(f"{disk}/{ROOT}/") for cache in after["caches"])
    assert (person / ".cache/huggingface/hub/weights").read_bytes() == MODEL, "nothing is moved or deleted"


def test_the_printed_command_carries_the_models_over(person: Path, disk: Path, capsys: pytest.CaptureFixture) -> None:
    (left,) = shown(capsys, "--data_disk", disk)["left_behind"]
    subprocess.run(left["command"], shell=True, check=True)
    assert (disk / ROOT / "hub" / "weights").read_bytes() == MODEL
    hub = next(cache for cache in shown(capsys)["caches"] if cache["variable"] == "HF_HUB_CACHE")
    assert hub["bytes"] >= len(MODEL) and hub["whole"]


def test_the_home_of_nobody(person: Path, capsys: pytest.CaptureFixture) -> None:
    assert setup("--data-disk", "~nobody-has-this-name/d") == 2
    assert "no home folder of ~nobody-has-this-name is known" in capsys.readouterr().err


def test_from_one_data_disk_to_another(person: Path, disk: Path, capsys: pytest.CaptureFixture) -> None:
    setup(disk / "a")
    (disk / "a" / ROOT / "hub" / "weights").write_bytes(MODEL)
    capsys.readouterr()
    left = shown(capsys, "--data_disk", disk / "b")["left_behind"]
    assert {one["path"] for one in left} == {f"{person}/.cache/huggingface/hub", f"{disk}/a/{ROOT}/hub"}
    assert read_settings().data_disk.folder == f"{disk}/b/{ROOT}"


def test_undo_takes_out_what_setup_put_in(person: Path, disk: Path, capsys: pytest.CaptureFixture) -> None:
    settings_file().parent.mkdir()
    settings_file().write_text('{"version": 1, "later": 3}')
    setup(disk)
    (disk / ROOT / "hub" / "weights").write_bytes(MODEL)
    for said in (f"What is in {disk}/{ROOT} stays there", "There is nothing to undo"):
        capsys.readouterr()
        assert setup("--undo") == 0
        assert said in capsys.readouterr().out
        assert json.loads(settings_file().read_text()) == {"version": 1, "later": 3}
    assert (disk / ROOT / "hub" / "weights").exists()
    assert {cache["set_by"] for cache in shown(capsys)["caches"]} == {"default", "environment"}


def test_undo_without_more_removes_the_file(person: Path, disk: Path) -> None:
    setup(disk)
    assert settings_file().exists()
    setup("--undo")
    assert not settings_file().exists()


def test_a_shell_can_take_it_over(person: Path, disk: Path, capsys: pytest.CaptureFixture) -> None:
    setup(disk / "with space")
    os.environ["HF_HOME"] = "/mine"
    capsys.readouterr()
    assert setup("--print-env") == 0
    printed = capsys.readouterr()
    assert "HF_HUB_CACHE" in printed.err and "HF_HUB_CACHE" not in printed.out
    script = f'{printed.out}printf %s "$PIP_CACHE_DIR"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{disk}/with space/{ROOT}/pip"


def test_nothing_to_print_is_said_beside(person: Path, capsys: pytest.CaptureFixture) -> None:
    assert setup("--print-env") == 0
    printed = capsys.readouterr()
    assert printed.out == "" and "no data disk is set" in printed.err


def test_variables_of_the_person_win_and_are_said(person: Path, disk: Path, capsys: pytest.CaptureFixture) -> None:
    os.environ["HF_HOME"] = str(person / "mine")
    assert setup("--data-disk", disk) == 0
    out = capsys.readouterr().out
    assert f"HF_HOME={person}/mine of your environment wins over the settings file" in out
    assert "    unset HF_HOME\n" in out
    hub = next(cache for cache in shown(capsys)["caches"] if cache["variable"] == "HF_HUB_CACHE")
    assert (hub["path"], hub["decided_by"]) == (f"{person}/mine/hub", "HF_HOME")


def test_an_exported_shell_is_no_conflict(person: Path, disk: Path, capsys: pytest.CaptureFixture) -> None:
    setup(disk)
    os.environ["HF_HUB_CACHE"] = f"{disk}/{ROOT}/hub"
    capsys.readouterr()
    assert not [line for line in shown(capsys)["warnings"] if "wins" in line and "HF_HUB_CACHE" in line]


def test_a_settings_file_that_cannot_be_read_is_not_overwritten(
    person: Path, disk: Path, capsys: pytest.CaptureFixture
) -> None:
    settings_file().parent.mkdir()
    settings_file().write_text("{torn")
    assert setup("--data-disk", disk) == 2
    assert "error: " in capsys.readouterr().err
    assert settings_file().read_text() == "{torn" and os.listdir(disk) == []


@pytest.mark.parametrize(
    "words", [("--data_disk", ""), ("--undo", "--data_disk", "d"), ("--undo", "--print_env"), ("--json", "--print_env")]
)
def test_requests_that_do_not_go_together(words: tuple[str, ...], person: Path, capsys: pytest.CaptureFixture) -> None:
    assert setup(*words) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not settings_file().exists()


def test_a_full_disk_is_said_with_the_way_out(
    person: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    system = Disk(Path("/"), "overlay", 30 * 10**9, 2 * 10**9, None, device=1)
    data = Disk(Path("/data"), "xfs", 500 * 10**9, 400 * 10**9, None, device=2)
    small = Disk(Path("/boot"), "ext4", 10**9, 9 * 10**8, None, device=3)
    monkeypatch.setattr(overview, "disk_of", lambda path: system)
    monkeypatch.setattr(overview, "local_disks", lambda: [data, small, system])
    assert setup() == 0
    out = capsys.readouterr().out
    assert (
        "! / is nearly full: 2.0 GB are free of 30.0 GB; caches are moved to /data, which has 400 GB free by\n" in out
    )
    assert "    open-r1 setup --data-disk /data\n" in out
    monkeypatch.setattr(overview, "local_disks", lambda: [small, system])
    assert setup() == 0
    assert "    open-r1 setup --data-disk DIR\n" in capsys.readouterr().out


def test_too_little_room_for_what_was_left_behind_is_said(
    person: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tiny = Disk(Path("/d"), "xfs", 10**7, 10**6, None, device=2)
    monkeypatch.setattr(disks, "disk_of", lambda path: tiny)
    assert setup("--data-disk", disk) == 0
    assert "what was left behind takes 2.0 MB, and /d has 1.0 MB free" in capsys.readouterr().out
