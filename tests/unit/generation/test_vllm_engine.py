"""The vLLM engine against a made-up vLLM: what is sent, what comes back, what happens when it fails."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from open_r1.errors import StopRequested, UserError
from open_r1.generation import vllm_engine
from open_r1.generation.engine import Request, SamplingParams
from open_r1.generation.vllm_engine import VllmEngine, VllmOptions
from open_r1.generation.vllm_process import explain

FAKE = Path(__file__).parent / "fake_vllm"
PARAMS = SamplingParams(8, stop_token_ids=(0,))


@pytest.fixture(autouse=True)
def vllm(fake_vllm: type) -> type:
    return fake_vllm


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "out" / "vllm.log"


def requests(*prompts: tuple[int, ...]) -> list[Request]:
    return [Request(10 + number, prompt, seed=100 + number) for number, prompt in enumerate(prompts)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_request_is_answered_once_under_its_own_id_and_seed(log: Path) -> None:
    engine = VllmEngine("m", VllmOptions(), log=log)
    answers = list(engine.generate(requests((1, 2), (1, 2), (3,), (4, 5, 6)), PARAMS))
    assert {answer.request_id: answer.token_ids for answer in answers} == {
        10: (2, 1, 0),
        11: (2, 1, 0),
        12: (3, 0),
        13: (6, 5, 4, 0),
    }
    assert [answer.request_id for answer in answers] != [10, 11, 12, 13]  # in the order in which they finished
    assert all(answer.finish_reason == "stop" and answer.logprobs == () for answer in answers)
    assert engine.llm.llm_engine.asked == [((1, 2), 1, 100), ((1, 2), 1, 101), ((3,), 1, 102), ((4, 5, 6), 1, 103)]
    engine.close()


def test_without_a_seed_each_neighbours_with_one_prompt_are_sent_as_one(log: Path) -> None:
    engine = VllmEngine("m", VllmOptions(seed_each=False), log=log)
    answers = list(engine.generate(requests((1,), (1,), (1,), (2,), (1,)), PARAMS))
    assert engine.llm.llm_engine.asked == [((1,), 3, None), ((2,), 1, None), ((1,), 1, None)]
    assert {answer.request_id: answer.token_ids for answer in answers} == {
        10: (1, 0),
        11: (1, 7, 0),
        12: (1, 7, 7, 0),
        13: (2, 0),
        14: (1, 0),
    }
    list(engine.generate(requests((1,), (1,)), SamplingParams(8, temperature=0, stop_token_ids=(0,))))
    assert engine.llm.llm_engine.asked[3:] == [((1,), 1, None)] * 2  # vLLM refuses n > 1 when greedy
    engine.close()


def test_a_start_without_seeds_draws_something_else_than_the_one_before(log: Path) -> None:
    seeds = set()
    for _ in range(2):
        engine = VllmEngine("m", VllmOptions(seed_each=False), log=log)
        seeds.add(engine.llm.arguments["seed"])
        engine.close()
    assert len(seeds) == 2


def test_a_cut_completion_says_so(log: Path) -> None:
    engine = VllmEngine("m", VllmOptions(), log=log)
    (answer,) = engine.generate(requests((1, 2, 3)), SamplingParams(2, stop_token_ids=(0,)))
    assert (answer.token_ids, answer.finish_reason) == ((3, 2), "length")
    engine.close()


def test_vllm_has_a_window_of_requests_in_hand_and_never_fewer(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "WINDOW", 5)
    engine = VllmEngine("m", VllmOptions(), log=log)
    stream = engine.generate(requests(*[(number,) for number in range(1, 40)]), PARAMS)
    left = 39
    for _ in stream:
        left -= 1
        assert len(engine.llm.llm_engine.queue) >= min(4, left)
    assert left == 0 and engine.llm.llm_engine.most_in_hand == 5
    engine.close()


def test_the_settings_reach_vllm(log: Path) -> None:
    options = VllmOptions("abc", "float16", 256, 0.5, 2, 64, True, True)
    engine = VllmEngine("some/model", options, log=log)
    assert engine.llm.model == "some/model"
    wanted = {
        "revision": "abc",
        "dtype": "float16",
        "max_model_len": 256,
        "gpu_memory_utilization": 0.5,
        "tensor_parallel_size": 2,
        "max_num_seqs": 64,
        "enforce_eager": True,
        "trust_remote_code": True,
        "generation_config": "vllm",
        "skip_tokenizer_init": True,
        "seed": 0,
    }
    assert engine.llm.arguments == wanted
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
    engine.close()


def test_leaving_early_takes_back_what_is_in_hand(log: Path) -> None:
    engine = VllmEngine("m", VllmOptions(), log=log)
    stream = engine.generate(requests((1,), (2,), (3,)), PARAMS)
    next(stream)
    stream.close()
    assert len(engine.llm.llm_engine.aborted) == 2
    assert {answer.request_id for answer in engine.generate(requests((5,)), PARAMS)} == {10}
    engine.close()


def test_closing_ends_the_process(log: Path) -> None:
    engine = VllmEngine("m", VllmOptions(), log=log)
    pid = engine.llm.process.pid
    assert is_alive(pid)
    engine.close()
    assert not is_alive(pid)
    engine.close()
    assert engine.llm.llm_engine.engine_core.calls == 1


def test_what_vllm_says_goes_to_its_log(log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    engine = VllmEngine("m", VllmOptions(), log=log)
    logging.getLogger("vllm").warning("a step took long")
    engine.close()
    print("ours")
    assert "loading the weights" in log.read_text() and "a step took long" in log.read_text()
    assert capfd.readouterr() == ("ours\n", "")


MEASURED_WRONG = (
    "AssertionError: Error in memory profiling. Initial free memory 129.93 GiB, current free memory 137.13 GiB. This "
    "happens when other processes sharing the same container release GPU memory while vLLM is profiling."
)


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_memory_that_another_process_gave_back_meanwhile_is_measured_again(
    vllm: type, log: Path, failures: int
) -> None:
    starts = []

    def start() -> None:
        starts.append(len(multiprocessing.active_children()))
        if len(starts) <= failures:
            os.write(2, f"ERROR core.py:1330] {MEASURED_WRONG}\n".encode())
            raise RuntimeError("Engine core initialization failed. See root cause above.")

    vllm.start = staticmethod(start)
    if failures < 3:
        VllmEngine("m", VllmOptions(), log=log).close()
    else:
        with pytest.raises(UserError, match=r"could not start with m: AssertionError: Error in memory profiling"):
            VllmEngine("m", VllmOptions(), log=log)
    assert len(starts) == min(failures + 1, 3)
    assert set(starts) == {starts[0]}  # no process is left of a start that failed


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "ValueError: Free memory on device cuda:0 (1.2/139.8 GiB) on startup is less than desired GPU memory "
            "utilization (0.9, 125.8 GiB).",
            "free the GPU, or lower --vllm_gpu_memory_utilization",
        ),
        (
            "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (3.1 GiB).",
            "lower --vllm_max_model_length",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.", "lower --vllm_gpu_memory"),
        ("ValueError: Model architectures ['XForCausalLM'] are not supported for now.", "leave --engine vllm out"),
    ],
)
def test_a_start_that_fails_says_why_and_what_to_change(vllm: type, log: Path, said: str, message: str) -> None:
    def start() -> None:
        os.write(2, f"ERROR core.py:1330] Traceback\nERROR core.py:1330] {said}\n".encode())  # as its process does
        os.write(2, b"RuntimeError: Engine core initialization failed. See root cause above.\n")
        raise RuntimeError("Engine core initialization failed. See root cause above.")

    vllm.start = staticmethod(start)
    with pytest.raises(UserError, match="vLLM could not start with m: ") as raised:
        VllmEngine("m", VllmOptions(), log=log)
    line = str(raised.value)
    assert message in line and said.split(": ")[1][:60] in line and str(log) in line and "\n" not in line
    assert not is_alive(vllm.made[0].process.pid)


def test_an_interrupted_start_leaves_no_process(vllm: type, log: Path) -> None:
    def start() -> None:
        raise StopRequested

    vllm.start = staticmethod(start)
    with pytest.raises(StopRequested):
        VllmEngine("m", VllmOptions(), log=log)
    assert not is_alive(vllm.made[0].process.pid)


def test_an_engine_that_dies_while_drawing_is_one_line(log: Path) -> None:
    engine = VllmEngine("m", VllmOptions(), log=log)
    engine.llm.llm_engine.steps_to_live = 2
    log.write_text("torch.OutOfMemoryError: CUDA out of memory.\n")
    drawn = []
    with pytest.raises(UserError, match=r"died while it was drawing: torch\.OutOfMemoryError: CUDA out"):
        drawn.extend(engine.generate(requests((1,), (2,), (3,)), PARAMS))
    assert engine.llm.llm_engine.aborted
    engine.close()


def test_a_process_that_was_killed_while_drawing_is_no_hang(log: Path) -> None:
    engine = VllmEngine("m", VllmOptions(), log=log)
    log.write_text("ERROR Failed to import something. Error: No module named 'something'\n")
    engine.llm.llm_engine.silent = True
    threading.Timer(0.3, engine.llm.process.kill).start()
    with pytest.raises(UserError, match="its process was ended by SIGKILL, as the system does where the machine's mem"):
        list(engine.generate(requests((1,)), PARAMS))
    engine.close()


def test_what_this_process_raises_is_the_cause_whatever_stands_in_the_log(vllm: type, log: Path) -> None:
    def start() -> None:
        os.write(2, b"ERROR Failed to import something. Error: No module named 'something'\n")
        raise ValueError("1 validation error for ModelConfig\n  Value error, greater than the derived max_model_len")

    vllm.start = staticmethod(start)
    with pytest.raises(UserError, match=r"ModelConfig Value error, .* max_model_len; lower --vllm_max_model_length"):
        VllmEngine("m", VllmOptions(), log=log)


@pytest.mark.parametrize("known", [True, False])
def test_our_scheduler_is_asked_for_where_it_knows_vllm(
    log: Path, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "decode_scheduler", lambda: dict if known else None)
    engine = VllmEngine("m", VllmOptions(), log=log)
    assert engine.llm.arguments.get("scheduler_cls") == (dict if known else None)
    engine.close()


@pytest.mark.parametrize(
    ("at_once", "eager", "largest"), [(None, False, 0), (512, False, 0), (700, False, 700), (700, True, 0)]
)
def test_graphs_are_captured_for_as_many_as_are_asked_for(log: Path, at_once: int, eager: bool, largest: int) -> None:
    engine = VllmEngine("m", VllmOptions(max_num_seqs=at_once, enforce_eager=eager), log=log)
    config = engine.llm.arguments.get("compilation_config", {"cudagraph_capture_sizes": [0]})
    assert max(config["cudagraph_capture_sizes"]) == largest
    engine.close()


def test_a_lost_request_is_no_hang(log: Path) -> None:
    engine = VllmEngine("m", VllmOptions(), log=log)
    stream = engine.generate(requests((1,), (2,)), PARAMS)
    next(stream)
    engine.llm.llm_engine.queue.clear()
    with pytest.raises(RuntimeError, match="vLLM lost requests"):
        next(stream)
    engine.close()


def test_an_unknown_end_is_no_answer(log: Path) -> None:
    engine = VllmEngine("m", VllmOptions(), log=log)
    engine.llm.llm_engine.finish_reason = "abort"
    with pytest.raises(RuntimeError, match="ended request 10 with 'abort'"):
        list(engine.generate(requests((1,)), PARAMS))
    engine.close()


def test_settings_that_vllm_refuses_are_one_line(log: Path) -> None:
    engine = VllmEngine("m", VllmOptions(), log=log)
    with pytest.raises(UserError, match=r"vLLM refuses request 10: temperature must be in \[0, 2\], got 3\.0"):
        list(engine.generate(requests((1,)), SamplingParams(8, temperature=3.0, stop_token_ids=(0,))))
    with pytest.raises(UserError, match="leaves no room in the model's context of 512"):
        engine.generate(requests((1,) * 512), PARAMS)
    engine.close()


def test_without_vllm_or_gpu_the_line_says_what_to_do(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="needs a GPU, and torch finds none"):
        VllmEngine("m", VllmOptions(), log=log)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'open-r1\[vllm\]'"):
        VllmEngine("m", VllmOptions(), log=log)


def test_the_engine_dies_with_a_process_that_was_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time, torch\n"
        f"sys.path.insert(0, {str(FAKE)!r})\n"
        "torch.cuda.is_available = lambda: True\n"
        "from pathlib import Path\n"
        "from open_r1.generation.vllm_engine import VllmEngine, VllmOptions\n"
        f"engine = VllmEngine('m', VllmOptions(), log=Path({str(tmp_path / 'log')!r}))\n"
        "print(engine.llm.process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        assert is_alive(pid)
        process.kill()
    deadline = time.monotonic() + 20
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(pid)


def test_the_cause_is_found_in_a_long_log_and_shortened(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "INFO x\n" * 100_000 + "ValueError: " + "long " * 200 + "\nRuntimeError: Engine core initialization failed."
    )
    line = explain(log, "EngineCore encountered an issue.")
    assert line.startswith("ValueError: long long") and len(line) < 500
    log.write_text("nothing to see")
    assert explain(log, "the message") == f"the message (log: {log})"
