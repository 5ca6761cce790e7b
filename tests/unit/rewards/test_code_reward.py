from __future__ import annotations

import json
from typing import Any

import pytest

from open_r1.errors import UserError
from open_r1.rewards import binary_code_reward, code_reward, code_sandbox, get_reward_funcs
from open_r1.rewards.code import get_code_reward
from open_r1.rewards.judging import NoRewardError
from open_r1.sandbox.program import Outcome, Program
from rewards.plain_sandbox import PlainSandbox, ScriptedSandbox

PALINDROME = {
    "language": "python",
    "test_cases": [
        {
            "type": "stdin_stdout",
            "fn_name": None,
            "input": "4\nabba\nabc\nA\nxyzzyx\n",
            "output": "yes\nno\nyes\nyes\n",
        },
        {"type": "stdin_stdout", "fn_name": None, "input": "1\nab\n", "output": "no\n"},
    ],
}
MEDIAN = {
    "language": "python",
    "test_cases": [
        {"type": "stdin_stdout", "input": "3\n5 1 3\n", "output": "3.0"},
        {"type": "stdin_stdout", "input": "4\n1 2 3 5\n", "output": "2.5"},
        {"type": "stdin_stdout", "input": "1\n-7\n", "output": "-7.0"},
    ],
}
MERGE = {
    "language": "python",
    "test_cases": [
        {
            "type": "function_call",
            "fn_name": "merge",
            "input": [[[1, 3], [2, 6], [8, 10]]],
            "output": [[1, 6], [8, 10]],
        },
        {"type": "function_call", "fn_name": "merge", "input": "[[[1, 4], [4, 5]]]", "output": "[[1, 5]]"},
        {"type": "function_call", "fn_name": "merge", "input": [[]], "output": []},
    ],
}
SOLUTIONS = {
    "palindrome": "for _ in range(int(input())):\n    s = input()\n    print('yes' if s == s[::-1] else 'no')",
    "median": "import statistics\ninput()\nprint(float(statistics.median(map(int, input().split()))))",
    "merge": """
class Solution:
    def merge(self, intervals: List[List[int]]) -> List[List[int]]:
        merged = []
        for low, high in sorted(intervals):
            if merged and low <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], high)
            else:
                merged.append([low, high])
        return merged
""",
}


def answer(code: str, language: str = "python") -> list[dict[str, str]]:
    content = f"<think>\nLet me see.\n</think>\n\n```{language}\n{code}\n```\nThat is all."
    return [{"role": "assistant", "content": content}]


def test_problems_of_each_kind(use: Any) -> None:
    infos = [PALINDROME, MEDIAN, MERGE, json.dumps(MERGE)]
    answers = [answer(SOLUTIONS[name]) for name in ("palindrome", "median", "merge", "merge")]
    assert code_reward(answers, verification_info=infos) == [1.0] * 4
    assert binary_code_reward(answers, verification_info=infos) == [1.0] * 4


def test_shares(use: Any) -> None:
    answers = [
        answer("input()\nprint(sorted(map(int, input().split()))[0])"),  # an int where a float is asked for
        answer("input()\nx = sorted(map(int, input().split()))\nprint(float(x[len(x) // 2]))"),
        answer("input()\nx = sorted(map(int, input().split()))\nprint(float(x[len(x) // 2]), end='\\n\\n\\n')"),
        "print(3.0)",
        answer("print(3.0)", "cpp"),
        [{"role": "assistant", "content": ""}],
        answer(""),
    ]
    two_thirds = pytest.approx(2 / 3)
    infos = [MEDIAN] * len(answers)
    assert code_reward(answers, verification_info=infos) == [0.0, two_thirds, two_thirds, 0.0, 0.0, 0.0, 0.0]
    assert binary_code_reward(answers, verification_info=infos) == [0.0] * len(answers)


def test_fewer_lines_than_expected_are_wrong(use: Any) -> None:
    first = answer("print('yes')")
    assert code_reward([first], verification_info=[PALINDROME]) == [0.0]


def test_the_last_block_counts(use: Any) -> None:
    good, bad = SOLUTIONS["median"], "print(0)"
    both = [f"```python\n{a}\n```\nor\n```python\n{b}\n```" for a, b in ((good, bad), (bad, good))]
    assert code_reward(both, verification_info=[MEDIAN] * 2) == [0.0, 1.0]


def test_a_row_that_cannot_be_read_has_no_reward(use: Any) -> None:
    answers = [answer(SOLUTIONS["median"])] * 3
    values = code_reward(answers, verification_info=[MEDIAN, None, {"test_cases": []}])
    assert values == [1.0, None, None]
    assert values.error == "verification_info is NoneType, not a dict with language and test_cases"
    values = binary_code_reward(answers, verification_info=[MEDIAN, None, "x"])
    assert values == [1.0, None, None]
    assert "verification_info" in values.error
    with pytest.raises(NoRewardError, match="verification_info is NoneType"):
        code_reward(answers, verification_info=[None] * 3)


def test_the_column_is_required(use: Any) -> None:
    with pytest.raises(TypeError, match="verification_info"):
        code_reward([answer("")])


def test_a_sandbox_that_fails_gives_no_reward(use: Any) -> None:
    use(PlainSandbox(failures=1))
    assert code_reward([answer(SOLUTIONS["median"])], verification_info=[MEDIAN]) == [1.0]
    use(PlainSandbox(failures=float("inf")))
    for reward in (code_reward, binary_code_reward):
        with pytest.raises(NoRewardError, match="the local sandbox failed on 2 of 2 tests"):
            reward([answer("print(1)")], verification_info=[PALINDROME])


def test_answers_at_once(use: Any) -> None:
    box = use(PlainSandbox())
    slow = answer("import time\ntime.sleep(0.2)")
    code_reward([slow] * 4, verification_info=[MEDIAN] * 4, num_parallel=3)
    assert 1 < box.most_running <= 3


def test_languages(use: Any) -> None:
    box = use(ScriptedSandbox(lambda program, stdin: "3.0"))
    info = {**MEDIAN, "test_cases": MEDIAN["test_cases"][:1]}
    row = {"test_cases": info["test_cases"]}
    assert code_reward([answer("x", "c++")], verification_info=[{**info, "language": "cpp"}]) == [1.0]
    assert code_reward([answer("x", "js")], verification_info=[row], default_language="javascript") == [1.0]
    assert [program.language for program, _, _ in box.runs] == ["cpp", "javascript"]
    for name, fence, known in (("C++17", "cpp", "cpp"), ("Python 3", "python", "python"), ("shell", "sh", "bash")):
        assert code_reward([answer("x", fence)], verification_info=[{**info, "language": name}]) == [1.0]
        assert box.runs[-1][0].language == known
    with pytest.raises(ValueError, match="several languages: cpp, python"):
        code_reward(
            [answer("x")] * 2, verification_info=[info, {**info, "language": "cpp"}], enforce_same_language=True
        )
    same = [{**info, "language": "python3"}, info]
    assert code_reward([answer("x")] * 2, verification_info=same, enforce_same_language=True) == [1.0, 1.0]


def test_expected_outputs_stay_here(use: Any) -> None:
    box = use(PlainSandbox())
    info = {"test_cases": [{"input": "", "output": "271828182845"}]}
    spy = "import os, sys\nprint(open(__file__).read(), os.environ, os.listdir())"
    assert code_reward([answer(spy)], verification_info=[info]) == [0.0]
    assert "271828182845" not in repr(box.runs)


def test_a_language_that_the_sandbox_lacks(use: Any) -> None:
    def refuse(program: Program, stdin: str) -> Outcome:
        raise UserError("no cobol here")

    use(ScriptedSandbox(refuse))
    with pytest.raises(NoRewardError, match="no cobol here"):
        code_reward([answer("x", "cobol")], verification_info=[{**MEDIAN, "language": "cobol"}])


def test_one_sandbox_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    code_sandbox.close_sandboxes()
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(code_sandbox, "_new", lambda *key: made.append(key) or PlainSandbox())
    first = code_sandbox.shared_sandbox("e2b", 3, "router:1", "other:2")
    assert code_sandbox.shared_sandbox("e2b", 3, "router:1") is first
    assert code_sandbox.shared_sandbox("local", 3, "router:1") is not first
    assert made == [("e2b", 3, "router:1"), ("local", 3, None)]
    code_sandbox.close_sandboxes()
    assert code_sandbox.shared_sandbox("local", 3) is not None
    assert len(made) == 3
    code_sandbox.close_sandboxes()


def test_a_sandbox_that_cannot_be_opened_is_said_when_the_reward_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PISTON_ENDPOINTS", raising=False)
    for provider, message in (("piston", "PISTON_ENDPOINTS"), ("clouds", "unknown sandbox provider 'clouds'")):
        with pytest.raises(UserError, match=message):
            get_code_reward(provider_type=provider)


def test_settings(use: Any) -> None:
    from types import SimpleNamespace

    names = ["code", "binary_code", "ioi_code", "cf_code", "code_format"]
    functions = get_reward_funcs(SimpleNamespace(reward_funcs=names, parallel_code_exec_per_proc=1))
    assert [function.__name__ for function in functions] == [
        "code_reward",
        "binary_code_reward",
        "ioi_code_reward",
        "cf_code_reward",
        "code_format_reward",
    ]
    code = functions[0]
    assert code([answer(SOLUTIONS["median"])] * 2, verification_info=[MEDIAN] * 2) == [1.0, 1.0]
    assert all(function.timeout_seconds >= 60 for function in functions[:4])


def test_an_expected_output_of_many_bytes_fits(use: Any) -> None:
    box = use(ScriptedSandbox(lambda program, stdin: "7 " * 3_000_000))
    info = {"language": "python", "test_cases": [{"input": "", "output": "7 " * 3_000_000}]}
    assert code_reward([answer("print('7 ' * 3_000_000)")], verification_info=[info]) == [1.0]
    assert box.runs[0][2].output_bytes > 6_000_000
