"""What a run writes at its fullest moment, and what is said where that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from open_r1.errors import UserError
from open_r1.machine import disks
from open_r1.machine.disks import Disk
from open_r1.machine.run_files import RunFiles, check_space

GB = 10**9
ROOT = Disk(Path("/"), "overlay", 30 * GB, 4 * GB, None, device=1)
DATA = Disk(Path("/data"), "xfs", 500 * GB, 400 * GB, None, device=2)


@pytest.fixture(autouse=True)
def two_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "disk_of", lambda path: DATA if str(path).startswith("/data") else ROOT)


@pytest.mark.parametrize(
    ("saves", "limit", "present", "expected"),
    [
        (5, None, 0, 5 * 10 + 3),  # all are kept, and the final model comes last
        (5, 2, 0, 3 * 10),  # for a moment two old ones and the new one
        (5, 2, 2, 10),  # continued: the two are there already
        (1, 2, 0, 10 + 3),
        (0, None, 0, 3),
        (2, 4, 4, 10),
        (1, 1, 5, 3),  # more are there than stay
    ],
)
def test_the_fullest_moment_of_a_run(saves: int, limit: int | None, present: int, expected: int) -> None:
    assert RunFiles(checkpoint=10, final=3, saves=saves, limit=limit, present=present).need == expected


def test_what_is_deleted_first_makes_room() -> None:
    assert RunFiles(checkpoint=10, final=3, saves=2, freed=20).need == 3
    assert RunFiles(checkpoint=10, final=3, saves=0, freed=20).need == 0


@pytest.mark.parametrize(
    ("room", "present", "expected"),
    [(80, 0, 7), (43, 0, 3), (29, 0, 1), (19, 0, None), (2, 0, None), (12, 2, 2), (23, 2, 3)],
)
def test_the_largest_limit_that_fits(room: int, present: int, expected: int | None) -> None:
    files = RunFiles(checkpoint=10, final=3, saves=19, present=present)
    assert files.fitting_limit(room) == expected
    if expected:
        fits = [RunFiles(checkpoint=10, final=3, saves=19, present=present, limit=n).need <= room for n in (1, 2, 3, 8)]
        assert fits == [n <= expected for n in (1, 2, 3, 8)]


def test_a_run_that_does_not_fit_is_refused_with_a_limit_that_does(tmp_path: Path) -> None:
    check_space(tmp_path / "run", RunFiles(checkpoint=GB, final=GB // 10, saves=9, limit=2))
    with pytest.raises(UserError) as refused:
        check_space(tmp_path / "run", RunFiles(checkpoint=GB, final=GB // 2, saves=9, limit=4))
    message = str(refused.value)
    assert f"output_dir {tmp_path}/run is on / (overlay), where 4.0 GB are free" in message
    assert "adds up to 5.0 GB (4 checkpoints of 1.0 GB and the final model of 500 MB)" in message
    assert "set --save_total_limit 3," in message and "open-r1 setup --data-disk DIR" in message
    check_space(tmp_path / "run", RunFiles(checkpoint=GB, final=GB // 2, saves=9, limit=3))
    with pytest.raises(UserError, match=r"a checkpoint of 8.0 GB and the final model of 500 MB\): name an --"):
        check_space(tmp_path / "run", RunFiles(checkpoint=8 * GB, final=GB // 2, saves=1))


def test_caches_count_on_the_disk_that_they_are_on() -> None:
    files, weights = RunFiles(checkpoint=GB, final=GB, saves=1), "weights of org/m from the hub"
    check_space("/root/run", files, {Path("/root/hub"): (2 * GB, weights)})
    with pytest.raises(UserError, match=r"^output_dir /root/run .* adds up to 5.0 GB \(.*3.0 GB of weights of org/m"):
        check_space("/root/run", files, {Path("/root/hub"): (3 * GB, weights)})
    check_space("/root/run", files, {Path("/data/hub"): (300 * GB, weights)})
    with pytest.raises(UserError, match=r"^/root/hub is on / \(overlay\), where 4.0 GB are free, and 5.0 GB of"):
        check_space("/data/run", files, {Path("/root/hub"): (5 * GB, weights)})
