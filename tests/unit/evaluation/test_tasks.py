from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_model import FakePool

from open_r1.data.bad_rows import BadRow
from open_r1.errors import UserError
from open_r1.evaluation.gold import stated
from open_r1.evaluation.registry import TASKS
from open_r1.evaluation.task import Problem, Task
from open_r1.rewards.choice import choice_reward

REAL = Path(__file__).resolve().parents[4] / "shared" / "data"
PREAMBLE = (
    r"Solve the following math problem efficiently and clearly.  The last line of your response should be of the "
    r"following format: 'Therefore, the final answer is: $\boxed{ANSWER}$. I hope it is correct' (without quotes) "
    r"where ANSWER is just the final number or expression that solves the problem. Think step by step before answering."
)
ROWS = {
    "gsm8k": {"question": "How many eggs?", "answer": "She has 1,000 + 125 = <<1000+125=1125>>1,125.\n#### 1,125"},
    "math_500": {"problem": "Convert (0,3).", "answer": r"\left( 3, \frac{\pi}{2} \right)", "subject": "Precalculus"},
    "aime24": {"id": 61, "problem": "Find m + n.", "answer": "033", "url": "…"},
    "aime25": {"problem": "Find m - n.", "answer": 588},
    "amc23": {"id": 0, "question": "How many hours?", "answer": "27.0"},
    "minerva": {"question": "What is the energy in erg?", "answer": "4e33"},
    "olympiadbench": {
        "question": "Find all $x$.",
        "final_answer": ["$-1$,$7$"],
        "context": None,
        "subfield": "Algebra",
        "is_multiple_answer": True,
    },
}
GPQA = {
    "Question": "Which particle has no charge?\n",
    "Correct Answer": "neutron\n",
    "Incorrect Answer 1": "electron",
    "Incorrect Answer 2": "proton",
    "Incorrect Answer 3": "muon",
    "High-level domain": "Physics",
    "Subdomain": "Physics (general)",
}


def read(task: str, rows: list[dict]) -> list[Problem]:
    return TASKS[task].problems(rows, list(rows[0]), "file.jsonl")


@pytest.mark.parametrize("task", ROWS)
def test_mathematics_is_asked_as_published(task: str) -> None:
    (problem,) = read(task, [ROWS[task]])
    text = ROWS[task].get("problem") or ROWS[task]["question"]
    assert problem.messages == [{"role": "user", "content": f"{PREAMBLE}\n\n{text}"}]


@pytest.mark.parametrize(
    ("task", "gold", "subject"),
    [
        ("gsm8k", "1125", None),
        ("math_500", r"\left( 3, \frac{\pi}{2} \right)", "Precalculus"),
        ("aime24", "033", None),
        ("aime25", "588", None),
        ("amc23", "27", None),
        ("minerva", "4e33", None),
        ("olympiadbench", "-1,7", "Algebra"),
    ],
)
def test_gold_and_subject_of_a_published_row(task: str, gold: str, subject: str | None) -> None:
    (problem,) = read(task, [ROWS[task]])
    assert (problem.gold, problem.subject, problem.columns) == (gold, subject, {"solution": gold})
    assert TASKS[task].validate([problem], FakePool()) == []


def test_samples_and_data_sets_are_the_published_ones() -> None:
    assert {name: TASKS[name].num_samples for name in ("aime24", "aime25", "math_500", "gpqa:diamond")} == {
        "aime24": 64,
        "aime25": 64,
        "math_500": 4,
        "gpqa:diamond": 8,
    }
    assert TASKS["lcb:codegeneration"].num_samples == 16
    where = {name: (task.hub_id, task.hub_config, task.split) for name, task in TASKS.items() if task.hub_id}
    assert where == {
        "aime24": ("HuggingFaceH4/aime_2024", None, "train"),
        "aime25": ("yentinglin/aime_2025", None, "train"),
        "amc23": ("math-ai/amc23", None, "test"),
        "math_500": ("HuggingFaceH4/MATH-500", None, "test"),
        "gsm8k": ("openai/gsm8k", "main", "test"),
        "minerva": ("math-ai/minervamath", None, "test"),
        "olympiadbench": ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train"),
        "gpqa:diamond": ("Idavidrein/gpqa", "gpqa_diamond", "train"),
    }


@pytest.mark.parametrize(
    ("task", "row", "gold"),
    [
        ("aime24", {"ID": "2024-I-1", "Problem": "Find n.", "Solution": "…", "Answer": 204}, "204"),
        ("aime24", {"problem": "Find n.", "solution": r"\boxed{204}"}, r"\boxed{204}"),
        ("aime25", {"question": "Find n.", "answer": "70"}, "70"),
        ("amc23", {"problem": "Find n.", "answer": 142.0}, "142"),
        ("math_500", {"question": "Find n.", "expected_answer": "3", "type": "Algebra"}, "3"),
        ("olympiadbench", {"question": "Find n.", "final_answer": "['$2^{1009}$']"}, "2^{1009}"),
        ("olympiadbench", {"problem": "Find n.", "answer": "$x$"}, "x"),
        ("olympiadbench", {"question": "Find n.", "final_answer": ["1", "2"]}, "1, 2"),
    ],
)
def test_other_copies_of_a_set_are_read_too(task: str, row: dict, gold: str) -> None:
    (problem,) = read(task, [row])
    assert problem.gold == gold
    assert problem.messages[0]["content"].endswith("\n\nFind n.")
    assert TASKS[task].validate([problem], FakePool()) == []


def test_what_olympiad_problems_share_is_asked_with_each() -> None:
    (problem,) = read("olympiadbench", [{"question": "Find n.", "context": "Let n > 3.", "final_answer": ["4"]}])
    assert problem.messages[0]["content"].endswith("\n\nLet n > 3.\n\nFind n.")


def test_gpqa_is_asked_as_published_with_its_choices_in_a_drawn_order() -> None:
    (problem,) = read("gpqa:diamond", [GPQA])
    lines = problem.messages[0]["content"].split("\n")
    assert lines[:4] == [
        "Answer the following multiple choice question. The last line of your response should be of the following "
        "format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering.",
        "",
        "Which particle has no charge?",
        "",
    ]
    assert sorted(line[3:] for line in lines[4:]) == ["electron", "muon", "neutron", "proton"]
    assert [line[:3] for line in lines[4:]] == ["A) ", "B) ", "C) ", "D) "]
    assert f"{problem.gold}) neutron" in lines
    assert (problem.subject, problem.columns) == ("Physics", {"solution": problem.gold})
    assert choice_reward([problem.solution], [problem.gold]) == [1.0]


def test_the_order_of_choices_is_that_of_the_row_and_every_place_comes_up() -> None:
    rows = [{**GPQA, "Question": f"Question {number}?"} for number in range(40)]
    problems = read("gpqa:diamond", rows)
    assert {problem.gold for problem in problems} == set("ABCD")
    renamed = [{key.lower().replace(" ", "_"): value for key, value in row.items()} for row in reversed(rows)]
    again = read("gpqa:diamond", renamed)[::-1]
    assert [problem.messages for problem in again] == [problem.messages for problem in problems]


@pytest.mark.parametrize(
    ("task", "file", "count"),
    [
        ("gsm8k", "gsm8k_test", 1319),
        ("math_500", "math_500", 500),
        ("aime24", "aime24", 30),
        ("problems", "gsm8k_test", 1319),
        ("problems", "aime24", 30),
    ],
)
def test_every_real_gold_answer_passes_its_own_verifier(task: str, file: str, count: int) -> None:
    path = REAL / f"{file}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    problems = read(task, [json.loads(line) for line in path.read_text().splitlines()])
    assert len(problems) == count
    assert TASKS[task].validate(problems, FakePool()) == []


def test_validate_names_the_problems_whose_gold_answer_fails() -> None:
    problems = read("problems", [{"prompt": "a", "answer": gold} for gold in ("4", "(see the figure)", "5")])
    assert TASKS["problems"].validate(problems, FakePool()) == [1]


def test_check_says_why_a_gold_answer_fails_and_judges_problems_without_one() -> None:
    task = Task(
        name="own",
        description="some have no solution",
        prompt=lambda row: [{"role": "user", "content": row["q"]}],
        gold=lambda row: row["a"],
        needs=("q", "a"),
        solution=lambda row: None if row["q"] == "open" else row["a"],
    )
    rows = [{"q": "open", "a": "4"}, {"q": "x", "a": "4"}, {"q": "open", "a": "(figure)"}, {"q": "y", "a": "(figure)"}]
    failed = task.check(task.problems(rows, ["q", "a"], "file"), FakePool())
    assert [(one.place, one.reward) for one in failed] == [(2, None), (3, None)]
    assert all(one.why == "it cannot be verified" for one in failed)


def test_own_problems_are_asked_word_for_word() -> None:
    rows = [{"id": "x", "question": "  Was ist 2+2?\n", "final_answer": 4, "level": "easy"}]
    (problem,) = read("problems", rows)
    assert (problem.index, problem.gold) == (0, "4")
    assert problem.messages == [{"role": "user", "content": "  Was ist 2+2?\n"}]


def test_own_problems_may_be_messages() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    (problem,) = read("problems", [{"prompt": messages, "solution": "So \\boxed{4}."}])
    assert (problem.messages, problem.gold) == (messages, "So \\boxed{4}.")


def test_large_columns_are_read_from_their_row_when_they_are_asked_for() -> None:
    read_rows: list[int] = []

    class Rows(list):
        def __getitem__(self, index: int) -> dict:
            read_rows.append(index)
            return super().__getitem__(index)

    task = Task(
        name="own",
        description="",
        prompt=lambda row: [{"role": "user", "content": row["q"]}],
        gold=lambda row: "hash",
        needs=(("q", "question"),),
        columns=lambda row: {"tests": row["t"], "name": row["q"]},
        large=True,
        solution=lambda row: None,
    )
    problems = task.problems(Rows([{"question": "a", "t": "1"}, {"question": "b", "t": "2"}]), ["question", "t"], "f")
    assert read_rows == []
    assert dict(problems[1].columns.items()) == {"tests": "2", "name": "b"}
    assert read_rows == [1]
    assert dict(problems[1].columns.items())["tests"] is problems[1].columns["tests"]
    assert (problems[0].columns["tests"], len(problems[0].columns)) == ("1", 2)
    assert read_rows == [1, 0]


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (
            "gsm8k",
            {"text": "a", "answer": "4"},
            "file.jsonl has no column 'problem' or 'question'.*it has: text, answer",
        ),
        ("gsm8k", {"question": "a", "answer": None}, "row 0 of file.jsonl has nothing in column 'answer'"),
        ("aime24", {"problem": "  ", "answer": "4"}, "row 0 of file.jsonl has nothing in column 'problem'"),
        ("aime24", {"problem": 7, "answer": "4"}, "row 0 of file.jsonl: 'problem' is a int, not text"),
        ("aime24", {"problem": "a", "answer": {"value": 4}}, "row 0 of file.jsonl: 'answer' is a dict, not text or"),
        ("olympiadbench", {"question": "a", "final_answer": []}, "has nothing in column 'final_answer'"),
        ("olympiadbench", {"question": "a", "final_answer": [None]}, "'final_answer' is not a list of answers"),
        ("gpqa:diamond", {**GPQA, "Incorrect Answer 2": [5]}, "'wrong_2' is a list, not text"),
        ("gpqa:diamond", {"Question": "a", "Correct Answer": "b"}, "no column 'wrong_1' or 'incorrect_answer_1'"),
        ("humaneval", {"prompt": "a", "test": "b"}, "no column 'canonical_solution'"),
        ("lcb:codegeneration", {"question_content": "a"}, "no column 'public_test_cases'"),
        ("problems", {"text": "a", "answer": "4"}, "no column of prompts"),
        ("problems", {"prompt": "a", "text": "4"}, "no column of gold answers"),
        ("problems", {"prompt": "", "answer": "4"}, "row 0 of file.jsonl: .*empty"),
        ("problems", {"prompt": "a", "answer": None}, "row 0 of file.jsonl: no gold answer"),
    ],
)
def test_bad_files_are_one_clear_line(task: str, row: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(task, [row])
    assert "\n" not in str(error.value)


def test_no_rows_is_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"task gsm8k: file\.jsonl has no problems"):
        TASKS["gsm8k"].problems([], ["question", "answer"], "file.jsonl")


def test_a_task_of_ones_own_says_which_row_it_cannot_ask() -> None:
    def prompt(row: dict) -> list[dict[str, str]]:
        raise BadRow("the picture is missing")

    task = Task(name="own", description="", prompt=prompt, gold=lambda row: "4")
    with pytest.raises(UserError, match="task own: row 0 of file: the picture is missing"):
        task.problems([{"a": 1}], ["a"], "file")


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ({"gold": lambda row: row["answer"]}, "row 0 of file: its gold answer '4' is a int, and has to be text"),
        ({"prompt": lambda row: "2+2?"}, "row 0 of file: its prompt is text, and has to be messages"),
        ({"prompt": lambda row: row["question"]}, r"row 0 of file: .*test_tasks\.py:\d+: KeyError: 'question'"),
        ({"subject": lambda row: row["answer"].lower()}, r"row 0 of file: .*test_tasks\.py:\d+: AttributeError"),
    ],
)
def test_a_slip_in_a_task_of_ones_own_is_one_clear_line(functions: dict, message: str) -> None:
    own = {"prompt": lambda row: [{"role": "user", "content": "2+2?"}], "gold": lambda row: "4", **functions}
    with pytest.raises(UserError, match=message) as error:
        Task(name="own", description="", **own).problems([{"answer": 4}], ["answer"], "file")
    assert "\n" not in str(error.value)


def test_choices_may_be_numbers() -> None:
    numbers = {"Correct Answer": 42, "Incorrect Answer 1": 4, "Incorrect Answer 2": 5.5, "Incorrect Answer 3": 0}
    (problem,) = read("gpqa:diamond", [{**GPQA, **numbers}])
    assert f"\n{problem.gold}) 42" in problem.messages[0]["content"]


def test_a_gold_answer_is_stated_as_the_prompt_asks() -> None:
    assert stated("\\frac{1}{2}") == "Therefore, the final answer is: $\\boxed{\\frac{1}{2}}$. I hope it is correct"
    assert "\\boxed{18}" in stated("She makes 9 * 2 = $18.\n#### 18")
