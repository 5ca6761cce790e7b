"""Run by torchrun: several training runs in one set of processes, each parallel in its own way.

torchrun --nproc_per_node 2 ranks_cases.py cases.json

Cases are ``{"kind": "fsdp", "command": "sft", "words": ["--output_dir", …]}``; with ``"poison": N`` the loss of the
N-th micro-batch of rank 1 is not a number, with ``"refused": true`` the run is expected to end with a `UserError`, with
``"own_engine": true`` the engine of a GRPO run has a model of its own, which with ``"lost": true`` rank 0 loses in the
middle of the weights for the second step, with ``"full_disk": true`` there is no room for the final model, and with
``"told": true`` rank 1 is told to stop while the final weights are gathered. What a case says goes to
``OUTPUT_DIR.log``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

CONFIGS = Path(__file__).resolve().parents[2] / "recipes" / "accelerate_configs"
ENVIRONMENTS = {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}
PREFIXES = ("ACCELERATE_", "FSDP_")


def set_launcher(kind: str) -> None:
    """Sets the environment as ``accelerate launch --config_file KIND.yaml`` sets it."""
    words = ["--config_file", str(ENVIRONMENTS[kind]), "--num_processes", "2", "--main_process_port", "0", "script"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ""
        made = prepare_deepspeed_cmd_env(arguments)[1]
    else:
        made = prepare_multi_gpu_env(arguments)
    for name in [name for name in os.environ if name.startswith(PREFIXES)]:
        del os.environ[name]
    os.environ |= {name: value for name, value in made.items() if name.startswith(PREFIXES)}


@contextmanager
def one_process_group() -> Iterator[None]:
    """Runs inside keep the process group, which DeepSpeed does not let go of; it is ended here."""
    end = torch.distributed.destroy_process_group
    torch.distributed.destroy_process_group = lambda group=None: None
    yield
    end()


def engine_of_its_own(config: Any, runtime: Any, policy: Any, *_: Any) -> Any:
    """What stands for vLLM on a CPU: whole weights that are none of the policy's."""
    from open_r1.generation.transformers_engine import TransformersEngine
    from open_r1.model.load import load_model

    model = load_model(config.model_name_or_path, dtype="float32")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    return TransformersEngine(model, pad_token_id=policy.stop_token_ids[0], shares_weights=False)


def lost_engine(*arguments: Any) -> Any:
    """One that rank 0 loses when it sends weights a second time; the other ranks only know that they gather them."""
    from open_r1.errors import UserError

    engine = engine_of_its_own(*arguments)
    load, calls = engine.load_weights, []

    def losing(weights: Iterator[tuple[str, Any]]) -> None:
        calls.append(weights)
        if len(calls) == 2 and torch.distributed.get_rank() == 0:
            next(weights)
            raise UserError("the server is gone")
        load(weights)

    engine.load_weights = losing
    return engine


def run(case: dict[str, Any]) -> None:
    """One run, as its command does it."""
    from open_r1 import grpo, sft
    from open_r1.errors import StopRequested, UserError
    from open_r1.parallel.runtime import Runtime
    from open_r1.signals import sigterm_raises
    from open_r1.training import setup

    commands = {"sft": sft, "grpo": grpo}
    engine = lost_engine if case.get("lost") else engine_of_its_own
    own_engine = mock.patch.multiple(grpo, check_settings=lambda *_: None, build_engine=engine)
    no_room = mock.patch.object(setup, "save_model", side_effect=OSError(28, "No space left on device"))
    objective, calls = sft.sft_objective, []
    gather = Runtime.model_state

    def told_to_stop(*arguments: Any, **how: Any) -> Any:
        if torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return gather(*arguments, **how)

    told = mock.patch.object(Runtime, "model_state", told_to_stop)

    def poisoned(predicted: Any, pack: Any) -> Any:
        calls.extend([pack] if len(pack.target_index) else [])
        loss, metrics = objective(predicted, pack)
        guilty = len(calls) == case.get("poison") and torch.distributed.get_rank() == 1
        return (loss * torch.nan if guilty else loss), metrics

    try:
        with ExitStack() as patches:
            patches.enter_context(mock.patch.object(sft, "sft_objective", poisoned))
            for name, patch in (("own_engine", own_engine), ("full_disk", no_room), ("told", told)):
                patches.enter_context(patch if case.get(name) else nullcontext())
            patches.enter_context(sigterm_raises())
            commands[case["command"]].main(case["words"])
    except StopRequested as stop:
        assert case.get("told"), stop
        print(stop, file=sys.stderr)
        AcceleratorState._reset_state(reset_partial_state=True)
    except UserError as error:
        if not case.get("refused"):
            raise
        print(f"error: {error}", file=sys.stderr)
        AcceleratorState._reset_state(reset_partial_state=True)
    else:
        assert not case.get("refused"), "it was not refused"


if __name__ == "__main__":
    with one_process_group():
        for case in json.loads(Path(sys.argv[1]).read_text()):
            set_launcher(case["kind"])
            log = Path(case["words"][case["words"].index("--output_dir") + 1]).with_suffix(".log")
            with log.open("a") as said, redirect_stderr(said):
                run(case)
            print("done:", case["kind"], log.stem, flush=True)
