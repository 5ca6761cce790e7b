"""Whether a stage is skipped, resumed or run, and why. Reads the folders and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from open_r1.files import read_json
from open_r1.pipeline.manifest import MANIFEST, STARTED, Identity, Seen, changed_output, find_inputs, identity, look_at
from open_r1.pipeline.settings import written_settings
from open_r1.pipeline.spec import Pipeline, Stage


class Action(Enum):
    SKIP = "skip"
    RESUME = "resume"
    RUN = "run"


@dataclass(frozen=True)
class Decision:
    """What is to be done with a stage.

    Attributes:
        identity: of what the stage would write now.
        seen: its inputs.
        replaces: the stage's folder holds something else, which has to be moved away first.
    """

    stage: Stage
    action: Action
    reason: str
    identity: Identity
    seen: dict[str, Seen]
    replaces: bool = False


def decide(pipeline: Pipeline, stage: Stage, redone: Collection[str] = (), *, force: bool = False) -> Decision:
    """Decides about ``stage`` from what its folder holds.

    Args:
        redone: names of earlier stages that are done anew in this run.
        force: do it anew although nothing changed.
    """
    folder = pipeline.folder(stage)
    manifest, started = read_json(folder / MANIFEST), read_json(folder / STARTED)
    settings = written_settings(pipeline, stage)
    seen = look_at(find_inputs(pipeline, stage, settings), (manifest or started or {}).get("inputs") or {})
    made = identity(pipeline, stage, settings, seen)
    occupied = os.path.isdir(folder) and any(folder.iterdir())
    anew = Decision(stage, Action.RUN, "not done yet", made, seen, replaces=occupied)
    if force:
        return replace(anew, reason="asked for by --from")
    if not occupied:
        return anew
    upstream = [name for name in stage.needs if name in redone]
    if upstream:
        return replace(anew, reason=f"{', '.join(upstream)} is done anew")
    if manifest is not None:
        return _decide_done(anew, manifest, folder)
    recorded = (started or {}).get("identity")
    changed = "it was not made here" if recorded is None else made.difference(recorded)
    if changed and recorded and made.extends(recorded):
        return _go_on(anew, f"stopped in the middle, and {changed}")
    if changed:
        return replace(anew, reason=f"stopped in the middle, and {changed}")
    if stage.kind == "script":
        return replace(anew, reason="stopped in the middle; a script starts anew", replaces=False)
    return _go_on(anew, "stopped in the middle")


def _go_on(anew: Decision, reason: str) -> Decision:
    return replace(anew, action=Action.RESUME, reason=reason, replaces=False)


def _decide_done(anew: Decision, manifest: dict, folder: Path) -> Decision:
    recorded = manifest.get("identity") or {}
    changed = anew.identity.difference(recorded)
    if changed and anew.identity.extends(recorded):
        return _go_on(anew, f"{changed}: draws what is missing")
    if changed:
        return replace(anew, reason=changed)
    lost = changed_output(folder, manifest.get("outputs") or {})
    if lost:
        return replace(anew, reason=f"its {lost} is missing or changed")
    started = str(manifest.get("started", "")).replace("T", " ")[:16]
    return replace(anew, action=Action.SKIP, reason=f"done {started}", replaces=False)
