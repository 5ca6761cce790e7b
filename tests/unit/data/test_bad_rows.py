"""Bad rows: counted, shown by index, or stopping the run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from open_r1.data.bad_rows import BadRows
from open_r1.errors import UserError


def shown(bad: BadRows, rows: int) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    bad.report(console, rows)
    return console.file.getvalue().splitlines()


def three_and_one(limit: int) -> BadRows:
    bad = BadRows(limit=limit)
    for index in (3, 17, 4000):
        bad.add(index, "no assistant turn")
    bad.add(5, "empty [text]")
    return bad


def test_reasons_are_counted_and_indices_shown_up_to_the_limit():
    assert shown(three_and_one(limit=2), 9000) == [
        "4 of 9,000 rows are bad and skipped:",
        "  3 × no assistant turn (row 3, 17, …)",
        "  1 × empty [text] (row 5)",
    ]
    assert shown(three_and_one(limit=0), 9)[1] == "  3 × no assistant turn"
    assert shown(BadRows(), 9) == []


def test_strict_names_the_first_and_its_reason():
    with pytest.raises(UserError, match=r"row 7 is bad: no assistant turn; .*--strict"):
        BadRows(strict=True).add(7, "no assistant turn")
    with pytest.raises(UserError, match="row 3 is bad: no assistant turn"):
        BadRows(strict=True).restore(three_and_one(5).to_json())


def test_all_rows_bad_is_an_error():
    bad = three_and_one(limit=5)
    bad.raise_if_all(5)
    with pytest.raises(UserError, match=r"all 4 rows are bad: 3 no assistant turn, 1 empty"):
        bad.raise_if_all(4)


def test_what_is_saved_is_restored():
    bad = BadRows(limit=5)
    bad.restore(three_and_one(limit=5).to_json())
    assert shown(bad, 10) == shown(three_and_one(limit=5), 10)
    bad.add(9, "no assistant turn")
    assert bad.counts["no assistant turn"] == 4
