"""Every generation of a task on disk, so that nothing drawn is lost and a second start draws only what is missing.

A task's folder holds ``settings.json`` (what the generations depend on), ``parts/part-00000.parquet`` and so on
(written while the task runs) and, once it is complete, ``generations.parquet``. Each file appears by one rename after
all of it is written, so a file that can be seen is whole.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from open_r1.errors import UserError
from open_r1.evaluation.generations import SAMPLE_BITS, SCHEMA, Generation, read_generations, row_keys, to_table
from open_r1.files import read_json, write_json

_ROWS_PER_PART = 1024
_SECONDS_PER_PART = 5.0
_SECONDS_KEY = b"seconds"
_JUDGED_BY = "judged_by"
_HOW_ON = "choose another --output_dir, or start afresh with --overwrite_output_dir"


def changed_settings(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The settings that differ, as one line of "name old → new"; empty where none does."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)!r} → {new.get(name)!r}" for name in names)


class GenerationStore:
    """The generations of one task in one folder.

    As a context it times the drawing, writes what was appended every few seconds in a thread of its own, so that
    whoever draws does not wait for the disk, and loses no row on the way out.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], *, judged_by: str | None = None, overwrite: bool = False
    ) -> None:
        """Opens ``folder``, or makes it.

        Args:
            settings: all that a generation depends on, as JSON values.
            judged_by: names the content of the user's own code that gives rewards; None where there is none.
            overwrite: leave what is there as it is until `start_anew`, which must come before anything else.

        Raises:
            UserError: the folder holds generations that were made with other settings.
        """
        self.folder = folder
        self._settings = settings
        self._judged_by = judged_by
        self._judged_otherwise_by: str | None = None
        self._parts = folder / "parts"
        self._merged = folder / "generations.parquet"
        if not overwrite:
            self._check_settings()
            self._make_folder()
        self._buffer: list[Generation] = []
        self._last_write = time.monotonic()
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._writer: threading.Thread | None = None
        self._failure: Exception | None = None

    def start_anew(self) -> None:
        """Removes every generation that an earlier start left."""
        shutil.rmtree(self._parts, ignore_errors=True)
        self._merged.unlink(missing_ok=True)
        self._make_folder()

    @property
    def judged_otherwise(self) -> bool:
        """Whether rewards on disk were given by other code than would give them now."""
        return self._judged_otherwise_by is not None

    def forget_rewards(self) -> None:
        """Makes every row on disk one without a reward (and a stated answer), for `unverified` to give out.

        A kill between two files leaves the rest for the next start, which finds `judged_otherwise` still.
        """
        for path in self._files():
            rows = read_generations(path)
            for name in ("reward", "extracted"):
                place = SCHEMA.get_field_index(name)
                rows = rows.set_column(place, SCHEMA.field(place), pa.nulls(len(rows), SCHEMA.field(place).type))
            self._write(path, rows, seconds=_seconds(path))
        self._judged_otherwise_by = None
        self._write_settings()

    @property
    def path(self) -> Path:
        """Of ``generations.parquet``."""
        return self._merged

    def __enter__(self) -> GenerationStore:
        self._last_write = time.monotonic()
        self._closing, self._failure = False, None
        self._writer = threading.Thread(target=self._write_now_and_then, name="generation-store", daemon=True)
        self._writer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._wake.set()
        self._writer.join()
        self.flush()

    def done(self, prompts: Mapping[int, str], golds: Mapping[int, str]) -> set[tuple[int, int]]:
        """The (problem, sample) pairs on disk.

        Args:
            prompts, golds: problem -> what would be asked now, and its gold answer.

        Raises:
            UserError: a problem was asked differently, or had another gold answer.
        """
        pairs = set()
        for path in self._files():
            columns = read_generations(path, ["problem", "sample", "prompt", "gold"]).to_pydict()
            for problem, sample, prompt, gold in zip(*columns.values(), strict=True):
                if prompts.get(problem, prompt) != prompt or golds.get(problem, gold) != gold:
                    what = "gold answer" if prompts.get(problem, prompt) == prompt else "prompt"
                    raise UserError(f"{self.folder} holds answers to another {what} of problem {problem}; {_HOW_ON}")
                pairs.add((problem, sample))
        return pairs

    def unverified(self) -> list[Generation]:
        """The rows that have no reward: their verifier took too long, or its sandbox was away.

        Such a row is appended again, with its reward, once it has one; `merge` then takes that one.
        """
        verified: set[int] = set()
        without: list[Generation] = []
        for path in self._files():
            rows = read_generations(path, ["problem", "sample", "reward"])
            keys = row_keys(rows["problem"].to_numpy(), rows["sample"].to_numpy())
            missing = rows["reward"].is_null().to_numpy()
            verified.update(keys[~missing].tolist())
            if missing.any():
                rows = read_generations(path).filter(pa.array(missing))
                without += [Generation(**row) for row in rows.to_pylist()]
        return [row for row in without if (row.problem << SAMPLE_BITS | row.sample) not in verified]

    def append(self, generation: Generation) -> None:
        """Adds a row; inside the context it reaches the disk in a few seconds, else at :meth:`flush`.

        Raises:
            UserError: rows that came before could not be written.
        """
        if self._failure is not None:
            raise self._failure
        self._buffer.append(generation)
        if len(self._buffer) >= _ROWS_PER_PART:
            self._wake.set()

    def flush(self) -> None:
        """Writes what is held back as a new part.

        Raises:
            UserError: the disk is full, or the folder is gone.
        """
        with self._writing:
            rows = self._buffer[:]
            if not rows:
                return
            now = time.monotonic()
            try:
                self._write(self._next_part(), to_table(rows), seconds=now - self._last_write)
            except OSError as error:
                raise UserError(
                    f"{self.folder}: answers cannot be written ({error.strerror or error}); mend that, and the same "
                    "command goes on from what is there"
                ) from error
            del self._buffer[: len(rows)]  # only now: while it was written, more may have been appended
            self._last_write = now

    def merge(self, wanted: Collection[tuple[int, int]]) -> tuple[pa.Table, float]:
        """Makes ``generations.parquet`` of the wanted (problem, sample) pairs, in that order, and drops the parts.

        What else was drawn before (more samples, more problems) stays behind as a part, for a later start to use.

        Returns:
            The rows, and the seconds that all starts together spent on drawing.

        Raises:
            UserError: a wanted pair was never drawn, or a file cannot be read.
        """
        files = self._files()
        seconds = sum(_seconds(path) for path in files)
        tables = [read_generations(path) for path in files]
        rows = _sorted_once(pa.concat_tables(tables)) if tables else SCHEMA.empty_table()
        found = row_keys(rows["problem"].to_numpy(), rows["sample"].to_numpy())
        asked = row_keys(*np.array(sorted(wanted), dtype=np.int64).reshape(-1, 2).T)
        missing = np.setdiff1d(asked, found, assume_unique=True)
        if len(missing):
            problem, sample = divmod(int(missing[0]), 1 << SAMPLE_BITS)
            raise UserError(
                f"{self.folder}: {len(missing)} of {len(asked)} answers were never drawn (the first: problem "
                f"{problem}, sample {sample}); the same command draws them"
            )
        mask = np.isin(found, asked, assume_unique=True)
        if files == [self._merged] and mask.all():
            return rows, seconds
        kept = rows
        if not mask.all():
            self._write(self._next_part(), rows.filter(pa.array(~mask)), seconds=0.0)
            kept = rows.filter(pa.array(mask))
        self._write(self._merged, kept, seconds=seconds)
        for path in files:
            if path != self._merged:
                path.unlink()
        return kept, seconds

    def _write_now_and_then(self) -> None:
        while not self._closing and self._failure is None:
            self._wake.wait(_SECONDS_PER_PART)
            self._wake.clear()
            try:
                self.flush()
            except Exception as error:  # raised where answers come in, which else would not hear of it
                self._failure = error

    def _make_folder(self) -> None:
        self._parts.mkdir(parents=True, exist_ok=True)
        for torn in self._parts.glob(".*.tmp"):
            torn.unlink()
        self._write_settings()

    def _write_settings(self) -> None:
        """``judged_by`` stays what it was until no reward of that code is left."""
        judged_by = self._judged_otherwise_by or self._judged_by
        judging = {_JUDGED_BY: judged_by} if judged_by else {}
        write_json(self.folder / "settings.json", {**self._settings, **judging})

    def _check_settings(self) -> None:
        if not self._files():
            return
        old = read_json(self.folder / "settings.json") or {}
        judged_by = old.pop(_JUDGED_BY, None)  # an older version wrote none
        changed = changed_settings(old, json.loads(json.dumps(self._settings)))
        if changed:
            raise UserError(f"{self.folder} holds answers made with other settings ({changed}); {_HOW_ON}")
        self._judged_by = self._judged_by or judged_by
        if judged_by and judged_by != self._judged_by:
            self._judged_otherwise_by = judged_by

    def _files(self) -> list[Path]:
        merged = [self._merged] if self._merged.exists() else []
        return merged + sorted(self._parts.glob("part-*.parquet"))

    def _next_part(self) -> Path:
        numbers = [int(path.stem.removeprefix("part-")) for path in self._parts.glob("part-*.parquet")]
        return self._parts / f"part-{max(numbers, default=-1) + 1:05d}.parquet"

    @staticmethod
    def _write(path: Path, rows: pa.Table, *, seconds: float) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        metadata = {**(rows.schema.metadata or {}), _SECONDS_KEY: f"{seconds:.3f}".encode()}
        pq.write_table(rows.replace_schema_metadata(metadata), temporary, compression="zstd")
        os.replace(temporary, path)


def _seconds(path: Path) -> float:
    try:
        return float((pq.read_schema(path).metadata or {}).get(_SECONDS_KEY, b"0"))
    except (pa.ArrowException, OSError):  # `read_generations` says what is wrong with it
        return 0.0


def _sorted_once(rows: pa.Table) -> pa.Table:
    """Rows by (problem, sample), each pair once, with a reward where it has one.

    A kill between merging and dropping the parts leaves rows twice, as does an answer that was verified later.
    """
    keys = row_keys(rows["problem"].to_numpy(), rows["sample"].to_numpy())
    if (np.diff(keys) > 0).all():
        return rows
    order = np.argsort(rows["reward"].is_null().to_numpy(), kind="stable")
    _, first = np.unique(keys[order], return_index=True)
    return rows.take(pa.array(order[first]))
