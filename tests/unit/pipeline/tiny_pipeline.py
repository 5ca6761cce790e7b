"""Tiny pipelines of scripts, in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SCRIPT = """
import argparse, pathlib, sys, time
p = argparse.ArgumentParser()
p.add_argument("--text", default="")
p.add_argument("--source", nargs="*", default=[])
p.add_argument("--seed", default="")
p.add_argument("--output", type=pathlib.Path)
p.add_argument("--wait_for")
p.add_argument("--fail", action="store_true")
a = p.parse_args()
with open("ran.log", "a") as log:
    log.write(a.output.parent.name + "\\n")
(a.output.parent / "begun").write_text("")
while a.wait_for and not pathlib.Path(a.wait_for).exists():
    time.sleep(0.02)
if a.fail:
    sys.exit(3)
a.output.write_text(a.text + a.seed + "".join(pathlib.Path(s).read_text() for s in a.source))
"""


class Folder:
    """A working folder with a script; writes pipelines and says which stages ran."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "work.py").write_text(SCRIPT)

    def stage(self, name: str, **args: Any) -> dict[str, Any]:
        return {"name": name, "kind": "script", "run": "work.py", "args": {"output": "{stage_dir}/out.txt", **args}}

    def write(self, *stages: dict[str, Any], **top: Any) -> str:
        data = {"name": "tiny", "output_dir": "runs", **top, "stages": list(stages)}
        (self.path / "pipeline.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
        return "pipeline.yaml"

    def ran(self) -> list[str]:
        """Folder names of the stages that ran since the last call, in order."""
        log = self.path / "ran.log"
        names = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return names

    def text(self, stage: str) -> str:
        return (self.path / "runs" / stage / "out.txt").read_text()
