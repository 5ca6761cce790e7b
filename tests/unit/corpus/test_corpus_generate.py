from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from fake_model import FakePool, fake_model
from rich.console import Console

from open_r1.config import GenerateConfig
from open_r1.corpus.answer_files import AnswerFiles
from open_r1.corpus.answer_log import revise_log
from open_r1.corpus.generate import generate, summary
from open_r1.corpus.tally import Tally
from open_r1.data.columns import find_columns, to_messages
from open_r1.errors import UserError
from open_r1.evaluation.chat_model import ChatModel


def reply(prompt: str, seed: int) -> tuple[str, str]:
    """Right for even numbers, else by the seed; what is asked of 5 is cut off."""
    n = int(prompt.split()[2])
    answer = n + 1 if n % 2 == 0 or seed % 2 else n
    return f"It is \\boxed{{{answer}}}", "length" if n == 5 else "stop"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "sums.jsonl", range(6))


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_r1.evaluation.gold.RewardPool", FakePool)


def write_rows(path: Path, numbers: range, gold: str | None = None) -> Path:
    lines = [{"problem": f"What is {n} + 1?", "answer": gold or str(n + 1)} for n in numbers]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(model: ChatModel, rows: Path, output: Path, console: Console | None = None, **settings: object) -> Tally:
    config = GenerateConfig(
        dataset=str(rows), model="fake", output=str(output), **{"num_generations": 4, "seed": 1, **settings}
    )
    return generate(model, config, console=console or Console(file=io.StringIO()))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_n_answers_to_each_prompt_ready_to_train_on(rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "answers.jsonl"
    tally = run(fake_model(reply), rows, output)
    records = read(output)
    expected = [(f"What is {n} + 1?", sample) for n in range(6) for sample in range(4)]
    assert [(record["problem"], record["sample"]) for record in records] == expected
    first = records[0]
    assert {name: first[name] for name in ("generation", "gold", "reward", "tokens", "finish_reason")} == {
        "generation": "It is \\boxed{1}",
        "gold": "1",
        "reward": 1.0,
        "tokens": len("It is \\boxed{1}") + 1,
        "finish_reason": "stop",
    }
    columns = find_columns(list(first))
    assert to_messages(first, columns) == [
        {"role": "user", "content": "What is 0 + 1?"},
        {"role": "assistant", "content": "It is \\boxed{1}"},
    ]
    right = sum(record["reward"] == 1 for record in records)
    assert 12 < right < 24
    assert (tally.prompts, tally.asked, tally.answered, tally.kept, tally.truncated) == (6, 24, 24, 24, 4)
    assert (tally.right, tally.unverified) == (right, 0)
    assert not (tmp_path / "out" / "answers.jsonl.rejected").exists()


def test_only_right_and_finished_answers_are_kept(rows: Path, tmp_path: Path) -> None:
    everything, verified = tmp_path / "all.jsonl", tmp_path / "verified.jsonl"
    run(fake_model(reply), rows, everything)
    tally = run(fake_model(reply), rows, verified, keep="verified")
    wanted = [record for record in read(everything) if record["reward"] == 1 and record["finish_reason"] == "stop"]
    assert read(verified) == wanted
    assert tally.kept == len(wanted) < tally.right < tally.answered == 24
    rejected = read(tmp_path / "verified.jsonl.rejected")
    assert len(rejected) == 24 - len(wanted)


@pytest.mark.parametrize("keep", ["all", "verified"])
def test_a_stopped_run_goes_on_where_it_was_and_ends_as_if_it_had_not_stopped(
    keep: str, rows: Path, tmp_path: Path
) -> None:
    undisturbed = run(fake_model(reply), rows, tmp_path / "whole.jsonl", keep=keep)

    stopped = tmp_path / "stopped.jsonl"
    first, second = fake_model(reply, fail_at=9), fake_model(reply)
    with pytest.raises(RuntimeError, match="power"):
        run(first, rows, stopped, keep=keep)
    half = json.loads((tmp_path / "stopped.jsonl.manifest.json").read_text())
    assert half["counts"]["answered"] == 9
    stopped.write_text(stopped.read_text() + '{"id": "torn')
    resumed = run(second, rows, stopped, keep=keep)

    assert len(first.engine.drawn) == 9
    assert len(second.engine.drawn) == 15
    assert not set(first.engine.drawn) & set(second.engine.drawn)
    assert stopped.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    resumed.seconds = undisturbed.seconds
    assert resumed == undisturbed


def test_rows_are_known_by_content_so_that_a_data_set_may_grow_and_move(rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    run(fake_model(reply), rows, output, num_generations=2)
    moved = write_rows(tmp_path / "more.jsonl", range(7, -1, -1))
    model = fake_model(reply)
    tally = run(model, moved, output, num_generations=3)
    assert len(model.engine.drawn) == 8 * 3 - 6 * 2
    assert (tally.asked, tally.answered, tally.kept) == (24, 24, 24)
    assert [record["gold"] for record in read(output)][::3] == [str(n + 1) for n in range(7, -1, -1)]
    run(fake_model(reply), moved, tmp_path / "afresh.jsonl", num_generations=3)
    assert output.read_bytes() == (tmp_path / "afresh.jsonl").read_bytes()


def test_what_is_no_longer_asked_stays_and_is_not_counted(rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    run(fake_model(reply), rows, output)
    tally = run(fake_model(reply), rows, output, limit=2, num_generations=1)
    assert (tally.asked, tally.answered, tally.kept, tally.others) == (2, 2, 2, 22)
    assert len(read(output)) == 24
    assert f"kept 2 in {output}\n{output} also holds 22 answers of earlier starts" in summary(tally, output)
    assert "also holds" not in summary(run(fake_model(reply), rows, output), output)


@pytest.fixture
def two_columns(tmp_path: Path) -> Path:
    """Gold answers under ``right``, others under ``wrong``, which are true of some answers too."""
    lines = [{"problem": f"What is {n} + 1?", "right": str(n + 1), "wrong": str(n)} for n in range(6)]
    path = tmp_path / "two_columns.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("keep", "killed"),
    [("all", None), ("all", "before"), ("verified", None), ("verified", "before"), ("verified", "between")],
)
def test_a_corrected_gold_answer_judges_again_what_is_there(
    keep: str, killed: str | None, two_columns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, afresh = tmp_path / "answers.jsonl", tmp_path / "afresh.jsonl"
    corrected = run(fake_model(reply), two_columns, afresh, keep=keep, answer_column="right")
    wrong = run(fake_model(reply), two_columns, output, keep=keep, answer_column="wrong")
    assert wrong.right != corrected.right
    if killed:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            kill(patched, calls=0 if killed == "before" else 1)
            run(fake_model(reply), two_columns, output, keep=keep, answer_column="right")
    model, said = fake_model(reply), io.StringIO()
    tally = run(model, two_columns, output, Console(file=said, width=200), keep=keep, answer_column="right")
    assert model.engine.drawn == []
    assert killed or "24 answers of earlier starts" in said.getvalue()
    assert output.read_bytes() == afresh.read_bytes()
    if keep == "verified":
        again, first = (path.with_name(f"{path.name}.rejected") for path in (output, afresh))
        assert [record for record in read(again) if record not in read(first)] == []
    corrected.seconds = tally.seconds
    assert tally == corrected


def kill(patched: pytest.MonkeyPatch, calls: int) -> None:
    """Stops this process's revision of the files after some of them."""
    left = iter(range(calls))

    def stopped(*arguments: object) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        revise_log(*arguments)

    patched.setattr("open_r1.corpus.answer_files.revise_log", stopped)


class AwayPool(FakePool):
    """Verifies gold answers and no others, as when a service went away in between."""

    def submit(self, key: int, completions: list[str], columns: dict[str, list[str]]) -> None:
        away = "Therefore" not in completions[0]
        super().submit(key, [f"{completions[0]} takes for ever"] if away else completions, columns)


@pytest.mark.parametrize("keep", ["all", "verified"])
def test_what_could_not_be_verified_is_verified_by_the_next_start(
    keep: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, afresh = tmp_path / "answers.jsonl", tmp_path / "afresh.jsonl"
    undisturbed = run(fake_model(reply), rows, afresh, keep=keep)
    with monkeypatch.context() as patched:
        patched.setattr("open_r1.evaluation.gold.RewardPool", AwayPool)
        assert run(fake_model(reply), rows, output, keep=keep).unverified == 24
        assert run(fake_model(reply), rows, output, keep=keep).unverified == 24
    model = fake_model(reply)
    tally = run(model, rows, output, keep=keep)
    assert (model.engine.drawn, tally.unverified, tally.right) == ([], 0, undisturbed.right)
    assert output.read_bytes() == afresh.read_bytes()


def test_an_output_has_one_writer(rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    with AnswerFiles(output, {}), pytest.raises(UserError, match=r"answers.jsonl is in use .*process \d+.*--output"):
        run(fake_model(reply), rows, output, overwrite_output=True)
    assert run(fake_model(reply), rows, output, overwrite_output=True).kept == 24
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "answers.jsonl",
        "answers.jsonl.manifest.json",
        "sums.jsonl",
    ]


def test_an_answer_that_is_there_twice_counts_once_and_goes(rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    run(fake_model(reply), rows, output)
    before = output.read_text()
    output.write_text(before + "".join(before.splitlines(keepends=True)[5:15]))
    tally = run(fake_model(reply), rows, output)
    assert (tally.answered, tally.kept, tally.others) == (24, 24, 0)
    assert output.read_text() == before


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("other", ["another file of that name", "another split"])
def test_answers_to_two_data_sets_never_mix(finished: bool, other: str, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    train = write_rows(tmp_path / "a" / "train.jsonl", range(3))
    test = write_rows(tmp_path / ("b/train.jsonl" if "file" in other else "a/test.jsonl"), range(3, 6))
    first, second = (train, test) if "file" in other else (tmp_path / "a", tmp_path / "a")
    split = {"dataset_split": "train" if "file" in other else "test"}
    output = tmp_path / "answers.jsonl"
    if finished:
        run(fake_model(reply), first, output)
    else:  # as a run that was killed leaves it
        with pytest.MonkeyPatch.context() as patched, pytest.raises(RuntimeError, match="power"):
            patched.setattr("open_r1.corpus.answer_files.AnswerFiles.describe", lambda *_: None)
            run(fake_model(reply, fail_at=3), first, output)
    before, model = output.read_bytes(), fake_model(reply)
    with pytest.raises(UserError, match=r"answers to another data set .*choose another --output") as error:
        run(model, second, output, **split)
    assert "\n" not in str(error.value)
    assert (output.read_bytes(), model.engine.drawn) == (before, [])
    run(model, second, output, overwrite_output=True, **split)
    assert {record["problem"] for record in read(output)} == {f"What is {n} + 1?" for n in range(3, 6)}


def test_another_path_to_the_same_file_is_the_same_data_set(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(fake_model(reply), Path(rows.name), tmp_path / "answers.jsonl")
    (tmp_path / "link.jsonl").symlink_to(rows)
    for path in (rows, tmp_path / "link.jsonl"):
        assert run(fake_model(reply), path, tmp_path / "answers.jsonl", limit=2).answered == 8


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (fake_model(reply, fingerprint="weights-2"), {}, "model 'weights-1' → 'weights-2'"),
        (fake_model(reply), {"temperature": 1.0}, "temperature 0.6 → 1.0"),
        (fake_model(reply), {"keep": "verified"}, "keep 'all' → 'verified'"),
        (fake_model(reply), {"prompt_template": "{{ instruction }} !"}, "prompt_template"),
    ],
)
def test_other_settings_never_mix(model: ChatModel, settings: dict, message: str, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    run(fake_model(reply), rows, output)
    before = output.read_bytes()
    with pytest.raises(UserError, match=message):
        run(model, rows, output, **settings)
    assert model.engine.drawn == []
    assert output.read_bytes() == before
    run(model, rows, output, overwrite_output=True, **settings)
    assert len(model.engine.drawn) == 24


def test_somebody_elses_file_is_not_written_to(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is there already and has no manifest"):
        run(fake_model(reply), rows, rows)
    assert len(read(rows)) == 6


def test_manifest_and_summary_say_what_came_out(rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    tally = run(fake_model(reply), rows, output, limit=5, keep="verified")
    manifest = json.loads((tmp_path / "answers.jsonl.manifest.json").read_text())
    assert manifest["counts"]["kept"] == tally.kept == len(read(output))
    assert manifest["settings"]["temperature"] == 0.6
    assert (manifest["model"], manifest["rows"], manifest["num_generations"]) == ("fake", 5, 4)
    text = summary(tally, output)
    assert "asked 20 (5 prompts), answered 20, truncated 0.0 %" in text
    assert f"right {100 * tally.right / 20:.1f} % of those verified, not verified 0" in text
    assert f"kept {tally.kept} in {output}" in text


def test_gold_answers_that_cannot_be_verified_are_counted_not_wrong(rows: Path, tmp_path: Path) -> None:
    rows.write_text(rows.read_text().replace('"answer": "3"', '"answer": "(see the figure)"'))
    output = io.StringIO()
    tally = run(fake_model(reply), rows, tmp_path / "answers.jsonl", Console(file=output, width=200))
    assert tally.unverified == 4
    assert "1 of 6 gold answers that were tried cannot be verified themselves, such as '(see the figure)'" in (
        output.getvalue()
    )


def test_gold_answers_that_all_fail_stop_a_run_that_keeps_verified_ones(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", range(3), gold="(see the figure)")
    model = fake_model(reply)
    with pytest.raises(UserError, match=r"3 of 3 gold answers.*--answer_column"):
        run(model, rows, tmp_path / "answers.jsonl", keep="verified")
    assert model.engine.drawn == []


def test_prompts_without_gold_are_answered_and_not_verified(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "What is 1 + 1?"}\n')
    tally = run(fake_model(reply), rows, tmp_path / "answers.jsonl")
    assert (tally.answered, tally.unverified, tally.kept) == (4, 4, 4)
    assert read(tmp_path / "answers.jsonl")[0]["reward"] is None


def test_a_prompt_that_fills_the_context_is_skipped_and_counted(rows: Path, tmp_path: Path) -> None:
    rows.write_text(rows.read_text() + json.dumps({"problem": "What is 6 + " + "1" * 50, "answer": "7"}) + "\n")
    output = io.StringIO()
    tally = run(fake_model(reply, context_length=60), rows, tmp_path / "a.jsonl", Console(file=output, width=200))
    assert (tally.prompts, tally.answered) == (6, 24)
    assert "leaves no room for an answer" in output.getvalue()


def test_in_rounds_as_at_once(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(fake_model(reply), rows, tmp_path / "at_once.jsonl")
    monkeypatch.setattr("open_r1.corpus.generate._PROMPTS_AT_ONCE", 4)
    run(fake_model(reply), rows, tmp_path / "in_rounds.jsonl")
    assert (tmp_path / "at_once.jsonl").read_bytes() == (tmp_path / "in_rounds.jsonl").read_bytes()
