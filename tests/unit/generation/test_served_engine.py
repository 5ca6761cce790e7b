"""A served engine draws what the engine behind it draws, with the weights it was sent, or says what is wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import torch
from http_serving import serving
from tiny_checkpoint import save_tiny_checkpoint
from torch import Tensor

from open_r1.background import Background
from open_r1.errors import UserError
from open_r1.generation import server_batches, server_client, server_port
from open_r1.generation.engine import Completion, Request, SamplingParams
from open_r1.generation.served import Trainer, open_served, start_served
from open_r1.generation.served_engine import ServedEngine
from open_r1.generation.server import EngineServer
from open_r1.generation.server_model import Meeting
from open_r1.generation.server_port import free_port, reserve
from open_r1.generation.server_process import ServerProcess, nth_devices, serve_command
from open_r1.generation.server_protocol import ServerFacts, sizes_of
from open_r1.generation.transformers_engine import TransformersEngine
from open_r1.model.load import load_model

PARAMS = SamplingParams(max_new_tokens=24, temperature=1.1, top_p=0.95, stop_token_ids=(7, 256))
REQUESTS = [Request(3 * number, (5, 6, 7 + number // 4), seed=2**62 + number) for number in range(12)]


def by_id(completions: Iterator[Completion]) -> list[Completion]:
    return sorted(completions, key=lambda completion: completion.request_id)


# With a real server, in a process of its own.


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("served")
    return [save_tiny_checkpoint(folder / f"model-{seed}", seed=seed) for seed in range(2)]


def start_server(checkpoint: Path, log: Path, **settings: object) -> tuple[str, ServerProcess]:
    port = free_port()
    known = {"model": checkpoint, "engine": "transformers", "port": port}
    return f"http://127.0.0.1:{port}", ServerProcess(serve_command(known | settings), log=log)


@pytest.fixture(scope="module")
def server(checkpoints: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url, process = start_server(checkpoints[0], tmp_path_factory.mktemp("log") / "server.log")
    server_client.ServerClient(url, process.last_words).wait_until_up(120, process.check)
    yield url
    process.close()


def assert_draws(engine: ServedEngine, checkpoint: Path) -> None:
    """What is drawn is what an engine in this process draws; a process with other threads rounds otherwise."""
    local = TransformersEngine(load_model(str(checkpoint)), pad_token_id=0)
    answers, expected = (by_id(one.generate(REQUESTS, PARAMS)) for one in (engine, local))
    assert [replace(one, logprobs=()) for one in answers] == [replace(one, logprobs=()) for one in expected]
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)


def test_it_draws_as_the_engine_does_before_and_after_new_weights(server: str, checkpoints: list[Path]) -> None:
    other = load_model(str(checkpoints[1]))
    engine = ServedEngine(server, sizes=sizes_of(other.config), bucket_bytes=4_000)
    assert_draws(engine, checkpoints[0])
    for _ in range(2):
        engine.load_weights(other.named_parameters())
        assert_draws(engine, checkpoints[1])
    # Another run's trainer: not beside the first, whose run it would end; after it, from the beginning.
    follower = ServedEngine(server, bucket_bytes=1 << 20)
    with pytest.raises(UserError, match="another trainer is using this server"):
        follower.load_weights(load_model(str(checkpoints[0])).named_parameters())
    assert_draws(engine, checkpoints[1])
    engine.load_weights(other.named_parameters())
    assert_draws(engine, checkpoints[1])
    engine.close()
    follower.load_weights(load_model(str(checkpoints[0])).named_parameters())
    assert_draws(follower, checkpoints[0])
    assert list(engine.generate([], PARAMS)) == []


def test_weights_of_another_model_are_refused_and_the_right_ones_taken(server: str, checkpoints: list[Path]) -> None:
    model = load_model(str(checkpoints[0]))
    engine = ServedEngine(server, group_port=free_port())
    with pytest.raises(UserError, match="the weights do not fit the model: the engine's model has no elsewhere"):
        engine.load_weights([("elsewhere", torch.zeros(3))])
    with pytest.raises(UserError, match="no whole weights"):
        list(ServedEngine(server).generate(REQUESTS, PARAMS))
    with pytest.raises(UserError, match="no weights for"):
        engine.load_weights(list(model.named_parameters())[:3])
    engine.load_weights(model.named_parameters())
    assert_draws(engine, checkpoints[0])


def test_a_server_that_is_killed_is_one_line(checkpoints: list[Path], tmp_path: Path) -> None:
    url, process = start_server(checkpoints[0], tmp_path / "server.log")
    engine = ServedEngine(url, process=process, start_timeout=120)
    long = SamplingParams(max_new_tokens=400, temperature=1.0, stop_token_ids=(7,))
    requests = [Request(number, (1, 2, 3), seed=number) for number in range(200)]
    completions = engine.generate(requests, long)
    next(completions)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"was lost after \d+ completions.*serving .*resume_from_checkpoint") as said:
        list(completions)
    assert "\n" not in str(said.value)

    model = load_model(str(checkpoints[0]))
    with pytest.raises(UserError, match="was lost"):
        engine.load_weights(model.named_parameters())
    engine.close()
    engine.close()


def test_a_server_ends_with_the_trainer(checkpoints: list[Path], tmp_path: Path) -> None:
    url, process = start_server(checkpoints[0], tmp_path / "server.log")
    engine = ServedEngine(url, process=process, start_timeout=120)
    process._process.stdin.close()  # as the kernel does when the trainer is killed
    assert process._process.wait(60) == 128 + signal.SIGTERM
    engine.close()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    url, process = start_server(tmp_path / "nowhere", tmp_path / "server.log")
    with pytest.raises(UserError, match=r"ended with status 2 before it was up; its last lines: .*no such folder.*log"):
        ServedEngine(url, process=process, start_timeout=120)


def test_of_what_an_ended_server_said_its_error_counts(tmp_path: Path) -> None:
    said = "echo loading; echo error: no room; echo 'change: --port 8001'; echo 'see: docs'; exit 2"
    process = ServerProcess(["bash", "-c", said], log=tmp_path / "server.log")
    process._process.wait(60)
    with pytest.raises(UserError, match=r"its last lines: error: no room \(log"):
        process.check()


def test_a_server_that_does_not_come_up_fails_by_the_deadline(tmp_path: Path) -> None:
    process = ServerProcess(["bash", "-c", "echo still loading; sleep 600"], log=tmp_path / "server.log")
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"no server answers at .* after 1 s .*its last lines: still loading"):
        ServedEngine(f"http://127.0.0.1:{free_port()}", process=process, start_timeout=1)
    assert time.monotonic() - begun < 20
    assert process._process.poll() is not None, "it is left running"


def test_a_command_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be started"):
        ServerProcess([str(tmp_path / "no-such-program")], log=tmp_path / "server.log")


# With a server in this process, and a model made up.


class Echo:
    """An engine whose completions are the prompt reversed; ``wait`` holds each back until it is set."""

    context = 64

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.drawn = 0
        self.weights: dict[str, Tensor] = {}
        self.go = threading.Event()
        self.go.set()
        self.fail: Exception | None = None

    def generate(self, requests: Any, params: SamplingParams) -> Iterator[Completion]:
        self.batches.append(len(requests))
        for request in requests:
            self.go.wait(60)
            if self.fail is not None:
                raise self.fail
            ids = tuple(reversed(request.prompt_ids))
            self.drawn += 1
            yield Completion(request.id, ids, tuple(-float(token) for token in ids), "stop")

    def load_weights(self, weights: Any) -> None:
        self.weights = dict(weights)

    def close(self) -> None:
        pass


class Model:
    def __init__(self, **facts: object) -> None:
        self.engine = Echo()
        known = {"context": 64, "workers": 1, "dtype": "bfloat16", "device": "cpu", "sizes": {"hidden_size": 8}}
        self.facts = ServerFacts(model="made-up", engine="vllm", **(known | facts))

    def meet(self, meeting: Meeting) -> None:
        raise UserError("this one meets nobody")

    def receive(self) -> None:
        raise AssertionError


@contextmanager
def in_process(model: Model) -> Iterator[str]:
    with EngineServer(reserve(("127.0.0.1", 0)), model, 5.0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.url
        server.shutdown()


def test_requests_of_several_trainers_become_one_batch() -> None:
    model = Model()
    with in_process(model) as url:
        engines = [ServedEngine(url, parties=3) for _ in range(3)]
        for size in (4, 2):
            shares = [[Request(number, (rank, number), 0) for number in range(size)] for rank in (1, 2, 3)]
            drawn = [
                Background(lambda engine, share: by_id(engine.generate(share, PARAMS)), engine, share)
                for engine, share in zip(engines, shares, strict=True)
            ]
            for rank, answers in enumerate(drawn, start=1):
                assert [answer.token_ids for answer in answers.result()] == [(number, rank) for number in range(size)]
                assert [answer.request_id for answer in answers.result()] == list(range(size))
        assert model.engine.batches == [12, 6]


def test_completions_come_as_they_finish() -> None:
    model = Model()
    with in_process(model) as url:
        model.engine.go.clear()
        completions = ServedEngine(url).generate([Request(0, (1, 2), 0), Request(1, (3, 4), 0)], PARAMS)
        threading.Timer(0.1, model.engine.go.set).start()
        assert next(completions) == Completion(0, (2, 1), (-2.0, -1.0), "stop")
        assert next(completions).request_id == 1
        assert next(completions, None) is None


def test_silence_is_not_death_while_the_server_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_r1.generation.server.HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(server_client, "SILENCE_SECONDS", 0.5)
    model = Model()
    with in_process(model) as url:
        engine = ServedEngine(url)
        model.engine.go.clear()
        threading.Timer(1.5, model.engine.go.set).start()
        assert len(list(engine.generate([Request(0, (1, 2), 0)], PARAMS))) == 1


def test_a_server_that_hangs_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_client, "SILENCE_SECONDS", 0.2)
    model = Model()
    with in_process(model) as url:
        model.engine.go.clear()
        with pytest.raises(UserError, match=r"was lost after 0 completions .*timed out"):
            list(ServedEngine(url).generate([Request(0, (1, 2), 0)], PARAMS))
        model.engine.go.set()


def test_what_the_engine_says_is_passed_on() -> None:
    model = Model()
    with in_process(model) as url:
        engine = ServedEngine(url)
        with pytest.raises(UserError, match="the prompt is empty"):
            engine.generate([Request(0, (), 0)], PARAMS)
        model.engine.fail = UserError("vLLM died while it was drawing: CUDA error")
        with pytest.raises(UserError, match=r"http://.*: vLLM died while it was drawing: CUDA error"):
            list(engine.generate(REQUESTS, PARAMS))
        model.engine.fail = KeyError("a defect")
        with pytest.raises(UserError, match="KeyError: 'a defect'"):
            list(engine.generate(REQUESTS, PARAMS))
        model.engine.fail = None
        assert len(list(engine.generate(REQUESTS, PARAMS))) == len(REQUESTS)


def test_a_server_that_cannot_meet_the_trainer_says_so_at_once() -> None:
    with in_process(Model()) as url:
        begun = time.monotonic()
        with pytest.raises(UserError, match=r"http://.*: this one meets nobody"):
            ServedEngine(url, weight_timeout=100).load_weights([("w", torch.zeros(2))])
        assert time.monotonic() - begun < 20


def test_only_one_process_sends_and_all_take_every_weight() -> None:
    taken = []

    def gathered() -> Iterator[tuple[str, Tensor]]:
        for name in "abc":
            taken.append(name)
            yield name, torch.zeros(2)

    with in_process(Model()) as url:
        engine = ServedEngine(url, sends_weights=False)
        engine.load_weights(gathered())
        assert taken == ["a", "b", "c"]
        with pytest.raises(UserError, match="the server has weights 0 and the trainer asks for 1"):
            list(engine.generate(REQUESTS, PARAMS))


def test_empty_weights_draw_nothing() -> None:
    with in_process(Model(waits_for_weights=True)) as url, pytest.raises(UserError, match="no whole weights"):
        list(ServedEngine(url).generate(REQUESTS, PARAMS))


def test_weights_wait_for_answers_in_hand_but_not_for_ever() -> None:
    model = Model()
    batches = server_batches.Batches(model.engine)
    model.engine.go.clear()
    job = batches.submit(REQUESTS, PARAMS)
    while not model.engine.batches:
        time.sleep(0.01)
    with pytest.raises(UserError, match="answers were still being drawn"):
        batches.between(lambda: 1, 0.1)
    task = Background(lambda: batches.between(lambda: model.engine.drawn, 30))
    threading.Timer(0.1, model.engine.go.set).start()
    assert len(list(batches.completions(job, 30))) == task.result() == len(REQUESTS)
    batches.close()


def test_a_client_that_leaves_ends_its_batch() -> None:
    model = Model()
    batches = server_batches.Batches(model.engine)
    turns = threading.Semaphore(1)
    model.engine.go.wait = lambda seconds: turns.acquire(timeout=seconds)
    completions = batches.completions(batches.submit(REQUESTS, PARAMS), 30)
    next(completions)
    completions.close()
    turns.release(100)
    assert len(list(batches.completions(batches.submit(REQUESTS[:2], PARAMS), 30))) == 2
    assert model.engine.drawn == 1 + 1 + 2, "the batch goes on for nobody"
    batches.close()


def test_a_server_at_its_capacity_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_batches, "CAPACITY", 15)
    monkeypatch.setattr(server_client, "_BUSY_PAUSE", 0.02)
    model = Model()
    with in_process(model) as url:
        first, second, third = ServedEngine(url), ServedEngine(url), ServedEngine(url, start_timeout=0.1)
        model.engine.go.clear()
        drawn = Background(lambda: list(first.generate(REQUESTS, PARAMS)))
        while not model.engine.batches:
            time.sleep(0.01)
        with pytest.raises(UserError, match="12 completions are in hand"):
            list(third.generate(REQUESTS, PARAMS))
        threading.Timer(0.3, model.engine.go.set).start()
        assert len(list(second.generate(REQUESTS, PARAMS))) == len(REQUESTS)
        assert len(drawn.result()) == len(REQUESTS)


@pytest.mark.parametrize(
    ("facts", "arguments", "said"),
    [
        ({}, {"sizes": {"hidden_size": 9}}, "serves made-up with hidden_size 8, and the model that is trained has 9"),
        ({"device": "cuda"}, {}, "takes weights on GPUs, and this trainer has none"),
        ({"protocol": 7, "version": "9.0"}, {}, r"speaks protocol 7 \(open-r1 9.0\)"),
    ],
)
def test_another_server_than_the_one_that_is_meant(facts: dict, arguments: dict, said: str) -> None:
    with in_process(Model(**facts)) as url, pytest.raises(UserError, match=said):
        ServedEngine(url, **arguments)


class Foreign(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = json.dumps({"status": "fine"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def test_a_server_of_another_kind_is_told_apart() -> None:
    with serving(Foreign) as url, pytest.raises(UserError, match="is not a server of open-r1 serve-vllm"):
        ServedEngine(url)
    with pytest.raises(UserError, match="no address of a server"):
        ServedEngine("localhost:8000")


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/generate", b"no json", "not a request of this protocol"),
        ("/generate", b"{}", "not a request of this protocol"),
        ("/elsewhere", b"{}", "no such path"),
    ],
)
def test_what_is_no_request_is_refused(path: str, body: bytes, said: str) -> None:
    with in_process(Model()) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 40") and said in answer.decode()


def test_a_port_that_is_taken_is_said() -> None:
    with in_process(Model()) as url, pytest.raises(UserError, match="choose another --port"):
        reserve(("127.0.0.1", int(url.rsplit(":", 1)[1])))


def test_a_port_for_weights_that_is_taken_is_said_before_a_server_loads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(server_port, "FREE_SECONDS", 0.0)
    trainer = Trainer(torch.device("cpu"), {})
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        for opening in (
            lambda: start_served({"port": free_port()}, trainer, log=tmp_path / "server.log", group_port=port),
            lambda: open_served("http://127.0.0.1:9", trainer, group_port=port),
        ):
            with pytest.raises(UserError, match=f"at port {port} .*; give another --vllm_group_port"):
                opening()
    assert not (tmp_path / "server.log").exists()


def test_a_port_is_kept_while_the_model_is_loaded() -> None:
    place = reserve(("127.0.0.1", 0))
    address = place.getsockname()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    with pytest.raises(UserError, match="choose another --port"):
        reserve(address)
    with pytest.raises(OSError, match="in use"):
        socket.create_server(address)
    with EngineServer(place, Model(), 5.0) as server:
        socket.create_connection(address).close()
        assert server.url == f"http://{address[0]}:{address[1]}"


def test_a_port_that_connections_die_away_at_is_taken() -> None:
    with in_process(Model()) as url:
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        client = socket.create_connection(address)
        client.sendall(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))  # to its end: the server has hung up first
        assert answer.startswith(b"HTTP/1.1 200")
        client.close()
    with pytest.raises(OSError, match="in use"), socket.socket() as other:
        other.bind(address)
    with EngineServer(reserve(address), Model(), 5.0):
        socket.create_connection(address).close()


@pytest.mark.parametrize(("numbers", "visible", "names"), [("1", None, "1"), ("1,0", "4,7", "7,4"), ("0", "", "0")])
def test_gpus_are_counted_as_the_trainer_counts_them(numbers: str, visible: str | None, names: str) -> None:
    assert nth_devices(numbers, visible) == names


@pytest.mark.parametrize(("numbers", "visible"), [("2", "4,7"), ("one", None)])
def test_a_gpu_that_is_not_there_is_said(numbers: str, visible: str | None) -> None:
    with pytest.raises(UserError, match="vllm_server_devices"):
        nth_devices(numbers, visible)
