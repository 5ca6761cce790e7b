"""Rows read straight from Parquet are those of the datasets library, from any row on, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset

from open_r1.data import rows as rows_module
from open_r1.data.chat import ChatFormat
from open_r1.data.columns import Columns
from open_r1.data.rows import DatasetRows, ParquetRows, Piece, parquet_pieces, reads_as_it_is, to_rows
from open_r1.data.tokens import tokenize
from open_r1.errors import UserError

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"{n} + 1?"},
            {"role": "assistant", "content": f"it is {n + 1} " * (1 + n % 7)},
        ],
        "source": None if n % 5 == 0 else f"s{n}",
    }
    for n in range(100)
]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch, tmp_path_factory):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
    monkeypatch.setattr(rows_module, "PIECE_ROWS", 16)


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Three files of 40, 0 and 60 rows, with groups of 7 and 60."""
    paths = []
    for number, (first, end, group) in enumerate([(0, 40, 7), (40, 40, 7), (40, 100, 60)]):
        paths.append(tmp_path / f"train-{number:05d}-of-00003.parquet")
        table = pa.Table.from_pylist(ROWS)
        with pq.ParquetWriter(paths[-1], table.schema) as writer:
            if first < end:
                writer.write_table(table.slice(first, end - first), row_group_size=group)
    return paths


def as_rows(pieces: Iterable[Piece]) -> list[dict]:
    return [row for piece in pieces for row in (piece.to_pylist() if isinstance(piece, pa.Table) else piece)]


def test_parquet_says_what_the_datasets_library_says(files, tmp_path):
    straight = ParquetRows(files)
    through = DatasetRows(load_dataset(str(tmp_path), split="train"))
    assert (len(straight), straight.count, str(straight)) == (100, 100, "100 rows")
    assert straight.column_names == through.column_names == ["messages", "source"]
    for columns in (["messages"], ["source"], ["source", "messages"]):
        expected = [{name: row[name] for name in columns} for row in ROWS]
        assert as_rows(straight.pieces(columns)) == as_rows(through.pieces(columns)) == expected


@pytest.mark.parametrize("kind", [ParquetRows, DatasetRows])
def test_reading_begins_at_any_row(files, tmp_path, kind):
    rows = kind(files) if kind is ParquetRows else kind(load_dataset(str(tmp_path), split="train"))
    for start in [*range(0, 101, 3), 6, 7, 8, 39, 40, 41, 99, 100]:
        assert as_rows(rows.pieces(["source"], start)) == [{"source": row["source"]} for row in ROWS[start:]], start


def test_calls_of_tools_have_no_arguments_of_other_tools(tmp_path):
    def calling(arguments: dict) -> dict:
        call = {"function": {"name": "f", "arguments": arguments}}
        return {
            "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call]}],
            "note": None,
        }

    rows = [calling({"x": 1}), calling({"y": "s"})]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    straight = ParquetRows([tmp_path / "a.parquet"])
    (piece,) = straight.pieces(["messages", "note"])
    assert "y" in piece.to_pylist()[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert to_rows(piece) == straight.sample(["messages", "note"], 2) == rows


def test_the_tokens_are_the_same_either_way(files, byte_level, tmp_path):
    chat, columns = ChatFormat(byte_level("qwen2")), Columns(messages="messages")
    through = load_dataset(str(tmp_path), split="train")
    first, second = (
        tokenize(rows, chat, columns, cache_dir=tmp_path / "cache" / name, num_proc=1)
        for name, rows in (("straight", ParquetRows(files)), ("through", through))
    )
    assert first.input_ids.tolist() == second.input_ids.tolist()
    assert first.loss_mask.tolist() == second.loss_mask.tolist()
    assert first.rows.tolist() == second.rows.tolist() == list(range(100))


def test_the_hash_is_of_the_bytes_and_the_columns(files, tmp_path):
    before = ParquetRows(files).content_hash(["messages"])
    elsewhere = [path.rename(tmp_path / f"other-{path.name}") for path in files]
    assert ParquetRows(elsewhere).content_hash(["messages"]) == before
    assert ParquetRows(elsewhere).content_hash(["source"]) != before
    assert ParquetRows(elsewhere[::-1]).content_hash(["messages"]) != before
    data = bytearray(elsewhere[0].read_bytes())
    data[100] ^= 1
    elsewhere[0].write_bytes(data)
    assert ParquetRows(elsewhere).content_hash(["messages"]) != before


def test_rows_of_a_data_set_that_are_slices_of_one_buffer_hash_by_their_content():
    texts = Dataset.from_dict({"a": ["x", "yy", "x", "yy", None, "x"], "b": [[1], [2, 3], [1], [2, 3], [], [1]]})

    def hash_of(first: int, end: int) -> str:
        return DatasetRows(texts.select(range(first, end))).content_hash(["a", "b"])

    assert hash_of(0, 2) == hash_of(2, 4) != hash_of(4, 6)


@pytest.mark.parametrize("kind", [ParquetRows, DatasetRows])
def test_a_sample_is_seeded_and_of_different_rows(files, tmp_path, kind):
    rows = kind(files) if kind is ParquetRows else kind(load_dataset(str(tmp_path), split="train"))
    some = [rows.sample(["messages"], 20, seed) for seed in (0, 0, 1)]
    assert some[0] == some[1] != some[2]
    said = [row["messages"][0]["content"] for row in some[0]]
    assert len(said) == len(set(said)) == 20
    assert set(said) < {row["messages"][0]["content"] for row in ROWS}
    assert len(rows.sample(["messages"], 1)) == 1


def test_a_sample_of_all_rows_is_all_rows(tmp_path):
    for size in (1, 5, 100):
        pq.write_table(pa.table({"a": list(range(size))}), tmp_path / "few.parquet", row_group_size=2)
        sampled = ParquetRows([tmp_path / "few.parquet"]).sample(["a"], 256)
        assert sorted(row["a"] for row in sampled) == list(range(size))


def test_one_huge_group_of_rows_is_read_in_small_pieces(tmp_path, monkeypatch):
    """48 MB in one group: neither the group nor a column of it is ever in memory as a whole, only some of its pages."""
    monkeypatch.setattr(rows_module, "PIECE_BYTES", 1 << 20)
    monkeypatch.setattr(rows_module, "PIECE_ROWS", 512)
    texts = [os.urandom(6_000).hex() for _ in range(4_000)]
    pq.write_table(pa.table({"a": texts}), tmp_path / "huge.parquet", row_group_size=len(texts), write_batch_size=64)
    texts, before, most, read = texts[::1_000], pa.total_allocated_bytes(), 0, 0
    for piece in parquet_pieces(tmp_path / "huge.parquet", ["a"]):
        most = max(most, pa.total_allocated_bytes() - before)
        assert piece.nbytes <= 1 << 20
        assert read % 1_000 or piece["a"][0].as_py() == texts[read // 1_000]
        read += len(piece)
    assert read == 4_000
    assert most < 12 << 20


def test_rows_larger_than_a_piece_come_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "PIECE_BYTES", 1 << 10)
    table = pa.table({"a": ["x" * size for size in (10, 5_000, 10, 10, 3_000)]})
    pq.write_table(table, tmp_path / "long.parquet")
    pieces = list(parquet_pieces(tmp_path / "long.parquet", ["a"]))
    assert [row["a"] for row in as_rows(pieces)] == table["a"].to_pylist()
    assert all(len(piece) == 1 or piece.nbytes <= 1 << 10 for piece in pieces)


def torn(path: Path) -> None:
    """The pages of a file, but not its footer, are lost."""
    data = bytearray(path.read_bytes())
    data[4:300] = bytes(296)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no parquet at all"),
        lambda path: path.write_bytes(b""),
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: path.unlink(),
        torn,
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line(files, spoil, byte_level, tmp_path):
    spoil(files[2])
    with pytest.raises(UserError, match=r"train-00002-of-00003\.parquet: ") as error:
        tokenize(ParquetRows(files), ChatFormat(byte_level("qwen2")), Columns(messages="messages"), cache_dir=tmp_path)
    assert "\n" not in str(error.value)


def test_text_that_is_not_utf8_is_named_in_one_line(byte_level, tmp_path):
    text = pa.Array.from_buffers(pa.string(), 2, pa.array([b"a", b"\xe9"]).buffers())
    pq.write_table(pa.table({"prompt": ["a", "b"], "completion": text}), tmp_path / "old.parquet")
    chat, columns = ChatFormat(byte_level("qwen2")), Columns(prompt="prompt", completion="completion")
    with pytest.raises(UserError, match=r"old\.parquet: .*Invalid UTF8"):
        tokenize(ParquetRows([tmp_path / "old.parquet"]), chat, columns, cache_dir=tmp_path)


def test_files_with_other_columns_are_refused(files, tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"other\.parquet has the columns \['text'\], .* \['messages', 'source'\]"):
        ParquetRows([*files, tmp_path / "other.parquet"])


def test_a_later_file_that_lacks_a_column_is_named(tmp_path):
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet has no column 'completion'.*\['prompt'\]"):
        list(parquet_pieces(tmp_path / "b.parquet", ["prompt", "completion"]))


def test_json_inside_strings_is_left_to_the_datasets_library(tmp_path):
    """Calls of tools differ in their arguments, so that no type of Arrow's holds them all."""
    calls = [{"name": "add", "arguments": {"a": 1}}, {"name": "say", "arguments": {"text": "x"}}]
    messages = [[{"role": "assistant", "content": "", "tool_calls": [call]}] for call in calls]
    rows = Dataset.from_list([{"messages": said} for said in messages], on_mixed_types="use_json")
    assert as_rows(DatasetRows(rows).pieces(["messages"])) == [{"messages": said} for said in messages]
    rows.to_parquet(tmp_path / "json.parquet")
    assert not reads_as_it_is(tmp_path / "json.parquet")
    Dataset.from_list(ROWS).to_parquet(tmp_path / "plain.parquet")
    assert reads_as_it_is(tmp_path / "plain.parquet")
