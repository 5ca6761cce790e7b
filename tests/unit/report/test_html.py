"""The report as a file: whole, well-formed, self-contained, and safe whatever the completions hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_r1.report.html import write_report

HOSTILE = (
    "</pre><script>alert('x')</script><img src=x onerror=alert(1)>\x00\x1b[31m&amp;]]> <|im_end|> <think>why</think>"
)


def write_stage(root: Path, number: int, name: str, kind: str, **files: object) -> dict:
    folder = root / f"{number:02d}-{name}"
    folder.mkdir(parents=True)
    manifest = {
        "settings": {"learning_rate": 1e-3, "system_prompt": HOSTILE, "nested": {"key": [1, 2]}},
        "versions": {"torch": "2.13.0", "commit": "abc123"},
        "command": ["python", "-m", "open_r1", kind],
        "started": "2026-01-01T00:00:00",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for file, content in files.items():
        (folder / file.replace("_", ".")).write_text(str(content))
    return {"name": name, "kind": kind, "seconds": 12.0 * number, "folder": folder.name}


def write_generations(folder: Path, reward: float) -> None:
    row = {"problem": 0, "sample": 0, "prompt": HOSTILE, "completion": HOSTILE, "tokens": 9, "finish_reason": "stop"}
    (folder / "problems").mkdir()
    pq.write_table(
        pa.Table.from_pylist([{**row, "reward": reward, "gold": "<42>"}]), folder / "problems/generations.parquet"
    )


def results(value: float) -> str:
    task = {"task": "problems", "pass_at_1": value, "low": value - 0.05, "high": value + 0.05, "truncated": 0.125}
    return json.dumps({"tasks": [{**task, "mean_tokens": 1234.5, "problems": 400, "samples": 1}]})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    curve = "".join(json.dumps({"step": step, "loss": 3 / step, "reward": step / 60}) + "\n" for step in range(1, 61))
    completion = json.dumps({"step": 3, "prompt": HOSTILE, "completion": HOSTILE, "rewards": {"accuracy": 1.0}})
    stages = [
        write_stage(tmp_path, 1, "base", "evaluate", results_json=results(0.10)),
        write_stage(tmp_path, 2, "grpo", "grpo", metrics_jsonl=curve, completions_jsonl=completion),
        write_stage(tmp_path, 3, "after", "evaluate", results_json=results(0.61)),
    ]
    write_generations(tmp_path / "01-base", 0.0)
    write_generations(tmp_path / "03-after", 1.0)
    summary = {"pipeline": "demo <b>", "seed": 3, "seconds": 72.0, "all_stages": stages, "stages": []}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def read(run: Path) -> tuple[str, ElementTree.Element]:
    text = write_report(run).read_text(encoding="utf-8")
    return text, ElementTree.fromstring(text.partition("\n")[2])


def words(tree: ElementTree.Element) -> str:
    return " ".join("".join(tree.find("body").itertext()).split())


def test_the_page_says_what_came_out(run: Path) -> None:
    _, tree = read(run)
    said = words(tree)
    for expected in (
        "demo <b>",
        "seed 3",
        "1:12",
        "10.0 %",
        "61.0 %",
        "56.0 – 66.0 %",
        "12.5 %",
        "1,234",
        "400 problems",
    ):
        assert expected in said
    assert "1 turned right" in said
    assert "✗ wrong" in said
    assert "✓ right" in said
    titles = [figure.findtext("figcaption") for figure in tree.iter("figure")]
    assert titles == ["Reward", "Loss"]
    assert "60 steps · reward" in said


def test_alarms_are_told_and_marked_where_they_are_seen(run: Path) -> None:
    alarms = [
        {"step": 20, "alarm": "reward_drop", "metric": "reward", "text": f"it fell {HOSTILE}"},
        {"step": 30, "alarm": "kl", "metric": "kl_reference", "text": "it is 3"},
        {"step": 40, "rule": "reward<1:3", "metric": "reward", "text": "stop_on 'reward<1:3' at step 40"},
    ]
    lines = [json.dumps(alarm) for alarm in alarms]
    (run / "02-grpo" / "alarms.jsonl").write_text("\n".join([*lines, "[]", '{"step": 3}', lines[0][:20]]))
    text, tree = read(run)
    assert "<script" not in text
    told = [" ".join("".join(entry.itertext()).split()) for entry in tree.iter("li")]
    assert told[0].startswith("Step 20 · reward drop it fell </pre><script>")
    assert told[1:] == ["Step 30 · kl it is 3", "Step 40 · stopped stop_on 'reward<1:3' at step 40"]
    charts = {figure.findtext("figcaption"): figure for figure in tree.iter("figure")}
    numbers = {
        title: [node.text for node in figure.iter("text") if "mark-number" in node.attrib["class"]]
        for title, figure in charts.items()
    }
    assert numbers == {"Reward": ["1", "3"], "Loss": []}
    assert [node.findtext("title") for node in charts["Reward"].iter("g")][1] == "stop_on 'reward<1:3' at step 40"


def test_many_alarms_are_folded(run: Path) -> None:
    alarm = {"alarm": "kl", "metric": "reward", "text": "again"}
    lines = [json.dumps({"step": step, **alarm}) + "\n" for step in range(1, 21)]
    (run / "02-grpo" / "alarms.jsonl").write_text("".join(lines))
    _, tree = read(run)
    assert [len(part.findall("li")) for part in tree.iter("ol")] == [8, 12]
    assert "12 more alarms" in words(tree)


def test_hostile_text_shows_itself_and_does_nothing(run: Path) -> None:
    text, tree = read(run)
    assert not list(tree.iter("script"))
    assert not list(tree.iter("img"))
    assert "<script" not in text
    shown = "".join(HOSTILE.replace("\x00", "␀").replace("\x1b", "␛"))
    pres = ["".join(pre.itertext()) for pre in tree.iter("pre")]
    assert len(pres) == 5  # a prompt and two answers, and the prompt and completion of a training step
    assert all(pre == shown for pre in pres)
    assert {span.attrib["class"] for pre in tree.iter("pre") for span in pre.iter("span")} == {"token", "think"}


def test_what_a_server_was_asked_is_shown_as_it_was_written(run: Path) -> None:
    asked = json.dumps([{"role": "system", "content": "Be short."}, {"role": "user", "content": "Is\n\\(x\\) 1?"}])
    for stage in ("01-base", "03-after"):
        path = run / stage / "problems/generations.parquet"
        rows = pq.read_table(path).to_pylist()
        pq.write_table(pa.Table.from_pylist([row | {"prompt": asked} for row in rows]), path)
    _, tree = read(run)
    assert "Be short.\nIs\n\\(x\\) 1?" in ["".join(pre.itertext()) for pre in tree.iter("pre")]


def test_nothing_is_fetched(run: Path) -> None:
    text, tree = read(run)
    assert not re.search(r"https?://|url\(|@import|src=", text.replace(HOSTILE, "").replace("&lt;img src=x", ""))
    assert {node.attrib["href"][0] for node in tree.iter("a")} == {"#"}
    anchors = {node.attrib["id"] for node in tree.iter() if "id" in node.attrib}
    assert {node.attrib["href"][1:] for node in tree.iter("a")} <= anchors


def test_settings_and_versions_are_folded_in(run: Path) -> None:
    _, tree = read(run)
    folds = {fold.findtext("summary/b"): " ".join(fold.itertext()) for fold in tree.iter("details")}
    assert {"1 · base", "2 · grpo", "3 · after"} <= set(folds)
    for expected in ("learning_rate 0.001", "nested.key 1, 2", "commit abc123", "python -m open_r1 grpo"):
        assert expected in folds["2 · grpo"]


def test_a_single_run_without_a_pipeline_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    _, tree = read(tmp_path)
    assert [figure.findtext("figcaption") for figure in tree.iter("figure")] == ["Loss"]
    assert not list(tree.iter("table"))  # of stages and scores, of which it has none


def test_a_single_run_says_what_it_was_and_its_settings(tmp_path: Path) -> None:
    lines = '{"step": 0, "eval/reward": 0.25}\n{"step": 1, "reward": 2.0}\n{"step": 2, "eval/reward": 0.5}\n'
    (tmp_path / "metrics.jsonl").write_text(lines)
    (tmp_path / "settings.json").write_text('{"reward_funcs": ["accuracy"], "beta": 0.04}')
    _, tree = read(tmp_path)
    assert "2 steps · reward 2 → 2 · held out 0.25 → 0.5" in words(tree)
    assert [kind.text for kind in tree.iter("span") if kind.attrib.get("class") == "kind"] == ["grpo"]
    assert "beta 0.04" in " ".join(" ".join(fold.itertext()) for fold in tree.iter("details"))


def test_tokens_of_steps_that_are_not_logged_are_counted_too(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 1.0, "tokens": 4000.0}) + "\n" for step in range(1, 41)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    assert "40 steps · loss 1 → 1 · 160k tokens" in words(read(tmp_path)[1])
    (tmp_path / "metrics.jsonl").write_text("".join(lines[9::10]))
    assert "40 steps · loss 1 → 1 · about 160k tokens" in words(read(tmp_path)[1])


def test_a_single_evaluation_says_its_settings_and_how_long_it_took(tmp_path: Path) -> None:
    written = json.loads(results(0.3))
    (tmp_path / "results.json").write_text(json.dumps(written))
    _, tree = read(tmp_path)
    assert not list(tree.iter("a"))  # there is nothing to lead to
    written["tasks"][0]["seconds"] = 72.3
    (tmp_path / "results.json").write_text(
        json.dumps(written | {"settings": {"model": "my/model", "temperature": 0.6}})
    )
    _, tree = read(tmp_path)
    anchors = {node.attrib["id"] for node in tree.iter() if "id" in node.attrib}
    assert [node.attrib["href"][1:] in anchors for node in tree.iter("a")] == [True]
    assert "model my/model" in " ".join(" ".join(fold.itertext()) for fold in tree.iter("details"))
    assert "1:12" in words(tree)


def test_an_empty_folder_has_an_empty_report(tmp_path: Path) -> None:
    _, tree = read(tmp_path)
    assert not list(tree.iter("figure"))


def test_long_completions_lose_their_middle(run: Path) -> None:
    from open_r1.report.sections import shown_text

    shown = shown_text("a" * 50_000 + "end")
    assert len(shown) < 13_000
    assert shown.endswith("end")
    assert "38,003 characters left out" in shown
