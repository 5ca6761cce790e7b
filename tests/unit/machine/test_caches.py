"""Where every cache is, as the libraries themselves find it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from open_r1.machine.caches import KINDS, Cache, caches, outranked_by
from open_r1.machine.home import APPLIED

LIBRARIES = """
import json, tempfile
import huggingface_hub.constants as hub
import datasets.config
import torch.hub
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from open_r1.files import cache_folder
print(json.dumps({
    "HF_HUB_CACHE": hub.HF_HUB_CACHE, "HF_XET_CACHE": hub.HF_XET_CACHE,
    "HF_DATASETS_CACHE": str(datasets.config.HF_DATASETS_CACHE), "TORCH_HOME": torch.hub._get_torch_home(),
    "TORCHINDUCTOR_CACHE_DIR": default_cache_dir(), "TMPDIR": tempfile.gettempdir(),
    "OPEN_R1_CACHE": str(cache_folder(".")),
}))
"""


def by_variable() -> dict[str, Cache]:
    return {cache.variable: cache for cache in caches()}


@pytest.mark.parametrize("given", [{}, {"HF_HOME": "~/hf"}, {"XDG_CACHE_HOME": "/x"}, {"HUGGINGFACE_HUB_CACHE": "/h"}])
def test_the_places_are_those_of_the_libraries(given: dict[str, str], person: Path) -> None:
    os.environ.update(given)
    done = subprocess.run([sys.executable, "-c", LIBRARIES], capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = by_variable()
    assert {name: str(ours[name].path) for name in theirs} == theirs


def test_who_has_decided_is_said(person: Path) -> None:
    os.environ.update(HF_HOME="/hf", TRITON_CACHE_DIR="/t", CUDA_CACHE_PATH="/c")
    ours = ["CUDA_CACHE_PATH"]
    os.environ[APPLIED] = ",".join(ours)
    found = by_variable()
    hub, triton, cuda, pip = (found[name] for name in ("HF_HUB_CACHE", "TRITON_CACHE_DIR", *ours, "PIP_CACHE_DIR"))
    assert (hub.set_by, hub.decided_by, hub.path) == ("environment", "HF_HOME", Path("/hf/hub"))
    assert hub.default == person / ".cache/huggingface/hub", "where it would be if nobody had set anything"
    assert (triton.set_by, triton.decided_by, triton.path) == ("environment", "TRITON_CACHE_DIR", Path("/t"))
    assert (cuda.set_by, cuda.path) == ("settings file", Path("/c"))
    assert (pip.set_by, pip.decided_by, pip.path) == ("default", None, person / ".cache/pip")


def test_a_stronger_variable_decides(person: Path) -> None:
    os.environ.update(HF_HOME="/hf", HUGGINGFACE_HUB_CACHE="/legacy")
    assert by_variable()["HF_HUB_CACHE"].path == Path("/legacy")
    os.environ["HF_HUB_CACHE"] = "/hub"
    assert by_variable()["HF_HUB_CACHE"].path == Path("/hub")
    assert outranked_by("HF_HUB_CACHE", {"HF_HOME": "/hf"}) == "HF_HOME"
    assert outranked_by("HF_HUB_CACHE", {"HF_HOME": ""}) is None
    assert outranked_by("PIP_CACHE_DIR", {"HF_HOME": "/hf"}) is None


def test_flashinfer_appends_to_its_variable(person: Path) -> None:
    os.environ["FLASHINFER_WORKSPACE_BASE"] = "/f"
    assert by_variable()["FLASHINFER_WORKSPACE_BASE"].path == Path("/f/.cache/flashinfer")


def test_no_two_caches_share_a_variable_or_a_folder() -> None:
    assert len({kind.variable for kind in KINDS}) == len({kind.folder for kind in KINDS}) == len(KINDS)
    assert "HF_HOME" not in {kind.variable for kind in KINDS}, "the token of a login lies there"
