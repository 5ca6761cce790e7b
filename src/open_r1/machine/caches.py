"""Every cache that a run fills: where it is, which variable moves it, and who has set that variable."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from open_r1.machine.home import applied

Environment = Mapping[str, str]
SetBy = Literal["default", "environment", "settings file"]


@dataclass(frozen=True)
class Kind:
    """A sort of cache.

    Attributes:
        name: what a person calls it.
        variable: the environment variable that moves it.
        default: its place where that variable is not set.
        folder: the name of its folder on a data disk.
        also: variables that move it too, the stronger first; all are weaker than ``variable``.
        inside: what the library appends to the value of ``variable``.
        kept: worth carrying over: downloaded, made in hours, or not to be made again.
    """

    name: str
    variable: str
    default: Callable[[Environment], Path]
    folder: str
    also: tuple[str, ...] = ()
    inside: str = ""
    kept: bool = False


@dataclass(frozen=True)
class Cache:
    """A cache of this process.

    Attributes:
        name: what a person calls it.
        variable: the environment variable that moves it.
        default: where it would be if nobody had set anything.
        path: where it is.
        set_by: who has decided that.
        decided_by: the variable that has; None for the default.
        kind: the rest of what is known of it.
    """

    name: str
    variable: str
    default: Path
    path: Path
    set_by: SetBy
    decided_by: str | None
    kind: Kind


def caches(environment: Environment = os.environ) -> list[Cache]:
    """Every cache, with its place as ``environment`` has it."""
    from_file = applied(environment)
    found = []
    for kind in KINDS:
        decided_by = next((name for name in (kind.variable, *kind.also) if environment.get(name)), None)
        nobody = {name: value for name, value in environment.items() if name not in _VARIABLES}
        path = cache_path(kind, environment)
        set_by: SetBy = "default" if decided_by is None else "environment"
        if decided_by in from_file:
            set_by = "settings file"
        default = cache_path(kind, nobody)
        found.append(Cache(kind.name, kind.variable, default, path, set_by, decided_by, kind))
    return found


def cache_path(kind: Kind, environment: Environment) -> Path:
    """Where a cache is under ``environment``."""
    given = environment.get(kind.variable)
    path = _expand(given) / kind.inside if given else kind.default(environment)
    return Path(os.path.abspath(path))


def outranked_by(variable: str, environment: Environment) -> str | None:
    """The variable in ``environment`` that decides where ``variable`` would, such as HF_HOME for HF_HUB_CACHE."""
    kinds = [kind for kind in KINDS if kind.variable == variable]
    names = [variable, *(name for kind in kinds for name in kind.also)]
    return next((name for name in names if environment.get(name)), None)


def _expand(path: str) -> Path:
    return Path(path).expanduser()


def _user_cache(environment: Environment) -> Path:
    return _expand(environment.get("XDG_CACHE_HOME") or "~/.cache")


def _in_user_cache(name: str) -> Callable[[Environment], Path]:
    return lambda environment: _user_cache(environment) / name


def _at(path: str) -> Callable[[Environment], Path]:
    return lambda environment: _expand(path)


def _in_hf_home(name: str) -> Callable[[Environment], Path]:
    def path(environment: Environment) -> Path:
        return _expand(environment.get("HF_HOME") or str(_user_cache(environment) / "huggingface")) / name

    return path


def _hub(environment: Environment) -> Path:
    legacy = environment.get("HUGGINGFACE_HUB_CACHE")
    return _expand(legacy) if legacy else _in_hf_home("hub")(environment)


def _temporary(environment: Environment) -> Path:
    """As `tempfile.gettempdir` finds it, which remembers its first answer and so cannot be asked again."""
    given = [environment.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    return next((Path(path) for path in (*given, "/tmp", "/var/tmp") if path and os.path.isdir(path)), Path("/tmp"))


def _inductor(environment: Environment) -> Path:
    try:
        user = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):
        user = f"uid_{os.getuid()}"
    name = re.sub(r'[\\/:*?"<>|]', "_", user)
    return _temporary(environment) / f"torchinductor_{name}"


def _triton(environment: Environment) -> Path:
    return _expand(environment.get("TRITON_HOME") or "~") / ".triton" / "cache"


def _wandb_data(environment: Environment) -> Path:
    return _expand(environment.get("XDG_DATA_HOME") or "~/.local/share") / "wandb"


HF_HOME = ("HF_HOME",)

KINDS: tuple[Kind, ...] = (
    # HF_HOME itself stays: the token of `hf auth login` lies in it.
    Kind("hub: models, data", "HF_HUB_CACHE", _hub, "hub", also=("HUGGINGFACE_HUB_CACHE", "HF_HOME"), kept=True),
    Kind("hub: transfers", "HF_XET_CACHE", _in_hf_home("xet"), "xet", also=HF_HOME),
    Kind("datasets", "HF_DATASETS_CACHE", _in_hf_home("datasets"), "datasets", also=HF_HOME, kept=True),
    Kind("open-r1: tokens", "OPEN_R1_CACHE", _at("~/.cache/open_r1"), "open_r1", kept=True),
    Kind("torch hub", "TORCH_HOME", _in_user_cache("torch"), "torch", kept=True),
    Kind("torch extensions", "TORCH_EXTENSIONS_DIR", _in_user_cache("torch_extensions"), "torch_extensions"),
    Kind("torch inductor", "TORCHINDUCTOR_CACHE_DIR", _inductor, "inductor"),
    Kind("triton", "TRITON_CACHE_DIR", _triton, "triton", also=("TRITON_HOME",)),
    Kind("CUDA", "CUDA_CACHE_PATH", _at("~/.nv/ComputeCache"), "cuda"),
    Kind("vLLM", "VLLM_CACHE_ROOT", _in_user_cache("vllm"), "vllm"),
    Kind(
        "flashinfer", "FLASHINFER_WORKSPACE_BASE", _at("~/.cache/flashinfer"), "flashinfer", inside=".cache/flashinfer"
    ),
    Kind("tilelang", "TILELANG_CACHE_DIR", _at("~/.tilelang/cache"), "tilelang"),
    Kind("tvm-ffi", "TVM_FFI_CACHE_DIR", _at("~/.cache/tvm-ffi"), "tvm-ffi"),
    Kind("wandb: artifacts", "WANDB_CACHE_DIR", _in_user_cache("wandb"), "wandb"),
    Kind("wandb: uploads", "WANDB_DATA_DIR", _wandb_data, "wandb-data"),
    Kind("trackio: its runs", "TRACKIO_DIR", _in_hf_home("trackio"), "trackio", also=HF_HOME, kept=True),
    Kind("pip", "PIP_CACHE_DIR", _in_user_cache("pip"), "pip"),
    Kind("uv", "UV_CACHE_DIR", _in_user_cache("uv"), "uv"),
    Kind("temporary files", "TMPDIR", _temporary, "tmp", also=("TEMP", "TMP")),
)
_VARIABLES = {name for kind in KINDS for name in (kind.variable, *kind.also)}
