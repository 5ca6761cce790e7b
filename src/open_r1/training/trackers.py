"""wandb, tensorboard and trackio: they get what metrics.jsonl gets, and none of them stops, asks or outlasts a run."""

from __future__ import annotations

import contextlib
import contextvars
import importlib.util
import io
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape

from open_r1.config import TrainingConfig
from open_r1.errors import UserError

PROJECT = "open-r1"
"""Where nothing else is named."""

START_S = 30
"""Login and first answer of wandb's server must be there after so long, or the run is recorded offline."""

FINISH_S = 60
"""At the end a tracker gets so long to send what is left."""

console = Console(stderr=True, soft_wrap=True, highlight=False)


class Tracker(Protocol):
    """What a tracker can do; any of it may raise."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes the metrics of a step."""

    def finish(self) -> None:
        """Sends or writes what is left."""


class Wandb:
    """A run at wandb, or recorded offline where there is no key, or no server that answers.

    Its files lie in ``output_dir/wandb`` unless WANDB_DIR names another folder. A resumed run goes on under its own id.
    """

    def __init__(self, config: TrainingConfig, first_step: int) -> None:
        import wandb

        folder = Path(os.environ.get("WANDB_DIR") or config.output_dir)
        settings = {"init_timeout": START_S, "finish_timeout": FINISH_S - 5}
        options = {
            "project": config.wandb_project or os.environ.get("WANDB_PROJECT") or PROJECT,
            "entity": config.wandb_entity,
            "group": config.wandb_run_group,
            "name": run_name(config),
            "dir": str(folder),
            "config": plain_settings(config),
        }
        last = _last_wandb_id(folder) if first_step and "WANDB_RUN_ID" not in os.environ else None
        online = os.environ.get("WANDB_MODE", "online") in ("online", "shared")
        try:
            again = {"id": last, "resume": "allow"} if last and online else {}
            self._run = wandb.init(**options, **again, settings=wandb.Settings(**settings))
        except Exception as error:
            if not online:
                raise
            wandb.teardown()
            console.print(f"[yellow]wandb is not reached[/] ({_reason(error)}): the run is recorded offline")
            self._run = wandb.init(**options, mode="offline", settings=wandb.Settings(silent=True, **settings))
        if self._run.offline and not self._run.disabled:
            where = Path(self._run.dir).parent
            console.print(f"wandb records offline; later: wandb sync {where}", markup=False)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        self._run.finish()


class Tensorboard:
    """Event files in ``output_dir/open-r1``; steps that a resumed run takes again replace those taken before."""

    def __init__(self, config: TrainingConfig, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(config.output_dir) / PROJECT
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None, flush_secs=30)
        lines = [f"    {name}: {value}" for name, value in plain_settings(config).items()]
        self._writer.add_text("settings", "\n".join(lines))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self._writer.close()


class Trackio:
    """A run in trackio's own database on this machine, which ``trackio show`` opens (TRACKIO_DIR moves it).

    It leaves the machine only where the person has named TRACKIO_SPACE_ID or TRACKIO_SERVER_URL.
    """

    def __init__(self, config: TrainingConfig, first_step: int) -> None:
        import trackio

        with contextlib.redirect_stdout(sys.stderr):
            # In a context of its own: what trackio does at exit to the run it remembers would repeat `finish`.
            self._run = contextvars.copy_context().run(
                trackio.init,
                project=config.wandb_project or PROJECT,
                name=run_name(config),
                group=config.wandb_run_group,
                config=plain_settings(config),
                resume="allow" if first_step else "never",
                embed=False,
            )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it speaks of an upload in any case
            self._run.finish()


KINDS: dict[str, Callable[[TrainingConfig, int], Tracker]] = {
    "wandb": Wandb,
    "tensorboard": Tensorboard,
    "trackio": Trackio,
}


class Trackers:
    """Those that ``report_to`` names. One that fails is said in one line and left out from then on.

    Args:
        first_step: steps taken before, by the run that this one continues.
    """

    def __init__(self, config: TrainingConfig, first_step: int) -> None:
        self._running: dict[str, Tracker] = {}
        for name in installed_trackers(config):
            try:
                self._running[name] = KINDS[name](config, first_step)
            except Exception as error:
                console.print(f"[yellow]{name} does not start[/] ({_reason(error)}): training goes on without it")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Sends the metrics of a step."""
        for name, tracker in list(self._running.items()):
            try:
                tracker.log(metrics, step)
            except Exception as error:
                del self._running[name]
                console.print(
                    f"[yellow]{name} failed at step {step}[/] ({_reason(error)}): training goes on without it; "
                    "metrics.jsonl has every step"
                )

    def finish(self) -> None:
        """Gives each of them `FINISH_S` to send what is left."""
        for name, tracker in self._running.items():
            ended = threading.Thread(target=_finish, args=(name, tracker), name=f"finish-{name}", daemon=True)
            ended.start()
            ended.join(FINISH_S)
            if ended.is_alive():
                console.print(f"[yellow]{name} is not done after {FINISH_S} s[/]: left behind")
        self._running.clear()


def _finish(name: str, tracker: Tracker) -> None:
    try:
        tracker.finish()
    except Exception as error:
        console.print(f"[yellow]{name} did not end well[/] ({_reason(error)})")


def installed_trackers(config: TrainingConfig) -> list[str]:
    """The trackers that ``report_to`` names; "all" means those that are installed.

    Checked before anything is prepared. A tracker never asks a question: without a key, wandb records offline. None
    reports home about itself.

    Raises:
        UserError: for a tracker that is not installed.
    """
    missing = [name for name in config.trackers if importlib.util.find_spec(name) is None]
    if missing and config.report_to not in ("all", ["all"]):
        name = missing[0]
        raise UserError(f"report_to {name}: it is not installed; run: pip install {name} (or set --report_to none)")
    if "wandb" in config.trackers:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        if not _wandb_has_key():
            os.environ.setdefault("WANDB_MODE", "offline")
            os.environ.setdefault("WANDB_SILENT", "true")
    return [name for name in config.trackers if name not in missing]


def _wandb_has_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc").expanduser()
    try:
        return host in netrc.read_text()
    except (OSError, ValueError):
        return False


def run_name(config: TrainingConfig) -> str:
    """The name of the run at the trackers."""
    return config.run_name or Path(config.output_dir).resolve().name


def plain_settings(config: TrainingConfig) -> dict[str, int | float | str | bool]:
    """All settings, each as a number or a text."""
    return {
        key: value if isinstance(value, int | float | str | bool) else str(value)
        for key, value in asdict(config).items()
    }


def _last_wandb_id(folder: Path) -> str | None:
    """The id of the run that was recorded last in a folder: wandb names its folders by time and id."""
    found = (re.fullmatch(r"(?:offline-)?run-(\d+_\d+)-(\w+)", path.name) for path in (folder / "wandb").glob("*run-*"))
    return max(((match[1], match[2]) for match in found if match), default=(None, None))[1]


def _reason(error: BaseException) -> str:
    """In one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return escape(text[:200])
