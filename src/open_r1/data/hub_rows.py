"""Rows of Parquet files on the hub: each is downloaded while the one before is tokenized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import tqdm

from open_r1.background import Background
from open_r1.data.rows import Piece, parquet_columns, parquet_count, parquet_pieces, parquet_sample
from open_r1.errors import UserError


class HubRows:
    """The rows of Parquet files in a data set's repository, read from the hub's cache, into which they are downloaded.

    The first file is downloaded when columns, a sample or rows are asked for, the others one by one while rows are
    read. The hash is that of repository, commit and names, so that tokens in the cache need none of them.

    Args:
        repository: its id on the hub.
        commit: its revision, as a hash.
        files: paths in the repository.
        count: rows there are, where that is known before all files are here.

    Attributes:
        count: as given.
    """

    def __init__(self, repository: str, commit: str, files: Sequence[str], count: int | None = None) -> None:
        self._repository, self._commit, self._files = repository, commit, list(files)
        self.count = count

    def __str__(self) -> str:
        files = f"{len(self._files)} file" + "s" * (len(self._files) > 1)
        where = f"{files} of {self._repository} at {self._commit[:8]}"
        return where if self.count is None else f"{self.count:,} rows in {where}"

    @cached_property
    def first_file(self) -> Path:
        """The first file, on this machine.

        Raises:
            UserError: it cannot be downloaded.
        """
        return self._fetch(self._files[0])

    @cached_property
    def column_names(self) -> list[str]:
        """The columns of the first file."""
        return parquet_columns(self.first_file)

    def content_hash(self, columns: Sequence[str]) -> str:
        """Of repository, commit and names; see `Rows`."""
        return " ".join(["hub", self._repository, self._commit, *self._files, *columns])

    def pieces(self, columns: Sequence[str], start: int = 0) -> Iterator[Piece]:
        """As `Rows.pieces`; rows before ``start`` cost only their download, if they are not here any more.

        Raises:
            UserError: a file cannot be downloaded, is no Parquet or lacks a column.
        """
        coming = self._coming(self._files[0])
        for following in (*self._files[1:], None):
            path = coming.result()
            if following is not None:
                coming = self._coming(following)
            count = parquet_count(path)
            if start < count:
                yield from parquet_pieces(path, columns, start)
            start = max(0, start - count)

    def sample(self, columns: Sequence[str], size: int, seed: int = 0) -> list[dict[str, Any]]:
        """As `Rows.sample`, from the first file."""
        return parquet_sample([self.first_file], columns, size, seed)

    def _coming(self, file: str) -> Background[Path]:
        return Background(self._fetch, file, True)

    def _fetch(self, file: str, quiet: bool = False) -> Path:
        bars = {"tqdm_class": _Silent} if quiet else {}
        try:
            return Path(hf_hub_download(self._repository, file, repo_type="dataset", revision=self._commit, **bars))
        except Exception as error:  # of the hub, of its HTTP client, or of the disk
            cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
            gist = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:200]
            raise UserError(
                f"{self._repository}: {file} is not in the hub's cache and cannot be downloaded ({gist}): check the "
                "network and the disk (HF_HUB_OFFLINE, HF_ENDPOINT, HF_HOME) and start again; what is tokenized is kept"
            ) from error


class _Silent(tqdm):
    """No bar: the one of the tokenizer is on the screen."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})
