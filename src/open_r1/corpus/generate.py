"""Answers to prompts, as data to train on: drawn, verified where there is a gold answer, appended to a JSONL file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rich.console import Console

from open_r1.config import GenerateConfig
from open_r1.corpus.answer_files import AnswerFiles, resolved
from open_r1.corpus.answer_log import Key, Record
from open_r1.corpus.earlier import is_kept, take_over
from open_r1.corpus.prompts import Prompt, read_prompts
from open_r1.corpus.tally import Tally
from open_r1.data.bad_rows import BadRow, BadRows
from open_r1.data.sources import load_rows
from open_r1.errors import UserError
from open_r1.evaluation import chat_model
from open_r1.evaluation.answers import Answer, Question, Verifiers, draw_answers
from open_r1.evaluation.chat_model import ChatModel
from open_r1.evaluation.gold import rejected_golds, verifier_pool
from open_r1.evaluation.meter import AnswerMeter
from open_r1.generation.openai_stream import RequestsFailed
from open_r1.generation.seeds import sample_seed
from open_r1.report.tables import clock, percent

_PROMPTS_AT_ONCE = 32768
"""Prompts handed to the engine together: enough that its last answers cost little, and a bound on memory."""

_GOLDS_CHECKED = 256
_ROWS_SHOWN = 5


@dataclass(frozen=True)
class _Asked:
    """A row's prompt, and as the model is given it."""

    prompt: Prompt
    encoded: chat_model.Prompt


def generate(model: ChatModel, config: GenerateConfig, *, console: Console | None = None) -> Tally:
    """Draws ``num_generations`` answers to each prompt and appends those that are kept to the output file.

    Answers that an earlier start drew are found by the hash of their prompt and their sample number, and are not drawn
    again; those that could not be verified then, or whose prompt has another gold answer now, are judged again. At the
    end the file is in the order of the data set. With ``keep: verified`` an answer is kept where it equals the gold
    answer and was not cut off: a model that trains on cut text learns not to stop.

    Raises:
        UserError: data that cannot be used, or an output file that another start is writing, or that was made with
            other settings or for another data set.
    """
    console = console or Console()
    rows = load_rows(config.dataset, config.dataset_config, config.dataset_split)
    rows = rows.select(range(min(config.limit or len(rows), len(rows))))
    prompts, bad_rows = read_prompts(rows, rows.column_names, config)
    asked = _encode(model, prompts, bad_rows)
    bad_rows.report(console, len(rows))
    bad_rows.raise_if_all(len(rows))
    dataset = resolved([config.dataset, config.dataset_config, config.dataset_split])
    facts = {
        "dataset": dataset,
        "model": model.name,
        "num_generations": config.num_generations,
        "rows": len(rows),
        "bad_rows": dict(bad_rows.counts),
    }
    settings = settings_of(model, config)
    if config.overwrite_output:
        model.start()  # what can fail is tried before the answers of an earlier start are removed
    with (
        _verifiers(asked, config, console) as verifiers,
        AnswerFiles(output_path(config), settings, overwrite=config.overwrite_output) as files,
    ):
        tally = Tally(len(asked), len(asked) * config.num_generations, seconds=files.seconds)
        done = take_over(files, [entry.prompt for entry in asked], dataset, config, verifiers, tally, console)
        if tally.answered < tally.asked:
            model.start()
        began = time.monotonic()
        refused: dict[int, str] = {}
        try:
            with AnswerMeter(console, files.output.name, total=tally.asked, done=tally.answered) as meter:
                for prompt, answer in _draw(model, asked, done, config, verifiers, refused):
                    record, kept = _record(prompt, answer), is_kept(answer.reward, answer.finish_reason, config)
                    files.append(record, kept)
                    tally.add(record, kept)
                    meter.count(answer)
        finally:
            tally.seconds = round(tally.seconds + time.monotonic() - began, 1)
            files.describe(facts | ({"refused_rows": len(refused)} if refused else {}), tally)
        if refused:
            console.print(_refusals(refused), markup=False, highlight=False, soft_wrap=True)
        files.sort({entry.prompt.id: entry.prompt.row for entry in asked})
    return tally


def output_path(config: GenerateConfig) -> Path:
    """``output``, or ``runs/generate/<data set>.jsonl``."""
    return Path(config.output or f"runs/generate/{Path(config.dataset).stem}.jsonl")


def settings_of(model: ChatModel, config: GenerateConfig) -> dict[str, Any]:
    """All that an answer depends on but for its prompt, and what decides whether it is kept."""
    names = ("prompt_template", "system_prompt", "temperature", "top_p", "top_k", "max_new_tokens", "seed", "keep")
    probe = model.prompt([{"role": "user", "content": "Seven times six?"}]).text
    return {
        "model": model.fingerprint,
        "chat_format": blake2b(probe.encode(), digest_size=8).hexdigest(),
        "stop_token_ids": list(model.sampling_params(config).stop_token_ids),
        **{name: getattr(config, name) for name in names},
    }


def summary(tally: Tally, output: Path) -> str:
    """What came out, in two lines, or three where the file holds more than was asked for."""
    tokens = "–" if tally.mean_tokens is None else f"{tally.mean_tokens:,.0f}"
    others = f"{output} also holds {tally.others:,} answers of earlier starts that were not asked for this time"
    text = (
        f"asked {tally.asked:,} ({tally.prompts:,} prompts), answered {tally.answered:,}, "
        f"truncated {percent(tally.truncated_share)}, right {percent(tally.right_share)} of those verified, "
        f"not verified {tally.unverified:,}, {tokens} tokens an answer, {clock(tally.seconds)}\n"
        f"kept {tally.kept:,} in {output}"
    )
    return f"{text}\n{others}" if tally.others else text


def _encode(model: ChatModel, prompts: Sequence[Prompt], bad_rows: BadRows) -> list[_Asked]:
    asked = []
    for prompt in prompts:
        try:
            encoded = model.prompt(prompt.messages)
            if not model.leaves_room(encoded):
                raise BadRow(f"the prompt leaves no room for an answer in the context of {model.context_length} tokens")
        except BadRow as bad:
            bad_rows.add(prompt.row, str(bad))
        else:
            asked.append(_Asked(prompt, encoded))
    return asked


@contextmanager
def _verifiers(asked: Sequence[_Asked], config: GenerateConfig, console: Console) -> Iterator[Verifiers | None]:
    """The processes that verify answers; None where no prompt has a gold answer.

    Raises:
        UserError: only verified answers are kept, and the verifier accepts none of the gold answers that were tried.
    """
    golds = [entry.prompt.gold for entry in asked if entry.prompt.gold is not None]
    if not golds:
        yield None
        return
    with verifier_pool("accuracy", config) as pool:
        tried = golds[:: max(1, len(golds) // _GOLDS_CHECKED)]
        rejected = rejected_golds(tried, pool)
        if rejected:
            line = f"{len(rejected)} of {len(tried)} gold answers that were tried cannot be verified themselves"
            if len(rejected) == len(tried) and config.keep == "verified":
                raise UserError(f"{line}, such as {tried[0][:80]!r}: name the right column with --answer_column")
            console.print(f"{line}, such as {tried[rejected[0]][:80]!r}", markup=False)
        yield pool


def _draw(
    model: ChatModel,
    asked: Sequence[_Asked],
    done: set[Key],
    config: GenerateConfig,
    verifiers: Verifiers | None,
    refused: dict[int, str],
) -> Iterator[tuple[Prompt, Answer]]:
    """Yields the answers that are missing, each with its prompt.

    Args:
        refused: takes the rows whose prompts a server refuses, each with its reason; they are left out as a prompt is
            that is too long for a model in this process.

    Raises:
        RequestsFailed: at the end, if a server left other requests unanswered, or refuses all of them.
    """
    params = model.sampling_params(config)
    failures: list[RequestsFailed] = []
    answered = bool(done)
    for start in range(0, len(asked), _PROMPTS_AT_ONCE):
        batch = asked[start : start + _PROMPTS_AT_ONCE]
        questions = [
            Question((place, sample), entry.encoded, _seed(config, entry.prompt, sample), _columns(entry.prompt))
            for place, entry in enumerate(batch)
            for sample in range(config.num_generations)
            if (entry.prompt.id, sample) not in done
        ]
        try:
            for answer in draw_answers(questions, model, params, verifiers):
                answered = True
                yield batch[answer.question.key[0]].prompt, answer
        except RequestsFailed as failure:  # the server lives: first the prompts that are left
            failures.append(failure)
            refused.update(
                (batch[questions[place].key[0]].prompt.row, reason) for place, reason in failure.refused.items()
            )
    if failures:
        failure = RequestsFailed.together(failures)
        if len(failure.refused) < failure.failed or not answered:
            raise failure


def _refusals(refused: Mapping[int, str]) -> str:
    rows = ", ".join(map(str, sorted(refused)[:_ROWS_SHOWN])) + (", …" if len(refused) > _ROWS_SHOWN else "")
    prompts = "prompt, which is" if len(refused) == 1 else "prompts, which are"
    return (
        f"the server refuses {len(refused):,} {prompts} left out (row {rows}; the last: {list(refused.values())[-1]})"
    )


def _columns(prompt: Prompt) -> dict[str, str] | None:
    return None if prompt.gold is None else {"solution": prompt.gold}


def _seed(config: GenerateConfig, prompt: Prompt, sample: int) -> int:
    return sample_seed(config.seed, 0, prompt.number, sample)


def _record(prompt: Prompt, answer: Answer) -> Record:
    return {
        "id": prompt.id,
        "sample": answer.question.key[1],
        "problem": prompt.problem,
        "messages": [*prompt.messages, {"role": "assistant", "content": answer.text}],
        "generation": answer.text,
        "gold": prompt.gold,
        "reward": answer.reward,
        "tokens": answer.tokens,
        "finish_reason": answer.finish_reason,
    }
