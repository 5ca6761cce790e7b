"""Data sets that are Parquet files alone: found as the datasets library finds them, then read without its copy."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets import load_dataset_builder
from datasets.packaged_modules.parquet.parquet import Parquet
from huggingface_hub.constants import is_offline_mode

from open_r1.data.hub_rows import HubRows
from open_r1.data.rows import ParquetRows, Rows, reads_as_it_is
from open_r1.data.sources import data_readers, is_path, no_progress_bars, one_line_errors
from open_r1.errors import UserError
from open_r1.files import cache_folder, read_json, write_json


@dataclass(frozen=True)
class ParquetFiles:
    """The Parquet files of a data set.

    Attributes:
        name: what the user calls it.
        splits: files of each split, in order: local paths, or paths in the repository.
        commit: of the repository on the hub; None for local files.
        counts: rows of each split, where the data set's card says so.
    """

    name: str
    splits: Mapping[str, Sequence[str]]
    commit: str | None = None
    counts: Mapping[str, int] | None = None

    def reads_straight(self, split: str) -> bool:
        """Whether the types of a split's first file say all that it holds; else only the datasets library reads it.

        Raises:
            UserError: the file is no Parquet or cannot be downloaded.
        """
        first = Path(self.splits[split][0]) if self.commit is None else self._on_hub(split).first_file
        return reads_as_it_is(first)

    def rows(self, split: str) -> Rows:
        """The rows of a split; of one on the hub nothing is downloaded yet.

        Raises:
            UserError: a local file is no Parquet, or there are no rows.
        """
        if self.commit is not None:
            return self._on_hub(split)
        rows = ParquetRows([Path(file) for file in self.splits[split]])
        if not len(rows):
            raise UserError(f"{self.name}: split {split!r} has no rows")
        return rows

    def _on_hub(self, split: str) -> HubRows:
        return HubRows(self.name, self.commit, self.splits[split], (self.counts or {}).get(split))


def find_parquet(name: str, config: str | None = None, split: str = "train") -> ParquetFiles | None:
    """The files of a data set, if they are Parquet and nothing has to be done to them; else None.

    Args:
        name, config: as of `open_r1.data.sources.load_rows`.
        split: what a single file is called; it is not found under a slice of a split.

    Raises:
        UserError: it cannot be found or read, or the hub cannot be reached.
    """
    path = Path(name).expanduser()
    with one_line_errors(name):
        if path.is_file():
            whole = split.isidentifier() and path.suffix == ".parquet" and path.stat().st_size
            return ParquetFiles(name, {split: [str(path)]}) if whole else None
        if path.is_dir():
            if data_readers(path) != {"parquet"} or glob.has_magic(str(path)):
                return None
            with no_progress_bars():
                return _of_builder(str(path), config)
        return None if is_path(name) else _of_hub(name, config)


def _of_builder(name: str, config: str | None, repository: str | None = None) -> ParquetFiles | None:
    """What the datasets library would read, before it reads anything."""
    builder = load_dataset_builder(name, config)
    settings = builder.config
    plain = isinstance(builder, Parquet) and settings.columns is None and settings.filters is None
    if not plain or not settings.data_files or "Json" in str(settings.features or builder.info.features):
        return None
    files = {str(split): list(map(str, found)) for split, found in settings.data_files.items()}
    every = [file for found in files.values() for file in found]
    if repository is None:
        return ParquetFiles(name, files) if all(Path(file).is_file() for file in every) else None
    base = f"hf://datasets/{repository}@"
    commit = every[0].removeprefix(base).partition("/")[0]
    prefix = f"{base}{commit}/"
    if not all(file.startswith(prefix) for file in every):
        return None
    splits = {split: [file.removeprefix(prefix) for file in found] for split, found in files.items()}
    said = builder.info.splits or {}
    counts = {split: said[split].num_examples for split in splits if split in said and said[split].num_examples}
    return ParquetFiles(name, splits, commit, counts)


def _of_hub(name: str, config: str | None) -> ParquetFiles | None:
    """As the hub says; where it cannot be reached, as it said the last time."""
    note = cache_folder("hub") / f"{name.replace('/', '--')}--{config or 'default'}.json"
    if is_offline_mode() and (noted := _read(note)) is not None:
        return noted
    try:
        found = _of_builder(name, config, repository=name)
    except ConnectionError:
        if (noted := _read(note)) is None:
            raise
        return noted
    if found is not None:
        with suppress(OSError):  # only a later start without the hub would read it
            note.parent.mkdir(parents=True, exist_ok=True)
            write_json(note, asdict(found))
    return found


def _read(note: Path) -> ParquetFiles | None:
    saved = read_json(note)
    try:
        return None if saved is None else ParquetFiles(**saved)
    except TypeError:
        return None
