"""Watches a GRPO run: says alarms as they go off, and ends the run where a rule of ``stop_on`` is met."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from open_r1.config import GRPOConfig
from open_r1.config.watch import ANY, StopRule
from open_r1.parallel.runtime import Runtime
from open_r1.training.alarms import LOOKOUTS, Finding
from open_r1.training.history import History
from open_r1.training.metrics import FILE as METRICS_FILE
from open_r1.training.metrics import keep_lines, read_metrics
from open_r1.training.rollout_metrics import is_of_rollouts

ALARMS_FILE = "alarms.jsonl"
SIGNS = {"<": operator.lt, ">": operator.gt}
console = Console(stderr=True, soft_wrap=True, highlight=False)


class RunWatch:
    """Looks at the metrics of every step. Rank 0 judges; all ranks learn what it has found.

    An alarm is said when it goes off, and again only after it has been quiet for ``alarm_steps`` steps; until then
    ``alarm/NAME`` is 1 in the metrics. What is said is kept in ``output_dir/alarms.jsonl``.

    Attributes:
        fired: the rule that was met and what was seen, "" while there is none.
    """

    def __init__(self, config: GRPOConfig, runtime: Runtime) -> None:
        self._runtime, self._rules = runtime, config.stop_rules
        self._path = Path(config.output_dir) / ALARMS_FILE
        self._window, self._iterations = config.alarm_steps, config.num_iterations
        self._history = History(max(1, config.alarm_steps), config.num_generations)
        self._active: dict[str, int] = {}  # alarms that are on, and for how many steps they have been quiet
        self._in_a_row = [0] * len(self._rules)
        self._cannot_write = False
        self.fired = ""

    def resume(self, first_step: int) -> None:
        """Takes in what was logged before ``first_step``, without saying it again."""
        if not self._runtime.is_main:
            return
        self._forget_after(first_step)
        for record in read_metrics(self._path.with_name(METRICS_FILE)) if first_step else ():
            if 0 < record["step"] <= first_step:
                self._take_in(record, record["step"], again=True)

    def look(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Judges a step's metrics; collective where there are rules.

        Returns:
            ``alarm/NAME``: 1 for each alarm that is on.
        """
        findings, rule = self._take_in(metrics, step) if self._runtime.is_main else ({}, None)
        if self._rules and self._runtime.max(float(rule is not None)) and not self.fired:
            self.fired = "a rule of stop_on"
            if rule is not None:
                self.fired = f"stop_on {rule.text!r} at step {step}: {_seen(rule, metrics, findings)}"
                self._record({"step": step, "rule": rule.text, "metric": _metric(rule, findings), "text": self.fired})
        return {f"alarm/{name}": 1.0 for name in self._active}

    def _take_in(
        self, metrics: Mapping[str, float | None], step: int, *, again: bool = False
    ) -> tuple[dict[str, Finding], StopRule | None]:
        """Adds a step to what is known, and says the alarms that it sets off, unless it was taken in ``again``.

        Returns:
            What is found at this step, and a rule that it meets.
        """
        if (step - 1) % self._iterations:  # completions that were looked at before
            metrics = {name: value for name, value in metrics.items() if not is_of_rollouts(name)}
        self._history.add(metrics)
        heard = {name: look(self._history) for name, look in LOOKOUTS.items()} if self._window else {}
        findings = {name: finding for name, finding in heard.items() if finding is not None}
        for name, finding in findings.items():
            if name not in self._active and not again:
                self._say(step, name, finding)
            self._active[name] = 0
        for name in self._active.keys() - findings.keys():
            self._active[name] += 1
            if self._active[name] >= self._window:
                del self._active[name]
        met = None
        for index, rule in enumerate(self._rules):
            so = _is_so(rule, metrics, findings)
            if so is not None:
                self._in_a_row[index] = self._in_a_row[index] + 1 if so else 0
            if so and self._in_a_row[index] >= rule.times:
                met = met or rule
        return findings, met

    def _say(self, step: int, name: str, finding: Finding) -> None:
        console.print(f"[bold yellow]alarm {name}[/] at step {step}: {escape(finding.text)}")
        self._record({"step": step, "alarm": name, "metric": finding.metric, "text": finding.text})

    def _record(self, entry: Mapping[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            if not self._cannot_write:  # once
                console.print(f"[yellow]{ALARMS_FILE} cannot be written[/] ({escape(str(error))})")
            self._cannot_write = True

    def _forget_after(self, first_step: int) -> None:
        """Drops what was said about steps that are about to be taken again."""
        if not self._path.exists():
            return
        keep_lines(self._path, lambda entry: entry["step"] <= first_step)


def _is_so(rule: StopRule, metrics: Mapping[str, float | None], findings: Mapping[str, Finding]) -> bool | None:
    """Whether a step is as a rule says; None where it has nothing to say about it."""
    if not rule.sign:
        return bool(findings) if rule.subject == ANY else rule.subject in findings
    if rule.subject not in metrics:
        return None
    value = metrics[rule.subject]
    return value is not None and math.isfinite(value) and SIGNS[rule.sign](value, rule.bound)


def _seen(rule: StopRule, metrics: Mapping[str, float], findings: Mapping[str, Finding]) -> str:
    if rule.sign:
        times = f", {rule.times} times in a row" if rule.times > 1 else ""
        return f"{rule.subject} is {metrics[rule.subject]:.4g}{times}"
    name = next(iter(findings)) if rule.subject == ANY else rule.subject
    return findings[name].text.partition(". ")[0]


def _metric(rule: StopRule, findings: Mapping[str, Finding]) -> str:
    if rule.sign:
        return rule.subject
    return findings[next(iter(findings)) if rule.subject == ANY else rule.subject].metric
