"""Run by torchrun: several training runs in one set of processes, each parallel in its own way.

torchrun --nproc_per_node 2 ranks_cases.py cases.json      [{"kind": "fsdp", "words": ["--output_dir", …]}, …]
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
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


if __name__ == "__main__":
    from open_r1 import sft

    with one_process_group():
        for case in json.loads(Path(sys.argv[1]).read_text()):
            set_launcher(case["kind"])
            sft.main(case["words"])
            print("done:", case["kind"], flush=True)
