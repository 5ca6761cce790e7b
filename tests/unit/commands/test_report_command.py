"""``open-r1 report``: a page in each folder, or one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from open_r1.commands.report import main
from open_r1.errors import UserError


def test_a_page_in_every_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        (folder / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    main([str(folder) for folder in folders])
    assert capsys.readouterr().out.split() == [f"{folder}/report.html" for folder in folders]
    assert all("Reward" in (folder / "report.html").read_text() for folder in folders)


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="holds no run"):
        main([str(tmp_path)])
    (tmp_path / "gsm8k" / "parts").mkdir(parents=True)
    with pytest.raises(UserError, match="the evaluation there is not finished: run the same evaluate command"):
        main([str(tmp_path)])
