from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fake_model import FakePool, fake_model
from rich.console import Console

from open_r1.config import EvaluateConfig
from open_r1.errors import StopRequested, UserError
from open_r1.evaluation.chat_model import ChatModel, EngineChatModel
from open_r1.evaluation.registry import TaskSource, resolve
from open_r1.evaluation.results import TaskResult, results_table
from open_r1.evaluation.runner import evaluate
from open_r1.evaluation.stopping import resumable
from open_r1.evaluation.task import Task
from open_r1.generation.engine import Completion, Request, SamplingParams
from open_r1.generation.seeds import sample_seed
from open_r1.rewards.extract import find_answer

PROBLEMS = [{"prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(6)]


def reply(prompt: str, seed: int) -> tuple[str, str]:
    """Right for even numbers whatever the seed, for odd ones by the seed; the last problem is cut off."""
    n = int(prompt.split()[2])
    answer = n + 1 if n % 2 == 0 or seed % 2 else n
    return f"It is \\boxed{{{answer}}}", "length" if n == 5 else "stop"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    return path


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_r1.evaluation.gold.RewardPool", FakePool)


def run(model: ChatModel, file: Path, folder: Path, console: Console | None = None, **settings: object) -> TaskResult:
    config = EvaluateConfig(
        model="fake", tasks=[f"problems={file}"], output_dir=str(folder), **{"num_samples": 4, **settings}
    )
    (result,) = evaluate(model, resolve(config.tasks), config, console=console or Console(file=io.StringIO()))
    return result


def rows(folder: Path) -> list[dict]:
    return pq.read_table(folder / "sums" / "generations.parquet").to_pylist()


def test_exactly_n_samples_of_each_problem_with_their_own_seeds(file: Path, tmp_path: Path) -> None:
    model = fake_model(reply)
    run(model, file, tmp_path / "out", num_samples=7)
    found = rows(tmp_path / "out")
    assert [(row["problem"], row["sample"]) for row in found] == [(p, s) for p in range(6) for s in range(7)]
    assert [row["seed"] for row in found] == [sample_seed(42, 0, p, s) for p in range(6) for s in range(7)]
    assert len(model.engine.drawn) == 42


def test_the_result_is_what_the_rows_say(file: Path, tmp_path: Path) -> None:
    result = run(fake_model(reply), file, tmp_path / "out")
    found = rows(tmp_path / "out")
    right = [int(row["completion"].split("{")[1].rstrip("}")) == int(row["gold"]) for row in found]
    assert [row["reward"] for row in found] == [float(value) for value in right]
    assert result.pass_at_1 == pytest.approx(sum(right) / 24)
    assert 0.5 <= result.low <= result.pass_at_1 <= result.high <= 1
    assert (result.problems, result.samples, result.unverified) == (6, 4, 0)
    assert result.truncated == pytest.approx(4 / 24)
    assert result.mean_tokens == pytest.approx(sum(row["tokens"] for row in found) / 24)
    assert {row["tokens"] for row in found if row["problem"] == 0} == {len("It is \\boxed{1}") + 1}
    assert found[0]["prompt"] == "<user>What is 0 + 1?\n"
    assert found[0]["completion"] == "It is \\boxed{1}"

    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["tasks"] == [{**written["tasks"][0], "task": "sums", "pass_at_1": result.pass_at_1}]
    assert written["settings"]["temperature"] == 0.6
    assert written["tasks"][0]["pass_at_k"]["4"]["mean"] == result.pass_at_k["4"].mean >= result.pass_at_1
    metrics = pq.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert [row["value"] for row in metrics if row["metric"] == "pass@1"] == [result.pass_at_1]
    assert "| sums | 6 × 4 |" in (tmp_path / "out" / "model_card.md").read_text()
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


def test_a_stopped_run_goes_on_where_it_was_and_ends_as_if_it_had_not_stopped(file: Path, tmp_path: Path) -> None:
    whole = fake_model(reply)
    undisturbed = run(whole, file, tmp_path / "whole")

    first, second = fake_model(reply, fail_at=9), fake_model(reply)
    with pytest.raises(RuntimeError, match="power"):
        run(first, file, tmp_path / "stopped")
    resumed = run(second, file, tmp_path / "stopped")

    assert len(first.engine.drawn) == 9
    assert len(second.engine.drawn) == 15
    assert not set(first.engine.drawn) & set(second.engine.drawn)
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    assert (resumed.pass_at_1, resumed.low, resumed.high) == (undisturbed.pass_at_1, undisturbed.low, undisturbed.high)

    third = fake_model(reply)
    assert run(third, file, tmp_path / "stopped").pass_at_1 == undisturbed.pass_at_1
    assert third.engine.drawn == []


def test_more_samples_and_more_problems_draw_only_what_is_missing(file: Path, tmp_path: Path) -> None:
    run(fake_model(reply), file, tmp_path / "grown", num_samples=2, limit=3)
    model = fake_model(reply)
    result = run(model, file, tmp_path / "grown", num_samples=4)
    assert len(model.engine.drawn) == 24 - 6
    run(fake_model(reply), file, tmp_path / "whole", num_samples=4)
    assert rows(tmp_path / "grown") == rows(tmp_path / "whole")
    assert (result.problems, result.samples) == (6, 4)

    fewer = fake_model(reply)
    assert run(fewer, file, tmp_path / "grown", num_samples=1, limit=2).problems == 2
    assert fewer.engine.drawn == []
    assert [(row["problem"], row["sample"]) for row in rows(tmp_path / "grown")] == [(0, 0), (1, 0)]


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (fake_model(reply, fingerprint="weights-2"), {}, "model 'weights-1' → 'weights-2'"),
        (fake_model(reply), {"temperature": 1.0}, "temperature 0.6 → 1.0"),
        (fake_model(reply), {"max_new_tokens": 5}, "max_new_tokens 32768 → 5"),
        (fake_model(reply), {"seed": 7}, "seed 42 → 7"),
    ],
)
def test_other_settings_are_refused_before_anything_is_drawn(
    model: ChatModel, settings: dict, message: str, file: Path, tmp_path: Path
) -> None:
    run(fake_model(reply), file, tmp_path / "out")
    before = rows(tmp_path / "out")
    with pytest.raises(UserError, match=f"{message}.*--overwrite_output_dir"):
        run(model, file, tmp_path / "out", **settings)
    assert model.engine.drawn == []
    assert rows(tmp_path / "out") == before
    run(model, file, tmp_path / "out", overwrite_output_dir=True, **settings)
    assert len(model.engine.drawn) == 24


def test_what_is_to_be_overwritten_stays_until_all_is_ready(file: Path, tmp_path: Path) -> None:
    class NoServer(EngineChatModel):
        def start(self) -> None:
            raise UserError("no server answers there")

    run(fake_model(reply), file, tmp_path / "out")
    before, model = rows(tmp_path / "out"), fake_model(reply)
    changed = {"output_dir": str(tmp_path / "out"), "overwrite_output_dir": True, "temperature": 1.0}
    config = EvaluateConfig(model="fake", tasks=[f"problems={file}", "gsm8k=gone.jsonl"], **changed)
    with pytest.raises(UserError, match=r"gone\.jsonl"):
        evaluate(model, resolve(config.tasks), config, console=Console(file=io.StringIO()))
    with pytest.raises(UserError, match="no server answers"):
        run(NoServer(**vars(model)), file, tmp_path / "out", temperature=1.0, overwrite_output_dir=True)
    assert rows(tmp_path / "out") == before
    assert run(fake_model(reply, fail_at=0), file, tmp_path / "out").pass_at_1  # with the settings of before


def test_a_task_that_is_finished_has_its_results_whatever_befalls_the_next(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "others.jsonl"
    other.write_text(file.read_text())
    config = EvaluateConfig(model="fake", tasks=[f"problems={file}", f"problems={other}"], output_dir=str(tmp_path))
    with pytest.raises(RuntimeError, match="the power went"):
        evaluate(fake_model(reply, fail_at=8), resolve(config.tasks), config, console=Console(file=io.StringIO()))
    assert [task["task"] for task in json.loads((tmp_path / "results.json").read_text())["tasks"]] == ["sums"]


def test_numbers_as_subject_and_as_stated_answer_are_kept_as_text(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"level": 5}\n')
    task = Task(
        name="own",
        description="",
        prompt=lambda row: [{"role": "user", "content": "What is 1 + 1?"}],
        gold=lambda row: "2",
        subject=lambda row: row["level"],
        extract=lambda text: 2,
    )
    config = EvaluateConfig(model="fake", tasks=["own"], output_dir=str(tmp_path), num_samples=2)
    source = TaskSource(task, str(tmp_path / "rows.jsonl"))
    (result,) = evaluate(fake_model(reply), [source], config, console=Console(file=io.StringIO()))
    assert [part.subject for part in result.subjects] == ["5"]
    kept = pq.read_table(tmp_path / "own" / "generations.parquet").to_pylist()
    assert [(row["subject"], row["extracted"]) for row in kept] == [("5", "2")] * 2


def test_a_stop_names_the_command_that_goes_on() -> None:
    with pytest.raises(StopRequested, match="the same command goes on"), resumable():
        signal.raise_signal(signal.SIGTERM)
    anew = "the same command without --overwrite_output_dir goes on"
    with pytest.raises(StopRequested, match=anew), resumable("overwrite_output_dir"):
        signal.raise_signal(signal.SIGINT)


def test_an_edited_problem_is_refused(file: Path, tmp_path: Path) -> None:
    run(fake_model(reply), file, tmp_path / "out")
    file.write_text(file.read_text().replace("What is 3", "Say: 3"))
    with pytest.raises(UserError, match="another prompt of problem 3"):
        run(fake_model(reply), file, tmp_path / "out")


def test_what_cannot_be_verified_counts_as_not_right_and_by_itself(file: Path, tmp_path: Path) -> None:
    def slow(prompt: str, seed: int) -> tuple[str, str]:
        text, reason = reply(prompt, 1)
        return f"{text} takes for ever" if "0 + 1" in prompt else text, reason

    result = run(fake_model(slow), file, tmp_path / "out")
    assert result.unverified == 4
    assert result.pass_at_1 == pytest.approx(5 / 6)


def test_the_next_start_verifies_what_could_not_be_verified_and_draws_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(FakePool):
        """Verifies gold answers and no others."""

        def submit(self, key: int, completions: list[str], columns: dict[str, list[str]]) -> None:
            away = "Therefore" not in completions[0]
            super().submit(key, [f"{completions[0]} takes for ever"] if away else completions, columns)

    whole = run(fake_model(reply), file, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr("open_r1.evaluation.gold.RewardPool", Away)
        assert run(fake_model(reply), file, tmp_path / "out").unverified == 24
    model, said = fake_model(reply), io.StringIO()
    result = run(model, file, tmp_path / "out", Console(file=said, width=200))
    assert (model.engine.drawn, result.unverified, result.pass_at_1) == ([], 0, whole.pass_at_1)
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    assert "24 answers on disk had not been verified; verified again, 24 have a reward now" in said.getvalue()


OWN_REWARD = """
def mine(completions, solution, **kwargs):
    return [float({rule}) for text, gold in zip(completions, solution)]
"""


def test_answers_are_judged_again_and_not_drawn_where_the_users_own_reward_was_edited(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the pool of the real thing
    code, folder = tmp_path / "own_verifier.py", tmp_path / "out"
    task = replace(resolve([f"problems={file}"])[0].task, name="sums", reward=f"{code}:mine")
    config = EvaluateConfig(
        model="fake", tasks=[f"problems={file}"], output_dir=str(folder), num_samples=2, reward_workers=1
    )

    def start(rule: str, model: ChatModel, console: Console) -> TaskResult:
        code.write_text(OWN_REWARD.format(rule=rule))
        (result,) = evaluate(model, [TaskSource(task, str(file))], config, console=console)
        return result

    loose, strict, silent = "'boxed' in text", "gold in text", Console(file=io.StringIO())
    assert start(loose, fake_model(reply), silent).pass_at_1 == 1
    answers = [(row["completion"], row["extracted"]) for row in rows(folder)]
    model, said = fake_model(reply), io.StringIO()
    second = start(strict, model, Console(file=said, width=200))
    assert model.engine.drawn == []
    assert second.pass_at_1 == sum(row["gold"] in row["completion"] for row in rows(folder)) / 12 < 1
    assert [(row["completion"], row["extracted"]) for row in rows(folder)] == answers
    assert "12 answers on disk were judged by code of yours that has changed since" in said.getvalue()

    said = io.StringIO()
    assert start(strict, model, Console(file=said, width=200)).pass_at_1 == second.pass_at_1
    assert "changed since" not in said.getvalue()


def test_a_task_has_one_writer_in_a_folder(file: Path, tmp_path: Path) -> None:
    run(fake_model(reply), file, tmp_path / "out")
    before, model = rows(tmp_path / "out"), fake_model(reply)

    def meanwhile(prompt: str, seed: int) -> tuple[str, str]:
        with pytest.raises(UserError, match=r"out/sums is in use .*process \d+.*--output_dir"):
            run(model, file, tmp_path / "out", overwrite_output_dir=True)
        return reply(prompt, seed)

    run(fake_model(meanwhile), file, tmp_path / "out", num_samples=5)
    assert model.engine.drawn == []
    assert [row for row in rows(tmp_path / "out") if row["sample"] < 4] == before
    assert not (tmp_path / "out" / "sums" / ".lock").exists()


def test_a_task_evaluated_later_joins_the_others_of_its_folder(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "others.jsonl"
    other.write_text(file.read_text())
    out, said = tmp_path / "out", io.StringIO()
    first = run(fake_model(reply), file, out)
    run(fake_model(reply), other, out, Console(file=said, width=200), limit=3)
    written = json.loads((out / "results.json").read_text())
    assert [(task["task"], task["problems"]) for task in written["tasks"]] == [("sums", 6), ("others", 3)]
    assert written["tasks"][0]["pass_at_k"]["4"]["mean"] == first.pass_at_k["4"].mean
    assert {row["task"] for row in pq.read_table(out / "results.parquet").to_pylist()} == {"sums", "others"}
    card = (out / "model_card.md").read_text()
    assert "| sums | 6 × 4 |" in card and "| others | 3 × 4 |" in card
    assert "the first 3 problems of others," in card and "of each task" not in card
    assert "left it" not in said.getvalue()

    run(fake_model(reply), file, out, limit=2)
    tasks = json.loads((out / "results.json").read_text())["tasks"]
    assert [(task["task"], task["problems"]) for task in tasks] == [("sums", 2), ("others", 3)]


@pytest.mark.parametrize(
    ("fingerprint", "settings", "message"),
    [
        ("weights-1", {"temperature": 1.0}, "temperature 0.6 → 1.0"),
        ("weights-2", {}, "model 'weights-1' → 'weights-2'"),
    ],
)
def test_results_drawn_otherwise_leave_the_files_and_that_is_said(
    fingerprint: str, settings: dict, message: str, file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "others.jsonl"
    other.write_text(file.read_text())
    out, said = tmp_path / "out", io.StringIO()
    run(fake_model(reply), file, out)
    run(fake_model(reply, fingerprint=fingerprint), other, out, Console(file=said, width=200), **settings)
    assert [task["task"] for task in json.loads((out / "results.json").read_text())["tasks"]] == ["others"]
    assert f"results.json: sums left it, as other answers than these ({message})" in said.getvalue()
    assert (out / "sums" / "generations.parquet").exists()


def test_a_gold_answer_that_cannot_be_verified_is_named_and_counted(file: Path, tmp_path: Path) -> None:
    file.write_text(file.read_text().replace('"answer": "3"', '"answer": "(see the figure)"'))
    output = io.StringIO()
    result = run(fake_model(reply), file, tmp_path / "out", Console(file=output, width=200))
    assert "gold answers of 1 of 6 problems (rows 2)" in output.getvalue()
    assert result.rejected_gold == [2]
    assert result.unverified == 4


def test_gold_answers_that_all_fail_stop_the_run(file: Path, tmp_path: Path) -> None:
    file.write_text("".join(json.dumps({"prompt": "What is 1 + 1?", "answer": "(see the figure)"}) + "\n"))
    model = fake_model(reply)
    with pytest.raises(UserError, match=r"accepts none of the 1 gold answers .*: it cannot be verified"):
        run(model, file, tmp_path / "out")
    assert model.engine.drawn == []


def test_votes_and_subjects_come_from_the_task(file: Path, tmp_path: Path) -> None:
    (source,) = resolve([f"problems={file}"])
    task = replace(source.task, name="sums", extract=find_answer, subject=lambda row: f"half {int(row['answer']) // 4}")
    config = EvaluateConfig(model="fake", tasks=["gsm8k"], output_dir=str(tmp_path / "out"), num_samples=5)
    sources = [replace(source, task=task)]
    (result,) = evaluate(fake_model(reply), sources, config, console=Console(file=io.StringIO()))
    found = rows(tmp_path / "out")
    assert [row["subject"] for row in found[:5]] == ["half 0"] * 5
    right = [sum(row["reward"] for row in found[i : i + 5]) for i in range(0, 30, 5)]
    assert result.majority.mean == pytest.approx(sum(count > 2.5 for count in right) / 6)
    assert [(part.subject, part.problems) for part in result.subjects] == [("half 0", 3), ("half 1", 3)]
    assert sum(part.pass_at_1 for part in result.subjects) / 2 == pytest.approx(result.pass_at_1)


def test_greedy_draws_one_sample(file: Path, tmp_path: Path) -> None:
    model = fake_model(reply)
    assert run(model, file, tmp_path / "out", num_samples=None, greedy=True).samples == 1
    assert model.engine.params.temperature == 0


def test_a_prompt_that_fills_the_context_is_one_clear_line(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sums: problem 0 has 21 tokens.*context of 20"):
        run(fake_model(reply, context_length=20), file, tmp_path / "out")


def test_a_context_that_is_too_short_for_max_new_tokens_is_said(file: Path, tmp_path: Path) -> None:
    output = io.StringIO()
    run(fake_model(reply, context_length=100), file, tmp_path / "out", Console(file=output, width=200))
    assert "max_new_tokens 32768 is more than the model's context of 100 leaves" in output.getvalue()


def test_all_tasks_are_checked_before_the_first_is_drawn(file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "no prompt"}\n')
    config = EvaluateConfig(
        model="fake", tasks=[f"problems={file}", f"problems={bad}"], output_dir=str(tmp_path / "out")
    )
    model = fake_model(reply)
    with pytest.raises(UserError, match="no column of prompts"):
        evaluate(model, resolve(config.tasks), config)
    assert model.engine.drawn == []


def test_an_engine_that_loses_a_request_is_found_out(file: Path, tmp_path: Path) -> None:
    model = fake_model(reply)
    generate = model.engine.generate
    model.engine.generate = lambda requests, params: generate(requests[1:], params)
    with pytest.raises(UserError, match="sums: 1 of 24 answers were never drawn; what was drawn is kept"):
        run(model, file, tmp_path / "out")
    assert run(fake_model(reply), file, tmp_path / "out").problems == 6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(lambda requests: [*requests[3:], requests[5]], "answer 5 twice"), (lambda requests: [Stray()], "nobody asked")],
)
def test_an_engine_that_answers_too_often_is_found_out(
    wrong: Callable, message: str, file: Path, tmp_path: Path
) -> None:
    model = fake_model(reply)
    generate = model.engine.generate
    model.engine.generate = lambda requests, params: generate(wrong(requests), params)
    with pytest.raises(UserError, match=message):
        run(model, file, tmp_path / "out")


@dataclass(frozen=True)
class Stray:
    id: int = 24
    prompt_ids: tuple[int, ...] = tuple(map(ord, "What is 1 + 1?"))
    seed: int = 0


def test_requests_that_failed_leave_the_others_drawn_and_the_same_command_draws_them(
    file: Path, tmp_path: Path
) -> None:
    model = fake_model(reply)
    generate = model.engine.generate

    def drops_some(requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        yield from generate([request for request in requests if request.id % 5], params)
        raise UserError("5 of 24 requests failed: 503")

    model.engine.generate = drops_some
    with pytest.raises(UserError, match="5 of 24 requests failed"):
        run(model, file, tmp_path / "out")
    assert not (tmp_path / "out" / "results.json").exists()
    again = fake_model(reply)
    run(again, file, tmp_path / "out")
    assert len(again.engine.drawn) == 5
    run(fake_model(reply), file, tmp_path / "whole")
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


def test_the_table_shows_every_number(file: Path, tmp_path: Path) -> None:
    result = run(fake_model(reply), file, tmp_path / "out")
    output = io.StringIO()
    Console(file=output, width=200).print(results_table([result]))
    for shown in ("sums", "pass@1", f"{100 * result.pass_at_1:.1f} %", "16.7 %", "95 % interval", "pass@n"):
        assert shown in output.getvalue()


def test_the_reward_pool_of_the_real_thing(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with_pool = run(fake_model(reply), file, tmp_path / "pool", reward_workers=1)
    monkeypatch.setattr("open_r1.evaluation.gold.RewardPool", FakePool)
    in_process = run(fake_model(reply), file, tmp_path / "in_process")
    assert with_pool.pass_at_1 == in_process.pass_at_1
    assert rows(tmp_path / "pool") == rows(tmp_path / "in_process")
