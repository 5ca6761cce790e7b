from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from open_r1.rewards import math as rewards_math
from open_r1.rewards.math import MathAnswer, accuracy_reward, parse_gold, verify_answer

Rows = Callable[[str], list[dict[str, str]]]


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def by_math_verify_alone(text: str, gold: str) -> float:
    extraction = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    read_gold, read_answer = (parse(part, extraction, parsing_timeout=None) for part in (gold, text))
    return float(verify(read_gold, read_answer, timeout_seconds=None))


def test_right_and_wrong_and_unparsable() -> None:
    completions = [chat(r"\boxed{\frac{63}{400}}"), chat(r"\boxed{\frac{64}{400}}"), chat(r"\boxed{43}")]
    solution = [r"\frac{63}{400}", r"\frac{63}{400}", "Answer is forty three."]
    assert accuracy_reward(completions, solution) == [1.0, 0.0, None]


def test_strings_are_completions_too() -> None:
    assert accuracy_reward([r"\boxed{3}", "It is 6."], solution=["6", "6"], prompts=["", ""]) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("text", "gold", "value"),
    [
        (r"\boxed{0.5}", r"\frac{1}{2}", 1.0),
        (r"\boxed{3, 5, 7}", "3, 5, 7", 1.0),
        (r"\boxed{x=5}", "5", 1.0),
        (r"\boxed{1 + \sqrt{19}, 1 - \sqrt{19}}", r"1 \pm \sqrt{19}", 1.0),
        (r"\boxed{Evelyn}", r"\text{Evelyn}", 1.0),
        (r"\boxed{Evelyn}", r"\text{Navin}", 0.0),
        (r"\boxed{C}", r"\text{(C)}", 1.0),
        (r"\boxed{10080}", r"10,\!080", 1.0),
        (r"\boxed{90}", r"90^\circ", 1.0),
        (r"\boxed{90°}", r"90^\circ", 1.0),
        (r"\boxed{9°}", "90°", 0.0),
        (r"\boxed{(-∞, 0]}", r"(-\infty, 0]", 1.0),
        (r"\boxed{(-∞, 0)}", r"(-\infty, 0]", 0.0),
        (r"\boxed{\mathbf{12\pi}}", r"12\pi", 1.0),
        (r"\boxed{3 1/2}", r"\frac{7}{2}", 1.0),
        (r"\boxed{2}", "3 1/2", 0.0),
        ("It is 1.", "#### 3 1/2", 0.0),
        (r"\boxed{\frac{2}{3}\%}", r"16\frac{2}{3}\%", 0.0),
        (r"\boxed{16 \frac23\%}", r"16\frac{2}{3}\%", 1.0),
        (r"\boxed{3:30 \text{ p.m.}}", r"3:30 \text{ AM}", 0.0),
        (r"\boxed{3:30 \text{ a.m.}}", r"3:30 \text{ AM}", 1.0),
        (r"\boxed{3:30}", r"3:30 \text{ AM}", 1.0),
        (r"\boxed{101_3}", "101_2", 0.0),
        (r"\boxed{101_{2}}", "101_2", 1.0),
        (r"\boxed{101}", "101_2", 1.0),
        (r"\boxed{q - p}", "p - q", 0.0),
        ("", "18", 0.0),
        ("I do not know.", "18", 0.0),
        ("<answer>\n1,234\n</answer>", "1234", 1.0),
        ("<think>\n9 + 9 = 18", "18", 0.0),
        (r"\boxed{18}", "9 + 9 = <<9+9=18>>18\n#### 18", 1.0),
        (r"\boxed{2}", r"so there are \boxed{2} of them", 1.0),
    ],
)
def test_verdicts(text: str, gold: str, value: float) -> None:
    assert verify_answer(text, gold) == value


@pytest.mark.parametrize(
    ("gold", "answer", "value"),
    [
        ("12345", r"12\,345", 1.0),
        ("357", r"12\,345", 0.0),
        ("0", r"10\,000", 0.0),
        (r"10\,000", "10000", 1.0),
        (r"10\,000", "10,000", 1.0),
        (r"10\,000", "0", 0.0),
        (r"2\,000\,000", "0", 0.0),
        (r"5\,000\text{ kg}", "0", 0.0),
        (r"5\,000\text{ kg}", "5000", 1.0),
        ("5 000 kg", "5000", 1.0),
        ("10000", "10 000", 1.0),
        (r"1\,234.5", "1234.5", 1.0),
        (r"1\frac{3}{4}", r"\frac{7}{4}", 1.0),
        ("100, 200", r"100,\ 200", 1.0),
    ],
)
def test_thousands_set_apart_by_a_space(gold: str, answer: str, value: float) -> None:
    assert verify_answer(rf"\boxed{{{answer}}}", gold) == value


@pytest.mark.parametrize(
    "gold",
    [
        "March 5",
        "1 hour 30 minutes",
        "2 hours and 15 minutes",
        "Increase by 20%",
        "Option 3",
        "between 3 and 4",
        "approximately 3.14",
        "5 apples",
        "10 meters",
    ],
)
def test_gold_in_words_is_right_in_its_own_words(gold: str) -> None:
    latex = gold.replace("%", r"\%")
    for box in (gold, rf"\text{{{gold}}}", rf"\mathrm{{{latex}}}", rf"\textbf{{\text{{{gold}}}.}}"):
        assert verify_answer(rf"So it is $\boxed{{{box}}}$.", gold) == 1.0
    assert verify_answer(f"So it is {gold}.", gold) == 1.0


@pytest.mark.parametrize(
    ("gold", "answer", "value"),
    [
        ("March 5", r"\text{March }5", 1.0),
        ("March 5", "April 5", 0.0),
        ("5 apples", "5", 1.0),
        ("5 kg", "5", 1.0),
        ("1 hour 30 minutes", "30", 0.0),
        ("1 hour 30 minutes", "2 hours 30 minutes", 0.0),
        ("1 hour 30 minutes", "1 hour 30 seconds", 0.0),
        ("1 hour 30 minutes", "2 days 1 hour 30 minutes", 0.0),
        ("1 hour 30 minutes", r"1\,\text{hr and }30\,\text{min}", 1.0),
        ("3 red, 4 blue", "4", 0.0),
        ("3x, 4y", "4y, 3x", 1.0),
    ],
)
def test_gold_in_words_beside_other_answers(gold: str, answer: str, value: float) -> None:
    assert verify_answer(rf"\boxed{{{answer}}}", gold) == value


def test_several_quantities_at_the_end_of_a_sentence() -> None:
    assert verify_answer("After 2 stops it takes 1 hour and 30 minutes.", "1 hour 30 minutes") == 1.0
    assert verify_answer("It takes 30 minutes.", "1 hour 30 minutes") == 0.0


def test_gold_goes_first() -> None:
    """math-verify takes the right side of an equation that a model wrote for its answer, but not of a gold equation."""
    assert verify_answer(r"\boxed{2x + z = 1}", "1") == 1.0
    assert verify_answer(r"\boxed{1}", "2x + z = 1") == 0.0


@pytest.mark.parametrize(
    ("answer", "gold", "value"),
    [
        (r"1.6 \times 10^{-19}", r"6.63 \times 10^{-34}", 0.0),
        (r"E = 1.6 \times 10^{-19}", "6.63e-34", 0.0),
        ("0.0000002", "0.0000001", 0.0),
        (r"-10^{-9}", r"10^{-9}", 0.0),
        (r"6.63 \times 10^{-34}", "6.63e-34", 1.0),
        (r"E = 6.63 \cdot 10^{-34}", r"6.63 \times 10^{-34}", 1.0),
        (r"4.5 \times 10^{33}", "4.5e33", 1.0),
        (r"4.6 \times 10^{33}", "4.5e33", 0.0),
        ("0.0003333", r"\frac{1}{3000}", 1.0),
        ("0.0005", r"0.05\%", 1.0),
    ],
)
def test_very_small_and_large_numbers(answer: str, gold: str, value: float) -> None:
    assert verify_answer(rf"\boxed{{{answer}}}", gold) == value


@pytest.mark.parametrize(
    "gold", [None, float("nan"), "", "Answer is forty two.", "unparseable_latex", "no solution", r"\boxed{"]
)
def test_unparsable_gold_gives_no_reward(gold: str | float | None) -> None:
    assert verify_answer(r"\boxed{42}", gold) is None


def test_gold_may_be_a_number() -> None:
    assert verify_answer(r"\boxed{204}", 204) == 1.0
    assert verify_answer(r"\boxed{1/2}", 0.5) == 1.0
    assert verify_answer(r"\boxed{0.00001}", 1e-5) == verify_answer(r"\boxed{1e22}", 10**22) == 1.0
    assert verify_answer("It is 1.5e3.", 1.5) == verify_answer(r"\boxed{2e + 3}", 2000) == 0.0


@pytest.mark.parametrize(
    ("text", "integer"),
    [
        ("18", 18),
        ("0018", 18),
        ("+7", 7),
        ("-7", -7),
        ("-0", 0),
        ("1,234,567", 1234567),
        (r"\$18", 18),
        ("0,012", None),
        ("1,23", None),
        ("1234,567", None),
        ("18.0", None),
        (r"\frac{36}{2}", 18),
        ("²", None),
    ],
)
def test_which_texts_are_plain_integers(text: str, integer: int | None) -> None:
    assert MathAnswer(rf"\boxed{{{text}}}").integer == integer


def test_integers_are_judged_as_math_verify_judges_them(real_rows: Rows) -> None:
    draw = random.Random(0)
    rows = draw.sample(real_rows("gsm8k_train.jsonl"), 40) + draw.sample(real_rows("gsm8k_test.jsonl"), 20)
    golds = [row["answer"].rpartition("####")[2].strip() for row in rows]
    golds += ["1,080", "109,200,000", "-7", "-47", "0", "007"]
    for gold in golds:
        for answer in (gold, draw.choice(golds), gold.replace(",", ""), f"0{gold.strip('-')}", f"-{gold}"):
            for text in (rf"Therefore $\boxed{{{answer}}}$.", f"<think>\n1\n</think>\n<answer>\n{answer}\n</answer>"):
                assert verify_answer(text, gold) == by_math_verify_alone(text, rf"\boxed{{{gold}}}"), (text, gold)


def test_worked_solutions_of_math_500(real_rows: Rows) -> None:
    rows = random.Random(0).sample(real_rows("math_500.jsonl"), 100)
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        assert verify_answer(row["solution"], row["answer"]) == 1.0
        assert verify_answer(rf"\boxed{{{row['answer']}}}", row["solution"]) == 1.0
        expected = by_math_verify_alone(other["solution"], rf"\boxed{{{row['answer']}}}")
        assert verify_answer(other["solution"], row["answer"]) == expected


def test_gold_is_parsed_once() -> None:
    assert parse_gold(r"\frac{1}{7}") is parse_gold(r"\frac{1}{7}")


def test_a_hostile_answer_gets_no_reward_outside_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards_math, "SECONDS_PER_ANSWER", 0.2)
    assert accuracy_reward([r"\boxed{(x+1)^{5000}}", r"\boxed{5}"], ["5", "5"]) == [None, 1.0]


def test_works_in_a_thread() -> None:
    values: list[float | None] = []
    thread = threading.Thread(target=lambda: values.extend(accuracy_reward([r"\boxed{2/6}"], [r"\frac{1}{3}"])))
    thread.start()
    thread.join()
    assert values == [1.0]


@pytest.mark.parametrize("piece", [r"\boxed{", r"\boxed{1}", r"\frac{1}{x}+", "{", "$", "#### ", "<answer>", "1 ", "9"])
def test_a_megabyte_of_anything_is_judged(piece: str) -> None:
    assert verify_answer(piece * (1_000_000 // len(piece)), r"\frac{x}{2}") == 0.0
