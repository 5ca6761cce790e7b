from __future__ import annotations

import pytest

from open_r1.evaluation.votes import MAX_VOTE_CHARS, canonical, stated_answer


@pytest.mark.parametrize(
    "answers",
    [
        ("1234", "1,234", " 1234 ", "+1234", "01234", "1234.0", "1234.", r"\$1,234", r"1{,}234"),
        ("-5", "−5", "-5.00", "x=-5", "x = -5"),
        ("0", "-0", "0.0", "000"),
        ("0.5", ".5", "0.50"),
        ("1200.5", "1,200.50"),
        (r"\frac{1}{2}", r"\dfrac{1}{2}", r"\tfrac{1}{2}", r"\frac12", r"\frac {1} {2}"),
        (r"(3,\frac{\pi}{2})", r"\left( 3, \frac{\pi}{2} \right)", r"(3,\,\frac{\pi}{2})"),
        ("90", r"90^\circ", r"90^{\circ}"),
        ("50", r"50\%", "50%"),
        ("Evelyn", r"\text{Evelyn}", r"\text{ Evelyn}."),
    ],
)
def test_spellings_of_one_answer_are_one_candidate(answers: tuple[str, ...]) -> None:
    assert {canonical(answer) for answer in answers} == {answers[0]}


@pytest.mark.parametrize(
    ("one", "other"), [("1,2", "12"), ("1,23", "123"), ("5", "-5"), ("0.5", "5"), ("y=x+1=2", "x+1=2"), ("a", "b")]
)
def test_different_answers_stay_different(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"<think>\boxed{1}</think>So \boxed{2}.", "2"),
        (r"<think>It may be \boxed{3}", "3"),
        ("<think>It may be 3", None),
        ("She makes 18.\n#### 18", "18"),
        ("The answer is $x = 5$.", "5"),
        ("The answer is 18.", "18"),
        ("The answer is 10 000.", "10000"),
        (r"It is \boxed{10{\,}000}.", "10000"),
        ("18", "18"),
        ("I do not know", None),
        ("", None),
        (r"\boxed{}", None),
        (r"\boxed{" + "9" * (MAX_VOTE_CHARS + 1) + "}", None),
    ],
)
def test_the_answer_of_a_completion(completion: str, answer: str | None) -> None:
    assert stated_answer(completion) == answer


@pytest.mark.parametrize("text", ["$" * 100_000, "1," * 50_000, r"\boxed{" * 50_000, "[" * 100_000, r"\left" * 50_000])
@pytest.mark.timeout(5)
def test_hostile_text_is_read_in_no_time(text: str) -> None:
    stated_answer(text)
    canonical(text)
