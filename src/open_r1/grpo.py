"""GRPO: reinforce a model on prompts whose answers can be verified.

open-r1 grpo --model_name_or_path MODEL --dataset_name DATA --reward_funcs accuracy --output_dir OUT [--key value …]
accelerate launch [--config_file recipes/accelerate_configs/ddp.yaml] src/open_r1/grpo.py …    (the same run)
"""

from __future__ import annotations

if __name__ == "__main__":  # run as a file, whose folder would shadow libraries: hand over to the command line
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    from open_r1.cli import main as command_line

    sys.exit(command_line(["grpo", *sys.argv[1:]]))

from functools import partial

from rich.console import Console

from open_r1.config import GRPOConfig, completions_per_step, parse
from open_r1.data.bad_rows import BadRows
from open_r1.data.chat import ChatFormat
from open_r1.data.columns import find_columns
from open_r1.data.mixture import load_datasets
from open_r1.data.prompts import PromptSet, read_prompts
from open_r1.errors import UserError
from open_r1.generation.engine import SamplingParams, TrainableEngine
from open_r1.generation.transformers_engine import TransformersEngine
from open_r1.parallel.runtime import Runtime
from open_r1.rewards.check import check_gold
from open_r1.rewards.code_sandbox import isolation_line
from open_r1.rewards.pool import RewardPool
from open_r1.rewards.registry import reward_specs
from open_r1.training.checkpoint import Checkpoints
from open_r1.training.grpo_objective import GRPOObjective
from open_r1.training.grpo_source import GRPOSource
from open_r1.training.loop import Trainer
from open_r1.training.publishing import Publisher
from open_r1.training.reference import load_reference
from open_r1.training.rollouts import RolloutCollector
from open_r1.training.setup import Policy, finish_run, load_chat, load_policy, start_run

console = Console(stderr=True)


def main(argv: list[str] | None = None) -> None:
    """Parses, checks the rewards, trains, exports.

    Raises:
        UserError: for anything that is the user's to mend.
        StopRequested: after SIGTERM or Ctrl-C, once a checkpoint is on disk.
    """
    config = parse(GRPOConfig, argv, prog="open-r1 grpo").config
    runtime = start_run(config)
    if not runtime.whole_weights:
        raise UserError(
            "grpo draws completions from whole weights, and this launcher leaves each process a part of them: launch "
            "with recipes/accelerate_configs/ddp.yaml or zero2.yaml"
        )
    publisher = Publisher(config, runtime)
    completions = completions_per_step(config, runtime.world_size)
    specs = reward_specs(config)
    with RewardPool(specs, workers=config.reward_workers, timeout=config.reward_timeout) as pool:
        if runtime.is_main and (line := isolation_line(specs)):
            console.print(line, markup=False)
        tokenizer, chat = load_chat(config)
        prompts = prepare_prompts(config, chat, runtime)
        if config.gold_check and runtime.is_main:
            report = check_gold(prompts.rows, specs, pool=pool, seed=config.seed)
            report.print(console)
            report.raise_if_hopeless()

        policy = load_policy(config, runtime, tokenizer, chat)
        engine = build_engine(config, runtime, policy)
        collector = RolloutCollector(
            engine,
            pool,
            prompts,
            partial(tokenizer.decode, skip_special_tokens=True),
            sampling_params(config, policy),
            config.num_generations,
            config.seed,
        )
        source = GRPOSource(
            config,
            runtime,
            runtime.unwrap(policy.module).model,
            engine,
            collector,
            prompts,
            groups_a_step=completions // config.num_generations,
            reward_names=[spec.name for spec in specs],
            reference=load_reference(config, runtime, policy) if config.beta else None,
        )
        trainer = Trainer(
            config,
            runtime,
            policy.module,
            policy.optimizer,
            source,
            GRPOObjective(config),
            Checkpoints(config, runtime, tokenizer, policy.stop_token_ids),
            forward={"temperature": config.temperature, "entropy": True},
            on_save=publisher.checkpoint_saved,
            description="grpo",
        )
        with publisher:
            result = trainer.train()
            engine.close()
            finish_run(config, runtime, policy, result, publisher)
    runtime.close()


def prepare_prompts(config: GRPOConfig, chat: ChatFormat, runtime: Runtime) -> PromptSet:
    """Rows to encoded prompts, with their gold answers."""
    with runtime.main_first():
        rows = load_datasets(config)["train"]
    columns = find_columns(
        rows.column_names,
        messages=config.messages_column,
        prompt=config.prompt_column,
        answer=config.answer_column,
        need="answer" if "accuracy" in config.reward_funcs else "prompt",
    )
    bad_rows = BadRows(config.strict, config.max_bad_rows_shown)
    prompts = read_prompts(rows, chat, columns, bad_rows, config.max_prompt_length)
    if runtime.is_main:
        console.print(f"data: {len(prompts):,} prompts; {columns}")
        bad_rows.report(console, len(rows))
    return prompts


def build_engine(config: GRPOConfig, runtime: Runtime, policy: Policy) -> TrainableEngine:
    """The engine that draws completions from the policy's own weights."""
    return TransformersEngine(
        runtime.unwrap(policy.module).model,
        # Never attended to; a tokenizer's own padding token may lie outside the model's embedding.
        pad_token_id=policy.stop_token_ids[0],
        batch_size=config.generation_batch_size,
        device=runtime.device,
        dtype=runtime.autocast_dtype,
    )


def sampling_params(config: GRPOConfig, policy: Policy) -> SamplingParams:
    """How completions are drawn."""
    return SamplingParams(
        config.max_completion_length, config.temperature, config.top_p, config.top_k, policy.stop_token_ids
    )
