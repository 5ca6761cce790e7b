"""The report's parts below its head: a stage's curves, the samples, settings and versions."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from open_r1.report.charts import Mark, line_chart
from open_r1.report.curves import Chart, Curves, always_zero, charts_of, first_and_last
from open_r1.report.gather import RunRecord, StageRecord
from open_r1.report.markup import Markup, element, escape
from open_r1.report.samples import Answer, Problem, TaskSamples, samples_of, training_samples
from open_r1.report.scale import short
from open_r1.report.tables import clock

_LONGEST_TEXT = 12_000
"""Characters of one text; what is longer loses its middle, so that a report stays a page."""

_OPEN_PROBLEMS = 3
"""Problems that are shown before one asks for more."""

_OPEN_ALARMS = 8
"""Alarms that are shown before one asks for more."""

_SPECIAL = re.compile(r"&lt;\|[^|&]{1,40}\|&gt;")
_THINKING = re.compile(r"(&lt;think&gt;.*?(?:&lt;/think&gt;|\Z))", re.DOTALL)


def training_section(stage: StageRecord, number: int) -> Markup | None:
    """A training stage: what came out, its curves, samples of its completions; None for a stage without curves."""
    if not stage.curves:
        return None
    head = [element("h2", f"{number} · {stage.name}"), element("span", stage.kind, class_="kind")]
    if stage.seconds is not None:
        head.append(element("span", clock(stage.seconds), class_="soft time"))
    parts: list[Any] = [element("header", head), _facts(stage.curves), _alarms(stage)]
    charts = [
        element(
            "figure",
            element("figcaption", chart.caption, element("span", chart.latest) if chart.latest else None),
            line_chart(chart.series, form=chart.form, smoothed=chart.smoothed, marks=_marks(stage, chart)),
        )
        for chart in charts_of(stage.curves)
    ]
    parts.append(element("div", charts, class_="charts"))
    if zero := always_zero(stage.curves):
        parts.append(element("p", f"Zero at every step: {', '.join(zero)}.", class_="soft small note"))
    samples = [_training_sample(sample) for sample in training_samples(stage.folder)]
    if samples:
        parts.append(element("h3", "Completions during training"))
    parts.append(samples)
    return element("section", parts, id=f"stage-{number}")


def _alarms(stage: StageRecord) -> Markup | None:
    """What went off during the run, in words; numbered as the marks in the charts."""
    if not stage.alarms:
        return None
    entries = []
    for alarm in stage.alarms:
        name = f"Step {alarm['step']:,.0f} · {_words(alarm.get('alarm', 'stopped'))}"
        entries.append(element("li", element("b", name), " ", alarm["text"]))
    shown, hidden = entries[:_OPEN_ALARMS], entries[_OPEN_ALARMS:]
    rest = element("ol", hidden, start=_OPEN_ALARMS + 1)
    return element(
        "div",
        element("ol", shown),
        element("details", element("summary", f"{len(hidden)} more alarms"), rest) if hidden else None,
        class_="alarms",
    )


def _marks(stage: StageRecord, chart: Chart) -> list[Mark]:
    return [
        Mark(alarm["step"], number, alarm["text"])
        for number, alarm in enumerate(stage.alarms, start=1)
        if alarm["metric"] in chart.names
    ]


def samples_section(run: RunRecord) -> Markup | None:
    """The same problems at every evaluation, for each task; None where no generations are left."""
    tasks = dict.fromkeys(task["task"] for stage in run.evaluations for task in stage.tasks)
    found = [samples_of(task, run.evaluations) for task in tasks]
    blocks = [_task_samples(samples) for samples in found if samples]
    if not blocks:
        return None
    title = "The same problems, stage by stage" if len(run.evaluations) > 1 else "Samples"
    return element("section", element("header", element("h2", title)), blocks, id="samples")


def settings_section(run: RunRecord) -> Markup | None:
    """Settings, versions and command of every stage, folded."""
    folds = [_settings(stage, number) for number, stage in enumerate(run.stages, start=1) if stage.manifest]
    if not folds:
        return None
    return element("section", element("header", element("h2", "Settings and versions")), folds, class_="made")


def shown_text(text: str) -> Markup:
    """A completion or prompt: special tokens and thinking set back, an overlong middle left out."""
    if len(text) > _LONGEST_TEXT:
        half = _LONGEST_TEXT // 2
        text = f"{text[:half]}\n\n… {len(text) - 2 * half:,} characters left out …\n\n{text[-half:]}"
    marked = _SPECIAL.sub(lambda match: f'<span class="token">{match[0]}</span>', escape(text))
    return Markup(_THINKING.sub(lambda match: f'<span class="think">{match[0]}</span>', marked))


def _facts(curves: Curves) -> Markup:
    """One line: steps, and where loss or reward began and ended."""
    steps = max(points[-1][0] for points in curves.values())
    parts: list[Any] = [element("b", f"{steps:,.0f}"), " steps"]
    for name, said in (("loss", "loss"), ("reward", "reward"), ("eval/reward", "held out")):
        if name in curves and (name != "loss" or "reward" not in curves):
            first, last = first_and_last(curves[name])
            parts += [f" · {said} ", element("b", f"{short(first)} → {short(last)}")]
    if "tokens" in curves:
        logged = [value for _, value in curves["tokens"]]  # each of one step; not every step need be logged
        about = len(logged) < steps
        total = sum(logged) * (steps / len(logged) if about else 1)
        parts += [" · about " if about else " · ", element("b", short(total)), " tokens"]
    return element("p", parts, class_="facts")


def _task_samples(samples: TaskSamples) -> Markup:
    total = sum(samples.counts.values()) or 1
    several = any(len(problem.answers) > 1 for problem in samples.problems)
    kinds = [(kind, kind if several else kind.split()[-1], count) for kind, count in samples.counts.items() if count]
    bar = [
        element("span", class_=kind.replace(" ", "-"), style=f"flex:{count}", title=f"{name}: {count}")
        for kind, name, count in kinds
    ]
    legend = [
        element("span", element("i", class_=kind.replace(" ", "-")), element("b", f"{count:,}"), f" {name}")
        for kind, name, count in kinds
    ]
    span = "between the first and the last evaluation" if several else "in the evaluation"
    said = f"{samples.task}: {total:,} problems by their first answer, {span}. Shown: some of each kind, evenly spaced."
    problems = [_problem(problem, several) for problem in samples.problems]
    hidden = problems[_OPEN_PROBLEMS:]
    return element(
        "div",
        element("p", said, class_="soft"),
        element("div", bar, class_="outcomes"),
        element("div", legend, class_="legend"),
        problems[:_OPEN_PROBLEMS],
        element("details", element("summary", f"{len(hidden)} more"), hidden) if hidden else None,
    )


def _problem(problem: Problem, several: bool) -> Markup:
    outcome = problem.outcome if several else problem.outcome.split()[-1]
    return element(
        "div",
        element(
            "header",
            element("span", element("b", f"Problem {problem.index}"), element("span", f" · {outcome}", class_="soft")),
            element("span", element("span", "right answer ", class_="soft"), element("b", problem.gold)),
        ),
        element("pre", shown_text(_asked(problem.prompt)), class_="prompt"),
        element("div", [_answer(answer) for answer in problem.answers], class_="answers"),
        class_="problem",
    )


def _asked(prompt: str) -> str:
    """A prompt as it was written, where a served model's is kept as the JSON of its messages."""
    if not prompt.startswith('[{"role": '):
        return prompt
    try:
        return _text(json.loads(prompt))
    except ValueError:
        return prompt


def _answer(answer: Answer) -> Markup:
    verdict = "✓ right" if answer.right else "✗ not verified" if answer.reward is None else "✗ wrong"
    length = f"{answer.tokens:,} tokens{', cut off' if answer.truncated else ''}"
    return element(
        "div",
        element(
            "header",
            element("span", element("b", answer.stage), " ", element("span", verdict, class_="verdict")),
            element("span", length, class_="soft"),
        ),
        element("pre", shown_text(answer.text)),
        class_="answer right" if answer.right else "answer",
    )


def _training_sample(sample: Mapping[str, Any]) -> Markup:
    """A line of ``completions.jsonl``, whatever it holds beside ``prompt`` and ``completion``."""
    about = {name: value for name, value in sample.items() if name not in ("prompt", "completion", "step")}
    said = " · ".join(f"{_words(name)} {value}" for name, value in _flat(about).items())
    title = element("b", f"Step {sample['step']}") if "step" in sample else None
    completion = element("pre", shown_text(_text(sample.get("completion"))))
    return element(
        "div",
        element("header", title, element("span", said, class_="soft")),
        element("pre", shown_text(_text(sample.get("prompt"))), class_="prompt"),
        element("div", element("div", completion, class_="answer plain"), class_="answers"),
        class_="problem",
    )


def _text(value: Any) -> str:
    """A prompt or completion that may be text or chat messages."""
    if isinstance(value, list):
        return "\n".join(str(turn.get("content", "")) if isinstance(turn, Mapping) else str(turn) for turn in value)
    return "" if value is None else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ").replace(".", " ")


def _settings(stage: StageRecord, number: int) -> Markup:
    manifest = stage.manifest
    about = {"started": manifest.get("started"), "command": shlex.join(manifest.get("command", []))}
    return element(
        "details",
        element("summary", element("b", f"{number} · {stage.name}"), f" {stage.kind}"),
        _pairs(_flat(manifest.get("settings", {}))),
        _pairs(manifest.get("versions", {})),
        _pairs({name: value for name, value in about.items() if value}),
        id=f"settings-{number}",
    )


def _pairs(values: Mapping[str, Any]) -> Markup:
    rows = [element("div", element("dt", name), element("dd", value)) for name, value in values.items()]
    return element("dl", rows, class_="pairs")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings with their keys joined by dots; lists in one line."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = ", ".join(map(_plain, value)) if isinstance(value, list) else _plain(value)
    return flat


def _plain(value: object) -> str:
    return short(value) if isinstance(value, float) else str(value)
