"""What changed between the run that wrote a checkpoint and the one that continues it, and whether that matters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import torch

from open_r1.config import TrainingConfig
from open_r1.parallel.runtime import Runtime
from open_r1.training.integrity import Manifest


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


NO_MATTER = _names(
    """
    output_dir overwrite_output_dir resume_from_checkpoint allow_config_change benchmarks callbacks no_effect
    prompts_per_step do_eval eval_strategy eval_steps eval_on_start per_device_eval_batch_size dataset_test_split
    num_generations_eval eval_temperature max_eval_prompts alarm_steps stop_on
    logging_strategy logging_steps logging_first_step log_level log_completions num_completions_to_print
    report_to run_name wandb_entity wandb_project wandb_run_group
    save_strategy save_steps save_total_limit merge_lora
    push_to_hub hub_model_id hub_model_revision hub_strategy hub_private_repo
    dataset_num_proc token_cache_dir encoder strict max_bad_rows_shown trust_remote_code max_nonfinite_steps
    gradient_checkpointing_kwargs use_liger_kernel plan
    gold_check reward_workers parallel_code_exec_per_proc code_provider ioi_provider e2b_router_url morph_router_url
    vllm_gpu_memory_utilization vllm_server_host vllm_server_port vllm_server_base_url vllm_server_devices
    vllm_server_timeout vllm_group_port
    """
)
"""Settings that leave every weight as it would have been."""

LAST_BITS = _names(
    """
    attn_implementation gradient_checkpointing torch_compile cpu_threads pack_length share_prompts
    generation_batch_size vllm_mode vllm_max_num_seqs vllm_enforce_eager
    """
)
"""Settings that change in which order, or by which kernel, the same numbers are computed."""

BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")

SCHEDULE = "from here on the learning rate follows the schedule of the new length"
CONSEQUENCES = {
    "max_steps": SCHEDULE,
    "num_train_epochs": SCHEDULE,
    "optim": "the optimizer starts without its moments where the new one keeps others",
}
ORDER = "other rows, lengths or order; the run goes on within the new order, so rows may come twice or not at all"
CONTENT = "other text or gold answers, template, commit at the hub or tokenizer version, in the same order"
WIDTH = 60


@dataclass(frozen=True)
class Changes:
    """What differs.

    Attributes:
        course: settings and data that lead to other weights; each a line "name: old -> new".
        last_bits: what only changes rounding, in the same form.
        order: whether the order of batches is another.
        optimizer: whether the optimizer keeps another kind of state.
    """

    course: list[str]
    last_bits: list[str]
    order: bool
    optimizer: bool


def made_by(runtime: Runtime) -> dict[str, Any]:
    """What the last bits of a result depend on beside the settings."""
    on_gpu = torch.cuda.is_available()
    return {
        "processes": runtime.world_size,
        "distribution": runtime.kind,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": torch.__version__,
    }


def data_fingerprint(order: str, content: str = "") -> str:
    """What a checkpoint remembers of its run's data, as one word.

    Args:
        order: a digest of the settings and data that decide the order of batches.
        content: a key of the tokens in them; "" where there is none, as in checkpoints made before there were keys.
    """
    return f"{order}/{content}" if content else order


def _other_data(old: str, new: str) -> tuple[bool, bool]:
    """Whether two fingerprints are of another order, and whether of other content, as far as both have a key."""
    (old_order, _, old_content), (new_order, _, new_content) = old.partition("/"), new.partition("/")
    return old_order != new_order, bool(old_content and new_content) and old_content != new_content


def compare(stored: Manifest, config: TrainingConfig, runtime: Runtime, fingerprint: str) -> Changes:
    """What differs between a checkpoint's run and this one, whose data has ``fingerprint`` (`data_fingerprint`)."""
    defaults = {entry.name: _default(entry) for entry in fields(config)}
    new = _plain(asdict(config))
    old = {name: stored.settings.get(name, defaults[name]) for name in new}
    changed = {name for name in new if old[name] != new[name]} - NO_MATTER
    course, last_bits = [], []

    then, now = _global_batch(old, stored.made_by["processes"]), _global_batch(new, runtime.world_size)
    if then != now:
        course.append(f"batch of a step, {' × '.join(BATCH)} × processes: {then} -> {now}")
    elif new.get("packing") is False and BATCH[0] in changed:  # it says how many sequences lie in one pack
        course += _lines(BATCH[0], old[BATCH[0]], new[BATCH[0]])
    else:
        for name in BATCH:
            last_bits += _lines(name, old[name], new[name])
    for name in sorted(changed - set(BATCH)):
        (last_bits if name in LAST_BITS else course).extend(_lines(name, old[name], new[name]))
    order, content = _other_data(stored.fingerprint, fingerprint)
    if order or content:
        course.append(f"data: {ORDER if order else CONTENT}")
    for name, value in made_by(runtime).items():
        last_bits += _lines(name, stored.made_by[name], value)
    return Changes(course, last_bits, order, _optimizer_kind(old["optim"]) != _optimizer_kind(new["optim"]))


def _global_batch(settings: Mapping[str, Any], processes: int) -> int:
    return (settings[BATCH[0]] or 1) * (settings[BATCH[1]] or 1) * processes  # set, once a run has begun


def _optimizer_kind(name: str) -> str:
    """Optimizers of one kind keep the same state."""
    return "8bit" if "8bit" in name else "paged_32bit" if "32bit" in name else "torch"


def _default(entry: Any) -> Any:
    value = entry.default_factory() if entry.default_factory is not MISSING else entry.default
    return None if value is MISSING else _plain(value)


def _plain(value: Any) -> Any:
    """A value as it comes back from JSON."""
    return json.loads(json.dumps(value, default=str))


def _lines(name: str, old: Any, new: Any) -> list[str]:
    return [_line(*difference) for difference in _differences(name, old, new)]


def _differences(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """The leaves in which two values differ, by dotted name."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(f"{name}.{key}", old.get(key), new.get(key))
    elif _are_tables(old) and _are_tables(new) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{name}[{index}]", one, other)
    elif old != new:
        yield name, old, new


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _line(name: str, old: Any, new: Any) -> str:
    shown = [_shown(old), _shown(new)]
    if shown[0] == shown[1]:
        shown[1] = f"another that begins alike ({len(str(old))} and {len(str(new))} characters)"
    why = f" ({CONSEQUENCES[name]})" if name in CONSEQUENCES else ""
    return f"{name}: {shown[0]} -> {shown[1]}{why}"


def _shown(value: Any) -> str:
    text = "unset" if value is None else " ".join(str(value).split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
