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

from contextlib import closing
from functools import partial

from datasets import Dataset
from rich.console import Console

from open_r1.config import GRPOConfig, batch_line, parse, solve_batch
from open_r1.data.bad_rows import BadRows
from open_r1.data.chat import ChatFormat
from open_r1.data.columns import find_columns
from open_r1.data.mixture import load_datasets
from open_r1.data.prompts import PromptSet, read_prompts
from open_r1.errors import StoppedByRule
from open_r1.parallel.runtime import Runtime
from open_r1.planning.first import plan_first
from open_r1.planning.known_steps import check_disks_again
from open_r1.planning.refusals import check_settings
from open_r1.rewards.check import check_gold
from open_r1.rewards.code_sandbox import isolation_line
from open_r1.rewards.pool import RewardPool
from open_r1.rewards.registry import reward_specs
from open_r1.training.checkpoint import Checkpoints
from open_r1.training.grpo_objective import GRPOObjective
from open_r1.training.grpo_source import GRPOSource, steps_of
from open_r1.training.held_out_prompts import with_held_out
from open_r1.training.held_out_rewards import HeldOutRewards, eval_params
from open_r1.training.loop import Trainer, TrainResult
from open_r1.training.publishing import Publisher
from open_r1.training.reference import load_reference
from open_r1.training.rollout_engine import build_engine, check_engine, sampling_params
from open_r1.training.rollout_packs import shares_prompts
from open_r1.training.rollouts import RolloutCollector
from open_r1.training.run_folder import begin_run, taken_folder
from open_r1.training.setup import check_vocabulary, finish_run, load_chat, load_policy, start_run
from open_r1.training.warm_up import warm_up
from open_r1.training.watching import RunWatch

console = Console(stderr=True)


def main(argv: list[str] | None = None) -> None:
    """Parses, checks the rewards, trains, exports.

    Raises:
        UserError: for anything that is the user's to mend.
        StopRequested: after SIGTERM or Ctrl-C, once a checkpoint is on disk.
        StoppedByRule: after a rule of ``stop_on`` was met, once checkpoint and model are on disk.
    """
    config = parse(GRPOConfig, argv, prog="open-r1 grpo").config
    runtime = start_run(config)
    check_settings(config, runtime)
    check_engine(config, runtime)
    config = plan_first(config, runtime)
    with taken_folder(config, runtime):
        result = train(config, runtime)
    runtime.close()
    if result.stopped:
        raise StoppedByRule(f"{result.stopped}; the model is in {config.output_dir}")


def train(config: GRPOConfig, runtime: Runtime) -> TrainResult:
    """The run in its folder; raises what `main` does."""
    config = solve_batch(config, runtime.world_size)
    if runtime.is_main:
        console.print(f"batch: {batch_line(config, runtime.world_size)}", soft_wrap=True)
    publisher = Publisher(config, runtime)
    completions = config.prompts_per_step * config.num_generations
    specs = reward_specs(config)
    on_gpu = runtime.device.type == "cuda"
    with RewardPool(specs, workers=config.reward_workers, timeout=config.reward_timeout, gives_way=on_gpu) as pool:
        if runtime.is_main and (line := isolation_line(specs)):
            console.print(line, markup=False)
        tokenizer, chat = load_chat(config)
        prompts, held_out = prepare_prompts(config, chat, runtime)
        steps_per_epoch = len(prompts) * config.num_iterations / config.prompts_per_step
        check_disks_again(config, runtime, steps_of(config.num_train_epochs, steps_per_epoch))
        if config.gold_check and runtime.is_main:
            report = check_gold(prompts.rows, specs, pool=pool, seed=config.seed)
            report.print(console)
            report.raise_if_hopeless()

        policy = load_policy(config, runtime, tokenizer, chat)
        parts = [part for part in (prompts, held_out) if part]
        check_vocabulary(policy, runtime, lambda: max(max(ids) for part in parts for ids in part.token_ids))
        objective, forward = GRPOObjective(config), {"temperature": config.temperature, "entropy": True}
        warm_up(config, runtime, policy.module, objective, forward)  # while no engine has taken memory yet
        longest = max(part.longest for part in parts)
        engine = build_engine(config, runtime, policy, longest, completions // runtime.world_size)
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
            partial(runtime.whole_weights_of, policy.module),
            engine,
            collector,
            prompts,
            groups_a_step=config.prompts_per_step,
            reward_names=[spec.name for spec in specs],
            reference=load_reference(config, runtime, policy) if config.beta else None,
            pack_tokens=runtime.unwrap(policy.module).full,
            share_prompts=shares_prompts(config, runtime.unwrap(policy.module)),
        )
        evaluate = held_out and HeldOutRewards(
            config,
            runtime,
            engine,
            pool,
            held_out,
            eval_params(config, sampling_params(config, policy)),
            decode=partial(tokenizer.decode, skip_special_tokens=True),
            sync=source.sync,
            reward_names=[spec.name for spec in specs],
        )
        begin_run(config, runtime)
        trainer = Trainer(
            config,
            runtime,
            policy.module,
            policy.optimizer,
            source,
            objective,
            Checkpoints(config, runtime, tokenizer, policy.stop_token_ids),
            forward=forward,
            evaluate=evaluate,
            watch=RunWatch(config, runtime) if config.alarm_steps or config.stop_on else None,
            on_save=publisher.checkpoint_saved,
            description="grpo",
        )
        with publisher, closing(engine), closing(source):
            result = trainer.train()
            finish_run(config, runtime, policy, trainer, result, publisher)  # before the engine closes, or aborts
    if runtime.is_main and result.metrics["train_steps"] and not result.metrics["train_tokens"]:
        console.print(
            "[yellow]nothing was trained[/]: in no step did the answers to a prompt get rewards that differ and count; "
            "read them (--log_completions true), or try the rewards alone (open-r1 rewards check)",
            soft_wrap=True,
        )
    return result


def prepare_prompts(config: GRPOConfig, chat: ChatFormat, runtime: Runtime) -> tuple[PromptSet, PromptSet | None]:
    """Rows to encoded prompts, with their gold answers: to train on, and (if ``eval_strategy`` asks) to evaluate on."""
    with runtime.main_first():
        rows = load_datasets(config)
    prompts = encode_prompts(rows["train"], config, chat, runtime)
    read_test = partial(encode_prompts, rows["test"], config, chat, runtime) if "test" in rows else None
    return with_held_out(config, prompts, read_test, is_main=runtime.is_main)


def encode_prompts(rows: Dataset, config: GRPOConfig, chat: ChatFormat, runtime: Runtime) -> PromptSet:
    """The prompts of one split; says how many there are, and which rows are no good."""
    columns = find_columns(
        rows.column_names,
        messages=config.messages_column,
        prompt=config.prompt_column,
        answer=config.answer_column,
        need="answer" if "accuracy" in config.reward_funcs else "prompt",
    )
    bad_rows = BadRows(config.strict, config.max_bad_rows_shown)
    prompts = read_prompts(rows, chat, columns, bad_rows, config.max_prompt_length, config.prompt_template)
    if runtime.is_main:
        console.print(f"data: {len(prompts):,} prompts; {columns}")
        bad_rows.report(console, len(rows))
    return prompts
