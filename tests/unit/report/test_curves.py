"""Metrics on disk become charts with names and groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from open_r1.report.curves import always_zero, charts_of, first_and_last, read_curves


def test_later_lines_win_and_torn_or_odd_ones_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": 3.0, "name": "x", "flag": true}\n'
        '{"step": 3, "loss": 1.0}\n'
        '{"step": 2, "loss": 9.0}\n'
        '{"step": 2, "loss": 2.0, "grad_norm": null}\n'
        "[]\n\n"
        '{"step": 4, "lo'
    )
    assert read_curves(path) == {"loss": [(1, 3.0), (2, 2.0), (3, 1.0)]}
    assert read_curves(tmp_path / "none.jsonl") == {}


def test_metrics_are_grouped_named_and_ordered() -> None:
    names = (
        "seconds_sync my_metric learning_rate loss eval_loss rewards/accuracy rewards/format reward reward_std "
        "completion_length seconds_generate epoch tokens entropy clip_low clip_high groups_with_signal ratio mismatch"
    )
    charts = charts_of({name: [(1, 0.5)] for name in names.split()})
    assert [(chart.title, [line.label for line in chart.series]) for chart in charts] == [
        ("Reward", ["reward"]),
        ("Rewards by function", ["accuracy", "format"]),
        ("Spread of rewards in a group", ["spread of rewards in a group"]),
        ("Completion length, tokens", ["completion length"]),
        ("Groups of prompts", ["with signal"]),
        ("Loss", ["loss", "eval loss"]),
        ("Entropy, nats", ["entropy"]),
        ("Clipped tokens", ["low", "high"]),
        ("Importance ratio", ["importance ratio"]),
        ("Engine against trainer, nats", ["engine against trainer"]),
        ("Learning rate", ["learning rate"]),
        ("Seconds by phase", ["sync", "generate"]),
        ("My metric", ["my metric"]),
    ]


def test_what_is_held_out_lies_beside_what_is_trained_on() -> None:
    names = "eval/reward eval/rewards/accuracy eval/truncated seconds_evaluate reward rewards/accuracy truncated"
    charts = charts_of({name: [(1, 0.5)] for name in names.split()})
    assert [(chart.title, [line.label for line in chart.series], chart.names) for chart in charts] == [
        ("Reward", ["training", "held out"], ["reward", "eval/reward"]),
        ("Rewards by function", ["accuracy", "held out accuracy"], ["rewards/accuracy", "eval/rewards/accuracy"]),
        ("Truncated completions", ["training", "held out"], ["truncated", "eval/truncated"]),
        ("Seconds by phase", ["evaluate"], ["seconds_evaluate"]),
    ]


def test_what_watches_a_run_is_drawn_under_names_that_a_person_reads() -> None:
    names = "rewards//home/me/mine.py:best rewards/package.module:other alarm/kl importance_capped empty repetition"
    charts = charts_of({name: [(1, 0.5)] for name in names.split()})
    assert [(chart.title, [line.label for line in chart.series]) for chart in charts] == [
        ("Rewards by function", ["best", "other"]),
        ("Empty or repeated completions", ["empty", "repetition"]),
        ("Capped importance", ["capped importance"]),
    ]


def test_a_lone_line_is_named_in_the_caption() -> None:
    (chart,) = charts_of({"rewards/accuracy": [(1, 0.5)]})
    assert chart.caption == "Rewards by function · accuracy"
    (chart,) = charts_of({"completion_length": [(1, 0.5)]})
    assert chart.caption == "Completion length, tokens"


def test_what_is_always_zero_is_named_instead_of_drawn() -> None:
    curves = {"reward_errors": [(1, 0.0), (2, 0.0)], "loss": [(1, 0.0), (2, 1.0)]}
    assert [chart.title for chart in charts_of(curves)] == ["Loss"]
    assert always_zero(curves) == ["reward errors"]


def test_shares_are_written_in_per_cent() -> None:
    (chart,) = charts_of({"truncated": [(1, 0.125)]})
    assert (chart.title, chart.latest) == ("Truncated completions", "12.5 %")


def test_beginning_and_end_are_means_over_a_tenth() -> None:
    points = [(step, float(step)) for step in range(1, 21)]
    assert first_and_last(points) == pytest.approx((1.5, 19.5))
