"""Every command in the README runs as printed, in the order in which it is printed.

The demo's base model stands where the real small one would, which `test_smollm2` takes through the same commands.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {"open-r1": [sys.executable, "-m", "open_r1"], "python": [sys.executable]}


def commands(text: str) -> list[str]:
    """The commands in a Markdown text's bash blocks, continued lines joined and comments cut."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := line.split(" # ")[0].strip()) and not command.startswith("#")]


def run(command: str, folder: Path) -> None:
    program, *words = shlex.split(command)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OPEN_R1_CACHE": str(folder / "cache")}
    done = subprocess.run([*PROGRAMS[program], *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the repository after `make demo` has drawn its problems."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("recipes", "tests", "src"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "models").mkdir()
    (folder / "models" / "SmolLM2-135M-Instruct").symlink_to(ROOT / "recipes" / "demo" / "base")
    run("open-r1 run recipes/demo/pipeline.yaml --until problems", folder)
    return folder


def test_readme_commands(checkout: Path) -> None:
    found = [command for command in commands((ROOT / "README.md").read_text()) if not command.startswith("make ")]
    assert len(found) >= 4
    for command in found:
        run(command, checkout)
    results = json.loads((checkout / "runs/evaluate").rglob("results.json").__next__().read_text())
    assert 0 <= results["tasks"][0]["pass_at_1"] <= 1


def test_readme_make_targets_exist() -> None:
    for command in commands((ROOT / "README.md").read_text()):
        if command.startswith("make "):
            dry = subprocess.run(["make", "-n", command.split()[1]], cwd=ROOT, capture_output=True, text=True)
            assert dry.returncode == 0, dry.stderr
