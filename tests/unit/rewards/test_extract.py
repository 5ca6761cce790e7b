from __future__ import annotations

import pytest

from open_r1.rewards.extract import MAX_TAIL_CHARS, find_answer, find_gold, is_bare_math, last_boxes


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"First \boxed{1}, but no: \boxed{2}.", r"\boxed{2}"),
        (r"\boxed{3} and $\boxed{4}$", r"\boxed{3, 4}"),
        (r"\boxed{3}\text{ and }\boxed{4}", r"\boxed{3, 4}"),
        (r"\boxed{\frac{1}{2}}", r"\boxed{\frac{1}{2}}"),
        (r"\boxed{\{1, 2\}}", r"\boxed{\{1, 2\}}"),
        (r"\boxed{\boxed{5}}", r"\boxed{5}"),
        (r"It is \boxed{6}. Write it in \boxed{}.", r"\boxed{6}"),
        (r"It is \boxed{6}. So \boxed{6", r"\boxed{6}"),
        ("Nothing is boxed", None),
    ],
)
def test_the_last_closed_box_counts(text: str, answer: str | None) -> None:
    assert last_boxes(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\n\\boxed{1}\n</think>\nIt is 2.", "It is 2."),
        ("<think>\n1\n</think>\n<answer>\n\\frac{1}{2}\n</answer>", r"\boxed{\frac{1}{2}}"),
        ("<answer>1</answer> no: <answer>The total is $2$.</answer>", "The total is $2$."),
        ("<answer>\n\\boxed{7}\n</answer>\nI boxed it.", r"\boxed{7}"),
        ("<think>\nso \\boxed{1}\n</think>\n", r"\boxed{1}"),
        ("<think>\nfirst 12 + 6 = 18", None),
        ("<think>\nfirst \\boxed{18}, then", r"\boxed{18}"),
        ("10 + 8 = 18\n#### 18", r"\boxed{18}"),
        ("#### 1,234.\n", r"\boxed{1,234}"),
        ("#### Final answer\nIt is 9.", "#### Final answer\nIt is 9."),
        ("", None),
        ("<answer></answer>", "<answer></answer>"),
    ],
)
def test_the_most_explicit_statement_counts(text: str, answer: str | None) -> None:
    assert find_answer(text) == answer


def test_only_the_end_of_unmarked_text_is_searched() -> None:
    assert find_answer("x" * 10_000 + " 18") == "x" * (MAX_TAIL_CHARS - 3) + " 18"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("204", r"\boxed{204}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{\left( 3, \frac{\pi}{2} \right)}"),
        ("She has 9 + 9 = <<9+9=18>>18 eggs.\n#### 18", r"\boxed{18}"),
        (r"We find $x = \boxed{5}$ at last.", r"\boxed{5}"),
        (r"$\frac{1}{2}$", r"$\frac{1}{2}$"),
        ("Answer is forty two.", "Answer is forty two."),
        ("  ", None),
    ],
)
def test_gold_in_the_forms_that_data_sets_use(text: str, answer: str | None) -> None:
    assert find_gold(text) == answer


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("p - q", True),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", True),
        (r"\frac{270}7\text{ degrees}", True),
        ("sqrt(2)", True),
        ("Evelyn", True),
        ("no solution", False),
        ("The answer is 5", False),
        ("costs $5", False),
        (r"\$18.90", True),
    ],
)
def test_prose_is_told_from_formulas(text: str, bare: bool) -> None:
    assert is_bare_math(text) is bare


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{12\,345}", r"\boxed{12345}"),
        (r"\boxed{1\;234\:567\ 890}", r"\boxed{1234567890}"),
        (r"\boxed{12\, 345}", r"\boxed{12345}"),
        (r"\boxed{1{\,}234~567}", r"\boxed{1234567}"),
        ("The answer is 10\u202f000.", "The answer is 10000."),
        (r"It is $10\,000.5$", "It is $10000.5$"),
        (r"\boxed{10 000}", r"\boxed{10000}"),
        (r"\boxed{-5\,000\text{ kg}}", r"\boxed{-5000\text{ kg}}"),
        (r"\boxed{(5,10\,000)}", r"\boxed{(5,10000)}"),
        (r"\boxed{10\,000/3}", r"\boxed{10000/3}"),
    ],
)
def test_thousands_set_apart_by_a_space_are_one_number(text: str, answer: str) -> None:
    assert find_answer(text) == find_gold(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{3 1/2}", r"\boxed{\frac{7}{2}}"),
        (r"\boxed{-1\ 125/1000 \pi}", r"\boxed{-\frac{1125}{1000} \pi}"),
        (r"\boxed{16\frac{2}{3}\%}", r"\boxed{\frac{50}{3}\%}"),
        (r"\boxed{33 \tfrac13 \%}", r"\boxed{\frac{100}{3} \%}"),
        ("She has 3 1/2 cups.", "She has 7/2 cups."),
    ],
)
def test_mixed_numbers_are_fractions(text: str, answer: str) -> None:
    assert find_answer(text) == answer


@pytest.mark.parametrize(
    "content",
    [
        r"1\frac{3}{4}",
        "3 5/2",
        "3, 1/2",
        "x^2 1/2",
        "1 2 1/2",
        "3 1/2/5",
        r"3,\ 5,\ 7",
        r"100,\ 200",
        r"(100,\,200)",
        r"100, 200, 300",
        r"\log_2 128",
        r"\log_2\,128",
        r"10^3 200",
        r"x^2 100",
        r"2\,3",
        r"100\ 200\ 5",
        r"1000\ 200",
        r"0\,123",
        r"3.141\,592",
        r"5\,1000",
        r"\begin{pmatrix} 100 & 200 \\ 300 & 400 \end{pmatrix}",
        r"\begin{pmatrix} 1 \\ 200 \end{pmatrix}",
        "1\n200",
    ],
)
def test_other_spaces_between_digits_stay(content: str) -> None:
    assert find_answer(rf"\boxed{{{content}}}") == find_gold(rf"\boxed{{{content}}}") == rf"\boxed{{{content}}}"


def test_only_bold_around_the_whole_answer_is_taken_off() -> None:
    assert find_answer(r"\boxed{\mathbf{\frac{1}{2}}}") == r"\boxed{\frac{1}{2}}"
    parts = r"\boxed{\mathbf{a} \cdot \mathbf{b}}"
    assert find_answer(parts) == parts
