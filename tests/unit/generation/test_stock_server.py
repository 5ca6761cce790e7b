"""A ``vllm serve`` as an engine: what it is asked, what it is told of weights, what is said where it is not ready."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import torch
from http_serving import serving

from open_r1.errors import UserError
from open_r1.generation import server_port, stock_server
from open_r1.generation.engine import Completion, Request, SamplingParams
from open_r1.generation.served import Trainer, open_served, start_served
from open_r1.generation.served_engine import ServedEngine
from open_r1.generation.server_client import ServerClient
from open_r1.generation.server_port import free_port
from open_r1.generation.stock_server import StockServerEngine

CPU = torch.device("cpu")
PARAMS = SamplingParams(6, temperature=0.7, stop_token_ids=(7,))
REQUESTS = [Request(10 + number, (1, 2 + number), seed=2**62 + number) for number in range(5)]
CONFIG = {
    "model_config": {"dtype": "torch.bfloat16", "max_model_len": 64, "logprobs_mode": "processed_logprobs"},
    "weight_transfer_config": {"backend": "nccl"},
}
WEIGHTS = [("a", torch.arange(6.0).view(2, 3)), ("b", torch.ones(5)), ("c", torch.zeros(2))]


class Vllm(BaseHTTPRequestHandler):
    """The part of vLLM's server that is used; every completion is its prompt reversed."""

    config: Any = CONFIG
    refuse: str = ""

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        known = {"/health": b"", "/get_world_size": b'{"world_size": 2}'}
        if self.config is not None:
            known["/server_info"] = json.dumps({"vllm_config": self.config}).encode()
        self.say(known.get(path, b"Not Found"), 200 if path in known else 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            self.asked.append((self.path, body))
        if self.path == self.refuse:
            return self.say(b'{"error": {"message": "no"}}', 500)
        answer: dict[str, Any] = {}
        if self.path == "/inference/v1/generate":
            ids = body["token_ids"][::-1]
            content = [{"token": f"token_id:{token}", "logprob": -float(token)} for token in ids]
            logprobs = {"content": content} if "logprobs" in body["sampling_params"] else None
            answer = {"choices": [{"token_ids": ids, "logprobs": logprobs, "finish_reason": "stop"}]}
        self.say(json.dumps(answer).encode())

    def say(self, content: bytes, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def vllm_server(**changes: Any) -> Iterator[tuple[str, list[tuple[str, dict]]]]:
    asked: list[tuple[str, dict]] = []
    with serving(Vllm, asked=asked, lock=threading.Lock(), **changes) as url:
        yield url, asked


def test_the_kind_of_server_is_found_by_itself_and_completions_come_from_it() -> None:
    with vllm_server() as (url, asked):
        engine = open_served(url, Trainer(CPU, {"hidden_size": 8}))
        assert isinstance(engine, StockServerEngine) and engine.context == 64
        answers = sorted(engine.generate(REQUESTS, PARAMS), key=lambda answer: answer.request_id)
        assert answers == [
            Completion(10 + number, (2 + number, 1), (-2.0 - number, -1.0), "stop") for number in range(5)
        ]
        seeds = {body["sampling_params"]["seed"] for _, body in asked}
        assert seeds == {request.seed for request in REQUESTS}
        sampling = asked[0][1]["sampling_params"]
        assert sampling["stop_token_ids"] == [7] and sampling["ignore_eos"] and not sampling["detokenize"]
        assert sampling["max_tokens"] == 6 and sampling["temperature"] == 0.7
        assert list(engine.generate([], PARAMS)) == []


@pytest.mark.parametrize(
    ("mode", "params"),
    [
        ("raw_logprobs", PARAMS),
        ("processed_logprobs", SamplingParams(6, top_p=0.9)),
        ("processed_logprobs", SamplingParams(6, top_k=5)),
    ],
)
def test_log_probabilities_of_another_distribution_are_left_out(mode: str, params: SamplingParams) -> None:
    config = {**CONFIG, "model_config": {**CONFIG["model_config"], "logprobs_mode": mode}}
    with vllm_server(config=config) as (url, _):
        engine = StockServerEngine(ServerClient(url), device=CPU)
        assert [answer.logprobs for answer in engine.generate(REQUESTS, params)] == [()] * 5


def test_weights_go_in_chunks_between_pause_and_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(StockServerEngine, "_open", lambda self: lambda data: sent.append(data.clone()))
    with vllm_server() as (url, asked):
        engine = StockServerEngine(ServerClient(url), device=CPU, bucket_bytes=24)
        engine.load_weights(WEIGHTS)
        assert [path for path, _ in asked] == [
            "/pause?mode=wait",
            "/start_weight_update",
            "/update_weights",
            "/update_weights",
            "/finish_weight_update",
            "/reset_prefix_cache",
            "/resume",
        ]
        infos = [body["update_info"] for path, body in asked if path == "/update_weights"]
        got = {}
        for info, data in zip(infos, sent, strict=True):
            assert info["packed"] and set(info["dtype_names"]) == {"bfloat16"}
            assert data.dtype == torch.uint8 and len(data) < info["packed_buffer_size_bytes"]
            sizes = [torch.Size(shape).numel() for shape in info["shapes"]]
            for name, shape, part in zip(
                info["names"], info["shapes"], data.view(torch.bfloat16).split(sizes), strict=True
            ):
                got[name] = part.view(shape).float()
        assert list(got) == ["a", "b", "c"]
        assert all(torch.equal(got[name], tensor) for name, tensor in WEIGHTS)


def test_a_failed_update_is_said_and_the_server_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StockServerEngine, "_open", lambda self: lambda data: None)
    with vllm_server(refuse="/update_weights") as (url, asked):
        with pytest.raises(UserError, match="no"):
            StockServerEngine(ServerClient(url), device=CPU).load_weights(WEIGHTS)
        assert asked[-1][0] == "/resume"


def test_workers_and_trainer_are_told_of_one_meeting(monkeypatch: pytest.MonkeyPatch) -> None:
    meetings = []

    def join(meeting: dict, device: torch.device) -> Any:
        meetings.append(dict(meeting))
        return lambda data: None

    monkeypatch.setattr(stock_server, "join_group", join)
    with vllm_server() as (url, asked):
        engine = StockServerEngine(ServerClient(url), device="cuda", group_port=5123)
        engine._open()
        expected = {"master_address": "127.0.0.1", "master_port": 5123, "world_size": 3}
        assert meetings == [expected]
        assert asked == [("/init_weight_transfer_engine", {"init_info": expected | {"rank_offset": 1}})]
        with pytest.raises(UserError, match="this trainer has none"):
            StockServerEngine(ServerClient(url), device=CPU).load_weights(WEIGHTS)
        taken = iter(WEIGHTS)
        StockServerEngine(ServerClient(url), device=CPU, sends_weights=False).load_weights(taken)
        assert next(taken, None) is None


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --weight-transfer-config"),
        (
            {**CONFIG, "weight_transfer_config": None},
            "takes no weights: start vllm serve with --weight",
        ),
    ],
)
def test_a_server_that_takes_no_weights_is_told_how_to(config: Any, said: str) -> None:
    with vllm_server(config=config) as (url, _), pytest.raises(UserError, match=said):
        open_served(url, Trainer(CPU, {}))


def test_a_server_of_our_own_is_started_and_ended(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"model": tiny_checkpoint, "engine": "transformers", "port": free_port()}
    trainer = Trainer(CPU, {"hidden_size": 32})
    engine = start_served(settings, trainer, log=tmp_path / "server.log", start_timeout=120)
    found = open_served(f"http://127.0.0.1:{settings['port']}", trainer)
    assert isinstance(found, ServedEngine) and found.facts == engine.facts
    monkeypatch.setattr(server_port, "FREE_SECONDS", 0.0)
    with pytest.raises(UserError, match=r"no server can be started at port .*; give another --vllm_server_port"):
        start_served(settings, trainer, log=tmp_path / "second.log")  # whose trainer would take over the first one
    assert len(list(found.generate(REQUESTS, PARAMS))) == 5
    engine.close()
    with pytest.raises(UserError, match="no server answers"):
        open_served(f"http://127.0.0.1:{settings['port']}", trainer, start_timeout=0)
    with pytest.raises(UserError, match="needs a port"):
        start_served({"model": "m"}, trainer, log=tmp_path / "server.log")
