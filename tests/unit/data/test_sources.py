"""Rows from files and folders, and one line for what is wrong with them."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from open_r1.data.sources import load_rows, load_splits
from open_r1.errors import UserError

ROWS = [{"question": f"{n} + 1?", "answer": f"so\n#### {n + 1}"} for n in range(10)]
REAL = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def write_jsonl(path: Path, rows: list[dict] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write(path: Path) -> Path:
    rows = Dataset.from_list(ROWS)
    if path.name.endswith(".jsonl"):
        write_jsonl(path)
    elif path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    elif path.name.endswith(".json"):
        path.write_text(json.dumps(ROWS))
    elif path.name.endswith(".parquet"):
        rows.to_parquet(path)
    else:
        rows.to_csv(path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "a.csv"])
def test_files(tmp_path, name):
    assert load_rows(str(write(tmp_path / name))).to_list() == ROWS


@pytest.mark.parametrize("place", ["a.jsonl", "folder/train.jsonl"])
def test_another_file_of_the_same_name_and_time_is_read(tmp_path, place):
    name = tmp_path / Path(place).parts[0]
    for rows in (ROWS, [{"question": "2 + 2?", "answer": "#### 4"}]):
        os.utime(write_jsonl(tmp_path / place, rows), (1e9, 1e9))  # as cp -p, rsync -t and archives do
        assert load_rows(str(name)).to_list() == rows


def test_a_file_is_whatever_split_is_asked_for(tmp_path):
    path = str(write(tmp_path / "gsm8k_test.jsonl"))
    assert load_rows(path, split="test").to_list() == ROWS
    assert load_rows(path, split="test[:30%]").to_list() == ROWS[:3]
    assert list(load_splits(path)) == ["train"]


def test_a_folder_of_data_files_has_the_splits_that_their_names_say(tmp_path):
    write_jsonl(tmp_path / "train.jsonl")
    write_jsonl(tmp_path / "test.jsonl", ROWS[:2])
    write_jsonl(tmp_path / ".cache" / "hidden.json")
    assert load_rows(str(tmp_path)).to_list() == ROWS
    assert load_rows(str(tmp_path), split="test").to_list() == ROWS[:2]
    assert set(load_splits(str(tmp_path))) == {"train", "test"}
    with pytest.raises(UserError, match=r"validation.*train.*test"):
        load_rows(str(tmp_path), split="validation")


def test_configurations_are_named_where_one_has_to_be_chosen(tmp_path):
    named = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("main", "socratic"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{named}---\n")
    for name in ("main", "socratic"):
        write_jsonl(tmp_path / f"{name}.jsonl")
    assert load_rows(str(tmp_path), "socratic").to_list() == ROWS
    with pytest.raises(UserError, match=r"'main', 'socratic': name one with --dataset_config"):
        load_rows(str(tmp_path))


def test_saved_data_sets(tmp_path):
    rows = Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "one")
    DatasetDict({"train": rows, "test": rows.select(range(2))}).save_to_disk(tmp_path / "two")
    assert load_rows(str(tmp_path / "one"), split="test").to_list() == ROWS
    assert load_rows(str(tmp_path / "two"), split="test").to_list() == ROWS[:2]
    assert load_rows(str(tmp_path / "two"), split="train[2:4]").to_list() == ROWS[2:4]
    assert list(load_splits(str(tmp_path / "one"))) == ["train"]
    assert set(load_splits(str(tmp_path / "two"))) == {"train", "test"}
    with pytest.raises(UserError, match=r"validation"):
        load_rows(str(tmp_path / "two"), split="validation")


def test_what_is_on_disk_comes_before_the_hub(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "openai" / "gsm8k" / "train.jsonl")
    monkeypatch.chdir(tmp_path)
    assert load_rows("openai/gsm8k").to_list() == ROWS


def test_the_hub_that_cannot_be_reached_is_said_with_what_to_do(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"nobody/nothing: .*hub cannot be reached: give a local path") as error:
        load_rows("nobody/nothing")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", '{"a": 1}\n{"a"', "a.jsonl: "),
        ("a.txt", "text", r"not a file of \.jsonl"),
        ("folder/readme.txt", "text", r"the folder has no \.jsonl"),
    ],
)
def test_unusable_files_are_one_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_rows(str(tmp_path / name.split("/")[0]))
    assert "\n" not in str(error.value)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", LFS, r"a\.jsonl: it is a pointer of Git LFS.*git lfs pull"),
        ("a.parquet", LFS, r"a\.parquet: it is a pointer of Git LFS.*git lfs pull"),
        ("folder/train.jsonl", LFS, r"folder: train\.jsonl: it is a pointer of Git LFS"),
        ("a.jsonl", LINES + LINES[:20], r"a\.jsonl: line 11, the last, is not JSON: the file was cut"),
        ("a.jsonl", LINES + b"{\n" + LINES, r"a\.jsonl: line 11 is not JSON: mend or remove it"),
        ("a.jsonl", LINES + '{"question": "é"}'.encode("latin-1"), r"a\.jsonl: line 11 is not text in UTF-8: convert"),
        ("a.jsonl.gz", gzip.compress(LINES)[:-20], r"a\.jsonl\.gz: its end is missing or torn: copy"),
        ("a.jsonl", b"\n\n", r"a\.jsonl: there are no rows"),
    ],
)
def test_what_is_wrong_with_a_file_and_where(tmp_path, name, data, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        load_rows(str(tmp_path / name.split("/")[0]))
    assert "\n" not in str(error.value)


def test_the_disk_that_is_full_is_named(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("open_r1.data.sources.load_dataset", full)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", "/copies")
    with pytest.raises(UserError, match=r"no space is left for .* copy in /copies: .*HF_DATASETS_CACHE"):
        load_rows(str(write_jsonl(tmp_path / "a.jsonl")))


def test_a_name_is_no_pattern(tmp_path):
    write_jsonl(tmp_path / "a1.jsonl", ROWS[:3])
    for name in ("a[1].jsonl", "a*.jsonl", "a?.jsonl"):
        assert load_rows(str(write_jsonl(tmp_path / name))).to_list() == ROWS
    for name, suffix in (("b[1]", "jsonl"), ("c*", "parquet")):
        (tmp_path / name).mkdir()
        write(tmp_path / name / f"train.{suffix}")
        with pytest.raises(UserError, match="folder's name as a pattern: rename it"):
            load_rows(str(tmp_path / name))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "data/rows.jsonl"])
def test_missing_paths(name):
    with pytest.raises(UserError, match="no such file or folder"):
        load_rows(name)


def test_a_folder_that_mixes_formats_is_refused(tmp_path):
    write(tmp_path / "a.jsonl")
    write(tmp_path / "b.parquet")
    with pytest.raises(UserError, match="mixes json and parquet"):
        load_rows(str(tmp_path))


def test_no_rows_is_an_error(tmp_path):
    nothing = Dataset.from_list(ROWS).select([])
    nothing.save_to_disk(tmp_path / "saved")
    nothing.to_parquet(tmp_path / "empty.parquet")
    for name in ("saved", "empty.parquet"):
        for load in (load_rows, load_splits):
            with pytest.raises(UserError, match=r"no (rows|data)"):
                load(str(tmp_path / name))


@pytest.mark.skipif(not REAL.exists(), reason="the shared problem sets are not here")
@pytest.mark.parametrize(
    ("name", "rows"), [("gsm8k_train", 7473), ("gsm8k_test", 1319), ("math_500", 500), ("aime24", 30)]
)
def test_real_problem_sets(name, rows):
    from open_r1.data.columns import find_columns, gold, to_prompt

    loaded = load_rows(str(REAL / f"{name}.jsonl"))
    assert len(loaded) == rows
    columns = find_columns(loaded.column_names, need="answer")
    for row in loaded.select(range(20)):
        assert to_prompt(row, columns)[0]["content"]
        assert len(gold(row, columns)) < 60
