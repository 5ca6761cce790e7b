from __future__ import annotations

import shutil
from typing import Any

import pytest

from open_r1.rewards import cf_code_reward
from open_r1.rewards.judging import NoRewardError
from open_r1.sandbox.program import Outcome, Program
from rewards.plain_sandbox import PlainSandbox, ScriptedSandbox

NEEDS_A_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
ADD = "a, b = map(int, input().split())\nprint(a + b)"
HALF_RIGHT = "a, b = map(int, input().split())\nprint(3)"
ANY_SUM = """
import sys
given, expected, printed = (open(name).read().split() for name in sys.argv[1:4])
print(1 if sum(map(int, printed)) == int(expected[0]) else 0)
"""


def columns(count: int = 1, **changed: Any) -> dict[str, list[Any]]:
    row = {
        "id": "1/A",
        "official_tests": [{"input": f"{a} {a + 1}\n", "output": f"{2 * a + 1}\n"} for a in (1, 2)],
        "generated_tests": 0,
        "time_limit": 2.0,
        "memory_limit": 64.0,
        "input_mode": "stdio",
        "generated_checker": None,
        "language": "python",
        **changed,
    }
    return {name: [value] * count for name, value in row.items()}


def answer(code: str, language: str = "python") -> list[dict[str, str]]:
    return [{"role": "assistant", "content": f"So:\n```{language}\n{code}\n```"}]


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("pass_fail", [1.0, 0.0, -1.0, -0.1, 0.0]),
        ("partial", [1.0, 0.5, -1.0, -0.1, 0.0]),
        ("weighted_sum", [1.1, 0.05, -1.0, -0.1, 0.0]),
    ],
)
def test_scoring(use: Any, mode: str, values: list[float]) -> None:
    answers = [answer(ADD), answer(HALF_RIGHT), "no code", answer("def f(:"), answer("print(0)")]
    assert cf_code_reward(answers, scoring_mode=mode, **columns(5)) == pytest.approx(values)


def test_only_pass_fail_stops_early(use: Any) -> None:
    for mode, runs in (("pass_fail", 1), ("partial", 2), ("weighted_sum", 2)):
        box = use(ScriptedSandbox(lambda program, stdin: "0"))
        cf_code_reward([answer("x")], scoring_mode=mode, **columns())
        assert len(box.runs) == runs


@pytest.mark.parametrize("tests", [[], None])
def test_no_tests(use: Any, tests: Any) -> None:
    values = cf_code_reward([answer(ADD), "no code"], **columns(2, official_tests=tests))
    assert values == [None, None]
    assert values.error is None


def test_limits(use: Any) -> None:
    box = use(ScriptedSandbox(lambda program, stdin: "0"))
    cf_code_reward([answer("x", "cpp")], **columns(memory_limit=512.0, time_limit=1.5, language="cpp"))
    ((program, stdin, limits), *_) = box.runs
    assert (program, stdin) == (Program("x\n", "cpp"), "1 2\n")
    assert (limits.cpu_seconds, limits.wall_seconds, limits.memory_bytes) == (1.5, 4.0, 512 * 2**20)


def test_generated_tests(use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "open_r1.rewards.codeforces.generated_codeforces_tests"
    monkeypatch.setattr(module, lambda problem: (("9 9\n", "18\n"),) if problem == "1/A" else ())
    monkeypatch.delenv("CF_TESTS_FOLDER", raising=False)
    assert cf_code_reward([answer(HALF_RIGHT)], scoring_mode="partial", **columns(generated_tests=1)) == [0.5]
    monkeypatch.setenv("CF_TESTS_FOLDER", "/somewhere")
    third = pytest.approx(1 / 3)
    assert cf_code_reward([answer(HALF_RIGHT)], scoring_mode="partial", **columns(generated_tests=1)) == [third]
    listed = columns(generated_tests=[{"input": "9 9\n", "output": "18\n"}])
    assert cf_code_reward([answer(HALF_RIGHT)], scoring_mode="partial", **listed) == [third]


def test_a_checker(use: Any) -> None:
    box = use(PlainSandbox())
    row = columns(4, generated_checker=ANY_SUM)
    answers = [answer("print(*input().split())"), answer(ADD), answer("print('x')"), answer("print(0, 3)")]
    assert cf_code_reward(answers, scoring_mode="partial", **row) == [1.0, 1.0, 0.0, 0.5]
    for program, stdin, _ in box.runs:
        if "checker.py" not in program.files:
            assert program.files == {}
            assert stdin in ("1 2\n", "2 3\n")


@pytest.mark.parametrize("checker", ["raise ValueError('not finished')", "def check(", "print('fine')"])
def test_a_broken_checker_is_not_the_answers_fault(use: Any, checker: str) -> None:
    box = use(PlainSandbox())
    with pytest.raises(NoRewardError, match="checker gives no score, not even to the expected output: "):
        cf_code_reward([answer("print(3)")], **columns(generated_checker=checker))
    assert sum("checker.py" in program.files for program, _, _ in box.runs) <= 2


def test_an_interactive_problem(use: Any) -> None:
    use(PlainSandbox())
    row = columns(interaction_format="Print a guess, then read an answer.")
    with pytest.raises(NoRewardError, match="1/A is interactive"):
        cf_code_reward([answer(ADD)], **row)
    assert cf_code_reward([answer(ADD)], **columns(interaction_format=None)) == [1.1]


def test_files_for_input_and_output(use: Any) -> None:
    copy = "numbers = open('input.txt').read().split()\nopen('output.txt', 'w').write(str(sum(map(int, numbers))))"
    three = "open('output.txt', 'w').write('3')\n"
    row = columns(4, input_mode="file")
    answers = [
        answer(copy),
        answer(ADD),
        answer(three + "1 / 0"),
        answer(three + "exit()"),
    ]
    assert cf_code_reward(answers, scoring_mode="partial", **row) == [1.0, 0.0, 0.0, 0.5]


@NEEDS_A_COMPILER
@pytest.mark.parametrize("mode", ["stdio", "file"])
def test_a_real_compiler(use: Any, mode: str) -> None:
    streams = {
        "stdio": '#include <cstdio>\nint main() { int a, b; if (scanf("%d %d", &a, &b)) printf("%d", a + b); }',
        # The stream is closed by its destructor, after main.
        "file": '#include <fstream>\nstd::ofstream out("output.txt");\n'
        'int main() { int a, b; std::ifstream in("input.txt"); in >> a >> b; out << a + b; }',
    }
    answers = [answer(streams[mode], "cpp"), answer("int main() {", "c++"), answer("int main() { return 1; }", "cpp")]
    assert cf_code_reward(answers, **columns(3, language="cpp", input_mode=mode)) == pytest.approx([1.1, -0.1, 0.0])


def test_patched_programs(use: Any) -> None:
    box = use(ScriptedSandbox(lambda program, stdin: "0"))
    cf_code_reward([answer("int main() {}", "cpp")], patch_code=True, **columns(language="cpp"))
    assert box.runs[0][0].source.startswith("#include <bits/stdc++.h>\nusing namespace std;\nint main")


def test_language_left_out(use: Any) -> None:
    row = columns()
    del row["language"]
    assert cf_code_reward([answer(ADD)], **row) == [1.1]
    assert cf_code_reward([answer(ADD)], default_language="cpp", **row) == [-1.0]


def test_no_reward(use: Any) -> None:
    with pytest.raises(NoRewardError, match="there is no official_tests"):
        cf_code_reward([answer(ADD)], time_limit=[1.0])
    with pytest.raises(ValueError, match="unknown scoring_mode 'best'"):
        cf_code_reward([answer(ADD)], scoring_mode="best", **columns())
    use(PlainSandbox(failures=float("inf")))
    with pytest.raises(NoRewardError, match="sandbox failed on a test of 1/A"):
        cf_code_reward([answer(ADD)], **columns())
    use(ScriptedSandbox(lambda program, stdin: Outcome("ok", "", "", 0)))
    with pytest.raises(NoRewardError, match="in Python or C"):
        cf_code_reward([answer("x", "rust")], **columns(language="rust", input_mode="file"))
