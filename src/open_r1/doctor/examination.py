"""Runs the checks side by side, and makes a finding of whatever happens to them."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from open_r1 import __version__
from open_r1.background import Background
from open_r1.config.doctor import DoctorConfig
from open_r1.doctor.finding import Finding, Level
from open_r1.doctor.gpus import Driver
from open_r1.doctor.registry import CAUSES, CHECKS, Check
from open_r1.doctor.situation import Situation

SECONDS = 45.0
"""A check that starts no children ends long before, unless a disk hangs."""

_PAUSE = 0.1


@dataclass
class Examination:
    """All that was found.

    Attributes:
        groups: (group, findings) of each check, in order.
        seconds: it took.
    """

    groups: list[tuple[str, list[Finding]]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def findings(self) -> list[Finding]:
        return [finding for _, found in self.groups for finding in found]

    @property
    def counts(self) -> dict[Level, int]:
        counted = Counter(finding.level for finding in self.findings)
        return {level: counted[level] for level in ("ok", "warn", "fail", "skip")}

    @property
    def worst(self) -> Level:
        """``fail``, ``warn`` or ``ok``."""
        return next((level for level in ("fail", "warn") if self.counts[level]), "ok")

    @property
    def first(self) -> Finding | None:
        """What is to be mended first: a failure before a warning, a cause before what it explains."""
        order = {name: place for place, name in enumerate(CAUSES)}
        amiss = [finding for finding in self.findings if finding.level == self.worst != "ok"]
        return min(amiss, key=lambda finding: order.get(finding.check, len(order)), default=None)

    def failed(self, *, strict: bool) -> bool:
        """Whether the exit status is 1."""
        return self.worst == "fail" or (strict and self.worst == "warn")

    def record(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        fields = ("check", "level", "summary", "detail", "fix")
        findings = [
            {"group": group} | {name: getattr(finding, name) for name in fields}
            for group, found in self.groups
            for finding in found
        ]
        first = self.first
        return {
            "version": 1,
            "open_r1": __version__,
            "status": self.worst,
            "seconds": round(self.seconds, 1),
            "counts": self.counts,
            "first": None if first is None else {"check": first.check, "summary": first.summary, "fix": first.fix},
            "findings": findings,
        }


def selected(config: DoctorConfig, checks: Sequence[Check] = CHECKS) -> list[Check]:
    """The checks that ``--only`` and ``--skip`` leave."""
    return [
        check for check in checks if (not config.only or check.name in config.only) and check.name not in config.skip
    ]


def examine(
    config: DoctorConfig, situation: Situation, checks: Sequence[Check], seconds: float = SECONDS
) -> Iterator[tuple[Check, list[Finding] | None]]:
    """Starts all checks at once, and yields each in order: with None ever again while it runs, then with its findings.

    What is left out, by ``--quick`` or for want of a GPU, is one finding and not one for each check.

    Args:
        seconds: that a check may take which does not wait for children.
    """
    started = time.monotonic()
    jobs = [(check, Background(_examined, check, situation, config)) for check in checks]
    told: set[str] = set()
    for check, job in jobs:
        while job.running and (check.waits or time.monotonic() - started < seconds):
            yield check, None
            job.wait(_PAUSE)
        found = [_hanging(check)] if job.running else job.result()
        if isinstance(found, LeftOut):
            others = [name.name for name in checks if found.concerns(name)]
            detail = f"Left out: {', '.join(others)}."
            yield check, [] if found.reason in told else [Finding("skip", check.name, found.reason, detail)]
            told.add(found.reason)
        else:
            yield check, found


@dataclass(frozen=True)
class LeftOut:
    """Why several checks are not done: those that start children, or those that need a GPU."""

    reason: str
    children: bool = False

    def concerns(self, check: Check) -> bool:
        return check.child if self.children else check.gpu


QUICK = LeftOut("left out, like all that starts a child process (--quick)", children=True)
NO_GPU = LeftOut("no GPU")


def _examined(check: Check, situation: Situation, config: DoctorConfig) -> list[Finding] | LeftOut:
    """What a check finds, why it is left out, or the defect that it died of."""
    try:
        if check.child and config.quick:
            return QUICK
        if check.gpu and not situation.gpus and (check.name != "driver" or situation.driver == Driver()):
            return NO_GPU
        found = check.run(situation)
        return found if isinstance(found, list) else [found]
    except Exception as error:
        summary = f"the check itself has a defect: {type(error).__name__}: {error}"
        fix = f"open-r1 doctor --skip {check.name}   # and report it, with what --details prints"
        return [Finding("fail", check.name, summary, traceback.format_exc(), fix)]


def _hanging(check: Check) -> Finding:
    fix = "df   # if it hangs too, a disk does not answer: unmount it, or restart the machine"
    return Finding("fail", check.name, "the check does not end", fix=fix)
