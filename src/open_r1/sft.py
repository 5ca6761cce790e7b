"""Supervised fine-tuning: distil traces into a model.

open-r1 sft --model_name_or_path MODEL --dataset_name DATA --output_dir OUT [--config recipe.yaml] [--key value …]
accelerate launch [--config_file recipes/accelerate_configs/ddp.yaml] src/open_r1/sft.py …    (the same run)
"""

from __future__ import annotations

if __name__ == "__main__":  # run as a file, whose folder would shadow libraries: hand over to the command line
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    from open_r1.cli import main as command_line

    sys.exit(command_line(["sft", *sys.argv[1:]]))

from rich.console import Console

from open_r1.background import Background
from open_r1.config import SFTConfig, parse
from open_r1.data.chat import ChatFormat
from open_r1.data.packing import announce
from open_r1.data.sft_rows import find_sft_columns, load_sft_rows
from open_r1.data.tokens import TokenStore, sample_lengths, tokenize
from open_r1.errors import UserError
from open_r1.parallel.runtime import Runtime
from open_r1.planning.first import plan_first
from open_r1.planning.known_steps import check_disks_again
from open_r1.planning.refusals import check_settings
from open_r1.training.checkpoint import Checkpoints
from open_r1.training.held_out import HeldOutLoss
from open_r1.training.loop import Trainer
from open_r1.training.publishing import Publisher
from open_r1.training.run_folder import begin_run, taken_folder
from open_r1.training.setup import check_vocabulary, finish_run, load_chat, load_policy, start_run
from open_r1.training.sft_source import SFT_FORWARD, SFTSource, make_plan, sft_objective
from open_r1.training.warm_up import warm_up

console = Console(stderr=True)


def main(argv: list[str] | None = None) -> None:
    """Parses, prepares, trains, exports.

    Raises:
        UserError: for anything that is the user's to mend.
        StopRequested: after SIGTERM or Ctrl-C, once a checkpoint is on disk.
    """
    config = parse(SFTConfig, argv, prog="open-r1 sft").config
    runtime = start_run(config)
    check_settings(config, runtime)
    config = plan_first(config, runtime)
    with taken_folder(config, runtime):
        train(config, runtime)
    runtime.close()


def train(config: SFTConfig, runtime: Runtime) -> None:
    """The run in its folder; raises what `main` does."""
    publisher = Publisher(config, runtime)
    tokenizer, chat = load_chat(config)
    data = Background(prepare_tokens, config, chat, runtime)  # while the model is loaded and compiled
    policy = load_policy(config, runtime, tokenizer, chat)
    data.check()
    warm_up(config, runtime, policy.module)
    rows, held_out = data.result()
    check_vocabulary(policy, runtime, lambda: max(int(part.input_ids.max()) for part in (rows, held_out) if part))

    source = SFTSource(rows, config, runtime)
    check_disks_again(config, runtime, source.steps(config.num_train_epochs))
    checkpoints = Checkpoints(config, runtime, tokenizer, policy.stop_token_ids)
    evaluate = HeldOutLoss(held_out, config, runtime, policy.module) if held_out else None
    begin_run(config, runtime)
    trainer = Trainer(
        config,
        runtime,
        policy.module,
        policy.optimizer,
        source,
        sft_objective,
        checkpoints,
        forward=SFT_FORWARD,
        evaluate=evaluate,
        on_save=publisher.checkpoint_saved,
        description="sft",
    )
    with publisher:
        result = trainer.train()
        finish_run(config, runtime, policy, trainer, result, publisher)


def prepare_tokens(config: SFTConfig, chat: ChatFormat, runtime: Runtime) -> tuple[TokenStore, TokenStore | None]:
    """Rows to tokens, for training and (if ``eval_strategy`` asks) for evaluation; says what packing will do.

    It may run beside anything: of several processes one makes the tokens, the others wait at a file, not at each other.
    """
    datasets = load_sft_rows(config)
    if config.eval_strategy != "no" and "test" not in datasets:
        raise UserError(
            f"eval_strategy {config.eval_strategy} needs held-out rows and there is no split "
            f"{config.dataset_test_split!r}; name one with --dataset_test_split, or set --eval_strategy no"
        )
    stores = {}
    for split in ("train",) if config.eval_strategy == "no" else ("train", "test"):
        rows = datasets[split]
        columns = find_sft_columns(config, rows.column_names)
        if runtime.is_main and split == "train":
            console.print(f"data: {rows}; {columns}")
            console.print(
                announce(
                    sample_lengths(rows, chat, columns, encoder=config.encoder), config.max_length, config.overlong
                )
            )
        stores[split] = tokenize(
            rows,
            chat,
            columns,
            cache_dir=config.token_cache_dir,
            num_proc=config.dataset_num_proc,
            encoder=config.encoder,
            strict=config.strict,
            max_bad_rows_shown=config.max_bad_rows_shown,
            console=console,  # of every rank: the first to ask makes the tokens, and says so
            report=runtime.is_main,
        )
    if runtime.is_main:
        plan = make_plan(stores["train"], config, epoch=0)
        counts = ", ".join(f"{count:,} {name}" for name, count in plan.counts.items() if count)
        fill = f", {plan.fill:.1%} full" if config.packing else ""
        console.print(f"packs: {len(plan):,} of {config.max_length:,} tokens{fill}; sequences: {counts}")
        for note in chat.notes:
            console.print(f"[dim]note: {note}[/]")
    return stores["train"], stores.get("test")
