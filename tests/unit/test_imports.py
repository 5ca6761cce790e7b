"""The shape of the code: arrows point down, light rooms stay light, files stay short."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "open_r1"

LAYERS = (
    {"background", "errors", "files", "locks", "own_code", "rl", "config", "signals"},
    {"data", "generation", "machine", "model", "parallel", "report", "rewards", "sandbox", "troubleshooting"},
    {"bench", "corpus", "doctor", "evaluation", "training"},
    {"pipeline", "planning"},
    {"commands"},
    {"sft", "grpo", "generate", "evaluate", "cli", "__main__"},
)
"""A room imports rooms of its own layer or of those before it."""

RE_EXPORTS = {"configs", "utils"}
"""Published import paths: for users, nothing in the project imports them."""

LIGHT = {
    "config",
    "errors",
    "files",
    "locks",
    "machine",
    "own_code",
    "rewards",
    "sandbox",
    "configs",
    "cli",
    "__main__",
    "troubleshooting",
}
"""Rooms that import none of ``HEAVY``, directly or through another room."""

HEAVY = {"torch", "transformers", "accelerate", "datasets", "peft", "vllm"}

LATE = {"peft", "bitsandbytes", "torchao", "deepspeed"}
"""Imported by the functions that need them: most runs do not, and each takes a second or more of a start."""

LONG_FILES: dict[str, str] = {}
"""Files of more than 300 lines, each with its reason."""

RANK_VARIABLES = {"RANK", "LOCAL_RANK", "WORLD_SIZE"}
NAMELESS_FILES = {"utils.py", "helpers.py", "misc.py", "common.py"}


class Module:
    """One file under a source folder."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = path, root
        self.name = str(path.relative_to(root))
        self.room = path.relative_to(root).parts[0].removesuffix(".py")
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)

    @cached_property
    def imports(self) -> set[str]:
        """Dotted names imported anywhere in the file, those under ``if TYPE_CHECKING`` left out."""
        found: set[str] = set()
        pending: list[ast.AST] = [self.tree]
        while pending:
            node = pending.pop()
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                pending += node.orelse
            elif isinstance(node, ast.Import):
                found |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{'.' * node.level}{node.module}"} | {f"{node.module}.{name.name}" for name in node.names}
            else:
                pending += ast.iter_child_nodes(node)
        return found

    @cached_property
    def libraries(self) -> set[str]:
        return {name.split(".")[0] for name in self.imports} - {"open_r1"}

    @cached_property
    def own(self) -> set[Path]:
        """The files of the project that importing this one runs, parent packages included."""
        found = set()
        for parts in (name.split(".") for name in self.imports if name.split(".")[0] == "open_r1"):
            for depth in range(1, len(parts) + 1):
                base = self.root.joinpath(*parts[1:depth])
                found |= {path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()}
        return found


class Project:
    """Every file under a source folder."""

    def __init__(self, root: Path) -> None:
        self.modules = {path: Module(path, root) for path in sorted(root.rglob("*.py"))}

    def __iter__(self) -> Iterator[Module]:
        return iter(self.modules.values())

    def targets(self, module: Module) -> set[str]:
        """The rooms that a module imports."""
        return {self.modules[path].room for path in module.own} - {"__init__"}

    def reached(self, module: Module) -> Iterator[Module]:
        """A module and all it imports, through whatever stands between."""
        seen: set[Path] = set()
        pending = {module.path}
        while pending:
            path = pending.pop()
            seen.add(path)
            yield self.modules[path]
            pending |= self.modules[path].own - seen


def layer(room: str) -> int:
    return next((index for index, rooms in enumerate(LAYERS) if room in rooms), -1)


def rooms_without_layer(project: Project) -> list[str]:
    rooms = {module.room for module in project} - {"__init__"} - RE_EXPORTS
    return [f"{room} is in no layer" for room in sorted(rooms) if layer(room) < 0]


def arrows_up(project: Project) -> list[str]:
    found = []
    for module in project:
        if module.room in RE_EXPORTS | {"__init__"}:
            continue
        for target in sorted(project.targets(module)):
            if target in RE_EXPORTS or layer(target) > layer(module.room):
                found.append(f"{module.name} imports {target}")
    return found


def rings(project: Project) -> list[str]:
    below: dict[str, set[str]] = {}
    for module in project:
        below.setdefault(module.room, set()).update(project.targets(module))
    found = []
    for start in below:
        seen: set[str] = set()
        pending = below[start] - {start}
        while pending:
            room = pending.pop()
            seen.add(room)
            pending |= below[room] - seen
        if start in seen:
            found.append(f"{start} imports itself through {', '.join(sorted(seen - {start}))}")
    return found


def heavy_in_light_rooms(project: Project) -> list[str]:
    return [
        f"{module.name} reaches {', '.join(sorted(reached.libraries & HEAVY))} in {reached.name}"
        for module in project
        if module.room in LIGHT
        for reached in project.reached(module)
        if reached.libraries & HEAVY
    ]


def rl_beyond_torch(project: Project) -> list[str]:
    allowed = {"torch"} | sys.stdlib_module_names
    return [
        f"{module.name} imports more than torch"
        for module in project
        if module.room == "rl" and (module.libraries - allowed or project.targets(module) - {"rl", "errors"})
    ]


def ranks_outside_parallel(project: Project) -> list[str]:
    found = []
    for module in (module for module in project if module.room != "parallel"):
        if any(name.startswith(("torch.distributed", "accelerate")) for name in module.imports):
            found.append(f"{module.name} imports torch.distributed or accelerate")
        for node in ast.walk(module.tree):
            asked = isinstance(node, ast.Attribute) and node.attr == "distributed"
            read = isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in RANK_VARIABLES
            if asked or read:
                found.append(f"{module.name}:{node.lineno} asks for the rank")
    return found


def late_ones_at_the_top(project: Project) -> list[str]:
    found = []
    for module in project:
        for node in module.tree.body:
            names = (
                [name.name for name in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")]
            )
            if {str(name).split(".")[0] for name in names} & LATE:
                found.append(f"{module.name}:{node.lineno} imports {', '.join(names)} for all")
    return found


def relative_imports(project: Project) -> list[str]:
    return [module.name for module in project if any(name.startswith(".") for name in module.imports)]


def long_or_nameless_files(project: Project) -> list[str]:
    long = {module.name for module in project if len(module.text.splitlines()) > 300} - set(LONG_FILES)
    nameless = {module.name for module in project if module.path.name in NAMELESS_FILES}
    return sorted(long | nameless)


CHECKS = (
    rooms_without_layer,
    arrows_up,
    rings,
    heavy_in_light_rooms,
    rl_beyond_torch,
    ranks_outside_parallel,
    late_ones_at_the_top,
    relative_imports,
    long_or_nameless_files,
)


@pytest.fixture(scope="module")
def project() -> Project:
    return Project(SOURCE)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_project_holds(check: Callable[[Project], list[str]], project: Project) -> None:
    assert check(project) == []


@pytest.mark.parametrize(
    ("check", "files"),
    [
        (rooms_without_layer, {"attic/__init__.py": ""}),
        (arrows_up, {"data/rows.py": "def f():\n    from open_r1.training import loop\n", "training/__init__.py": ""}),
        (arrows_up, {"training/loop.py": "import open_r1.configs\n", "configs.py": ""}),
        (rings, {"data/rows.py": "import open_r1.model.load\n", "model/load.py": "import open_r1.data.rows\n"}),
        (heavy_in_light_rooms, {"rewards/math.py": "import open_r1.data.pack\n", "data/pack.py": "import torch.nn\n"}),
        (heavy_in_light_rooms, {"config/model.py": "def f():\n    import transformers\n"}),
        (rl_beyond_torch, {"rl/losses.py": "import numpy\n"}),
        (ranks_outside_parallel, {"training/loop.py": "from torch import distributed\n"}),
        (ranks_outside_parallel, {"training/loop.py": "import torch\ntorch.distributed.barrier()\n"}),
        (ranks_outside_parallel, {"cli.py": "import os\nos.environ['LOCAL_RANK']\n"}),
        (late_ones_at_the_top, {"model/lora.py": "from peft import LoraConfig\n"}),
        (late_ones_at_the_top, {"model/load.py": "import torchao.quantization\n"}),
        (relative_imports, {"data/rows.py": "from .pack import Pack\n"}),
        (long_or_nameless_files, {"data/rows.py": "x = 1\n" * 301}),
        (long_or_nameless_files, {"data/utils.py": ""}),
    ],
)
def test_a_planted_fault_is_found(check: Callable[[Project], list[str]], files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert check(Project(tmp_path))


def test_annotations_do_not_count(tmp_path: Path) -> None:
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
    (tmp_path / "errors.py").write_text(guarded)
    assert heavy_in_light_rooms(Project(tmp_path)) == []
