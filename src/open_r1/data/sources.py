"""Rows from the hub, a folder or a file."""

from __future__ import annotations

import errno
import glob
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import pyarrow as pa
import xxhash
from datasets import (
    Dataset,
    DatasetDict,
    ReadInstruction,
    are_progress_bars_disabled,
    concatenate_datasets,
    disable_progress_bars,
    enable_progress_bars,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetNotFoundError, DatasetsError

from open_r1.data.unreadable import why_unreadable
from open_r1.errors import UserError

READERS = {"jsonl": "json", "json": "json", "parquet": "parquet", "csv": "csv", "arrow": "arrow"}
"""File name suffix (``.gz`` aside) to the reader of the datasets library."""

NOTES = ("dataset_infos.json", "dataset_info.json", "state.json")

_CONFIGS = re.compile(r"Config name is missing\.\s.*?\[(.*)\]")
"""What the datasets library says where a configuration has to be named, with those that there are."""

SUFFIX = re.compile(r"\.(\w+)(?:\.gz)?\Z")


def load_rows(name: str, config: str | None = None, split: str = "train") -> Dataset:
    """One split of a data set.

    Args:
        name: a local file (.jsonl, .json, .parquet, .csv, .arrow, also .gz), a local folder (of such files, or saved
            by ``save_to_disk``), or a hub id. What exists on disk comes before the hub.
        config: subset on the hub.
        split: a split's name, or a slice of it such as ``train[:100]``. A single file is whatever split is asked for.

    Raises:
        UserError: not found, not readable, empty, no such split, or the hub cannot be reached.
    """
    rows = _load(name, config, split)
    if not len(rows):
        raise UserError(f"{name}: split {split!r} has no rows")
    return rows


def load_splits(name: str, config: str | None = None) -> dict[str, Dataset]:
    """All splits of a data set, by name; a single file is ``train``.

    Raises:
        UserError: as `load_rows`.
    """
    splits = _load(name, config, None)
    if isinstance(splits, Dataset):
        splits = {"train": splits}
    if not any(len(rows) for rows in splits.values()):
        raise UserError(f"{name} has no rows")
    return dict(splits)


def _load(name: str, config: str | None, split: str | None) -> Dataset | DatasetDict:
    path = Path(name).expanduser()
    with one_line_errors(name):
        if path.is_file() or path.is_dir():
            with no_progress_bars():
                found = _from_file(path, split) if path.is_file() else _from_folder(path, config, split)
            _check_text(path, found)
            return found
        if is_path(name):
            raise UserError(f"{name}: no such file or folder")
        return load_dataset(name, config, split=split)


def is_path(name: str) -> bool:
    """Whether a name can only be that of a file or folder, and not a hub id."""
    path = Path(name).expanduser()
    return path.is_absolute() or name.startswith((".", "~")) or _reader(path) is not None


def _from_file(path: Path, split: str | None) -> Dataset:
    reader = _reader(path)
    if reader is None:
        raise UserError(f"{path}: not a file of {', '.join('.' + suffix for suffix in READERS)}")
    if not path.stat().st_size:
        raise UserError(f"{path} is empty")
    split = split or "train"
    files = {_split_name(split): glob.escape(str(path))}
    return load_dataset(reader, data_files=files, split=split, cache_dir=_copies_of([path]))


def _from_folder(path: Path, config: str | None, split: str | None) -> Dataset | DatasetDict:
    if _is_saved(path):
        try:
            saved = load_from_disk(str(path))
        except IndexError as error:  # what the library makes of a set that was saved without rows
            raise UserError(f"{path} has no rows") from error
        return _of_saved(saved, split)
    if glob.has_magic(str(path)):
        raise UserError(f"{path}: the datasets library takes [, * and ? in a folder's name as a pattern: rename it")
    files = _data_files(path)
    readers = {_reader(file) for file in files}
    if not readers:
        raise UserError(f"{path}: the folder has no {', '.join('.' + suffix for suffix in READERS)} files")
    if len(readers) > 1 and not (path / "README.md").exists():  # a data set's README may say which files it means
        raise UserError(f"{path}: the folder mixes {' and '.join(sorted(readers))} files, keep one kind")
    return load_dataset(str(path), config, split=split, cache_dir=_copies_of(files))


def _check_text(path: Path, found: Dataset | DatasetDict) -> None:
    """Makes sure that all text is UTF-8, which the library reads without asking.

    Raises:
        UserError: some is not.
    """
    for rows in [found] if isinstance(found, Dataset) else found.values():
        try:
            rows.data.table.validate(full=True)
        except pa.ArrowInvalid as error:
            why = why_unreadable(path) if path.is_file() else None
            raise UserError(
                f"{path}: {why or f'it holds text that is not UTF-8: convert it ({_gist(error)})'}"
            ) from error


def data_readers(folder: Path) -> set[str]:
    """Readers of the data files in a folder and below, hidden ones aside; none where ``save_to_disk`` has made it."""
    return set() if _is_saved(folder) else {_reader(file) for file in _data_files(folder)}


def _data_files(folder: Path) -> list[Path]:
    files = [file for file in folder.rglob("*") if not any(part[0] == "." for part in file.relative_to(folder).parts)]
    return sorted(file for file in files if _reader(file) and file.is_file())


def _copies_of(files: list[Path]) -> str:
    """Where the library keeps what it makes of local files as they are now.

    It tells files of one name apart by their time of modification alone, which ``cp -p``, ``rsync -t``, archives and
    some file systems set: it would give the rows of the file that was there before. The size and the time of the last
    change of any kind, which nobody sets, tell them apart.
    """
    states = [(file.stat().st_size, file.stat().st_ctime_ns) for file in files]
    return str(Path(datasets.config.HF_DATASETS_CACHE, "local", xxhash.xxh3_64_hexdigest(repr(states).encode())))


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def _of_saved(saved: Dataset | DatasetDict, split: str | None) -> Dataset | DatasetDict:
    """A split, or a slice of one, of what ``load_from_disk`` gave; a Dataset is whatever split is asked for."""
    if split is None:
        return saved
    if isinstance(saved, Dataset):
        saved = {_split_name(split): saved}
    wanted = ReadInstruction.from_spec(split).to_absolute({name: len(rows) for name, rows in saved.items()})
    return concatenate_datasets([saved[part.splitname].select(range(part.from_, part.to)) for part in wanted])


def _split_name(split: str) -> str:
    """``train`` of ``train[:10%]``."""
    return re.match(r"\w*", split)[0]


def _reader(path: Path) -> str | None:
    """The reader of a data file; None for any other, and for the library's own notes beside the data."""
    suffix = SUFFIX.search(path.name)
    return READERS.get(suffix[1]) if suffix and path.name not in NOTES else None


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """What the datasets library raises, as a UserError."""
    try:
        yield
    except UserError:
        raise
    except DatasetNotFoundError as error:
        raise UserError(
            f"{name}: no such file or folder here, and no such data set on the hub (or it is private: "
            "log in with `hf auth login`, or set HF_TOKEN)"
        ) from error
    except ConnectionError as error:
        raise UserError(
            f"{name}: no such file or folder here, and the Hugging Face hub cannot be reached: give a local path, or "
            "check the network (HF_HUB_OFFLINE, HF_ENDPOINT)"
        ) from error
    except (DatasetsError, ValueError, OSError, EOFError, zlib.error) as error:
        if configs := _CONFIGS.search(str(error)):
            how = "name one with --dataset_config, or `config` in a mixture"
            raise UserError(f"{name} has the configurations {configs[1]}: {how}") from error
        raise UserError(f"{name}: {_why(error, Path(name).expanduser())}") from error


def _why(error: Exception, path: Path) -> str:
    """What went wrong with a data set, and what to do where that is known."""
    if "corresponds to no data" in str(error):
        return "there are no rows"
    if getattr(_cause(error), "errno", None) == errno.ENOSPC:
        copies = datasets.config.HF_DATASETS_CACHE
        return f"no space is left for the datasets library's copy in {copies}: free some, or set HF_DATASETS_CACHE"
    files = [path] if path.is_file() else _data_files(path) if path.is_dir() else []
    for file in files:
        if why := why_unreadable(file):
            return why if file == path else f"{file.relative_to(path)}: {why}"
    return _gist(error)


def _cause(error: BaseException) -> BaseException:
    """What made a conversion fail."""
    while isinstance(error, DatasetsError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _gist(error: Exception) -> str:
    """The first line of what went wrong; of a failed conversion, that of its cause."""
    cause = _cause(error)
    lines = str(cause).strip().splitlines()
    return lines[0][:300] if lines else type(cause).__name__


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Reading a local file takes a moment; the library's bars are for downloads."""
    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()
