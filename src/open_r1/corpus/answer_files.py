"""The files of one generation: kept answers, rejected ones, and a manifest that says how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from open_r1.corpus.answer_log import AnswerLog, Record, drop_torn_line, read_log, sort_log
from open_r1.corpus.tally import Tally
from open_r1.errors import UserError
from open_r1.evaluation.store import changed_settings
from open_r1.files import read_json, write_json

_HOW_ON = "choose another --output, or start anew with --overwrite_output"


class AnswerFiles:
    """``<output>``, ``<output>.rejected`` and ``<output>.manifest.json``; a context manager.

    Rejected answers are kept apart so that a second start does not draw them again; their file's name does not end in
    ``.jsonl``, so that nobody who loads the folder takes them for data.

    Raises:
        UserError: the output is there already and was made otherwise.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.output = output
        self.rejected = output.with_name(f"{output.name}.rejected")
        self.manifest = output.with_name(f"{output.name}.manifest.json")
        if overwrite:
            for path in (self.manifest, self.output, self.rejected):
                path.unlink(missing_ok=True)
        earlier = read_json(self.manifest)
        if earlier is None and output.exists():
            raise UserError(f"{output} is there already and has no manifest of open-r1 generate: {_HOW_ON}")
        if earlier is not None and (changed := changed_settings(earlier["settings"], settings)):
            raise UserError(f"{output} holds answers made with other settings ({changed}): {_HOW_ON}")
        self._manifest = earlier or {"settings": dict(settings)}
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.manifest, self._manifest)

    def __enter__(self) -> AnswerFiles:
        drop_torn_line(self.rejected)
        self._stack = ExitStack()
        self._logs = {True: self._stack.enter_context(AnswerLog(self.output))}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def seconds(self) -> float:
        """What earlier starts took."""
        return self._manifest.get("counts", {}).get("seconds", 0.0)

    def earlier(self) -> list[tuple[Record, bool]]:
        """The answers of earlier starts, without their texts, each with whether it is kept."""
        return [
            ({name: record[name] for name in ("id", "sample", "reward", "tokens", "finish_reason")}, kept)
            for kept, path in ((True, self.output), (False, self.rejected))
            if path.exists()
            for _, record in read_log(path)
        ]

    def append(self, record: Record, kept: bool) -> None:
        """Writes an answer; it is on disk when this returns."""
        if kept not in self._logs:
            self._logs[kept] = self._stack.enter_context(AnswerLog(self.rejected))
        self._logs[kept].append(record)

    def describe(self, facts: Mapping[str, Any], tally: Tally) -> None:
        """Writes the manifest anew, with ``facts`` and the counts so far."""
        self._manifest |= {**facts, "counts": asdict(tally)}
        write_json(self.manifest, self._manifest)

    def sort(self, order: Mapping[str, int]) -> None:
        """Puts both files in the order of their prompts (id -> place) and samples."""
        for path in (self.output, self.rejected):
            if path.exists():
                sort_log(path, order)
