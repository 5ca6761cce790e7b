"""The files of one generation: kept answers, rejected ones, and a manifest that says how they were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from open_r1.corpus.answer_log import AnswerLog, Key, Record, drop_torn_line, key_of, read_log, revise_log, sort_log
from open_r1.corpus.tally import Tally
from open_r1.errors import UserError
from open_r1.evaluation.store import changed_settings
from open_r1.files import read_json, write_json
from open_r1.locks import held

_ELSEWHERE = "choose another --output"
_HOW_ON = f"{_ELSEWHERE}, or start anew with --overwrite_output"
_WITHOUT_TEXT = ("id", "sample", "gold", "reward", "tokens", "finish_reason")

DatasetName = Sequence[str | None]
"""Data set, its configuration, its split."""


class AnswerFiles:
    """``<output>``, ``<output>.rejected`` and ``<output>.manifest.json``; a context manager that holds them.

    Rejected answers are kept apart so that a second start does not draw them again; their file's name does not end in
    ``.jsonl``, so that nobody who loads the folder takes them for data. While it is open nobody else can open it.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.output = output
        self.rejected = output.with_name(f"{output.name}.rejected")
        self.manifest = output.with_name(f"{output.name}.manifest.json")
        self._settings = dict(settings)
        self._overwrite = overwrite

    def __enter__(self) -> AnswerFiles:
        """Opens the files.

        Raises:
            UserError: another start has them open, or the output is there already and was made otherwise.
        """
        with ExitStack() as stack:
            way_on = f"wait until it ends, or {_ELSEWHERE}"
            refusal = f"{self.output} is in use by another start ({{holder}}): {way_on}"
            stack.enter_context(held(self.output.with_name(f".{self.output.name}.lock"), refusal))
            self._manifest = self._open()
            drop_torn_line(self.rejected)
            self._logs = {True: AnswerLog(self.output)}
            stack.callback(self._close_logs)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self) -> dict[str, Any]:
        """Checks what is there, and writes and returns the manifest."""
        if self._overwrite:
            for path in (self.manifest, self.output, self.rejected):
                path.unlink(missing_ok=True)
        earlier = read_json(self.manifest)
        if earlier is None and self.output.exists():
            raise UserError(f"{self.output} is there already and has no manifest of open-r1 generate: {_HOW_ON}")
        if earlier is not None and (changed := changed_settings(earlier["settings"], self._settings)):
            raise UserError(f"{self.output} holds answers made with other settings ({changed}): {_HOW_ON}")
        manifest = earlier or {"settings": self._settings}
        write_json(self.manifest, manifest)
        return manifest

    @property
    def seconds(self) -> float:
        """What earlier starts took."""
        return self._manifest.get("counts", {}).get("seconds", 0.0)

    def claim(self, dataset: DatasetName, foreign: int) -> None:
        """Makes the files those of ``dataset``, before anything is drawn for it.

        A data set that moved or grew keeps its answers, as each is known by its prompt.

        Args:
            foreign: how many answers there are, in either file, to prompts that ``dataset`` does not ask.

        Raises:
            UserError: there are some, and they were drawn for another data set.
        """
        earlier = self._manifest.get("dataset")
        if foreign and earlier is not None and resolved(earlier) != resolved(dataset):
            raise UserError(
                f"{self.output} holds {foreign} answers to another data set ({_spelt(earlier)}, not "
                f"{_spelt(dataset)}): {_HOW_ON}"
            )
        self._manifest["dataset"] = resolved(dataset)
        write_json(self.manifest, self._manifest)

    def earlier(self) -> list[tuple[Record, bool]]:
        """The answers of earlier starts, without their texts, each with whether it is kept."""
        return [({name: record[name] for name in _WITHOUT_TEXT}, kept) for record, kept in self.records()]

    def records(self) -> Iterator[tuple[Record, bool]]:
        """The answers on disk, those in the output first, each with whether it is kept."""
        for kept, path in self._paths().items():
            for _, record in read_log(path):
                yield record, kept

    def append(self, record: Record, kept: bool) -> None:
        """Writes an answer; it is on disk when this returns."""
        if kept not in self._logs:
            self._logs[kept] = AnswerLog(self.output if kept else self.rejected)
        self._logs[kept].append(record)

    def replace(self, revised: Mapping[Key, tuple[Record, bool]]) -> None:
        """Gives answers other fields, and moves those between the files whose ``kept`` changes.

        An answer is appended where it goes before it is taken from where it was: a kill leaves it twice, never lost.

        Args:
            revised: the fields that change, and whether the answer is kept.
        """
        for record, kept in self.records():
            fields, keeps = revised.get(key_of(record), ({}, kept))
            if keeps != kept:
                self.append(record | fields, keeps)
        self._close_logs()
        for kept, path in self._paths().items():
            here = {key: fields if keeps == kept else None for key, (fields, keeps) in revised.items()}
            revise_log(path, here)

    def _close_logs(self) -> None:
        for log in self._logs.values():
            log.close()
        self._logs.clear()

    def describe(self, facts: Mapping[str, Any], tally: Tally) -> None:
        """Writes the manifest anew, with ``facts`` and the counts so far."""
        self._manifest |= {**facts, "counts": asdict(tally)}
        write_json(self.manifest, self._manifest)

    def sort(self, order: Mapping[str, int]) -> None:
        """Puts both files in the order of their prompts (id -> place) and samples; nothing is appended after that."""
        for path in self._paths().values():
            sort_log(path, order)

    def _paths(self) -> dict[bool, Path]:
        return {kept: path for kept, path in ((True, self.output), (False, self.rejected)) if path.exists()}


def resolved(dataset: DatasetName) -> list[str | None]:
    """With the whole path of what is on this disk, as ``train.jsonl`` is another file in another folder."""
    name, *rest = dataset
    path = Path(name).expanduser()
    return [str(path.resolve()) if path.exists() else name, *rest]


def _spelt(dataset: DatasetName) -> str:
    return " ".join(filter(None, dataset))
