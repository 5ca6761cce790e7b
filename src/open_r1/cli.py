"""``open-r1 COMMAND …``: finds the command, checks its settings, and turns exceptions into exit statuses."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path

from open_r1 import __version__, config
from open_r1.errors import StoppedByRule, StopRequested, Terminated, UserError
from open_r1.machine.home import apply_settings
from open_r1.signals import hangup_terminates, make_output_last, sigterm_raises
from open_r1.troubleshooting.failure import Situation
from open_r1.troubleshooting.watcher import Watcher, folder_of, watch

DEFECT_STATUS = 1
USER_ERROR_STATUS = 2
STOPPED_BY_RULE_STATUS = 3
INTERRUPTED_STATUS = 130

ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "TOKENIZERS_PARALLELISM": "false",
    # A thread that waits for the other spins for long by default; where something else needs the core, both then crawl.
    "GOMP_SPINCOUNT": "1000",
}
"""Set before any library is imported, unless the person has set them: no telemetry, one tokenizer a process, threads
that give way."""

TALKATIVE = ("torchao", "bitsandbytes", "torch.utils._pytree")
"""Loggers of optional libraries that complain on import of parts which this machine does not need."""


@dataclass(frozen=True)
class Command:
    """A word after ``open-r1``: the module whose ``main(argv)`` it runs, and the class of its settings.

    Attributes:
        watched: it may run for hours, and calls libraries that may end it by a signal.
    """

    module: str
    settings: type[config.Settings]
    summary: str
    watched: bool = False


COMMANDS = {
    "run": Command("open_r1.pipeline.main", config.RunConfig, "run the stages of a pipeline, those not yet done"),
    "sft": Command(
        "open_r1.sft", config.SFTConfig, "fine-tune a model on conversations or reasoning traces", watched=True
    ),
    "grpo": Command(
        "open_r1.grpo", config.GRPOConfig, "reinforce a model on problems with verifiable answers", watched=True
    ),
    "generate": Command(
        "open_r1.generate", config.GenerateConfig, "draw and verify answers to prompts, to train on", watched=True
    ),
    "evaluate": Command(
        "open_r1.evaluate", config.EvaluateConfig, "measure a model on tasks, with intervals", watched=True
    ),
    "serve-vllm": Command(
        "open_r1.commands.serve_vllm",
        config.ServeConfig,
        "serve completions to grpo, which sends its weights",
        watched=True,
    ),
    "doctor": Command("open_r1.commands.doctor", config.DoctorConfig, "check this machine, and say what mends it"),
    "tasks": Command("open_r1.commands.tasks", config.TasksConfig, "list the tasks that evaluate knows"),
    "compare": Command("open_r1.commands.compare", config.CompareConfig, "pair two evaluations problem by problem"),
    "report": Command("open_r1.commands.report", config.ReportConfig, "write a page of curves, alarms and samples"),
    "setup": Command("open_r1.commands.setup", config.SetupConfig, "show the caches, or move them to a data disk"),
    "bench": Command("open_r1.commands.bench", config.BenchConfig, "measure what this machine does in two minutes"),
    "plan sft": Command("open_r1.commands.plan_sft", config.PlanSFTConfig, "what sft will take, and what would fit"),
    "plan grpo": Command(
        "open_r1.commands.plan_grpo", config.PlanGRPOConfig, "the same of grpo, with the engine beside it"
    ),
    "rewards check": Command(
        "open_r1.commands.rewards_check", config.RewardsCheckConfig, "give gold answers to their own verifiers"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    Settings are checked before the command's module is imported: a misspelt flag is said at once, and so is ``--help``.
    """
    invocation = Invocation(sys.argv[1:] if argv is None else argv)
    return run_main(invocation.dispatch, invocation.situation.argv, invocation)


def run_main(command: Callable[[list[str]], object], argv: Sequence[str], invocation: Invocation | None = None) -> int:
    """Runs ``command(argv)`` and turns what it raises into an exit status.

    Returns:
        0; 2 for a :class:`UserError`, printed as one line; 3 for :class:`StoppedByRule`; 130 for Ctrl-C; 143 for
        SIGTERM and a terminal that is gone; 128 + signal for :class:`StopRequested`; the status of a ``SystemExit``; 1
        for anything else. Of that the person is told what the catalogue of `open_r1.troubleshooting` knows, and the
        trace goes into a file; what it does not know is a defect, and keeps its trace on the screen too.
    """
    invocation = invocation or Invocation(argv)

    def folder() -> Path | None:
        return invocation.situation.folder

    make_output_last(folder)
    if isinstance(sys.stdout, TextIOWrapper):  # where the locale has no "…" or "✓", a "?" stops no run
        sys.stdout.reconfigure(errors="replace")
    apply_settings()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with hangup_terminates(folder), sigterm_raises():
            command(list(argv))
    except UserError as error:
        invocation.situation.tell_user_error(error)
        return USER_ERROR_STATUS
    except StopRequested as stop:
        _say(str(stop), style="yellow")
        return 128 + stop.signal_number
    except StoppedByRule as stop:
        _say(str(stop), style="yellow")
        return STOPPED_BY_RULE_STATUS
    except Terminated:
        _say("stopped by SIGTERM", style="yellow")
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        _say("interrupted", style="yellow")
        return INTERRUPTED_STATUS
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except Exception as error:
        invocation.situation.tell_defect(error)
        return DEFECT_STATUS
    finally:
        if invocation.watcher:
            invocation.watcher.ended()
    return 0


class Invocation:
    """One command line while it is run: what is told of its end, and who tells it.

    Args:
        argv: the words after ``open-r1``.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.situation = Situation(list(argv))
        self.watcher: Watcher | None = None

    def dispatch(self, argv: list[str]) -> None:
        """Runs the command that ``argv`` begins with.

        Raises:
            UserError: there is no such command, or a setting cannot be.
        """
        if not argv or argv[0] in ("-h", "--help", "help"):
            _print_commands()
        elif argv[0] in ("-V", "--version"):
            print(f"open-r1 {__version__}")
        else:
            name, words = find_command(argv)
            command = COMMANDS[name]
            self.situation.folder = folder_of(config.parse(command.settings, words, prog=f"open-r1 {name}").config)
            if command.watched:
                self.watcher = watch(self.situation)
            import_module(command.module).main(words)


def find_command(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The command that a line begins with, one word or two, and the words after it.

    Raises:
        UserError: there is no such command; the nearest is named.
    """
    for length in (2, 1):
        name = " ".join(argv[:length])
        if name in COMMANDS:
            return name, list(argv[length:])
    if longer := [name for name in COMMANDS if name.startswith(f"{argv[0]} ")]:
        raise UserError(f"{argv[0]} needs another word: open-r1 {', or open-r1 '.join(longer)}")
    close = config.did_you_mean(argv[0], COMMANDS)
    raise UserError(f"{argv[0]!r} is no command of open-r1{close} (commands: {', '.join(COMMANDS)})")


def _print_commands() -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text.assemble(("open-r1 COMMAND", "bold"), " [--config FILE.yaml] [--setting VALUE …]"))
    console.print("From a base model to a reasoning model: make data, distil, reinforce, evaluate.\n")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, command in COMMANDS.items():
        table.add_row(Text(f"  {name}", style="green"), command.summary)
    console.print(table)
    console.print("\nopen-r1 COMMAND --help lists the settings of a command.")


def _say(text: str, *, style: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False).print(Text(text, style=style), soft_wrap=True)
