"""The report: one HTML file without scripts or outside assets, from what a run left on disk."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from open_r1 import __version__
from open_r1.files import write_text
from open_r1.report.charts import Interval, interval_track, track_ticks, track_top
from open_r1.report.gather import RunRecord, StageRecord, read_run
from open_r1.report.markup import Markup, element
from open_r1.report.sections import samples_section, settings_section, training_section
from open_r1.report.style import CSS
from open_r1.report.tables import clock, interval, percent

REPORT = "report.html"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Nothing that a completion holds can run or be fetched, even if an escape were forgotten."""


def write_report(folder: Path) -> Path:
    """Writes ``report.html`` about the pipeline (or the single run) in ``folder``, and returns its path."""
    path = folder / REPORT
    write_text(path, render(read_run(folder)))
    return path


def render(run: RunRecord) -> str:
    """The page, which is well-formed XML after its first line."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", f"{run.name} · open-r1"),
        element("style", Markup(CSS)),
    )
    body = element(
        "main",
        _title(run),
        [_ladder(run, task) for task in _tasks(run)],
        _stage_table(run),
        samples_section(run),
        [training_section(stage, number) for number, stage in enumerate(run.stages, start=1)],
        settings_section(run),
        element("footer", f"Made by open-r1 {__version__} on {datetime.now().astimezone():%d %B %Y, %H:%M}"),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', body), lang='en')}\n"


def _tasks(run: RunRecord) -> list[str]:
    return list(dict.fromkeys(task["task"] for stage in run.evaluations for task in stage.tasks))


def _scored(run: RunRecord, task: str) -> list[tuple[StageRecord, dict[str, Any]]]:
    return [(stage, scores) for stage in run.evaluations for scores in stage.tasks if scores["task"] == task]


def _title(run: RunRecord) -> Markup:
    torch = run.versions.get("torch")
    about = [
        f"seed {run.seed}" if run.seed is not None else None,
        clock(run.seconds) if run.seconds is not None else None,
        f"torch {torch}" if torch else None,
    ]
    return element(
        "header",
        element("h1", run.name),
        element("p", " · ".join(filter(None, about)), class_="soft"),
    )


def _ladder(run: RunRecord, task: str) -> Markup:
    """A task: its scores in large type, and each evaluation as a dot with its interval."""
    scored = _scored(run, task)
    top = track_top(max(scores["high"] for _, scores in scored))
    hero = [
        element(
            "div",
            element("div", f"{100 * scores['pass_at_1']:.1f}", element("small", "%"), class_="score"),
            element("div", stage.name, class_="soft small"),
        )
        for stage, scores in scored
    ]
    rungs = [_rung(stage, scores, top) for stage, scores in scored]
    axis = [element("span", f"{100 * tick:g} %", style=f"left:{100 * tick / top:g}%") for tick in track_ticks(top)]
    problems, samples = scored[-1][1].get("problems"), scored[-1][1].get("samples")
    asked = f", {problems:,} problems" if problems else ""
    asked += f" × {samples} answers" if samples and samples > 1 else ""
    return element(
        "div",
        element("div", hero, class_="hero"),
        element("p", f"pass@1 on {task} with its 95 % interval{asked}", class_="soft small"),
        rungs,
        element("div", element("span"), element("div", axis, class_="axis"), element("span"), class_="rung"),
        class_="ladder",
    )


def _rung(stage: StageRecord, scores: dict[str, Any], top: float) -> Markup:
    item = Interval(stage.name, scores["pass_at_1"], scores["low"], scores["high"])
    return element(
        "div",
        element("span", stage.name, class_="name"),
        interval_track(item, top),
        element(
            "span",
            element("b", percent(scores["pass_at_1"])),
            f"  {interval(scores['low'], scores['high'])}",
            class_="said",
        ),
        class_="rung",
    )


def _stage_table(run: RunRecord) -> Markup | None:
    """Every stage in order with its time; the evaluations with their scores. A lone training run has neither."""
    if run.seconds is None and not run.evaluations:
        return None
    names = ["stage", "kind", "pass@1", "95 % interval", "truncated", "mean tokens", "time", ""]
    head = element("tr", [element("th", name, class_="text" if name == "kind" else None) for name in names])
    longest = max((stage.seconds or 0 for stage in run.stages), default=0) or 1
    rows = []
    for number, stage in enumerate(run.stages, start=1):
        place = "stage" if stage.curves else "settings" if stage.manifest else None
        link = element("a", stage.name, href=f"#{place}-{number}") if place else element("span", stage.name)
        share = 100 * (stage.seconds or 0) / longest
        time = [
            element("td", clock(stage.seconds) if stage.seconds is not None else "–", class_="plain"),
            element("td", element("span", class_="fill", style=f"width:{share:.1f}%"), class_="bar"),
        ]
        for position, scores in enumerate(stage.tasks or [None]):
            task = element("span", f" {scores['task']}", class_="soft") if scores and len(stage.tasks) > 1 else None
            first = position == 0
            cells = [element("td", link if first else None, task), element("td", stage.kind, class_="text plain")]
            last = time if first else [element("td"), element("td", class_="bar")]
            rows.append(element("tr", cells, _scores(scores), last, class_="scored" if scores else None))
    if run.seconds is not None:
        blank = [element("td", class_="text"), [element("td") for _ in range(4)]]
        total = [element("td", clock(run.seconds)), element("td", class_="bar")]
        rows.append(element("tr", element("td", "all"), blank, total, class_="total"))
    table = element("table", element("thead", head), element("tbody", rows))
    return element("div", table, class_="scroll")


def _scores(scores: dict[str, Any] | None) -> list[Markup]:
    if scores is None:
        return [element("td") for _ in range(4)]
    return [
        element("td", percent(scores["pass_at_1"])),
        element("td", interval(scores["low"], scores["high"]), class_="plain"),
        element("td", percent(scores["truncated"]), class_="plain"),
        element("td", f"{scores['mean_tokens']:,.0f}", class_="plain"),
    ]
