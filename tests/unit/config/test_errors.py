"""What is wrong is said in one line, with where it stands."""

# ruff: noqa: E501 - messages are one line each

from __future__ import annotations

from pathlib import Path

import pytest

from open_r1.config import EvaluateConfig, GenerateConfig, GRPOConfig, RunConfig, SFTConfig, parse
from open_r1.errors import UserError

REQUIRED = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o"]
MODEL = "model_name_or_path: m\noutput_dir: o\n"


def message(cls: type, words: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        parse(cls, words, prog="open-r1")
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--learning_rat 1", "--learning_rat: unknown setting; did you mean learning_rate?"),
        ("--lr 1", "--lr: unknown setting; did you mean learning_rate?"),
        ("--zzz 1", "--zzz: unknown setting; --help lists those there are"),
        ("--num_generations 8", "--num_generations: unknown setting here; it belongs to open-r1 grpo, generate"),
        ("--max_length abc", "--max_length: 'abc' is given, but a whole number (at least 2) is expected"),
        ("--max_length 1.5", "--max_length: '1.5' is given, but a whole number (at least 2) is expected"),
        ("--max_length -5", "--max_length: -5 is given, but it must be at least 2"),
        ("--max_length", "--max_length: nothing is given, but a whole number (at least 2) is expected"),
        ("--max_length 5 6", "--max_length: 2 values are given (5 6), but a whole number (at least 2) is expected"),
        ("--learning_rate nan", "--learning_rate: 'nan' is given, but a number (at least 0) is expected"),
        ("--bf16 maybe", "--bf16: 'maybe' is given, but true or false is expected"),
        ("--no_bf16 true", "--no_bf16 takes no value, but true is given"),
        ("--no_output_dir", "--no_output_dir: unknown setting; did you mean output_dir?"),
        ("--overlong spilt", "--overlong: 'spilt' is not one of split, truncate, drop; did you mean split?"),
        ("--lr_scheduler_kwargs {", "--lr_scheduler_kwargs: { is neither JSON nor YAML"),
        ("--lr_scheduler_kwargs 3", "--lr_scheduler_kwargs: 3 is given, but a mapping is expected"),
        ("--max_seq_length 5 --max_length 6", "--max_length and --max_seq_length are the same setting: keep one of them"),
        ("--neftune_noise_alpha 5", "--neftune_noise_alpha: 5 is not offered here (accepted: null): take it out"),
        ("--loss_type dft", "--loss_type: dft is not offered here (accepted: nll, chunked_nll, null): take it out"),
        ("--config", "--config takes one YAML file"),
        ("--config a.yaml --config b.yaml", "--config takes one YAML file"),
        ("--print_config b", "'b' belongs to no flag: settings are written --name value"),
        ("--config absent.yaml", "--config absent.yaml: cannot be read (No such file or directory)"),
        ("--report_to wandbb", "report_to: 'wandbb' is not one of wandb, tensorboard, trackio, all, none; did you mean wandb? (--report_to)"),
        ("--optim sgd", "optim: 'sgd' is not offered, supported are adamw_torch, adamw_torch_fused, adamw_split, adamw_8bit, adamw_bnb_8bit, paged_adamw_8bit and paged_adamw_32bit (--optim)"),
        ("--max_steps 0", "max_steps: 0 is given, but it must be at least 1, or -1 for whole epochs (--max_steps)"),
        ("--lr_scheduler_type cosine_with_min_lr --lr_scheduler_kwargs {min_lr_rate:~5}", "lr_scheduler_kwargs: min_lr_rate is 5, but it must be a number, at least 0 and at most 1 (--lr_scheduler_kwargs)"),
        ("--lr_scheduler_kwargs {num_cycles:~many}", "lr_scheduler_kwargs: num_cycles is many, but it must be a number, at least 0 (--lr_scheduler_kwargs)"),
        ("--gradient_checkpointing_kwargs {use_reentrent:~false}", "gradient_checkpointing_kwargs: 'use_reentrent' is unknown; did you mean use_reentrant? (--gradient_checkpointing_kwargs)"),
        ("--save_steps 1.5", "--save_steps: 1.5 is given, but it must be at least 1, or greater than 0 and below 1"),
        ("--warmup_ratio 1", "--warmup_ratio: 1.0 is given, but it must be at least 0 and below 1"),
        ("--callbacks mine", "callbacks: 'mine' is not known; the one accepted name is push_to_hub_revision (--callbacks)"),
    ],
)  # fmt: skip
def test_wrong_flags_of_sft(flags: str, expected: str) -> None:
    assert message(SFTConfig, [*REQUIRED, *(word.replace("~", " ") for word in flags.split())]) == expected


def test_a_word_without_a_flag() -> None:
    assert message(SFTConfig, ["x", *REQUIRED]) == "'x' belongs to no flag: settings are written --name value"
    assert message(RunConfig, ["a", "b"]) == "'b' belongs to no flag: settings are written --name value"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nlearning_rat: 1", "{path}:4: learning_rat: unknown setting; did you mean learning_rate?"),
        ("seed: one", "{path}:3: seed: 'one' is given, but a whole number (at least 0) is expected"),
        ("packing: 3", "{path}:3: packing: 3 is given, but true or false is expected"),
        ("run_name: 3", "{path}:3: run_name: 3 is given, but text is expected; write it in quotes"),
        ("run_name: [a]", "{path}:3: run_name: [a] is given, but text is expected"),
        ("benchmarks: [1]", "{path}:3: benchmarks[0]: 1 is given, but text is expected; write it in quotes"),
        ("seed: 1\nseed: 2", "{path}:4: seed: has another value at {path}:3: keep one of them"),
        ("max_length: 5\nmax_seq_length: 5", "{path}:4: max_seq_length and {path}:3: max_length are the same setting: keep one of them"),
        ("hub_model_id: [", "{path}:3: not YAML: expected the node content, but found '<stream end>'"),
        ("learning_rate:\t1", "{path}:3: not YAML: found character '\\t' that cannot start any token: write spaces for tabs"),
        ("seed: 1 # \a", "{path}:3: not YAML: the character U+0007 is not allowed"),
        ("dataset_mixture:\n  datasets: [{id: a}]\n  datasets: [{id: b}]", "{path}:5: not YAML: datasets is given twice"),
        ("bf16: true\nfp16: true", "bf16 and fp16 are both set: keep one (bf16 where the chip has it) (bf16 at {path}:3, fp16 at {path}:4)"),
    ],
)  # fmt: skip
def test_wrong_yaml(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(MODEL + text)
    assert message(SFTConfig, ["--config", str(path), "--dataset_name", "d"]) == expected.format(path=path)


@pytest.mark.parametrize("text", ["- a\n", "just words", "3"])
def test_yaml_that_is_no_mapping(text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    assert message(SFTConfig, ["--config", str(path)]) == f"{path}:1: a mapping of settings (key: value) is expected"


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        ("{datasets: [{id: a, wieght: 1}]}", "dataset_mixture.datasets[0]: unknown key 'wieght'; did you mean weight?"),
        ("{datasets: [{split: a}]}", "dataset_mixture.datasets[0]: id is missing"),
        ("{datasets: [{id: a, weight: 2}]}", "dataset_mixture.datasets[0].weight: 2.0 is given, but it must be greater than 0 and at most 1"),
        ("{dataset: []}", "dataset_mixture: unknown key 'dataset'; did you mean datasets?"),
        ("{seed: 1}", "dataset_mixture: datasets is missing"),
        ("{datasets: []}", "dataset_mixture: datasets is empty: list at least one {id: …}"),
        ("{datasets: {id: a}}", "dataset_mixture.datasets: {id: a} is given, but a list (a mapping each) is expected"),
        ("{datasets: [{id: a, columns: [x]}, {id: b, columns: [y]}]}", "dataset_mixture: Column names must be consistent across datasets (a: x; b: y)"),
        ("a", "dataset_mixture: 'a' is given, but a mapping is expected"),
    ],
)  # fmt: skip
def test_wrong_mixtures(mixture: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"{MODEL}dataset_mixture: {mixture}")
    assert message(SFTConfig, ["--config", str(path)]) == f"{path}:3: {expected}"


def test_what_must_be_given_is_said_at_once() -> None:
    text = message(SFTConfig, [])
    assert text.startswith("model_name_or_path and output_dir must be given: add --model_name_or_path … --output_dir …")
    assert "dataset_name" in message(SFTConfig, REQUIRED[:2] + REQUIRED[4:])
    mixture = ["--dataset_mixture", "{datasets: [{id: a}]}"]
    assert message(SFTConfig, REQUIRED + mixture).startswith("dataset_name and dataset_mixture are both set")


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ("--loss_type dapoo", "did you mean dapo?"),
        ("--vllm_mode colocated", "did you mean colocate?"),
        ("--reward_weights 1 2 3", "reward_weights has 3 values for 2 reward_funcs (accuracy, format)"),
        ("--reward_funcs []", "reward_funcs is empty"),
        ("--load_in_4bit", "load_in_4bit needs adapters: add use_peft, or leave load_in_4bit out"),
        ("--num_generations 1", "at least 2"),
        ("--max_completion_length -1", "at least 1"),
        ("--temperature 0", "greater than 0"),
        ("--top_p 1.5", "greater than 0 and at most 1"),
        ("--epsilon 0.2 --epsilon_high 0.1", "epsilon_high 0.1 is below epsilon 0.2"),
        ("--use_peft --load_in_4bit --load_in_8bit", "load_in_4bit and load_in_8bit are both set: keep one"),
        ("--merge_lora", "merge_lora needs adapters"),
        ("--fp16 --torch_dtype float16", "the loss scale cannot be taken off their gradients: leave torch_dtype out"),
        ("--optim paged_adamw_8bits", "did you mean paged_adamw_8bit?"),
        ("--gradient_checkpointing partial", "gradient_checkpointing"),
        ("--lr_scheduler_type cosine_with_min_lr", "needs one of min_lr and min_lr_rate"),
        ("--lr_scheduler_kwargs {min_lr_rat:0.1}", "is unknown, cosine takes num_cycles"),
        ("--loss_type gspo --importance_sampling_level token", "token is not GSPO"),
        ("--loss_type cispo --delta 4", "cispo clips none: leave delta out"),
        ("--epsilon_high 0.28 --delta 1.2", "delta 1.2 must be greater than 1.28"),
        ("--multi_objective_aggregation normalize_then_sum --scale_rewards none", "scale_rewards none asks for none"),
        ("--top_entropy_quantile 0", "greater than 0 and at most 1"),
        ("--vllm_importance_sampling_mode token", "did you mean token_mask?"),
        ("--vllm_importance_sampling_clip_min 0.5", "not offered here (accepted: null)"),
        ("--sync_ref_model", "not offered here (accepted: false, null)"),
        (
            "--reward_funcs soft_overlong_punishment --soft_punish_cache 20000",
            "must be smaller than max_completion_len",
        ),
    ],
)
def test_impossible_grpo(flags: str, part: str) -> None:
    assert part in message(GRPOConfig, [*REQUIRED, *flags.split()])


def test_impossible_evaluation_and_generation() -> None:
    assert "num_samples 4 at temperature 0" in message(
        EvaluateConfig, ["--model", "m", "--tasks", "gsm8k", "--greedy", "--num_samples=4"]
    )
    assert "prompt_template has no {{ instruction }}" in message(
        GenerateConfig, ["--model", "m", "--dataset", "d", "--prompt_template", "x"]
    )
