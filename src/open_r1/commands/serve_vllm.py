"""Serves completions to a trainer that sends its weights: ``open-r1 serve-vllm --model …``."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from open_r1.config import parse
from open_r1.config.serve import ServeConfig
from open_r1.errors import Terminated
from open_r1.generation.server_port import reserve
from open_r1.troubleshooting.watcher import end_at_once


def main(argv: Sequence[str]) -> None:
    """Loads the model that ``argv`` (without the program's name) names, and answers until a signal ends it.

    Raises:
        UserError: settings or a model that cannot be used, or a port that is taken.
    """
    config = parse(ServeConfig, list(argv), prog="open-r1 serve-vllm").config
    if config.end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()

    place = reserve((config.host, config.port))
    # Only now, as torch and transformers take seconds to import.
    from open_r1.generation.server import EngineServer
    from open_r1.generation.server_model import open_model

    model = open_model(config, Path(config.log))
    try:
        with closing(model.engine), EngineServer(place, model, config.weight_timeout) as server:
            facts = model.facts
            how = f"{facts.engine}, {facts.dtype}, {facts.device} × {facts.workers}"
            line = f"serving {facts.model} ({how}) at {server.url}"
            Console().print(line, markup=False, highlight=False, soft_wrap=True)
            server.serve_forever()
    except Terminated:
        # At once: a thread that still answers somebody aborts the process when the interpreter is taken down around it.
        end_at_once(128 + signal.SIGTERM)


def _end_with_stdin() -> None:
    while os.read(0, 1 << 12):  # past Python's own file, whose lock would hold up the end of this process
        pass
    os.kill(os.getpid(), signal.SIGTERM)
