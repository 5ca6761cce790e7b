"""Every command of docs/never-lose-a-run.md runs as printed, in the order in which it is printed, with a tiny model in
the place of the small one and a hub of this machine.
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
from fake_hub import fake_hub
from tiny_checkpoint import save_tiny_checkpoint
from training_runs import Run, assert_same_weights

ROOT = Path(__file__).resolve().parents[2]
OPEN_R1 = [sys.executable, "-m", "open_r1"]
STOPPED = {0, 143}
"""The tiny model may be through before the signal that is to stop it."""


def commands() -> list[list[str]]:
    text = (ROOT / "docs" / "never-lose-a-run.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def expected(command: list[str]) -> set[int]:
    if "--learning_rate" in command:
        return {2}  # changed settings are refused
    return STOPPED if command[0] == "timeout" else {0}


@pytest.mark.slow
def test_commands(tmp_path: Path) -> None:
    for name in ("recipes", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    save_tiny_checkpoint(tmp_path / "models" / "SmolLM2-135M-Instruct")
    said = {}
    with fake_hub() as hub:
        environment = os.environ | hub.environment | {"PYTHONPATH": str(ROOT / "src"), "NO_COLOR": "1"}
        environment |= {"OPEN_R1_CACHE": str(tmp_path / "cache"), "COLUMNS": "300", "OMP_NUM_THREADS": "1"}
        for command in commands():
            hf = Path(sys.executable).with_name("hf")
            words = [word for part in command for word in {"open-r1": OPEN_R1, "hf": [str(hf)]}.get(part, [part])]
            if command[0] != "hf" and "--push_to_hub" not in command:
                environment["HF_HUB_OFFLINE"] = "1"
            done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
            environment["HF_HUB_OFFLINE"] = "0"
            assert done.returncode in expected(command), f"{shlex.join(command)}\n{done.stdout}\n{done.stderr[-4000:]}"
            said[shlex.join(command)] = done.stderr
    assert len(said) == 8 - 1  # the command that goes on is printed twice
    assert "checkpoint-6 is passed over: model.safetensors has 100 bytes" in "".join(said.values())
    assert "learning_rate: 0.0001 -> 5e-05" in "".join(said.values())
    runs = {name: Run(tmp_path / "runs" / name) for name in ("kept", "published", "elsewhere")}
    assert [line["step"] for line in runs["elsewhere"].metrics][-1] == 8
    for name in ("published", "elsewhere"):
        assert_same_weights(runs[name].weights, runs["kept"].weights)
    assert json.loads((tmp_path / "runs" / "kept" / "train_results.json").read_text())["steps"] == 8
