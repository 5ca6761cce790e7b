"""Rates that are kept: the newest of a key, whatever is damaged left out; and what is concluded from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from open_r1.errors import UserError
from open_r1.machine.cards import find_card
from open_r1.machine.rates import SPEED, Rate, load_rates, newest, rates_file, save_rates, sft_mfu

H200 = find_card("H200")
SETTINGS = {"parameters": 1.54e9, "flops_per_token": 1.0e10, "adapters": False, "recompute": "none"}
SFT = Rate(
    kind="sft",
    card="NVIDIA H200",
    shape="1.5B",
    tokens=16_384,
    settings=SETTINGS,
    value=49_450.0,
    unit="tokens/s",
    versions={"torch": "2.11"},
    date="2026-01-02T00:00:00Z",
)
COPY = replace(SFT, kind="copy", shape="", tokens=0, settings={}, value=4e12, unit="bytes/s")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPEN_R1_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def sft(**changes: object) -> Rate:
    settings = {name: changes.pop(name) for name in list(changes) if name in SETTINGS}
    return replace(SFT, settings=SETTINGS | settings, **changes)


def test_what_is_saved_is_loaded(capsys: pytest.CaptureFixture) -> None:
    assert load_rates() == []
    save_rates([SFT])
    save_rates([COPY])
    assert load_rates() == [SFT, COPY]
    assert [path.name for path in rates_file().parent.iterdir()] == ["rates.json"]
    assert capsys.readouterr().err == ""


def test_the_newest_of_a_key_stays() -> None:
    later = replace(SFT, value=1.0, date="2026-02-01T00:00:00Z")
    other_torch = replace(SFT, versions={"torch": "2.12"}, date="2026-03-01T00:00:00Z")
    save_rates([later, SFT])
    save_rates([SFT, other_torch])
    assert load_rates() == [later, other_torch]
    again = replace(SFT, value=2.0)
    assert newest([SFT, again]) == [again]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"version": 1}', '{"version": 99, "rates": []}', '{"version": 1, "rates": 3}']
)
def test_a_file_that_is_damaged_is_left_out_with_a_word(text: str, capsys: pytest.CaptureFixture) -> None:
    rates_file().parent.mkdir()
    rates_file().write_text(text)
    assert load_rates() == []
    assert capsys.readouterr().err.startswith(f"warning: {rates_file()} is left out")
    save_rates([SFT])
    assert load_rates() == [SFT]


@pytest.mark.parametrize(
    "change",
    [
        {"value": -1.0},
        {"value": float("nan")},
        {"value": True},
        {"kind": "guess"},
        {"card": None},
        {"settings": {}},
        {"settings": SETTINGS | {"recompute": "most"}},
        {"settings": SETTINGS | {"parameters": 0}},
        {"tokens": 0},
        {"more": 1},
    ],
)
def test_a_damaged_entry_is_left_out_alone(change: dict[str, object], capsys: pytest.CaptureFixture) -> None:
    save_rates([SFT, COPY])
    stored = json.loads(rates_file().read_text())
    stored["rates"][0] |= change
    rates_file().write_text(json.dumps(stored))
    assert load_rates() == [COPY]
    assert "1 of 2 rates are damaged" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_one_line(own_folder: Path) -> None:
    own_folder.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        save_rates([SFT])


def test_mfu_is_model_flops_over_the_cards_peak() -> None:
    mfu, source = sft_mfu(H200, 1_540_000_000, 16_384, [SFT])
    assert mfu == pytest.approx(49_450 * 1e10 / 989e12)
    assert "1.5B at 16,384 tokens" in source
    assert "2026-01-02" in source


def test_what_was_recomputed_is_taken_out() -> None:
    plain, _ = sft_mfu(H200, 1.54e9, 16_384, [SFT])
    full, _ = sft_mfu(H200, 1.54e9, 16_384, [sft(recompute="full", value=SFT.value * SPEED["full"])])
    assert full == pytest.approx(plain)


def test_the_nearest_size_counts_then_the_nearest_length_then_the_newest() -> None:
    rates = [
        sft(shape="0.5B", parameters=0.49e9, value=1.0),
        sft(tokens=2048, value=2.0),
        sft(tokens=16_384, value=3.0),
        sft(tokens=16_384, value=4.0, date="2026-05-01T00:00:00Z"),
    ]

    def value(parameters: float, length: int) -> float:
        mfu, _ = sft_mfu(H200, parameters, length, rates)
        return mfu * 989e12 / SETTINGS["flops_per_token"]

    assert value(0.6e9, 2048) == pytest.approx(1.0)
    assert value(3e9, 4096) == pytest.approx(2.0)
    assert value(7e9, 8192) == pytest.approx(4.0)


def test_other_cards_and_other_ways_of_training_say_nothing() -> None:
    assert sft_mfu(find_card("4090"), 1.54e9, 16_384, [SFT, COPY]) == (None, "")
    assert sft_mfu(H200, 1.54e9, 16_384, [COPY]) == (None, "")
    assert sft_mfu(H200, 1.54e9, 16_384, [SFT], adapters=True) == (None, "")
    assert sft_mfu(H200, 1.54e9, 16_384, [sft(adapters=True)], adapters=True)[0] is not None
