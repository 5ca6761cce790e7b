from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from open_r1.doctor.hub import Reply, ask_hub
from open_r1.doctor.model_size import ModelSize, model_size
from open_r1.doctor.network_checks import check_clock, check_hub, check_tokens

MIRROR = {"HF_ENDPOINT": "https://hf-mirror.com/"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Answers like the hub below ``/good``, with 500 below ``/bad``, and never below ``/slow``."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/slow"):
                time.sleep(3.0)
            self.send_response(500 if self.path.startswith("/bad") else 200)
            self.end_headers()
            self.wfile.write(b"[]" if "models" in self.path else b"<html>")

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_the_hub_is_asked(server: str) -> None:
    reply = ask_hub(f"{server}/good")
    assert reply.status == 200 and abs(reply.skew) < 5.0
    assert ask_hub(f"{server}/bad").status == 500
    assert ask_hub(f"{server}/slow", seconds=0.2).status is None
    assert "refused" in ask_hub("http://127.0.0.1:1").error
    assert "unknown url type" in ask_hub("hf-mirror.com").error


def test_the_hub_answers_or_its_mirror() -> None:
    assert check_hub(Reply(200, 0.3), {}).summary == "the hub answers in 0.3 s"
    assert check_hub(Reply(200, 0.3), MIRROR).summary == "the mirror https://hf-mirror.com answers in 0.3 s"
    assert check_hub(Reply(200, 5.0), {}).level == "warn"


def test_a_hub_that_does_not_answer() -> None:
    found = check_hub(Reply(None, error="timed out"), {})
    assert found.level == "fail" and "timed out" in found.summary and found.fix.startswith("export HF_ENDPOINT=")
    assert check_hub(Reply(None, error="timed out"), MIRROR).fix.startswith("unset HF_ENDPOINT")
    assert check_hub(Reply(503), MIRROR).summary == "the mirror https://hf-mirror.com answers with HTTP 503"


def test_offline_by_setting_is_a_warning() -> None:
    found = check_hub(None, {"HF_HUB_OFFLINE": "1"})
    assert found.level == "warn" and "offline by setting" in found.summary and "unset" in found.fix


def test_the_clock() -> None:
    assert check_clock(Reply(200, skew=7200.0)).summary.startswith("the clock is 120 minutes ahead")
    assert check_clock(Reply(200, skew=-400.0)).level == "warn"
    assert check_clock(Reply(200, skew=3.0)).level == "ok"
    assert check_clock(None).level == check_clock(Reply(None)).level == "skip"


def test_tokens_are_present_or_absent_and_never_shown(tmp_path: Path) -> None:
    assert [found.level for found in check_tokens({}, tmp_path)] == ["skip", "skip"]
    secret = "hf_SECRETsecret"
    by_variable = check_tokens({"HF_TOKEN": secret, "WANDB_API_KEY": secret}, tmp_path)
    (tmp_path / ".cache/huggingface").mkdir(parents=True)
    (tmp_path / ".cache/huggingface/token").write_text(secret)
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {secret}\n")
    (tmp_path / ".netrc").chmod(0o600)
    by_file = check_tokens({}, tmp_path)
    for findings in (by_variable, by_file):
        assert [found.level for found in findings] == ["ok", "ok"]
        assert "ecret" not in json.dumps([asdict(found) for found in findings]).lower()


def test_the_size_of_a_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    here = model_size(str(tiny_checkpoint), tmp_path, environment={})
    assert here is not None and here.parameters > 1000 and here.bytes == here.here
    snapshot = tmp_path / "models--org--tiny/snapshots/abc"
    snapshot.mkdir(parents=True)
    for path in tiny_checkpoint.glob("*.safetensors"):
        (snapshot / path.name).symlink_to(path)
    assert model_size("org/tiny", tmp_path, environment={}) == here

    def hub(address: str):
        assert address == "https://huggingface.co/api/models/org/big?expand[]=safetensors"
        return {"safetensors": {"parameters": {"BF16": 1_000, "F32": 10}, "total": 1_010}}

    assert model_size("org/big", tmp_path, hub, {}) == ModelSize(1_010, 2_040, 0)
    assert model_size("org/big", tmp_path, lambda address: {}, {}) is None
    assert model_size("org/big", tmp_path, hub, {"HF_HUB_OFFLINE": "1"}) is None
