"""A program run on tests: one result a test. Shared by the code rewards and the code tasks of evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar

from open_r1.rewards.compare_output import outputs_match, values_match
from open_r1.rewards.function_calls import CallResult, call_program, decode_results, encode_calls
from open_r1.sandbox.program import Limits, Outcome, Program, Sandbox
from open_r1.sandbox.retry import run_with_retries

MAX_CALLS_A_RUN = 64
"""Calls of a function made by one run of its program at most."""

_DETAIL_CHARS = 200
_SIGALRM = 14
_NOT_PYTHON = ("SyntaxError:", "IndentationError:", "TabError:")


@dataclass(frozen=True)
class TestCase:
    """A test by standard input and output, or, where ``fn_name`` is given, by a call of a function.

    Attributes:
        stdin: what the program reads.
        stdout: what it has to print, as ``outputs_match`` sees it.
        fn_name: the function, see :func:`open_r1.rewards.function_calls.call_program`.
        args: its arguments.
        expected: what it has to return, as ``values_match`` sees it.
    """

    __test__: ClassVar[bool] = False

    stdin: str = ""
    stdout: str = ""
    fn_name: str | None = None
    args: Sequence[Any] = ()
    expected: Any = None


@dataclass(frozen=True)
class TestResult:
    """What became of one test.

    Attributes:
        passed: whether the program did what the test asks for.
        status: "ok", "wrong_answer", "skipped" (an earlier test failed), or what the sandbox says
            (:data:`open_r1.sandbox.program.Status`).
        detail: in words, for a failed test.
        score: between 0 and 1, where a checker gives parts of the points.
    """

    __test__: ClassVar[bool] = False

    passed: bool
    status: str
    detail: str = ""
    score: float = 0.0


class Clock:
    """The time that one answer, with all its tests, may take."""

    def __init__(self, budget_seconds: float | None = None) -> None:
        self.budget_seconds = budget_seconds
        self._end = None if budget_seconds is None else time.monotonic() + budget_seconds

    @property
    def left(self) -> float:
        """Seconds; infinite where there is no budget."""
        return float("inf") if self._end is None else self._end - time.monotonic()

    def spent(self) -> TestResult | None:
        """The result of a test that is not run because the time is over; None while it is not."""
        if self.left > 0:
            return None
        return TestResult(False, "time_limit", f"the {self.budget_seconds:g} s for all tests were over")


def run_tests(
    sandbox: Sandbox,
    source: str,
    language: str,
    tests: Sequence[TestCase],
    limits: Limits,
    *,
    stop_at_first_failure: bool = False,
    parallel: int = 1,
    budget_seconds: float | None = None,
    same_output: Callable[[str, str], bool] = outputs_match,
    same_value: Callable[[Any, Any], bool] = values_match,
) -> list[TestResult | None]:
    """Runs a program on tests, each in a run of its own, or, if they call a function, many in one run.

    A test that takes too long, or that takes its process down, fails alone. A program that does not compile fails all
    tests at once.

    Args:
        sandbox: runs the programs; it never sees what is expected.
        source: the program, or the code that holds the function.
        language: of the program; function calls are made in Python only.
        tests: in the order in which they are run.
        limits: of one test.
        stop_at_first_failure: the tests after the first that fails are skipped; those that run beside it are not.
        parallel: tests run at once.
        budget_seconds: for all tests; those that are not run by then count as failed.
        same_output: compares (printed, expected).
        same_value: compares (returned, expected).

    Returns:
        One result a test; None where the sandbox failed, or had failed before, so that nothing is known.

    Raises:
        ValueError: tests call a function of another language, or with arguments that cannot be written down.
    """
    clock = Clock(budget_seconds)

    def judge(batch: Sequence[TestCase]) -> list[TestResult | None]:
        if batch[0].fn_name is not None:
            return _run_calls(sandbox, source, language, batch, limits, clock, same_value)
        room = replace(limits, output_bytes=max(limits.output_bytes, 4 * len(batch[0].stdout)))
        outcome = run_within(sandbox, Program(source, language), batch[0].stdin, room, clock)
        if isinstance(outcome, Outcome):
            return [judge_output(outcome, lambda printed: same_output(printed, batch[0].stdout))]
        return [outcome]

    return run_batches(judge, list(_batches(tests)), stop_at_first_failure=stop_at_first_failure, parallel=parallel)


def run_batches(
    judge: Callable[[Sequence[Any]], list[TestResult | None]],
    batches: Sequence[Sequence[Any]],
    *,
    stop_at_first_failure: bool,
    parallel: int,
) -> list[TestResult | None]:
    """Judges batches of tests, ``parallel`` at once, until one fails where that is the end.

    It always is where the program does not compile or the sandbox fails, else where it is asked for.
    """
    results: list[TestResult | None] = []
    parallel = max(1, parallel)
    with ThreadPoolExecutor(parallel) as threads:
        for start in range(0, len(batches), parallel):
            group = batches[start : start + parallel]
            done = [judge(group[0])] if len(group) == 1 else threads.map(judge, group)
            results += [result for batch in done for result in batch]
            left = sum(map(len, batches[start + parallel :]))
            if None in results:  # the answer has no reward, whatever the others say
                return results + [None] * left
            ending = _ending(results, stop_at_first_failure)
            if ending is not None:
                return results + [ending] * left
    return results


def _ending(results: Sequence[TestResult], stop_at_first_failure: bool) -> TestResult | None:
    """The result of all tests not yet run, if those that were run settle it."""
    for result in results:
        if result.status == "compile_error":
            return result
        if stop_at_first_failure and not result.passed:
            return TestResult(False, "skipped", "an earlier test failed")
    return None


def judge_output(outcome: Outcome, right: Callable[[str], bool]) -> TestResult:
    """The result of a test from what the program did, where ``right`` judges what it printed."""
    if outcome.status != "ok":
        return TestResult(False, _status(outcome), _last_line(outcome))
    if right(outcome.stdout):
        return TestResult(True, "ok", score=1.0)
    return TestResult(False, "wrong_answer", f"printed {outcome.stdout[:_DETAIL_CHARS]!r}")


def run_within(
    sandbox: Sandbox, program: Program, stdin: str, limits: Limits, clock: Clock
) -> Outcome | TestResult | None:
    """Runs a program in what is left of the time; a result where nothing is, None where the sandbox failed."""
    return clock.spent() or run_with_retries(
        sandbox, program, stdin, replace(limits, wall_seconds=min(limits.wall_seconds, max(0.1, clock.left)))
    )


def _batches(tests: Sequence[TestCase]) -> Iterator[Sequence[TestCase]]:
    for fn_name, group in groupby(tests, key=lambda test: test.fn_name):
        size = 1 if fn_name is None else MAX_CALLS_A_RUN
        same = list(group)
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _run_calls(
    sandbox: Sandbox,
    source: str,
    language: str,
    tests: Sequence[TestCase],
    limits: Limits,
    clock: Clock,
    same_value: Callable[[Any, Any], bool],
) -> list[TestResult | None]:
    """Makes the calls in one run; a call that ends the run fails, and those after it are made in another."""
    if language not in ("python", "python3", "py"):
        raise ValueError(f"tests call the function {tests[0].fn_name!r}, which is done in Python only, not {language}")
    program = call_program(source, tests[0].fn_name)
    results: list[TestResult | None] = []
    while len(results) < len(tests):
        waiting = tests[len(results) :]
        stdin = encode_calls([test.args for test in waiting], limits.wall_seconds)
        both = replace(
            limits, cpu_seconds=limits.cpu_seconds * len(waiting), wall_seconds=limits.wall_seconds * len(waiting)
        )
        outcome = run_within(sandbox, program, stdin, both, clock)
        if not isinstance(outcome, Outcome):
            return results + [outcome] * len(waiting)
        returned = decode_results(outcome.stdout)[: len(waiting)]
        results += [_judge_call(call, test, same_value) for call, test in zip(returned, waiting, strict=False)]
        if len(returned) < len(waiting):
            results.append(TestResult(False, _ended_as(outcome), _last_line(outcome)))
        if outcome.status == "compile_error":
            return results + [results[-1]] * (len(tests) - len(results))
    return results


def _judge_call(call: CallResult, test: TestCase, same_value: Callable[[Any, Any], bool]) -> TestResult:
    if call.error is not None:
        return TestResult(False, "runtime_error", call.error)
    if same_value(call.value, test.expected):
        return TestResult(True, "ok", score=1.0)
    return TestResult(False, "wrong_answer", f"returned {call.value!r:.{_DETAIL_CHARS}}")


def _ended_as(outcome: Outcome) -> str:
    if outcome.signal == _SIGALRM:
        return "time_limit"
    return "runtime_error" if outcome.status == "ok" else outcome.status


def _status(outcome: Outcome) -> str:
    # Python that does not parse never starts, and has no traceback: that is what compiling would have said.
    started = outcome.status != "runtime_error" or outcome.stdout or "Traceback" in outcome.stderr
    return outcome.status if started or not _last_line(outcome).startswith(_NOT_PYTHON) else "compile_error"


def _last_line(outcome: Outcome) -> str:
    line = outcome.stderr.rstrip().rpartition("\n")[2].strip()
    return (line or outcome.status.replace("_", " "))[:_DETAIL_CHARS]
