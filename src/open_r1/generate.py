"""Draws answers to prompts, as data to train on: ``open-r1 generate --dataset … --model … --output answers.jsonl``."""

from __future__ import annotations

if __package__ in (None, ""):  # run as a script: its own folder would come before the libraries
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import os
import sys
from collections.abc import Sequence
from contextlib import closing

from rich.console import Console

from open_r1.cli import main as command_line
from open_r1.config import GenerateConfig, parse
from open_r1.config.engine import without_effect
from open_r1.errors import UserError
from open_r1.files import make_output_folder

_LONGEST_NAME = 215
"""Bytes; file systems take 255, and the longest name beside it is that of a manifest while it is written."""


def main(argv: Sequence[str]) -> None:
    """Answers the prompts of the data set that ``argv`` (without the program's name) names, and says what came out.

    Raises:
        UserError: settings, data or a model that cannot be used.
        StopRequested: SIGTERM or Ctrl-C; what was drawn is kept, and the same command goes on from there.
    """
    parsed = parse(GenerateConfig, list(argv), prog="open-r1 generate")
    config = parsed.config
    console = Console()
    for note in [*config.notes(), *without_effect(config.engine, parsed.origins)]:
        console.print(note, markup=False)

    # Only now, as torch and transformers take seconds to import.
    from open_r1.corpus.generate import generate, output_path, summary
    from open_r1.corpus.publish import check_login, push
    from open_r1.evaluation.opening import open_to_generate
    from open_r1.evaluation.stopping import resumable

    if config.output_dataset is not None:
        check_login(config.output_dataset)
    output = output_path(config)
    make_output_folder(output.parent, "the folder of output")
    if os.path.isdir(output):
        raise UserError(f"output {output} is a folder: name a file, such as {output / 'answers.jsonl'}")
    if len(os.fsencode(output.name)) > _LONGEST_NAME:
        raise UserError(f"output {output}: the name is too long; files beside it add up to 40 characters to it")
    log = output.with_name(f"{output.name}.vllm.log")
    overwrite = "overwrite_output" if config.overwrite_output else None
    with closing(open_to_generate(config, log=log)) as model, resumable(overwrite):
        tally = generate(model, config, console=console)
    console.print(summary(tally, output), markup=False, highlight=False, soft_wrap=True)
    if config.output_dataset is not None:
        console.print(push(output, config.output_dataset, private=config.private), markup=False)


if __name__ == "__main__":
    sys.exit(command_line(["generate", *sys.argv[1:]]))
