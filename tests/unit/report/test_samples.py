"""Which problems a report shows, and what it says of all of them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from open_r1.report.gather import StageRecord
from open_r1.report.samples import samples_of, training_samples


def evaluation(folder: Path, name: str, rewards: list[float | None]) -> StageRecord:
    rows = []
    for problem, reward in enumerate(rewards):
        reason = "length" if reward is None else "stop"
        row = {"problem": problem, "prompt": f"p{problem}", "tokens": 7, "finish_reason": reason, "gold": "4"}
        for sample, value in enumerate((reward, 1.0)):
            rows.append({**row, "sample": sample, "completion": f"{name}-{problem}-{sample}", "reward": value})
    path = folder / name / "problems" / "generations.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return StageRecord(name, "evaluate", folder / name, tasks=[{"task": "problems"}])


def test_every_problem_is_counted_by_its_first_answers_and_some_are_shown(tmp_path: Path) -> None:
    first = evaluation(tmp_path, "base", [0.0] * 10 + [1.0, 1.0, None])
    last = evaluation(tmp_path, "grpo", [1.0] * 10 + [1.0, 0.0, 0.0])
    samples = samples_of("problems", [first, last])
    assert samples.counts == {"turned right": 10, "turned wrong": 1, "stayed wrong": 1, "stayed right": 1}
    shown = [(problem.outcome, problem.index) for problem in samples.problems]
    assert shown == [
        ("turned right", 1),
        ("stayed wrong", 12),
        ("turned wrong", 11),
        ("turned right", 5),
        ("stayed right", 10),
        ("turned right", 8),
    ]
    assert [answer.text for answer in samples.problems[0].answers] == ["base-1-0", "grpo-1-0"]
    unverified = samples.problems[1].answers[0]
    assert (unverified.right, unverified.reward, unverified.truncated) == (False, None, True)


def test_an_evaluation_without_generations_is_left_out(tmp_path: Path) -> None:
    only = evaluation(tmp_path, "base", [1.0])
    gone = StageRecord("gone", "evaluate", tmp_path / "gone", tasks=[{"task": "problems"}])
    assert [answer.stage for answer in samples_of("problems", [only, gone]).problems[0].answers] == ["base"]
    assert samples_of("problems", [gone]) is None
    file = tmp_path / "base" / "problems" / "generations.parquet"
    file.write_bytes(file.read_bytes()[:-9])  # cut short, as a copy may be
    assert samples_of("problems", [only]) is None


def test_training_samples_come_from_beginning_middle_and_end(tmp_path: Path) -> None:
    assert training_samples(tmp_path) == []
    (tmp_path / "completions.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(30)) + '{"st')
    assert [sample["step"] for sample in training_samples(tmp_path)] == [5, 15, 25]
