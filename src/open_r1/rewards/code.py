"""Rewards for programs that are tested by ``verification_info``: the share of tests passed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, update_wrapper
from typing import Any

from open_r1.rewards.call import reads
from open_r1.rewards.code_block import find_code, language_names, sandbox_language
from open_r1.rewards.code_rows import read_verification_info, same_as_in_data
from open_r1.rewards.code_sandbox import shared_sandbox
from open_r1.rewards.code_tests import run_tests
from open_r1.rewards.judging import NoRewardError, judge_answers
from open_r1.rewards.text import Completion, completion_texts
from open_r1.sandbox.program import Limits

TEST_LIMITS = Limits(cpu_seconds=5.0, wall_seconds=10.0)
"""Of one test. The published reward gave each 5 s; wall time is more, because cores are shared."""

BUDGET_SECONDS = 30.0
"""Of all tests of one answer: as long as a sandbox of the published reward lived."""

MARGIN_SECONDS = 90.0
"""What the last test and its retries may take beyond the budget before a pool may think that the reward hangs."""

PASS_THRESHOLD = 0.99


@reads("verification_info")
def code_reward(
    completions: Sequence[Completion],
    verification_info: Sequence[Any],
    num_parallel: int = 2,
    provider_type: str = "local",
    enforce_same_language: bool = False,
    e2b_router_url: str | None = None,
    morph_router_url: str | None = None,
    default_language: str = "python",
    **kwargs: Any,
) -> list[float | None]:
    """The share of its tests that the program in each completion passes; 0.0 where there is no program.

    The program is the last fenced block of the language that ``verification_info`` names.

    Args:
        completions: chat messages or strings, [N].
        verification_info: the tests of each, see :func:`open_r1.rewards.code_rows.read_verification_info`.
        num_parallel: answers judged at once.
        provider_type: sandbox that runs the programs: "local", "piston", "e2b" or "morph".
        enforce_same_language: asks that all rows have one language.
        e2b_router_url: ``host:port`` of a router of E2B sandboxes, for that provider.
        morph_router_url: the same for Morph.
        default_language: of rows that name none.

    Returns:
        None where the tests cannot be read or the sandbox failed, even when asked again.

    Raises:
        NoRewardError: that is so for all of them.
        ValueError: ``enforce_same_language`` is broken.
        UserError: the sandbox cannot be opened.
    """
    sandbox = shared_sandbox(provider_type, num_parallel, e2b_router_url, morph_router_url)
    if enforce_same_language:
        _check_languages(verification_info, default_language)

    def judge(text: str, info: Any) -> float:
        language, tests = read_verification_info(info, default_language)
        source = find_code(text, language)
        if not source:
            return 0.0
        results = run_tests(
            sandbox,
            source,
            sandbox_language(language),
            tests,
            TEST_LIMITS,
            budget_seconds=BUDGET_SECONDS,
            same_value=same_as_in_data,
        )
        if None in results:
            raise NoRewardError(f"the {provider_type} sandbox failed on {results.count(None)} of {len(results)} tests")
        return sum(result.passed for result in results) / len(results)

    return judge_answers(judge, zip(completion_texts(completions), verification_info, strict=True), num_parallel)


@reads("verification_info")
def binary_code_reward(
    completions: Sequence[Completion], verification_info: Sequence[Any], **kwargs: Any
) -> list[float | None]:
    """1.0 where ``code_reward`` is above 0.99, else 0.0; None where that is None. Takes the same arguments."""
    values = code_reward(completions, verification_info, **kwargs)
    values[:] = [None if value is None else float(value > PASS_THRESHOLD) for value in values]
    return values


def get_code_reward(**options: Any) -> Callable[..., list[float | None]]:
    """Returns ``code_reward`` with some of its arguments set.

    Raises:
        UserError: its sandbox cannot be opened.
    """
    return set_up(code_reward, options)


def get_binary_code_reward(**options: Any) -> Callable[..., list[float | None]]:
    """Returns ``binary_code_reward`` with some of its arguments set.

    Raises:
        UserError: its sandbox cannot be opened.
    """
    return set_up(binary_code_reward, options)


def _check_languages(verification_info: Sequence[Any], default_language: str) -> None:
    languages = {read_verification_info(info, default_language)[0] for info in verification_info}
    if len({min(language_names(language)) for language in languages}) > 1:
        raise ValueError(f"verification_info has several languages: {', '.join(sorted(languages))}")


def set_up(
    function: Callable[..., list[float | None]], options: Mapping[str, Any]
) -> Callable[..., list[float | None]]:
    """Returns a code reward with arguments set, under its own name, its sandbox opened so that a fault shows at once.

    Raises:
        UserError: the sandbox cannot be opened.
    """
    names = ("provider_type", "num_parallel", "e2b_router_url", "morph_router_url")
    shared_sandbox(**{name: options[name] for name in names if name in options})
    return update_wrapper(partial(function, **options), function)


code_reward.timeout_seconds = binary_code_reward.timeout_seconds = BUDGET_SECONDS + MARGIN_SECONDS
