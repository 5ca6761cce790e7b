"""A served model through both commands, at a server of this machine that misbehaves."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from chat_server import ChatServer, Handler, chat_server, completion

from open_r1.cli import main
from open_r1.errors import UserError
from open_r1.evaluation.opening import api_key
from open_r1.evaluation.serving import ServedChatModel
from open_r1.generation import openai_client
from open_r1.generation.engine import SamplingParams
from open_r1.generation.openai_client import Server

GSM8K = Path(__file__).parents[2] / "data" / "gsm8k_test_64.jsonl"
ROWS = [json.loads(line) for line in GSM8K.read_text().splitlines()]
GOLDS = {row["question"]: row["answer"].split("####")[1].strip() for row in ROWS}
ASKED = [{"role": "user", "content": "2+2?"}]


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_client, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(openai_client, "LONGEST_PAUSE", 0.01)


def solve(handler: Handler, body: dict[str, Any], before: int) -> None:
    """Right at odd seeds; drops the connection of every second request the first time."""
    if body["seed"] % 2 == 0 and before == 0:
        return handler.drop()
    (question,) = [question for question in GOLDS if question in body["messages"][-1]["content"]]
    right = body["seed"] % 4 < 3
    answer = GOLDS[question] if right else "-1"
    handler.say(completion(f"So \\boxed{{{answer}}}", reasoning_content="Hm.", tokens=5))


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server(solve) as state:
        yield state


def evaluate(state: ChatServer, out: Path, *more: str) -> int:
    command = ["evaluate", "--model", "m", "--base_url", state.base_url, "--tasks", f"gsm8k={GSM8K}"]
    command += ["--num_samples", "3", "--limit", "8", "--reward_workers", "1", "--output_dir", str(out)]
    return main([*command, *more])


def test_an_evaluation_from_a_server_that_drops_half_of_its_connections(server: ChatServer, tmp_path: Path) -> None:
    assert evaluate(server, tmp_path, "--system_prompt", "Think.", "--top_k", "20", "--max_new_tokens", "100") == 0
    rows = pq.read_table(tmp_path / "gsm8k" / "generations.parquet").to_pylist()
    assert [(row["problem"], row["sample"]) for row in rows] == [(n, sample) for n in range(8) for sample in range(3)]
    for row in rows:
        seed = row["seed"] % 2**31
        assert row["completion"].startswith("<think>\nHm.\n</think>\n\nSo ") and row["tokens"] == 5
        assert row["reward"] == (seed % 4 < 3) and row["finish_reason"] == "stop"
    body = server.bodies[0]
    assert body["messages"][0] == {"role": "system", "content": "Think."}
    names = ("model", "n", "temperature", "top_p", "top_k", "max_tokens")
    assert [body[name] for name in names] == ["m", 1, 0.6, 0.95, 20, 100]
    assert {body["seed"] for body in server.bodies} == {row["seed"] % 2**31 for row in rows}


def test_what_failed_is_counted_and_the_same_command_draws_the_rest(
    server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert evaluate(server, tmp_path, "--retries", "0") == 2
    shown, said = capsys.readouterr()
    assert "more than the model's context of 4096 leaves: answers end where it is full\n" in shown
    drawn = sum(body["seed"] % 2 for body in server.bodies)
    assert 0 < drawn < 24
    assert f"{24 - drawn} of 24 requests failed after 0 retries (last: connection failed: " in " ".join(said.split())
    assert not (tmp_path / "results.json").exists()

    asked = len(server.bodies)
    assert evaluate(server, tmp_path) == 0
    assert len(server.bodies) - asked == 24 - drawn
    assert f"{drawn} of 24 answers are there already" in " ".join(capsys.readouterr().out.split())

    with chat_server(lambda *_: pytest.fail("asked")) as elsewhere:  # a finished run needs nothing, wherever it was
        assert evaluate(elsewhere, tmp_path) == 0
        assert not elsewhere.bodies
    assert evaluate(elsewhere, tmp_path) == 0  # not even a server
    assert evaluate(server, tmp_path, "--revision", "v2") == 2
    assert "served/m@main" in capsys.readouterr().err


def test_a_later_task_runs_although_requests_of_an_earlier_one_failed(
    server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["evaluate", "--model", "m", "--base_url", server.base_url, "--limit", "4", "--retries", "0"]
    command += ["--tasks", f"gsm8k={GSM8K}", f"problems={GSM8K}", "--num_samples", "3", "--output_dir", str(tmp_path)]
    assert main([*command, "--reward_workers", "1"]) == 2
    drawn = sum(body["seed"] % 2 for body in server.bodies)
    assert len(server.bodies) == 24 and f"{24 - drawn} of 24 requests failed" in capsys.readouterr().err


def test_tasks_that_are_finished_have_their_results_where_another_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def refuse(handler: Handler, body: dict[str, Any], before: int) -> None:
        if body["messages"][-1]["content"].startswith("Solve"):  # which own problems do not
            return handler.say({"error": {"message": "too long"}}, 400)
        solve(handler, body, 1)

    with chat_server(refuse) as state:
        command = ["evaluate", "--model", "m", "--base_url", state.base_url, "--limit", "4", "--reward_workers", "1"]
        command += ["--tasks", f"gsm8k={GSM8K}", f"problems={GSM8K}", "--output_dir", str(tmp_path)]
        assert main(command) == 2
    written = json.loads((tmp_path / "results.json").read_text())
    assert [(task["task"], task["problems"]) for task in written["tasks"]] == [("gsm8k_test_64", 4)]
    assert "gsm8k_test_64    4 × 1" in capsys.readouterr().out


def test_a_server_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_client, "PROBE_SECONDS", 0.1)
    with chat_server(solve) as state:
        pass
    assert evaluate(state, tmp_path) == 2
    assert "no server answers there" in capsys.readouterr().err


def test_data_from_a_server(server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "answers.jsonl"
    command = ["generate", "--hf-dataset", str(GSM8K), "--model", "m", "--vllm-server-url", f"{server.base_url}/"]
    command += ["--num-generations", "2", "--limit", "6", "--keep", "verified", "--reward-workers", "1"]
    command += [
        "--prompt-column",
        "question",
        "--output",
        str(output),
        "--input-batch-size",
        "2",
        "--client-replicas",
        "2",
    ]
    assert main([*command, "--retries", "0"]) == 2
    assert "the same command draws the rest" in " ".join(capsys.readouterr().err.split())
    assert main(command) == 0
    kept = [json.loads(line) for line in output.read_text().splitlines()]
    rejected = (tmp_path / "answers.jsonl.rejected").read_text().splitlines()
    assert len(kept) + len(rejected) == 12 and all(record["reward"] == 1 for record in kept)
    assert server.most_in_flight <= 4
    assert "asked 12 (6 prompts), answered 12" in capsys.readouterr().out


@pytest.mark.parametrize("code", [400, 500])
def test_one_lost_request_does_not_stop_the_rounds_after_it(
    code: int, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_one(handler: Handler, body: dict[str, Any], before: int) -> None:
        refused = ROWS[1]["question"] in body["messages"][-1]["content"]
        handler.say({}, code) if refused else handler.say(completion("x"))

    monkeypatch.setattr("open_r1.corpus.generate._PROMPTS_AT_ONCE", 2)
    output = tmp_path / "answers.jsonl"
    refused_for_good = code == 400  # such a prompt is left out, as one that is too long for a model in this process
    with chat_server(refuse_one) as state:
        command = ["generate", "--dataset", str(GSM8K), "--model", "m", "--base_url", state.base_url, "--limit", "6"]
        command += ["--prompt_column", "question", "--output", str(output), "--reward_workers", "1"]
        assert main(command) == (0 if refused_for_good else 2)
        said = " ".join("".join(capsys.readouterr()).split())
        assert ("the server refuses 1 prompt, which is left out (row 1; the last: HTTP 400" in said) is refused_for_good
        assert ("1 of 2 requests failed" in said) is not refused_for_good
        assert len(output.read_text().splitlines()) == 5
        assert json.loads((tmp_path / "answers.jsonl.manifest.json").read_text()).get("refused_rows", 0) == (
            code == 400
        )


def test_what_is_to_be_overwritten_stays_until_the_server_answers(
    server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "answers.jsonl"
    command = ["generate", "--dataset", str(GSM8K), "--model", "m", "--limit", "4", "--reward_workers", "1"]
    command += ["--prompt_column", "question", "--output", str(output), "--base_url"]
    assert main([*command, server.base_url]) == 0
    before = output.read_text()
    monkeypatch.setattr(openai_client, "PROBE_SECONDS", 0.1)
    with chat_server(solve) as gone:
        pass
    assert main([*command, gone.base_url, "--overwrite_output"]) == 2
    assert "no server answers there" in capsys.readouterr().err and output.read_text() == before


def test_where_a_server_refuses_everything_there_is_no_data(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with chat_server(lambda handler, *_: handler.say({"error": {"message": "no top_k"}}, 400)) as state:
        command = ["generate", "--dataset", str(GSM8K), "--model", "m", "--base_url", state.base_url, "--limit", "6"]
        command += ["--prompt_column", "question", "--output", str(tmp_path / "a.jsonl"), "--reward_workers", "1"]
        assert main(command) == 2
    assert "the server refuses 6 of 6 requests (last: HTTP 400: " in " ".join(capsys.readouterr().err.split())


def test_answers_without_a_token_count_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with chat_server(lambda handler, *_: handler.say(completion("", tokens=None))) as state:
        model = ServedChatModel("m", Server(state.base_url))
        (draw,) = model.draw([(model.prompt(ASKED), 1)], SamplingParams(10))
    assert (draw.text, draw.tokens, draw.finish_reason) == ("", 0, "stop")
    assert "did not say how many tokens 1 answers have" in caplog.text


def test_a_limit_that_fills_the_context_is_left_to_the_server() -> None:
    with chat_server(solve) as state:
        model = ServedChatModel("m", Server(state.base_url))
        assert model.context_length == 4096
        prompt = model.prompt(ASKED)
        assert model.body(prompt, 1, SamplingParams(4095))["max_tokens"] == 4095
        assert "max_tokens" not in model.body(prompt, 1, SamplingParams(4096))
        assert "extra_body" not in model.body(prompt, 1, SamplingParams(10))
        at_openai = ServedChatModel("m", Server("https://api.openai.com/v1"))
        at_openai.__dict__["context_length"] = None
        assert at_openai.body(prompt, 1, SamplingParams(10))["max_completion_tokens"] == 10


def test_a_key_goes_only_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("MINE", "own")
    assert api_key("https://api.openai.com/v1", None) == "secret"
    assert api_key("https://mine.openai.azure.com/openai/v1", None) == "secret"
    for other in ("http://localhost:8000/v1", "https://else.org/api.openai.com/v1", "https://api.openai.com.else.org"):
        assert api_key(other, None) is None
    assert api_key("http://localhost:8000/v1", "MINE") == "own"
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="set the environment variable OPENAI_API_KEY"):
        api_key("https://api.openai.com/v1", None)


def test_a_signal_while_a_server_is_asked_keeps_what_was_drawn(tmp_path: Path) -> None:
    leave = threading.Event()

    def stall(handler: Handler, body: dict[str, Any], before: int) -> None:
        if len(state.bodies) == 6:
            time.sleep(0.5)  # until the five before it are verified
            os.kill(os.getpid(), signal.SIGTERM)
        if len(state.bodies) >= 6:
            leave.wait(20)
        handler.say(completion("\\boxed{1}"))

    with chat_server(stall) as state:
        assert evaluate(state, tmp_path, "--concurrency", "1") == 128 + signal.SIGTERM
        leave.set()
    rows = sum(pq.read_table(path).num_rows for path in (tmp_path / "gsm8k" / "parts").glob("*.parquet"))
    assert rows == 5
