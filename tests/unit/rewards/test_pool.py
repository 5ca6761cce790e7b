from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from open_r1.errors import UserError
from open_r1.rewards import pool as pool_module
from open_r1.rewards.pool import RewardPool, Scores
from open_r1.rewards.process import LOWER_PRIORITY
from open_r1.rewards.registry import reward_spec
from open_r1.rewards.spec import RewardSpec

OWN = '''
import os, sys, time

def stubborn(completions, **columns):
    """Never ends on "loop", whatever is raised in it; ends its process on "crash"."""
    for completion in completions:
        if completion == "crash":
            os._exit(3)
        while completion == "loop":
            try:
                time.sleep(0.01)
            except BaseException:
                pass
    return [float(len(completion)) for completion in completions]

def relative(completions, **columns):
    while "loop" in completions:
        pass
    return [len(completion) / len(completions) for completion in completions]

relative.scope = "group"

def crash_once(completions, marker, **columns):
    if not os.path.exists(marker[0]):
        open(marker[0], "w").close()
        os._exit(3)
    return [1.0] * len(completions)

def raising(completions, **columns):
    raise ValueError("no such price")

def has_torch(completions, **columns):
    return ["torch" in sys.modules or "transformers" in sys.modules] * len(completions)

def slow_first(completions, delay, **columns):
    time.sleep(delay[0])
    return [1.0] * len(completions)

def picky(completions, **columns):
    if "bad" in completions:
        raise ValueError(f"bad among {len(completions)}")
    return [1.0] * len(completions)

def patient(completions, **columns):
    while "loop" in completions:
        pass
    time.sleep(0.4)
    return [1.0] * len(completions)

patient.timeout_seconds = 30.0

def hasty(completions, **columns):
    while "loop" in completions:
        pass
    return [1.0] * len(completions)

hasty.timeout_seconds = 0.3

def named(completions, wanted, absent=None):
    return [float(wanted[0] == "w" and absent is None)] * len(completions)

def pid(completions, **columns):
    print("a reward that prints")
    return [os.getpid()] * len(completions)
'''


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def alive(pid: float) -> bool:
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gather(pool: RewardPool) -> dict[object, Scores]:
    scores: dict[object, Scores] = {}
    while new := dict(pool.results(block=True)):
        scores |= new
    return scores


def test_scores_by_function_and_completion() -> None:
    with RewardPool(["accuracy", "format"], workers=2) as pool:
        assert list(pool.results()) == []
        for key in range(20):
            pool.submit(key, [r"\boxed{3}", rf"\boxed{{{key}}}", "none"], {"solution": ["3"] * 3})
        scores = gather(pool)
        assert list(pool.results(block=True)) == []
    assert scores == {key: Scores([[1.0, float(key == 3), 0.0], [0.0] * 3]) for key in range(20)}


def test_hostile_answers_do_not_harm_the_others() -> None:
    hostile = [r"\boxed{9^{9^{9^9}}}", r"\boxed{(x+1)^{5000}}", r"\boxed{" + "(" * 1000 + "1" + ")" * 1000 + "}"]
    gold = r"\frac{x}{2}"
    with RewardPool(["accuracy", "format"], workers=2, timeout=2.0) as pool:
        for key, answer in enumerate(hostile):
            pool.submit(key, [r"\boxed{\frac{2x}{4}}", answer, r"\boxed{7}"], {"solution": [gold] * 3})
        pool.submit("long", [r"\frac{1}{x}+" * 100_000, r"\boxed{x/2}"], {"solution": [gold] * 2})
        scores = gather(pool)
    for key in range(len(hostile)):
        expected = Scores([[1.0, None, 0.0], [0.0] * 3], timeouts=1, errors=["accuracy took longer than 2 s"])
        assert scores[key] == expected
    assert scores["long"] == Scores([[0.0, 1.0], [0.0, 0.0]])


def test_one_hostile_answer_holds_nobody_up() -> None:
    with RewardPool(["accuracy"], workers=2, timeout=2.0) as pool:
        pool.submit("hostile", [r"\boxed{9^{9^{9^9}}}"], {"solution": [r"\frac{x}{2}"]})
        for key in range(20):
            pool.submit(key, [r"\boxed{1/2}", r"\boxed{0.25}"], {"solution": ["0.5"] * 2})
        scores = gather(pool)
    assert list(scores)[-1] == "hostile"
    assert scores["hostile"].values == [[None]]
    assert all(scores[key] == Scores([[1.0, 0.0]]) for key in range(20))


def test_a_group_that_hangs_is_tried_one_by_one(own: Path) -> None:
    spec = reward_spec(f"{own}:stubborn")
    with RewardPool([spec, "format"], workers=1, timeout=1.0) as pool:
        pool.submit("hangs", ["loop", "abc"], {})
        pool.submit("crashes", ["a", "crash", "abc"], {})
        pool.submit("fine", ["ab"], {})
        scores = gather(pool)
    assert scores["hangs"] == Scores([[None, 3.0], [0.0] * 2], timeouts=1, errors=[f"{spec.name} took longer than 1 s"])
    assert scores["crashes"] == Scores(
        [[1.0, None, 3.0], [0.0] * 3], timeouts=1, errors=[f"{spec.name} took its process down"]
    )
    assert scores["fine"] == Scores([[2.0], [0.0]])


def test_a_relative_reward_is_never_called_on_a_part_of_a_group(own: Path) -> None:
    with RewardPool([reward_spec(f"{own}:relative")], workers=1, timeout=0.5) as pool:
        pool.submit("hangs", ["a", "loop"], {})
        pool.submit("fine", ["a", "b"], {})
        scores = gather(pool)
    assert (scores["hangs"].values, scores["hangs"].timeouts) == ([[None, None]], 2)
    assert scores["fine"].values == [[0.5, 0.5]]


def test_one_bad_answer_does_not_lose_its_group(own: Path) -> None:
    with RewardPool([reward_spec(f"{own}:picky"), "format"], workers=1) as pool:
        pool.submit("k", ["a", "bad", "b"], {})
        pool.submit("fine", ["a", "b"], {})
        scores = gather(pool)
    assert scores["k"].values == [[1.0, None, 1.0], [0.0] * 3]
    assert (scores["k"].failures, scores["k"].timeouts, len(scores["k"].errors)) == (1, 0, 1)
    assert "picky: ValueError: bad among 1" in scores["k"].errors[0]
    assert scores["fine"] == Scores([[1.0, 1.0], [0.0, 0.0]])


def test_a_function_may_have_its_own_limit(own: Path) -> None:
    specs = [reward_spec(f"{own}:{name}") for name in ("patient", "hasty")]
    with RewardPool(specs, workers=1, timeout=0.2) as pool:
        pool.submit("k", ["a"], {})
        assert gather(pool) == {"k": Scores([[1.0], [1.0]])}
    with RewardPool(specs[1:], workers=1, timeout=100.0) as pool:
        pool.submit("k", ["loop", "a"], {})
        scores = gather(pool)["k"]
    assert scores == Scores([[None, 1.0]], timeouts=1, errors=[f"{own}:hasty took longer than 0.3 s"])


def test_columns_that_nobody_reads_stay_here(own: Path) -> None:
    class Unpicklable:
        def __reduce__(self) -> str:
            raise AssertionError("sent to a worker")

    with RewardPool(["accuracy", "format", reward_spec(f"{own}:named")], workers=1) as pool:
        pool.submit("k", [r"\boxed{5}"], {"solution": ["5"], "wanted": ["w"], "images": [Unpicklable()]})
        assert gather(pool)["k"] == Scores([[1.0], [0.0], [1.0]])


HOSTILE = {
    "tower": r"\boxed{9^{9^{9^9}}}",
    "factorial": r"\boxed{10^{10^{10}}!}",
    "nested": r"\boxed{" + r"\frac{1}{" * 300 + "x" + "}" * 301,
    "nested deep": r"\boxed{" + r"\frac{1}{" * 10_000 + "x" + "}" * 10_001,
    "integral": r"\boxed{\int_0^1 x^x e^{x^2}\sin(x^3) dx}",
    "sum": r"\boxed{\sum_{k=1}^{10^{9}} \frac{\sin(k)}{k}}",
    "matrix": r"\boxed{\begin{pmatrix}" + r"\\".join(["&".join("x" * 40)] * 40) + r"\end{pmatrix}}",
    "megabyte": r"\frac{1}{x}+" * 90_000,
    "megabyte boxed": r"\boxed{" + r"\frac{1}{x}+" * 90_000 + "1}",
    "python": "The answer is 9**9**9**9.",
    "dollars": "$" * 100_000,
    "brackets": "[ " * 50_000,
    "digits": "1 " * 50_000,
    "operators": "-(" * 50_000 + "1",
    "the word": "final answer is " * 6_000 + "1",
    "unicode": r"\boxed{½²∫∑√ ٣ 𝟙𝟚 ‮}",
    "surrogate": "\\boxed{\ud800}",
    "nul": "\\boxed{1\0}\0",
    "long": "x" * 100_000,
    "empty": "",
}


def test_a_hostile_answer_costs_its_limit_and_no_other_answer() -> None:
    with RewardPool(["accuracy"], workers=2, timeout=1.0) as pool:
        for name, answer in HOSTILE.items():
            pool.submit(name, [r"\boxed{5}", answer, r"\boxed{6}"], {"solution": ["5"] * 3})
        scores = gather(pool)
    assert scores.keys() == HOSTILE.keys()
    for name, score in scores.items():
        hostile = score.values[0][1]
        assert score.values == [[1.0, hostile, 0.0]], name
        assert hostile in (0.0, None), name
        reason = ["accuracy took longer than 1 s"] if hostile is None else []
        assert score == Scores(score.values, timeouts=len(reason), errors=reason), name
    assert scores["tower"].timeouts == scores["python"].timeouts == 1
    assert scores["long"].values == scores["empty"].values == [[1.0, 0.0, 0.0]]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not say how much memory is used")
def test_an_expression_cannot_eat_the_memory() -> None:
    with RewardPool(["accuracy"], workers=1, timeout=100.0, memory_bytes=100 * 2**20) as pool:
        pool.submit("k", [r"\boxed{(x+1)^{50000}}", r"\boxed{\frac{2x}{4}}"], {"solution": [r"\frac{x}{2}"] * 2})
        scores = gather(pool)["k"]
    assert scores == Scores([[None, 1.0]], timeouts=1, errors=["accuracy took more than 0.098 GiB of memory"])


def test_one_crash_is_forgiven(own: Path, tmp_path: Path) -> None:
    with RewardPool([reward_spec(f"{own}:crash_once")], workers=1) as pool:
        pool.submit("k", ["a"], {"marker": [str(tmp_path / "crashed")]})
        assert gather(pool) == {"k": Scores([[1.0]])}


def test_an_error_is_said_and_never_a_zero(own: Path) -> None:
    with RewardPool([reward_spec(f"{own}:raising"), "accuracy"], workers=1) as pool:
        pool.submit("k", ["a", r"\boxed{5}"], {"solution": ["5", "5"]})
        pool.submit("no gold", ["a"], {"answer": ["5"]})
        scores = gather(pool)
    assert scores["k"].values == [[None, None], [0.0, 1.0]]
    assert scores["k"].failures == 2
    assert "raising: ValueError: no such price (at " in scores["k"].errors[0]
    assert "accuracy_reward needs the column 'solution'" in scores["no gold"].errors[1]


def test_results_come_as_they_finish_and_do_not_depend_on_it(own: Path) -> None:
    with RewardPool([reward_spec(f"{own}:slow_first")], workers=2) as pool:
        pool.submit("slow", ["a"], {"delay": [1.0]})
        pool.submit("quick", ["a"], {"delay": [0.0]})
        order = [key for _ in range(2) for key, _ in pool.results(block=True)]
    assert order == ["quick", "slow"]


def test_workers_know_nothing_of_torch_and_leave_stdout_alone(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import torch  # noqa: F401  the caller has it, as a trainer would

    specs = [reward_spec(f"{own}:{name}") for name in ("has_torch", "pid")]
    with RewardPool(["accuracy", "length", *specs], workers=1) as pool:
        pool.submit("k", [r"\boxed{1/2}"], {"solution": ["0.5"]})
        scores = gather(pool)["k"]
    assert scores.values[:3] == [[1.0], [0.0], [0.0]]
    assert scores.values[3] != [os.getpid()]
    assert capfd.readouterr().out == ""


def test_a_column_of_another_length() -> None:
    with RewardPool(["format"], workers=1) as pool, pytest.raises(ValueError, match="'solution' has 1 values for 2"):
        pool.submit("k", ["a", "b"], {"solution": ["1"]})


def test_an_empty_group() -> None:
    with RewardPool(["format"], workers=1) as pool:
        pool.submit("k", [], {})
        assert gather(pool) == {"k": Scores([[]])}


def test_a_function_that_cannot_be_built_is_said(tmp_path: Path) -> None:
    with RewardPool([RewardSpec("gone", f"{tmp_path}/gone.py:f")], workers=1) as pool:
        pool.submit("k", ["a"], {})
        with pytest.raises(UserError, match=r"no file .*gone\.py"):
            list(pool.results(block=True))


def test_a_worker_that_never_starts_is_said(tmp_path: Path) -> None:
    path = tmp_path / "deadly.py"
    path.write_text("import os\nos._exit(1)\n")
    with RewardPool([RewardSpec("deadly", f"{path}:f")], workers=1) as pool:
        pool.submit("k", ["a"], {})
        with pytest.raises(UserError, match="3 reward workers in a row ended before they were ready"):
            list(pool.results(block=True))


@pytest.mark.parametrize("gives_way", [False, True])
def test_workers_give_way_to_a_caller_that_keeps_a_gpu_busy(
    own: Path, gives_way: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "cores_of_rank", lambda: 3)
    with RewardPool([reward_spec(f"{own}:pid")], gives_way=gives_way) as pool:
        pool.submit("k", ["a"], {})
        worker = int(gather(pool)["k"].values[0][0])
        assert len(pool._workers) == (2 if gives_way else 3)
        lower = os.getpriority(os.PRIO_PROCESS, worker) - os.getpriority(os.PRIO_PROCESS, 0)
        assert lower == (LOWER_PRIORITY if gives_way else 0)
        # Linux shares cores out to sessions first: in one of its own a lower priority would be none.
        assert os.getsid(worker) == os.getsid(0) and os.getpgid(worker) == worker


def test_closing_ends_the_workers(own: Path) -> None:
    pool = RewardPool([reward_spec(f"{own}:pid"), reward_spec(f"{own}:stubborn")], workers=1)
    pool.submit("k", ["a"], {})
    (worker,) = gather(pool)["k"].values[0]
    pool.submit("hangs", ["loop"], {})
    pool.close()
    pool.close()
    assert not alive(worker)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit("k", ["a"], {})


PARENT = """
import sys, time
import torch  # at the top of the script, and without a guard: it must not be run again in a worker
from open_r1.rewards.pool import RewardPool
from open_r1.rewards.registry import reward_spec

pool = RewardPool([reward_spec(sys.argv[1] + ":pid"), reward_spec(sys.argv[1] + ":stubborn")], workers=1, timeout=60.0)
pool.submit("k", ["a"], {})
print(int(next(pool.results(block=True))[1].values[0][0]), flush=True)
pool.submit("hangs", ["loop"], {})
time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(own: Path, tmp_path: Path, end: signal.Signals) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script), str(own)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.send_signal(end)
        errors = parent.communicate()[1]
    for _ in range(500):  # the kernel ends it in its own time
        if not alive(worker):
            break
        time.sleep(0.01)
    assert not alive(worker)
    assert errors.count("Traceback") == (1 if end == signal.SIGINT else 0)  # the parent's own, none of a worker's
