from __future__ import annotations

import json

import pytest

from open_r1.rewards.gold_answers import GoldSource, as_completions, find_source
from open_r1.rewards.registry import reward_spec

PROGRAM = GoldSource("canonical_solution", None, accepted=0.99)


@pytest.mark.parametrize(
    ("row", "block"),
    [
        ({}, "```python\nprint(1)\n```"),
        ({"verification_info": json.dumps({"language": "cpp"})}, "```cpp\nprint(1)\n```"),
        ({"verification_info": {"language": None}, "language": "javascript"}, "```javascript\nprint(1)\n```"),
        ({"verification_info": "not JSON"}, "```python\nprint(1)\n```"),
    ],
)
def test_a_program_stands_in_a_fenced_block(row: dict[str, object], block: str) -> None:
    (text,) = as_completions(PROGRAM, {"canonical_solution": "print(1)", **row})
    assert text.endswith(f"<answer>\n{block}\n</answer>")


def test_a_fence_of_its_own_is_kept() -> None:
    gold = "```python\nprint(1)\n```"
    assert as_completions(PROGRAM, {"canonical_solution": gold})[0].count("```") == 2


@pytest.mark.parametrize(
    ("gold", "forms"),
    [
        ("18", [r"\boxed{18}"]),
        ("So it is 18.\n#### 18", [r"\boxed{18}"]),
        ("March 5", ["March 5", r"\boxed{March 5}"]),
        ("either } or 5", ["either } or 5"]),
    ],
)
def test_prose_is_also_tried_in_a_box(gold: str, forms: list[str]) -> None:
    texts = as_completions(GoldSource("answer", "solution"), {"answer": gold})
    assert [text.partition("<answer>\n")[2].removesuffix("\n</answer>") for text in texts] == forms


def test_where_the_gold_answer_stands() -> None:
    info = {"verification_info": {"test_cases": []}}
    code, accuracy = reward_spec("code"), reward_spec("accuracy")
    assert find_source(code, info, None) == "the data has no gold answer to try"
    assert find_source(code, {**info, "canonical_solution": "x"}, None) == PROGRAM
    assert find_source(code, {**info, "program": "x"}, "program") == GoldSource("program", None, accepted=0.99)
    assert find_source(accuracy, {"answer": "1"}, None) == GoldSource("answer", "solution")
    assert (
        find_source(reward_spec("length"), {"answer": "1"}, None)
        == "its value depends on the other answers to a prompt"
    )
    assert find_source(reward_spec("format"), {"answer": "1"}, None) == "it takes no gold answer"
