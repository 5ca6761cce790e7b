"""Versions of packages, and the optional libraries that need care."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import open_r1
from open_r1.doctor.finding import Finding
from open_r1.machine.child import Outcome

CHECKOUT = Path(open_r1.__file__).resolve().parents[2]
PROJECT = "open-r1"
_SHOWN = 4


def check_packages(
    required: Sequence[str] | None = None,
    pinned: Mapping[str, str] | None = None,
    version_of: Callable[[str], str | None] | None = None,
) -> Finding:
    """Installed versions against what open-r1 requires, and against the set that it is tested with.

    Args:
        required: open-r1's requirements (PEP 508), those of extras included; None reads its metadata.
        pinned: versions by name; None reads constraints.txt of the checkout, {} where there is none.
        version_of: the installed version of a package, or None.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    required = _requirements() if required is None else required
    pinned = read_pins(CHECKOUT / "constraints.txt") if pinned is None else pinned
    version_of = version_of or installed_version
    pins = {canonicalize_name(name): version for name, version in pinned.items()}
    missing, too_old, differing, counted = [], [], [], 0
    for requirement in map(Requirement, required):
        marker = requirement.marker
        optional = marker is not None and not marker.evaluate({"extra": ""})
        if optional and not any(marker.evaluate({"extra": extra}) for extra in _extras(str(marker))):
            continue
        installed = version_of(requirement.name)
        if installed is None:
            if not optional:
                missing.append(requirement.name)
            continue
        counted += 1
        public = Version(installed).public
        if not requirement.specifier.contains(public, prereleases=True):
            too_old.append(f"{requirement.name} {public} ({requirement.specifier} is needed)")
        elif pins.get(canonicalize_name(requirement.name), public) != public:
            differing.append(f"{requirement.name} {public} (pinned {pins[canonicalize_name(requirement.name)]})")
    fix = "pip install -c constraints.txt -e ." if pinned else f"pip install --upgrade {PROJECT}"
    if missing or too_old:
        said = [f"{name} is not installed" for name in missing] + too_old
        return Finding("fail", "packages", _listed(said), "\n".join(said), fix)
    if differing:
        differing = list(dict.fromkeys(differing))
        summary = f"{len(differing)} of {counted} packages differ from the tested set: {_listed(differing)}"
        return Finding("warn", "packages", summary, "\n".join(differing), fix)
    what = "are those of the tested set" if pinned else "are new enough"
    return Finding("ok", "packages", f"all {counted} packages {what}")


def read_pins(path: Path) -> dict[str, str]:
    """``name==version`` lines; {} where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return dict(line.split("==", 1) for line in map(str.strip, lines) if re.match(r"[\w.-]+==", line))


def installed_version(name: str) -> str | None:
    """The version of an installed package; None where it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_vllm(run: Callable[[], Outcome], installed: str | None = None, found: bool | None = None) -> Finding:
    """vLLM's compiled parts fit this torch.

    Args:
        run: imports it in a child.
        installed: its version.
        found: whether it is there.
    """
    there = importlib.util.find_spec("vllm") is not None if found is None else found
    if not there:
        return Finding(
            "skip", "vllm", "not installed; grpo and evaluate are faster with it: pip install 'open-r1[vllm]'"
        )
    return _imported("vllm", run(), installed or installed_version("vllm"))


def check_deepspeed(run: Callable[[], Outcome], installed: str | None = None, found: bool | None = None) -> Finding:
    """DeepSpeed can be imported; arguments as of `check_vllm`."""
    there = importlib.util.find_spec("deepspeed") is not None if found is None else found
    if not there:
        return Finding("skip", "deepspeed", "not installed; only zero2.yaml and zero3.yaml need it")
    return _imported("deepspeed", run(), installed or installed_version("deepspeed"))


def _imported(name: str, outcome: Outcome, version: str | None) -> Finding:
    fix = f"pip install --force-reinstall -c constraints.txt 'open-r1[{name}]'"
    label = f"{name} {version or ''}".strip()
    if outcome.timed_out:
        fix = f"open-r1 doctor --only {name} --timeout 600   # a first import from a slow disk takes long"
        return Finding("fail", name, f"{label} is not imported within the time given", outcome.errors, fix)
    if outcome.signal_name:
        return Finding("fail", name, f"importing {label} dies by {outcome.signal_name}", outcome.errors, fix)
    if not outcome.ended_well:
        torch = "undefined symbol" in outcome.errors or ".so" in outcome.last_error
        why = "it was built for another torch: " if torch else ""
        return Finding("fail", name, f"{label} cannot be imported: {why}{outcome.last_error}", outcome.errors, fix)
    return Finding("ok", name, f"{outcome.facts.get('version') or version} can be imported")


def _requirements() -> list[str]:
    try:
        return metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:  # run from its source folder
        import tomllib

        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        optional = [f"{name}; extra == '{extra}'" for extra, names in extras.items() for name in names]
        return [*project["dependencies"], *optional]


def _extras(marker: str) -> list[str]:
    return re.findall(r"extra == ['\"]([\w-]+)['\"]", marker)


def _listed(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return f"{', '.join(entries[:_SHOWN])}{more}"
