"""Programs that judge an output of which more than one is right. They are the data's own, so they may see what is
expected; they run in the sandbox all the same, in a run in which the submission has no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from open_r1.rewards.code_tests import Clock, TestResult, run_within
from open_r1.rewards.judging import NoRewardError
from open_r1.sandbox.program import Limits, Outcome, Program, Sandbox

CHECKER_LIMITS = Limits(
    cpu_seconds=20.0, wall_seconds=30.0, memory_bytes=2**30, file_bytes=128 * 2**20, output_bytes=2**16
)

_ARGUMENTS = ("input.txt", "correct_output.txt", "solution_output.txt")

_PYTHON = f"""
import runpy, sys
sys.argv = ["checker.py", *{_ARGUMENTS}]
runpy.run_path("checker.py", run_name="__main__")
"""

_CPP = f"""
#define main checker_main
#include "checker.inc"
#undef main
#include <cstdlib>
template <class Result> int call_checker(Result (*checker)(int, char**), int count, char** arguments) {{
    return checker(count, arguments);
}}
template <class Result> int call_checker(Result (*checker)(int, const char**), int count, char** arguments) {{
    return checker(count, const_cast<const char**>(arguments));
}}
template <class Result> int call_checker(Result (*checker)(), int, char**) {{
    return checker();
}}
int main() {{
    const char* arguments[] = {{"checker", {", ".join(f'"{name}"' for name in _ARGUMENTS)}, nullptr}};
    return call_checker(checker_main, 4, const_cast<char**>(arguments));
}}
"""


def python_checker(source: str) -> Program:
    """Returns the program that calls a checker as ``checker.py input.txt correct_output.txt solution_output.txt``."""
    return Program(_PYTHON, "python", {"checker.py": source})


def cpp_checker(source: str, headers: Mapping[str, str]) -> Program:
    """The same for a checker in C++, compiled beside its ``headers`` (``testlib.h``)."""
    return Program(_CPP, "cpp", {**headers, "checker.inc": source})


def check_output(
    sandbox: Sandbox, checker: Program, clock: Clock, *, stdin: str, expected: str, printed: str
) -> TestResult | None:
    """Runs a checker, which prints the score of an output: 0 to 1, or to 100, on its first line.

    Returns:
        The test's result; None where the sandbox failed.

    Raises:
        NoRewardError: the checker scores neither this output nor the expected one: it is broken.
    """
    outcome = _checked(sandbox, checker, clock, stdin, expected, printed)
    if not isinstance(outcome, Outcome):
        return outcome
    score = _score(outcome.stdout)
    if score is not None:
        return TestResult(score > 0, "ok" if score > 0 else "wrong_answer", f"the checker gives {score:g}", score)
    reason = (outcome.stderr.rstrip().rpartition("\n")[2] or outcome.status)[:200]
    again = _checked(sandbox, checker, clock, stdin, expected, expected) if printed != expected else outcome
    if isinstance(again, Outcome) and _score(again.stdout) is None:
        raise NoRewardError(f"the problem's checker gives no score, not even to the expected output: {reason}")
    return TestResult(False, "wrong_answer", f"its checker gave no score: {reason}") if again is not None else None


def _checked(
    sandbox: Sandbox, checker: Program, clock: Clock, stdin: str, expected: str, printed: str
) -> Outcome | TestResult | None:
    files = dict(zip(_ARGUMENTS, (stdin, expected, printed), strict=True))
    return run_within(sandbox, replace(checker, files={**checker.files, **files}), "", CHECKER_LIMITS, clock)


def _score(stdout: str) -> float | None:
    try:
        score = float(stdout.split(maxsplit=1)[0])
    except (IndexError, ValueError):
        return None
    score = score / 100 if score > 1 else score
    return score if 0 <= score <= 1 else None
