"""Jobs for the process that talks to the hub: started with a deadline, ended when it has passed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_r1.training import hub_process

PREPARE_S = 20.0
"""Login, repository and branch must be there after so long, or the hub counts as not reached."""

_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_VERBOSITY": "critical"}


@dataclass(frozen=True)
class Answer:
    """What came of a job.

    Attributes:
        url: of the commit, or of the repository.
        reason: why it failed, in one line; empty where it did not.
        kind: of the failure, one of `hub_process.KINDS`.
    """

    url: str = ""
    reason: str = ""
    kind: str = ""

    @property
    def failed(self) -> bool:
        """Whether it failed."""
        return bool(self.reason)


class HubJobs:
    """Uploads to one branch of one repository; the token is the hub's own business, and never passes through here.

    Args:
        repository: with or without its owner; known with its owner once the hub has been asked.
        private: of a new repository; None is the account's default.
        silence_s: a connection over which nothing comes or goes for so long is given up.
    """

    def __init__(
        self,
        repository: str,
        revision: str = "main",
        private: bool | None = None,
        *,
        silence_s: float = hub_process.SILENCE_S,
    ) -> None:
        self.repository = repository
        self._job = {"revision": revision, "private": private, "silence_s": silence_s}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._ended = False

    @staticmethod
    def has_token() -> bool:
        """Whether somebody is logged in, as far as this machine knows."""
        from huggingface_hub import get_token

        return get_token() is not None

    def prepare(self, deadline_s: float = PREPARE_S) -> Answer:
        """Login, repository, branch."""
        return self._run({}, deadline_s)

    def upload(self, folder: Path, message: str, deadline_s: float) -> Answer:
        """One commit with all files of ``folder``."""
        return self._run({"folder": str(folder.resolve()), "message": message}, deadline_s)

    def end(self) -> None:
        """Ends the job that runs; no other is started."""
        with self._lock:
            self._ended = True
            if self._process:
                self._process.kill()

    def _run(self, job: dict[str, Any], deadline_s: float) -> Answer:
        argument = json.dumps(self._job | {"repository": self.repository} | job)
        lifeline, held = os.pipe()  # closes with this process, which ends the other
        try:
            with self._lock:
                if self._ended:
                    return Answer(reason="the run has ended", kind="refused")
                self._process = subprocess.Popen(
                    [sys.executable, "-P", hub_process.__file__, argument],
                    env=os.environ | _QUIET,
                    stdin=lifeline,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,  # Ctrl-C is for this process
                )
            with self._process as process:
                try:
                    output, problems = process.communicate(timeout=deadline_s)
                except subprocess.TimeoutExpired:
                    process.kill()
                    return Answer(reason=f"not done after {deadline_s:.0f} s", kind="unreachable")
        except OSError as error:
            return Answer(reason=f"the uploading process does not start ({error})", kind="unreachable")
        finally:
            os.close(lifeline)
            os.close(held)
        return self._read(output, problems)

    def _read(self, output: str, problems: str) -> Answer:
        try:
            answer = json.loads(output.splitlines()[-1])
        except (IndexError, ValueError):
            last = (problems.strip().splitlines() or ["it was ended"])[-1]
            return Answer(reason=f"the uploading process failed: {last[:200]}", kind="unreachable")
        self.repository = answer.get("repository", self.repository)
        return Answer(**{key: answer[key] for key in ("url", "reason", "kind") if key in answer})
