"""What earlier starts left of what is asked now: judged again where a verdict does not stand, and counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console

from open_r1.config import GenerateConfig
from open_r1.corpus.answer_files import AnswerFiles, DatasetName
from open_r1.corpus.answer_log import Key, Record, key_of
from open_r1.corpus.prompts import Prompt
from open_r1.corpus.tally import Tally
from open_r1.evaluation.answers import Verifiers, verify

Golds = Mapping[str, str | None]
"""Id of a prompt -> its gold answer."""


def take_over(
    files: AnswerFiles,
    prompts: Sequence[Prompt],
    dataset: DatasetName,
    config: GenerateConfig,
    verifiers: Verifiers | None,
    tally: Tally,
    console: Console,
) -> set[Key]:
    """Counts what earlier starts drew of what is asked now, each answer once, and returns which answers those are.

    Raises:
        UserError: the files hold answers to another data set.
    """
    golds = {prompt.id: prompt.gold for prompt in prompts}
    earlier = files.earlier()
    files.claim(dataset, sum(record["id"] not in golds for record, _ in earlier))
    if not all(_stands(record, golds) for record, _ in earlier):
        _judge_again(files, earlier, golds, config, verifiers, console)
        earlier = files.earlier()
    done: set[Key] = set()
    others: set[Key] = set()
    for record, kept in earlier:
        if record["id"] not in golds or record["sample"] >= config.num_generations:
            if kept:
                others.add(key_of(record))
        elif key_of(record) not in done:
            done.add(key_of(record))
            tally.add(record, kept)
    tally.others = len(others)
    return done


def is_kept(reward: float | None, finish_reason: str, config: GenerateConfig) -> bool:
    """Whether an answer goes into the output, and not among the rejected ones."""
    return config.keep == "all" or (reward == 1 and finish_reason == "stop")


def _stands(record: Record, golds: Golds) -> bool:
    """Whether it was judged, and by the gold answer that its prompt has now."""
    gold = golds.get(record["id"], record["gold"])
    return record["gold"] == gold and (record["reward"] is not None or gold is None or record["id"] not in golds)


def _judge_again(
    files: AnswerFiles,
    earlier: Sequence[tuple[Record, bool]],
    golds: Golds,
    config: GenerateConfig,
    verifiers: Verifiers | None,
    console: Console,
) -> None:
    """Gives the texts on disk to the verifiers where the verdict does not stand."""
    verdicts: dict[Key, tuple[float | None, str]] = {}
    again: dict[Key, str] = {}
    for record, _ in earlier:
        key = key_of(record)
        if _stands(record, golds):
            verdicts[key] = record["reward"], record["finish_reason"]
        else:
            again[key] = record["finish_reason"]
    without = again.keys() - verdicts.keys()
    console.print(
        f"{files.output}: {len(without)} answers of earlier starts could not be verified then, or have another gold "
        "answer now: their texts are judged again",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )

    def texts() -> Iterator[tuple[Key, str, dict[str, str]]]:
        for record, _ in files.records():
            gold = golds.get(record["id"])
            if key_of(record) in without and gold is not None:
                yield key_of(record), record["generation"], {"solution": gold}

    rewards = dict.fromkeys(without) | (dict(verify(texts(), verifiers)) if verifiers is not None else {})
    verdicts |= {key: (reward, again[key]) for key, reward in rewards.items()}
    files.replace(
        {key: ({"gold": golds[key[0]], "reward": verdicts[key][0]}, is_kept(*verdicts[key], config)) for key in again}
    )
