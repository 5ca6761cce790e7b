"""Uploading models and checkpoints beside training: it never stops a run and never makes a step wait.

`Publisher.checkpoint_saved` links a checkpoint's files into a folder of their own, so that the upload stays whole when
the checkpoint is rotated away, and returns. A thread uploads one such snapshot at a time through a process that can be
ended (`hub_process`). Of the snapshots that wait only the newest is kept. What fails is said in one line, with the
command that does it later; the next save tries again, and so does the end of the run.
"""

from __future__ import annotations

import os
import shlex
import shutil
import threading
import time
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape

from open_r1.config import TrainingConfig
from open_r1.config.output import PUSH_CALLBACK
from open_r1.errors import StopRequested, UserError
from open_r1.parallel.runtime import Runtime
from open_r1.training.hub_jobs import Answer, HubJobs
from open_r1.training.integrity import MANIFEST

LAST_CHECKPOINT = "last-checkpoint"
"""Folder of the repository that a run can be continued from."""

PAUSES_S = (5.0, 15.0, 30.0, 60.0)
"""Before the second, third, … attempt at the end of a run; the last one repeats."""

LONGEST_WAIT_S = 600.0
"""At the end of a run, beside the time that the bytes take at `SLOWEST`."""

WAIT_WHEN_STOPPED_S = 60.0
"""After SIGTERM: a machine that is taken away may take its disk along, and grants little time."""

SLOWEST = 4e6
"""Bytes a second below which an upload is given up."""

_KEPT_HERE = (MANIFEST, "settings.json", "*.jsonl", "*.log", "*.pt")
"""Beside a model's files, and no one else's business: places on this machine, logs, rows that did not train well."""


@dataclass(frozen=True)
class Snapshot:
    """What is to be uploaded.

    Attributes:
        label: ``checkpoint-500``, or ``final model``.
        folder: links to the files, laid out as in the repository.
        command: uploads the same by hand.
        size: in bytes.
        final: whether it is the model that training ends with.
    """

    label: str
    folder: Path
    command: str
    size: int
    final: bool


class Publisher:
    """Uploads what ``push_to_hub``, ``hub_strategy`` and the callback ``push_to_hub_revision`` ask for; else nothing.

    A context manager around training: after SIGTERM or Ctrl-C the newest checkpoint gets a minute to arrive.

    Raises:
        UserError: at once, where nobody is logged in at the hub, or the token may not write to the repository. A hub
            that is not reached is said, and no reason to stop.
    """

    def __init__(
        self, config: TrainingConfig, runtime: Runtime, *, jobs: HubJobs | None = None, console: Console | None = None
    ) -> None:
        asked = config.push_to_hub or PUSH_CALLBACK in config.callbacks
        self.active = asked and runtime.is_main
        self._config = config
        self._folder = Path(config.output_dir)
        self._console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        self._changed = threading.Condition()
        self._waiting: Snapshot | None = None
        self._running: Snapshot | None = None
        self._unsent: Path | None = None  # the checkpoint whose upload failed last
        self._closed = False
        if not asked:
            return
        repository = config.hub_model_id or self._folder.resolve().name
        self._jobs = jobs or HubJobs(repository, config.hub_model_revision, config.hub_private_repo)
        problem = runtime.gather([self._problem() if self.active else None])[0]
        if problem:
            raise UserError(problem)
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
        if self.active:
            self._thread.start()

    @property
    def repository(self) -> str | None:
        """Where the model goes, with its owner as soon as the hub has been reached; None where it is not uploaded."""
        return self._jobs.repository if self.active else None

    def _problem(self) -> str | None:
        """Why nothing can ever be uploaded; None where it can, or where the hub cannot be asked now."""
        where, hint = f"push_to_hub: {self._jobs.repository}", "or leave push_to_hub out"
        if not self._jobs.has_token():
            return f"{where}: nobody is logged in at the hub; set HF_TOKEN, run hf auth login, {hint}"
        answer = self._jobs.prepare()
        if answer.kind in ("login", "refused"):
            return f"{where}: {answer.reason}; mend HF_TOKEN or hub_model_id, {hint}"
        if answer.failed:
            self._say(f"[yellow]the hub is not reached[/] ({escape(answer.reason)}): training goes on, uploads later")
        return None

    def checkpoint_saved(self, path: Path, step: int) -> None:
        """Takes a whole checkpoint for upload where ``hub_strategy`` asks for that; returns at once."""
        if self.active and self._config.hub_strategy != "end":
            self._enqueue(f"checkpoint-{step}", checkpoint=path)

    def finished(self, folder: Path) -> None:
        """Takes the final model in ``folder`` for upload; `wait` waits for it."""
        if self.active:
            self._enqueue("final model", model=folder)

    def _enqueue(self, label: str, *, model: Path | None = None, checkpoint: Path | None = None) -> None:
        folder = self._folder / f".upload-{label.replace(' ', '-')}-{time.time_ns()}.tmp"
        with self._changed:
            try:
                snapshot = self._snapshot(folder, label, model, checkpoint)
            except OSError as error:
                shutil.rmtree(folder, ignore_errors=True)  # of a disk that may be full
                self._say(f"[yellow]{label} is not uploaded[/]: its files cannot be linked or copied ({error})")
                return
            self._drop(self._waiting)
            self._waiting = snapshot
            self._changed.notify_all()

    def _snapshot(self, folder: Path, label: str, model: Path | None, checkpoint: Path | None) -> Snapshot:
        """Links the model's files into the root, and a checkpoint to be continued from into a folder beside them."""
        source = model or checkpoint
        command = self._command(source)
        for file in published_files(source):
            _link(file, folder / file.name)
        if self._config.hub_strategy == "checkpoint":
            kept = checkpoint or self._unsent_checkpoint()
            for file in sorted(path for path in kept.rglob("*") if path.is_file()) if kept else ():
                _link(file, folder / LAST_CHECKPOINT / file.relative_to(kept))
            if checkpoint:
                command = self._command(checkpoint, LAST_CHECKPOINT)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        return Snapshot(label, folder, command, size, final=model is not None)

    def _unsent_checkpoint(self) -> Path | None:
        """The newest checkpoint that waits to be uploaded, or that could not be."""
        waiting = self._waiting.folder / LAST_CHECKPOINT if self._waiting else None
        return next((path for path in (waiting, self._unsent) if path and path.is_dir()), None)

    def _command(self, source: Path, place: str = ".") -> str:
        words = ["hf", "upload", self._jobs.repository, str(source), place]
        if self._config.hub_model_revision != "main":
            words += ["--revision", self._config.hub_model_revision]
        if self._config.hub_private_repo:
            words.append("--private")
        if place == ".":  # what lies beside the model's files
            for pattern in ("*/*", *_KEPT_HERE):
                words += ["--exclude", pattern]
        return shlex.join(words)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                self._running, self._waiting = self._waiting, None
                snapshot = self._running
            self._upload(snapshot)
            with self._changed:
                self._running = None
                self._changed.notify_all()

    def _upload(self, snapshot: Snapshot) -> None:
        """Uploads a snapshot; that of the final model again and again until `wait` gives up, or a newer one waits."""
        for attempt in range(1_000_000):
            start = time.monotonic()
            answer = self._jobs.upload(snapshot.folder, f"{snapshot.label} (open-r1)", self._deadline(snapshot))
            if self._closed:
                break
            if not answer.failed:
                self._sent(snapshot, answer, time.monotonic() - start)
                break
            again = snapshot.final and answer.kind == "unreachable"
            if not (again and attempt):  # said once
                self._failed(snapshot, answer, again)
            if not again:
                break
            with self._changed:
                pause = PAUSES_S[min(attempt, len(PAUSES_S) - 1)]
                if self._changed.wait_for(lambda: self._waiting or self._closed, timeout=pause):
                    break
        self._drop(snapshot)

    def _deadline(self, snapshot: Snapshot) -> float:
        return LONGEST_WAIT_S + snapshot.size / SLOWEST

    def _sent(self, snapshot: Snapshot, answer: Answer, seconds: float) -> None:
        if (snapshot.folder / LAST_CHECKPOINT).is_dir():
            self._unsent = None
        size = f"{snapshot.size / 1e9:.2f} GB in {seconds:.0f} s"
        self._say(f"[dim]uploaded {snapshot.label}: {escape(answer.url)} ({size})[/]")

    def _failed(self, snapshot: Snapshot, answer: Answer, again: bool) -> None:
        if not snapshot.final:
            self._unsent = self._folder / snapshot.label
        then = "trying again; by hand" if again else "later"
        self._say(
            f"[yellow]{snapshot.label} was not uploaded[/]: {escape(answer.reason)}; {then}: {escape(snapshot.command)}"
        )

    def wait(self, longest_s: float | None = None) -> None:
        """Waits until all is uploaded, or cannot be, showing how long that takes. Ctrl-C ends the waiting, no more.

        Args:
            longest_s: None is as long as `LONGEST_WAIT_S` and the bytes at `SLOWEST` take.
        """
        with self._changed:
            left = [snapshot for snapshot in (self._running, self._waiting) if snapshot]
        if not left:
            return
        longest_s = max(map(self._deadline, left)) if longest_s is None else longest_s
        start = time.monotonic()
        try:
            with self._console.status("") as status:
                while (passed := time.monotonic() - start) < longest_s:
                    status.update(f"uploading to {self._jobs.repository}: {passed:.0f} s of at most {longest_s:.0f} s")
                    with self._changed:
                        if self._changed.wait_for(lambda: not (self._waiting or self._running), timeout=0.5):
                            return
        except KeyboardInterrupt:
            pass
        command = escape(left[-1].command)
        self._say(f"[yellow]the upload is given up after {time.monotonic() - start:.0f} s[/]; later: {command}")

    def close(self) -> None:
        """Ends what is being uploaded and clears up."""
        if not self.active or self._closed:
            return
        with self._changed:
            self._closed = True
            self._drop(self._waiting)
            self._waiting = None
            self._changed.notify_all()
        self._jobs.end()
        self._thread.join(timeout=10)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is not None and issubclass(kind, StopRequested):
                self.wait(WAIT_WHEN_STOPPED_S)
        finally:
            self.close()

    def _say(self, text: str) -> None:
        self._console.print(text)

    @staticmethod
    def _drop(snapshot: Snapshot | None) -> None:
        if snapshot:
            shutil.rmtree(snapshot.folder, ignore_errors=True)


def published_files(folder: Path) -> list[Path]:
    """The files of a model folder that others want: no folder, no log, nothing hidden or half-written."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and not any(fnmatch(path.name, pattern) for pattern in _KEPT_HERE)
    )


def _link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy on a file system that has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
