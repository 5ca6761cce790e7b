"""Errors as they really come, not as somebody remembers them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from http_serving import serving

from open_r1.troubleshooting import explain
from open_r1.troubleshooting.entry import fill
from open_r1.troubleshooting.matching import find


def raised_by(function: Callable[..., object], *args: object, **named: object) -> BaseException:
    with pytest.raises(BaseException) as info:
        function(*args, **named)
    return info.value


def happened(error: BaseException) -> str:
    match = find(error)
    return fill(match.entry.happened, match.groups)


# --- disks and files -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk() -> None:
    def write() -> None:
        with open("/dev/full", "wb") as file:
            file.write(b"x" * 100_000)

    assert explain(raised_by(write)).name == "disk-full"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_while_weights_are_written() -> None:
    import torch

    error = raised_by(torch.save, {"a": torch.zeros(1 << 20)}, "/dev/full")
    assert explain(error).name == "disk-full", error


def test_too_many_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files: list[Any] = []

    def open_all() -> None:
        for _ in range(200):
            files.append(open(os.devnull))  # noqa: SIM115

    resource.setrlimit(resource.RLIMIT_NOFILE, (min(100, soft), hard))
    try:
        error = raised_by(open_all)
    finally:
        for file in files:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert explain(error).name == "open-files"


@pytest.mark.parametrize(
    ("number", "name"),
    [(errno.EDQUOT, "quota"), (errno.EROFS, "read-only"), (errno.EACCES, "permission"), (errno.EIO, "disk-error"),
     (errno.ENOLCK, "file-locks"), (errno.ESTALE, "file-locks"), (errno.ENOMEM, "host-memory")],
)  # fmt: skip
def test_errors_of_the_system(number: int, name: str) -> None:
    error = OSError(number, os.strerror(number), "/data/here")
    assert explain(error).name == name
    if number != errno.ENOMEM:
        assert "/data/here" in happened(error)


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        error = raised_by(socket.create_server, server.getsockname())
    assert explain(error).name == "port-in-use"


def test_a_rendezvous_on_a_port_that_is_taken() -> None:
    from datetime import timedelta

    from torch import distributed

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        error = raised_by(
            distributed.TCPStore, "127.0.0.1", port, 1, is_master=True, timeout=timedelta(seconds=1), use_libuv=True
        )
    assert explain(error).name == "port-in-use"
    assert str(port) in happened(error)


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(10)}, path)
    return path


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:20],
        lambda whole: whole[:-4],
        lambda whole: b"",
        lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        lambda whole: b"<!DOCTYPE html><html></html>",
    ],
    ids=["header cut", "cut", "empty", "LFS pointer", "web page"],
)
def test_a_torn_file_of_weights(weights: Path, damage: Callable[[bytes], bytes]) -> None:
    from safetensors.torch import load_file

    weights.write_bytes(damage(weights.read_bytes()))
    assert explain(raised_by(load_file, weights)).name == "torn-weights"


def test_a_torn_pickle(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:200])
    assert explain(raised_by(torch.load, path)).name == "torn-weights"


def test_configurations_that_cannot_be(tmp_path: Path) -> None:
    from transformers import AutoConfig

    expected = {
        "{": "torn-config",
        json.dumps({"model_type": "qwen9"}): "unknown-model-type",
        json.dumps({"hidden_size": 3}): "torn-config",
        json.dumps({"model_type": "x", "auto_map": {"AutoConfig": "own.Config"}}): "remote-code",
    }
    for text, name in expected.items():
        (tmp_path / "config.json").write_text(text)
        error = raised_by(AutoConfig.from_pretrained, str(tmp_path), trust_remote_code=False)
        assert explain(error) is not None and explain(error).name == name, error


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ['{"version": "1.0", "trunc', "version https://git-lfs.github.com/spec/v1\n", ""])
def test_a_torn_tokenizer(tiny_checkpoint: Path, tmp_path: Path, name: str, text: str) -> None:
    from open_r1.model.load import load_tokenizer

    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (folder / name).write_text(text)
    error = raised_by(load_tokenizer, str(folder))
    assert explain(error.__cause__).name == "torn-tokenizer", error.__cause__


def test_torn_data_is_no_torn_tokenizer() -> None:
    assert explain(raised_by(json.loads, '{"a": 1')).name == "data-broken"


@pytest.mark.parametrize("value", [{"dtype": "float99"}, {"hidden_size": "abc"}])
def test_a_configuration_with_a_wrong_value(value: dict[str, str], tiny_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    config = json.loads((tiny_checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | value))
    assert explain(raised_by(AutoConfig.from_pretrained, str(tmp_path))).name == "config-value"


def test_a_file_where_a_folder_is_to_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        error = raised_by(path.mkdir, parents=True, exist_ok=True)
        assert explain(error).name == "not-a-folder"
        assert str(path) in happened(error)
    assert explain(FileExistsError(errno.EEXIST, "File exists", "lock")) is None


def test_the_home_of_nobody() -> None:
    assert explain(raised_by(Path("~nobody-has-this-name/x").expanduser)).name == "home-folder"


def test_a_folder_without_weights(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    error = raised_by(AutoModelForCausalLM.from_pretrained, str(tmp_path))
    assert explain(error).name == "weights-missing"
    assert str(tmp_path) in happened(error)


def test_a_tokenizer_without_a_template(tiny_checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.chat_template = None
    error = raised_by(tokenizer.apply_chat_template, [{"role": "user", "content": "?"}], tokenize=False)
    assert explain(error).name == "no-chat-template"


def test_a_token_that_the_model_does_not_have() -> None:
    import torch

    error = raised_by(torch.nn.functional.embedding, torch.tensor([9]), torch.zeros(4, 2))
    assert explain(error).name == "vocabulary"


def test_weights_of_another_shape() -> None:
    import torch

    error = raised_by(torch.nn.Linear(2, 3).load_state_dict, torch.nn.Linear(3, 3).state_dict())
    assert explain(error).name == "shapes-differ"
    assert "weight has another shape" in happened(error)


# --- memory and chips ------------------------------------------------------------------------------------------------


def test_more_memory_than_there_is() -> None:
    import numpy
    import torch

    assert explain(raised_by(torch.empty, 1 << 50)).name == "host-memory"
    assert explain(raised_by(numpy.empty, 1 << 55)).name == "host-memory"
    assert explain(MemoryError()).name == "host-memory"


def test_out_of_memory_of_the_gpu_is_told_by_its_class() -> None:
    import torch

    assert explain(torch.OutOfMemoryError("anything")).name == "gpu-memory"


def test_where_the_memory_ran_out_is_told_by_the_trace() -> None:
    import torch

    scope: dict[str, Any] = {"kind": torch.OutOfMemoryError}
    for file, name in {
        "/x/transformers/modeling_utils.py": "gpu-memory-loading",
        "/x/vllm/v1/worker/gpu_model_runner.py": "vllm-out-of-memory",
        "/x/open_r1/training/step.py": "gpu-memory",
    }.items():
        exec(compile("def from_pretrained():\n    raise kind('CUDA out of memory.')", file, "exec"), scope)
        error = raised_by(scope["from_pretrained"])
        assert explain(error).name == name, file


def test_no_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    assert explain(raised_by(torch.zeros(1).cuda)).name == "no-gpu"


# --- data ------------------------------------------------------------------------------------------------------------


def test_data_that_cannot_be_read(tmp_path: Path) -> None:
    import datasets

    broken, whole = tmp_path / "broken.jsonl", tmp_path / "whole.jsonl"
    broken.write_text('{"a": 1}\nbroken{\n')
    whole.write_text('{"a": 1}\n')

    def load(path: Path, **named: object) -> Any:
        return datasets.load_dataset("json", data_files=str(path), cache_dir=str(tmp_path / "cache"), **named)

    assert explain(raised_by(load, tmp_path / "none.jsonl")).name == "data-files"
    assert explain(raised_by(load, broken)).name == "data-broken"
    error = raised_by(load, whole, split="test")
    assert explain(error).name == "data-split"
    assert "['train']" in happened(error)
    rows = load(whole, split="train")
    for error in (raised_by(rows.__getitem__, "messages"), raised_by(rows.remove_columns, "messages")):
        assert explain(error).name == "data-column", error
        assert "the data has no column messages" in happened(error)


# --- the hub ---------------------------------------------------------------------------------------------------------


class Refusing(BaseHTTPRequestHandler):
    """Answers every question with the class's status and headers."""

    status, headers_sent = 404, {}

    def do_GET(self) -> None:
        self.send_response(self.status)
        for name, value in {"Content-Length": "0", **self.headers_sent}.items():
            self.send_header(name, value)
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815


@contextmanager
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield


@pytest.mark.parametrize(
    ("status", "headers", "name"),
    [
        (403, {"X-Error-Code": "GatedRepo"}, "hub-gated"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "hub-401"),
        (403, {"X-Error-Message": "You don't have the rights"}, "hub-401"),
        (404, {"X-Error-Code": "RepoNotFound"}, "hub-404"),
        (401, {}, "hub-401"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "hub-404"),
        (429, {}, "hub-rate"),
        (500, {}, "hub-unreachable"),
    ],
)
def test_the_hub_refuses(status: int, headers: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    with online(monkeypatch), serving(Refusing, status=status, headers_sent=headers) as url:
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        error = raised_by(HfApi(endpoint=url, token=False).model_info, "ada/secret")
    assert explain(error) is not None and explain(error).name == name, repr(error)


def test_a_file_of_a_gated_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    headers = {"X-Error-Code": "GatedRepo"}
    with online(monkeypatch), serving(Refusing, status=403, headers_sent=headers) as url:
        error = raised_by(hf_hub_download, "ada/secret", "config.json", endpoint=url, cache_dir=tmp_path, token=False)
    assert explain(error).name == "hub-gated"
    assert "the owner of ada/secret, what is asked for grants access" in happened(error)


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import HfApi, hf_hub_download

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    with online(monkeypatch):
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        assert explain(raised_by(HfApi(endpoint=url).model_info, "ada/x")).name == "hub-unreachable"
        error = raised_by(hf_hub_download, "ada/x", "config.json", endpoint=url, cache_dir=tmp_path)
        assert explain(error).name == "hub-unreachable"


def test_offline_by_setting(tmp_path: Path) -> None:
    import datasets
    from huggingface_hub import HfApi
    from transformers import AutoTokenizer

    assert explain(raised_by(HfApi().model_info, "ada/x")).name == "hub-offline"
    assert explain(raised_by(datasets.load_dataset, "ada/nope")).name == "hub-offline"
    error = raised_by(AutoTokenizer.from_pretrained, "ada/nope", cache_dir=tmp_path)
    assert explain(error).name == "hub-offline", repr(error.__cause__)


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGFPE", "SIGKILL", "SIGSEGV"])
def test_a_child_that_a_signal_ends(name: str) -> None:
    code = f"import os, signal; os.kill(os.getpid(), signal.{name})"
    error = raised_by(subprocess.run, [sys.executable, "-c", code], check=True)
    assert explain(error).name == name.lower()


def test_a_pool_whose_worker_is_killed() -> None:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = raised_by(pool.submit(_kill_self).result)
    assert explain(error).name == "sigkill"


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_package_that_is_not_there() -> None:
    error = raised_by(__import__, "bitsandbytes_of_nobody")
    assert explain(error).name == "package-missing"
    assert "the package bitsandbytes_of_nobody is not installed" in happened(error)


def test_a_sign_that_the_terminal_cannot_show() -> None:
    assert explain(raised_by("…".encode, "ascii")).name == "locale"
    assert explain(raised_by(b"\xff".decode, "utf-8")).name == "data-broken"


# --- chains ----------------------------------------------------------------------------------------------------------


def test_the_cause_is_found_behind_what_was_made_of_it() -> None:
    def outer() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/data/x")
        except OSError as error:
            raise RuntimeError("the checkpoint was not written") from error

    assert explain(raised_by(outer)).name == "disk-full"


def test_the_first_of_two_faults_is_found() -> None:
    import torch

    def outer() -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        finally:
            raise RuntimeError("NCCL error: ncclRemoteError")

    assert explain(raised_by(outer)).name == "gpu-memory"


def test_what_was_handled_and_left_behind_is_not() -> None:
    def outer() -> None:
        try:
            import nothing_of_this_name  # noqa: F401
        except ImportError:
            raise ValueError("something of our own") from None

    assert explain(raised_by(outer)) is None


def test_a_group_of_exceptions() -> None:
    async def fails() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            group.create_task(asyncio.sleep(0))

    assert explain(raised_by(asyncio.run, both())).name == "open-files"


def test_a_ring_of_causes_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert explain(one) is None


def test_an_exception_that_cannot_be_shown() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert explain(MuteError()) is None
