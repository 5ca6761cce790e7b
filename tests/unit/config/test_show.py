"""``--print_config`` and ``--help``."""

from __future__ import annotations

from pathlib import Path

import pytest

from open_r1.config import EvaluateConfig, GenerateConfig, GRPOConfig, RunConfig, SFTConfig, parse, resolve_steps
from open_r1.config.help import groups
from open_r1.config.settings import names_of
from open_r1.config.show import config_rows

CLASSES = (SFTConfig, GRPOConfig, EvaluateConfig, GenerateConfig, RunConfig)


def test_print_config_shows_what_was_given_first(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    recipe = tmp_path / "r.yaml"
    recipe.write_text("model_name_or_path: m\ndataset_name: d\noutput_dir: o\nmax_length: 64\ntf32: true\n")
    with pytest.raises(SystemExit) as left:
        parse(SFTConfig, ["--config", str(recipe), "--bf16", "--print-config"], prog="open-r1 sft")
    assert left.value.code == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["setting", "value", "from"]
    assert ["max_length", "64", f"{recipe}:4"] in lines
    assert ["bf16", "true", "flag"] in lines
    assert ["packing", "true", "default"] in lines
    origins = [line[-1] for line in lines[1 : len(names_of(SFTConfig).settings) + 1]]
    assert origins == sorted(origins, key=lambda origin: origin == "default")
    assert any(line[:3] == ["note:", "tf32", "has"] for line in lines)


def test_nothing_is_lost_for_want_of_width(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The origin in a recipe's folder left the values no column at all."""
    monkeypatch.setenv("COLUMNS", "60")
    recipe = tmp_path / f"{'deep' * 20}.yaml"
    recipe.write_text("model_name_or_path: m\ndataset_name: d\noutput_dir: o\nmax_length: 64\n")
    with pytest.raises(SystemExit):
        parse(SFTConfig, ["--config", str(recipe), "--print_config"], prog="open-r1 sft")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["max_length", "64", f"{recipe}:4"] in lines
    with pytest.raises(SystemExit):
        parse(GRPOConfig, ["--help"], prog="open-r1 grpo")
    assert "--no_vllm_importance_sampling_correction" in "".join(capsys.readouterr().out.split())


def test_rows_are_what_the_run_uses() -> None:
    """A value that was normalised is shown as it will be used."""
    words = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o"]
    words += ["--scale_rewards", "false", "--top_k", "null"]
    rows = {name: (value, origin) for name, value, origin in config_rows(parse(GRPOConfig, words, prog="x"))}
    assert rows["scale_rewards"] == ("none", "flag")
    assert rows["top_k"] == ("0", "flag")
    assert rows["learning_rate"] == ("1e-06", "default")  # of GRPO; SFT has ten times as much


@pytest.mark.parametrize("cls", CLASSES)
def test_every_setting_is_documented(cls: type) -> None:
    documented = [entry.name for entries in groups(cls).values() for entry, _ in entries]
    assert sorted(documented) == sorted(names_of(cls).settings)
    assert all(doc.endswith((".", "?")) for entries in groups(cls).values() for _, doc in entries)


def test_help_prints_groups_types_defaults_choices_and_aliases(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as left:
        parse(GRPOConfig, ["--help"], prog="open-r1 grpo")
    assert left.value.code == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "open-r1 grpo [--config FILE.yaml] [--setting VALUE …]"
    for title in ("Reinforcement learning", "Model", "Data", "Rewards", "Batches and optimizer", "Publishing"):
        assert title in lines

    def line(name: str) -> str:
        return next(line for line in lines if line.startswith(f"--{name} "))

    assert line("num_generations").startswith("--num_generations N ")
    assert line("num_generations").endswith("[8]")
    assert line("beta").endswith("[0.0]")
    assert "(grpo, dr_grpo, dapo, bnpo, gspo, cispo)" in line("loss_type")
    assert line("prompt_column").endswith("(also --dataset_prompt_column)")
    assert line("model_name_or_path").endswith("(required)")
    assert line("gold_check").endswith("[true; --no_gold_check turns it off]")


def test_shares_of_all_steps() -> None:
    assert resolve_steps(50, 1000) == 50
    assert resolve_steps(0.05, 1000) == 50
    assert resolve_steps(0.05, 10) == 1
    assert resolve_steps(0.1, 25) == 3


@pytest.mark.parametrize(
    ("cls", "required"),
    [
        (SFTConfig, ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o"]),
        (GRPOConfig, ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o"]),
        (EvaluateConfig, ["--model", "m", "--tasks", "t"]),
        (GenerateConfig, ["--model", "m", "--dataset", "d"]),
        (RunConfig, ["p.yaml"]),
    ],
)
def test_a_default_given_as_it_is_shown_is_the_default(cls: type, required: list[str]) -> None:
    defaults = parse(cls, required, prog="x")
    for name, value, origin in config_rows(defaults):
        if origin == "default" and name not in ("dataset_mixture", "dataset_name"):
            given = parse(cls, [*required, f"--{name}={value}"], prog="x")
            assert getattr(given.config, name) == getattr(defaults.config, name)
            assert given.origins[name] == "flag"
