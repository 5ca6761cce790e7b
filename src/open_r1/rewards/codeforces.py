"""The reward for problems of Codeforces, as open-r1/codeforces publishes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from open_r1.rewards.call import reads
from open_r1.rewards.checkers import check_output, python_checker
from open_r1.rewards.code import MARGIN_SECONDS, set_up
from open_r1.rewards.code_block import find_code, language_names, sandbox_language
from open_r1.rewards.code_sandbox import shared_sandbox
from open_r1.rewards.code_tests import Clock, TestResult, judge_output, run_batches, run_within
from open_r1.rewards.compare_output import outputs_match
from open_r1.rewards.file_io import with_standard_streams
from open_r1.rewards.judging import NoRewardError, judge_answers
from open_r1.rewards.problem_tests import CODEFORCES_FOLDER, generated_codeforces_tests
from open_r1.rewards.text import Completion, completion_texts
from open_r1.sandbox.program import Limits, Outcome, Program, Sandbox

BUDGET_SECONDS = 120.0
"""Of all tests of one answer, compiling included."""

NO_CODE = -1.0
DOES_NOT_COMPILE = -0.1
SHARE_WEIGHT = 0.1

_MIN_MEMORY_MB = 256
"""Less would not let the interpreter start."""

ScoringMode = Literal["pass_fail", "partial", "weighted_sum"]


@reads(
    "id",
    "official_tests",
    "generated_tests",
    "generated_checker",
    "time_limit",
    "memory_limit",
    "input_mode",
    "interaction_format",
    "language",
)
def cf_code_reward(
    completions: Sequence[Completion],
    test_batch_size: int = 1,
    patch_code: bool = False,
    scoring_mode: ScoringMode = "weighted_sum",
    provider_type: str = "local",
    num_parallel: int = 2,
    default_language: str = "python",
    e2b_router_url: str | None = None,
    morph_router_url: str | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """Scores the program in each completion: −1 where there is none, −0.1 where it does not compile, else by the mode.

    "pass_fail" is 1 where all tests are passed, else 0; "partial" the share of tests passed; "weighted_sum" the first
    plus 0.1 times the second. Only "pass_fail" stops at the first batch with a failure.

    Args:
        completions: chat messages or strings, [N].
        test_batch_size: tests run at once; less than 1 is all of them.
        patch_code: puts the standard library and ``namespace std`` before a C++ program that lacks them.
        scoring_mode: see above.
        provider_type: sandbox that runs the programs.
        num_parallel: answers judged at once.
        default_language: of rows without ``language``.
        e2b_router_url, morph_router_url: a router of that provider's sandboxes.
        kwargs: the columns of open-r1/codeforces: ``official_tests, time_limit`` (seconds), ``memory_limit`` (MB), and
            where they are there ``id, language, input_mode, interaction_format, generated_checker,
            generated_tests``. Generated tests are added where the variable CF_TESTS_FOLDER names their folder.

    Returns:
        None where there are no tests, where the problem is interactive or its checker broken, or where the sandbox
        failed.

    Raises:
        NoRewardError: tests cannot be read, or the sandbox failed, for all of them.
        UserError: the sandbox cannot be opened.
        ValueError: there is no such scoring mode.
    """
    if scoring_mode not in ("pass_fail", "partial", "weighted_sum"):
        raise ValueError(f"unknown scoring_mode {scoring_mode!r}; choose pass_fail, partial or weighted_sum")
    if "official_tests" not in kwargs:
        raise NoRewardError("cf_code needs the columns of open-r1/codeforces; there is no official_tests")
    sandbox = shared_sandbox(provider_type, num_parallel, e2b_router_url, morph_router_url)

    def judge(text: str, row: Mapping[str, Any]) -> float | None:
        tests = _tests(row)
        if not tests:
            return None
        if row.get("interaction_format"):
            raise NoRewardError(f"Codeforces {row.get('id')} is interactive: nothing here talks to the program")
        language = row.get("language") or default_language
        code = find_code(text, language)
        if not code:
            return NO_CODE
        if patch_code and "cpp" in language_names(language):
            code = _patched(code)
        results = _run(sandbox, code, language, row, tests, test_batch_size, stops=scoring_mode == "pass_fail")
        if None in results:
            raise NoRewardError(f"the {provider_type} sandbox failed on a test of {row.get('id', 'a problem')}")
        return _score(results, scoring_mode)

    rows = [dict(zip(kwargs, values, strict=True)) for values in zip(*kwargs.values(), strict=True)]
    return judge_answers(judge, zip(completion_texts(completions), rows, strict=True), num_parallel)


def get_cf_code_reward(**options: Any) -> Callable[..., list[float | None]]:
    """Returns ``cf_code_reward`` with some of its arguments set.

    Raises:
        UserError: its sandbox cannot be opened.
    """
    return set_up(cf_code_reward, options)


cf_code_reward.timeout_seconds = BUDGET_SECONDS + MARGIN_SECONDS


def _run(
    sandbox: Sandbox,
    code: str,
    language: str,
    row: Mapping[str, Any],
    tests: Sequence[tuple[str, str]],
    batch_size: int,
    *,
    stops: bool,
) -> list[TestResult | None]:
    clock, limits = Clock(BUDGET_SECONDS), _limits(row)
    plain = Program(code, sandbox_language(language))
    checker = python_checker(row["generated_checker"]) if row.get("generated_checker") else None

    def judge(batch: Sequence[tuple[str, str]]) -> list[TestResult | None]:
        ((stdin, expected),) = batch
        program, given = plain, stdin
        if row.get("input_mode") == "file":
            program, given = with_standard_streams(plain, stdin), ""
        outcome = run_within(sandbox, program, given, limits, clock)
        if not isinstance(outcome, Outcome):
            return [outcome]
        if checker is None or outcome.status != "ok":
            return [judge_output(outcome, lambda printed: outputs_match(printed, expected))]
        return [check_output(sandbox, checker, clock, stdin=stdin, expected=expected, printed=outcome.stdout)]

    parallel = batch_size if batch_size >= 1 else len(tests)
    return run_batches(judge, [[test] for test in tests], stop_at_first_failure=stops, parallel=parallel)


def _score(results: Sequence[TestResult], mode: ScoringMode) -> float:
    if any(result.status == "compile_error" for result in results):
        return DOES_NOT_COMPILE
    # A checker of Codeforces says yes or no: a part of the points is a no.
    share = sum(result.passed and result.score == 1.0 for result in results) / len(results)
    passed = float(share == 1.0)
    return {"pass_fail": passed, "partial": share, "weighted_sum": passed + SHARE_WEIGHT * share}[mode]


def _tests(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    tests = [(test["input"], test["output"]) for test in row["official_tests"] or ()]
    generated = row.get("generated_tests")
    if isinstance(generated, list | tuple):
        tests += [(test["input"], test["output"]) for test in generated]
    elif generated and CODEFORCES_FOLDER in os.environ:
        tests += generated_codeforces_tests(str(row["id"]))
    return tests


def _patched(code: str) -> str:
    lines = ["#include <bits/stdc++.h>"]
    if "using namespace std;" not in code and "std::" not in code:
        lines.append("using namespace std;")
    return "\n".join([*lines, code])


def _limits(row: Mapping[str, Any]) -> Limits:
    seconds = float(row.get("time_limit") or 2.0)
    memory = max(_MIN_MEMORY_MB, float(row.get("memory_limit") or _MIN_MEMORY_MB))
    return Limits(
        cpu_seconds=seconds,
        wall_seconds=2 * seconds + 1,
        memory_bytes=int(memory * 2**20),
        file_bytes=64 * 2**20,
        output_bytes=16 * 2**20,
    )
