"""What SFT and GRPO do alike before and after the loop."""

from __future__ import annotations

import logging
import shlex
import shutil
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.markup import escape
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from open_r1.config import GRPOConfig, SFTConfig
from open_r1.data.chat import ChatFormat, stop_ids
from open_r1.errors import StopRequested, UserError
from open_r1.files import write_json
from open_r1.model.export import move_into, save_model
from open_r1.model.fp8 import multiply_in_fp8
from open_r1.model.load import load_model, load_tokenizer, stored_dtype
from open_r1.model.lora import add_adapters, quantization_arguments, weights_dtype
from open_r1.model.pack_model import PackModel
from open_r1.parallel.runtime import Runtime
from open_r1.report.tables import number, numbers_table
from open_r1.training.checkpoint import is_of_the_disk
from open_r1.training.loop import Trainer, TrainResult
from open_r1.training.model_card import model_card
from open_r1.training.optimizer import build_optimizer
from open_r1.training.publishing import Publisher
from open_r1.training.run_folder import RESULTS_FILE
from open_r1.training.signals import StopSignal
from open_r1.training.trackers import installed_trackers
from open_r1.training.warm_up import choose_how_layers_run

console = Console(stderr=True)


@dataclass(frozen=True)
class Policy:
    """The model that is trained, with everything that knows how it speaks.

    Attributes:
        module: the wrapped `PackModel`.
        stop_token_ids: a completion ends after any of these.
        stored_dtype: of the model that training starts from.
    """

    module: nn.Module
    optimizer: Optimizer
    tokenizer: PreTrainedTokenizerBase
    chat: ChatFormat
    stop_token_ids: tuple[int, ...]
    stored_dtype: torch.dtype


def start_run(config: SFTConfig | GRPOConfig) -> Runtime:
    """Checks what can be checked at once, then makes this process a rank of the run.

    Raises:
        UserError: for a tracker that is not there.
    """
    logging.basicConfig(level=_level(config.log_level), format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; the last failure becomes one line
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    installed_trackers(config)
    precision = "bf16" if config.bf16 else "fp16" if config.fp16 else "no"
    return Runtime(precision, config.cpu_threads)


def _level(name: str) -> int:
    return logging.WARNING if name == "passive" else getattr(logging, name.upper())


def load_chat(config: SFTConfig | GRPOConfig) -> tuple[PreTrainedTokenizerBase, ChatFormat]:
    """The tokenizer and its chat format, checked: the end of a turn is in the loss."""
    tokenizer = load_tokenizer(config.model_name_or_path, config.model_revision, config.trust_remote_code)
    chat = ChatFormat(tokenizer, config.chat_template, config.eos_token, config.system_prompt)
    chat.check()
    return tokenizer, chat


def load_policy(
    config: SFTConfig | GRPOConfig, runtime: Runtime, tokenizer: PreTrainedTokenizerBase, chat: ChatFormat
) -> Policy:
    """The model, wrapped, with its optimizer.

    Raises:
        UserError: for a model that cannot be loaded.
    """
    torch.manual_seed(config.seed)  # adapters are drawn at random, and alike on every rank
    on_device = runtime.device.type == "cuda" and not runtime.sharded
    name, revision = config.model_name_or_path, config.model_revision
    dtype = stored_dtype(name, revision, config.trust_remote_code)
    model = load_model(
        name,
        revision,
        dtype=weights_dtype(config),
        attn_implementation=config.attn_implementation,
        trust_remote_code=config.trust_remote_code,
        **({"device_map": {"": runtime.device}} if on_device else {}),
        **quantization_arguments(config),
    )
    stop_token_ids = stop_ids(chat.stop_token_ids, model.generation_config.eos_token_id)
    module, optimizer = prepare_model(config, runtime, model)
    return Policy(module, optimizer, tokenizer, chat, stop_token_ids, dtype)


def check_vocabulary(policy: Policy, runtime: Runtime, highest: Callable[[], int]) -> None:
    """Raises UserError where the data has a token that the model has no embedding of: on a GPU that is an assertion.

    Args:
        highest: the largest token id of the data; asked only where the tokenizer has ids that the model has not.
    """
    rows = runtime.unwrap(policy.module).causal_lm.config.get_text_config().vocab_size
    if max(policy.tokenizer.get_vocab().values()) >= rows and (found := highest()) >= rows:
        token = policy.tokenizer.convert_ids_to_tokens(found)
        raise UserError(
            f"the data has the token {token!r} ({found}), and the model's embedding has {rows} rows: its tokenizer was "
            "given tokens that it never had. Take the tokenizer that came with the model, or give the model more rows "
            "(transformers: model.resize_token_embeddings) and save both in one folder"
        )


def prepare_model(
    config: SFTConfig | GRPOConfig, runtime: Runtime, model: PreTrainedModel
) -> tuple[nn.Module, Optimizer]:
    """A model that was loaded, as the settings train it: wrapped, with its optimizer."""
    if config.fp8:
        multiply_in_fp8(model)
    if config.use_peft:
        model = add_adapters(model, config)
    pack_model = PackModel(model)
    choose_how_layers_run(config, runtime, pack_model)
    return runtime.prepare(pack_model, build_optimizer(pack_model, config))


def finish_run(
    config: SFTConfig | GRPOConfig,
    runtime: Runtime,
    policy: Policy,
    trainer: Trainer,
    result: TrainResult,
    publisher: Publisher,
) -> None:
    """Writes the final model into the output folder, and says how it went; weights are in the dtype of the model that
    they came from, and adapters alone in their own.

    Where that fails, for whatever reason, a checkpoint of the last step is saved, and said to be there, before the
    error goes on. Where the model is to be uploaded, waits for that. Collective.

    Raises:
        UserError: the disk is full, or the model cannot be written as the settings want it.
        StopRequested: after a signal that arrived while the model was being written, which is done first.
    """
    folder = Path(config.output_dir)
    results = {"steps": result.step, **result.metrics}
    failure: Exception | None = None
    with StopSignal() as stop:  # on every rank: the first that ended would take the others along
        weights = runtime.model_state(policy.module, trainable_only=config.use_peft and not config.merge_lora)
        if runtime.is_main:
            try:
                card = model_card(config, results, runtime.world_size, publisher.repository)
                _write_final(config, runtime, policy, weights, card)
                write_json(folder / RESULTS_FILE, results)
            except Exception as error:
                failure = error
        problem = runtime.gather([_problem(failure, folder)])[0]
    if problem:
        weights.clear()
        said = f"{problem}; {_save_last_step(failure, trainer, result.step)}"
        if failure is None or isinstance(failure, UserError) or is_of_the_disk(failure):
            raise UserError(said) from failure
        console.print(f"[red]{escape(said)}[/]", soft_wrap=True, highlight=False)
        raise failure
    if runtime.is_main:
        table = numbers_table(["train metrics"], [""])
        for name, value in result.metrics.items():
            table.add_row(name.removeprefix("train_").replace("_", " "), number(value))
        console.print(table)
        console.print(f"model: {folder} (curves: open-r1 report {shlex.quote(str(folder))})", soft_wrap=True)
        publisher.finished(folder)
    if told := int(runtime.max(float(stop.number))):
        name = signal.Signals(told).name
        raise StopRequested(f"stopped by {name} after the last step; the model is in {folder}", told)
    if runtime.is_main:
        publisher.wait()
    runtime.barrier()


def _write_final(
    config: SFTConfig | GRPOConfig, runtime: Runtime, policy: Policy, weights: dict[str, Tensor], card: str
) -> None:
    folder = Path(config.output_dir)
    temporary = folder / ".final.tmp"
    try:
        save_model(
            runtime.unwrap(policy.module).model,
            temporary,
            state_dict=weights,
            tokenizer=policy.tokenizer,
            stop_token_ids=policy.stop_token_ids,
            merge_lora=config.merge_lora,
            dtype=policy.stored_dtype if config.merge_lora or not config.use_peft else None,
        )
        (temporary / "README.md").write_text(card, encoding="utf-8")
        move_into(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # of what failed: its place is needed


def _problem(failure: Exception | None, folder: Path) -> str:
    """Why there is no final model, and what to do; "" where there is one."""
    if failure is None or isinstance(failure, UserError):
        return str(failure or "")
    if is_of_the_disk(failure):
        return f"the final model cannot be written into {folder} ({failure}): make room"
    return f"the final model could not be written into {folder} ({type(failure).__name__}: {failure})"


def _save_last_step(failure: Exception | None, trainer: Trainer, step: int) -> str:
    """Saves what was trained, since there is no model of it; says where it is. Collective.

    Args:
        failure: of rank 0; None elsewhere.
    """
    if failure is not None:
        traceback.clear_frames(failure.__traceback__)  # they hold copies of the weights
    path, problem, checkpoints = None, "no room", trainer.checkpoints
    try:
        with StopSignal():  # the run ends here anyway
            path = trainer.write_checkpoint(step)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    again = "the same command with --resume_from_checkpoint true"
    if path:
        then = "only writes the model" if step == trainer.total_steps else "goes on from there"
        return f"all {step} steps are saved to {path}, and {again} {then}"
    if checkpoints.latest:
        return f"the last steps could not be saved ({problem}), and {again} goes on from {checkpoints.latest}"
    return f"the {step} steps could not be saved ({problem}) and are lost: no checkpoint of this run is there"
