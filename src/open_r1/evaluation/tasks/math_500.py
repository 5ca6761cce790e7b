"""MATH-500: the 500 problems of MATH (Hendrycks et al. 2021) that Lightman et al. 2023 (arXiv 2305.20050) held out."""

from __future__ import annotations

from open_r1.evaluation.task import Task, math_prompt

TASK = Task(
    name="math_500",
    prompt=lambda row: math_prompt(row["problem"]),
    gold=lambda row: str(row["answer"]),
    columns=("problem", "answer"),
    hub_id="HuggingFaceH4/MATH-500",
    num_samples=4,
)
