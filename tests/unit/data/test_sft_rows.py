"""What SFT reads: Parquet straight from its files, here or on the hub, and everything else as before."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from fake_dataset_hub import FakeDatasetHub, fake_dataset_hub

from open_r1.config import DataConfig, DatasetConfig, DatasetMixtureConfig
from open_r1.data import hub_rows
from open_r1.data.chat import ChatFormat
from open_r1.data.hub_rows import HubRows
from open_r1.data.rows import DatasetRows, ParquetRows, Rows
from open_r1.data.sft_rows import load_sft_rows
from open_r1.errors import UserError

READER = Path(__file__).parent / "hub_reader.py"


def table(first: int, end: int) -> pa.Table:
    numbers = range(first, end)
    return pa.table({"prompt": [f"ask {n}" for n in numbers], "completion": [f"it is {n}" for n in numbers]})


def parquet(first: int, end: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table(first, end), sink)
    return sink.getvalue()


def prompts(rows: Rows) -> list[int]:
    """The numbers asked for, in order."""
    pieces = rows.pieces(["prompt"])
    return [
        int(row["prompt"][4:]) for piece in pieces for row in (piece if isinstance(piece, list) else piece.to_pylist())
    ]


class TestHere:
    @pytest.fixture(autouse=True)
    def own_cache(self, monkeypatch, tmp_path):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
        monkeypatch.chdir(tmp_path)

    def lay(self, *names: str) -> None:
        """Files of ten rows each, numbered on."""
        for number, name in enumerate(names):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(parquet(10 * number, 10 * number + 10))

    @pytest.mark.parametrize(
        ("names", "asked"),
        [
            (["a.parquet"], "a.parquet"),
            (["set/a.parquet", "set/b.parquet"], "set"),
            (["set/train-00000-of-00002.parquet", "set/train-00001-of-00002.parquet"], "set"),
            (["set/data/train-00000-of-00002.parquet", "set/data/train-00001-of-00002.parquet"], "./set"),
            (["ada/set/train.parquet"], "ada/set"),
        ],
    )
    def test_parquet_alone_is_read_from_its_files(self, names, asked, tmp_path):
        self.lay(*names)
        rows = load_sft_rows(DataConfig(dataset_name=asked))
        assert list(rows) == ["train"] and isinstance(rows["train"], ParquetRows)
        assert prompts(rows["train"]) == list(range(10 * len(names)))
        assert not list(tmp_path.glob("hf/**/*.arrow"))

    def test_a_file_is_whatever_split_is_asked_for(self):
        self.lay("a.parquet")
        rows = load_sft_rows(DataConfig(dataset_name="a.parquet", dataset_train_split="test"))
        assert list(rows) == ["train"] and len(rows["train"]) == 10

    def test_splits_are_those_that_the_names_say(self):
        self.lay("set/data/train-00000-of-00001.parquet", "set/data/test-00000-of-00001.parquet")
        rows = load_sft_rows(DataConfig(dataset_name="set"))
        assert all(isinstance(part, ParquetRows) for part in rows.values())
        assert {name: prompts(part)[0] for name, part in rows.items()} == {"train": 0, "test": 10}
        with pytest.raises(UserError, match=r"validation.*train.*test"):
            load_sft_rows(DataConfig(dataset_name="set", dataset_train_split="validation"))

    def test_the_readme_says_which_files_are_meant(self):
        self.lay("set/old.parquet", "set/new.parquet")
        text = "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: new.parquet}\n---\n"
        Path("set/README.md").write_text(text)
        rows = load_sft_rows(DataConfig(dataset_name="set"))["train"]
        assert isinstance(rows, ParquetRows) and prompts(rows) == list(range(10, 20))

    def test_what_is_not_parquet_alone_is_read_by_the_datasets_library(self):
        self.lay("a.parquet")
        Dataset(table(0, 5)).to_json("b.jsonl")
        Dataset(table(0, 5)).save_to_disk("saved")
        mixture = DatasetMixtureConfig(datasets=[DatasetConfig(id="a.parquet", weight=0.5)])
        sizes = {}
        for name, settings in {
            "slice": {"dataset_name": "a.parquet", "dataset_train_split": "train[:3]"},
            "lines": {"dataset_name": "b.jsonl"},
            "saved": {"dataset_name": "saved"},
            "mixture": {"dataset_mixture": mixture},
        }.items():
            rows = load_sft_rows(DataConfig(**settings))["train"]
            assert isinstance(rows, DatasetRows)
            sizes[name] = rows.count
        assert sizes == {"slice": 3, "lines": 5, "saved": 5, "mixture": 5}

    def test_json_inside_strings_is_decoded(self):
        said = [[{"role": "assistant", "content": "", "tool_calls": [{"a": value}]}] for value in (1, "x")]
        Dataset.from_list([{"messages": one} for one in said], on_mixed_types="use_json").to_parquet("a.parquet")
        rows = load_sft_rows(DataConfig(dataset_name="a.parquet"))["train"]
        assert [row["messages"] for row in rows.sample(["messages"], 2)] == said

    @pytest.mark.parametrize(
        "name", ["empty.parquet", "torn.parquet", "none.parquet", "missing.parquet", "nowhere/at/all"]
    )
    def test_mistakes_are_one_line(self, name):
        Path("empty.parquet").write_bytes(b"")
        Path("torn.parquet").write_bytes(parquet(0, 10)[:-9])
        Path("none.parquet").write_bytes(parquet(0, 0))
        with pytest.raises(UserError, match=name) as error:
            load_sft_rows(DataConfig(dataset_name=name))
        assert "\n" not in str(error.value)


class TestDownloads:
    """Of which file is on its way when; the hub is a function."""

    @pytest.fixture
    def rows(self, monkeypatch, tmp_path) -> HubRows:
        self.started: list[str] = []
        self.gates = {f"{number}.parquet": threading.Event() for number in range(3)}

        def fetch(repository: str, file: str, **_: Any) -> str:
            self.started.append(file)
            assert self.gates[file].wait(30)
            (tmp_path / file).write_bytes(parquet(10 * int(file[0]), 10 * int(file[0]) + 10))
            return str(tmp_path / file)

        monkeypatch.setattr(hub_rows, "hf_hub_download", fetch)
        return HubRows("ada/traces", "c" * 40, list(self.gates))

    def test_the_next_file_is_on_its_way_while_one_is_read(self, rows):
        self.gates["0.parquet"].set()
        pieces = rows.pieces(["prompt"])
        assert next(pieces)["prompt"][0].as_py() == "ask 0"
        wait_for(lambda: len(self.started) == 2)
        assert self.started == ["0.parquet", "1.parquet"]  # not the third: the disk may be smaller than the data
        self.gates["1.parquet"].set()
        assert next(pieces)["prompt"][0].as_py() == "ask 10"
        self.gates["2.parquet"].set()
        assert next(pieces)["prompt"][0].as_py() == "ask 20"
        assert next(pieces, None) is None

    def test_reading_begins_at_any_row(self, rows):
        for gate in self.gates.values():
            gate.set()
        assert prompts(rows) == list(range(30))
        for start in (0, 9, 10, 11, 25, 30):
            found = [text for piece in rows.pieces(["prompt"], start) for text in piece["prompt"].to_pylist()]
            assert found == [f"ask {n}" for n in range(start, 30)]

    def test_the_key_needs_no_file(self, rows):
        hashed = rows.content_hash(["prompt"])
        assert not self.started
        assert hashed == HubRows("ada/traces", "c" * 40, list(self.gates)).content_hash(["prompt"])
        others = [
            HubRows("ada/traces", "d" * 40, list(self.gates)),
            HubRows("bob/traces", "c" * 40, list(self.gates)),
            HubRows("ada/traces", "c" * 40, list(self.gates)[:2]),
        ]
        assert hashed not in {other.content_hash(["prompt"]) for other in others}

    def test_an_unfinished_download_holds_up_nobody(self, rows):
        self.gates["0.parquet"].set()
        pieces = rows.pieces(["prompt"])
        next(pieces)
        pieces.close()  # as when a row is bad under --strict; the second file is still on its way
        assert all(thread.daemon for thread in threading.enumerate() if thread.name == "download")


def wait_for(condition) -> None:
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("waited for half a minute in vain")


class TestHub:
    @pytest.fixture(autouse=True)
    def places(self, byte_level, tmp_path):
        ChatFormat(byte_level("qwen2")).tokenizer.save_pretrained(tmp_path / "tokenizer")
        self.home = tmp_path

    @pytest.fixture
    def hub(self) -> Iterator[FakeDatasetHub]:
        with fake_dataset_hub() as hub:
            for number in range(3):
                hub.files[f"data/train-{number:05d}-of-00003.parquet"] = parquet(10 * number, 10 * number + 10)
            yield hub

    def read(
        self, hub: FakeDatasetHub, *settings: str, name: str = "ada/traces-v1.5", **variables: str
    ) -> dict[str, Any]:
        """What a process of its own finds."""
        hub.requests.clear()
        command = [sys.executable, READER, self.home / "tokenizer", self.home / "tokens", name, *settings]
        environment = {**os.environ, **hub.environment(self.home), **variables}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert "\n" not in found.get("error", "")
        return found

    def test_shards_are_downloaded_once_and_never_copied(self, hub):
        first = self.read(hub)
        assert first["said"] == "3 files of ada/traces-v1.5 at cccccccc"
        assert (first["kind"], first["rows"], first["sampled"], first["cached"]) == ("HubRows", 30, 10, False)
        assert hub.downloads() == [f"data/train-{number:05d}-of-00003.parquet" for number in range(3)]
        assert not list(self.home.rglob("*.arrow"))
        again = self.read(hub)
        assert (again["cached"], again["tokens"], hub.downloads()) == (True, first["tokens"], [])

        offline = self.read(hub, HF_HUB_OFFLINE="1")
        assert (offline["cached"], offline["tokens"], hub.requests) == (True, first["tokens"], [])
        hub.url = "http://127.0.0.1:9"  # nobody listens there
        assert self.read(hub)["tokens"] == first["tokens"]

        for path in (self.home / "hf").rglob("*.parquet"):
            path.unlink()
        lost = self.read(hub, HF_HUB_OFFLINE="1")["error"]
        assert (
            "data/train-00000-of-00003.parquet is not in the hub's cache and cannot be downloaded (Cannot reach" in lost
        )

    def test_a_shard_that_fails_is_said_and_what_was_done_is_kept(self, hub):
        last = "data/train-00002-of-00003.parquet"
        hub.broken.add(last)
        assert (
            f"ada/traces-v1.5: {last} is not in the hub's cache and cannot be downloaded (Server error '500"
            in self.read(hub)["error"]
        )
        assert list(self.home.glob("tokens/*.partial"))
        hub.broken.clear()
        assert self.read(hub)["rows"] == 30
        assert hub.downloads() == [last]

    def test_the_card_says_how_many_rows_there_are_and_what_is_to_be_tested_on(self, hub):
        hub.files["data/test-00000-of-00001.parquet"] = parquet(90, 95)
        hub.files["README.md"] = (
            b"---\ndataset_info:\n  splits:\n  - {name: train, num_bytes: 1, num_examples: 30}\n"
            b"  - {name: test, num_bytes: 1, num_examples: 5}\nconfigs:\n"
            b"- config_name: default\n  data_files:\n  - {split: train, path: data/train-*}\n"
            b"  - {split: test, path: data/test-*}\n---\n"
        )
        found = self.read(hub)
        assert found["said"] == "30 rows in 3 files of ada/traces-v1.5 at cccccccc"
        assert found["splits"] == ["train", "test"]
        assert not any("test" in file for file in hub.downloads())  # nobody has asked for its rows
        part = self.read(hub, "dataset_train_split=train[:4]")
        assert (part["kind"], part["rows"]) == ("DatasetRows", 4)

    def test_other_files_are_read_by_the_datasets_library(self, hub):
        lines = [json.dumps({"prompt": f"ask {n}", "completion": f"it is {n}"}) for n in range(7)]
        hub.files = {"train.jsonl": "\n".join(lines).encode()}
        found = self.read(hub)
        assert (found["kind"], found["rows"], found["said"]) == ("DatasetRows", 7, "7 rows")

    def test_a_data_set_that_is_not_there_and_a_hub_that_is_not(self, hub):
        assert "no such data set on the hub (or it is private" in self.read(hub, name="ada/others")["error"]
        hub.url = "http://127.0.0.1:9"
        assert "the Hugging Face hub cannot be reached: give a local path" in self.read(hub)["error"]
