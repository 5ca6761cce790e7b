"""Two evaluations of the same problems, paired problem by problem."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from open_r1.config.settings import did_you_mean
from open_r1.errors import UserError
from open_r1.evaluation.generations import SCHEMA
from open_r1.evaluation.statistics import PairedDifference, paired_difference
from open_r1.evaluation.store import changed_settings
from open_r1.files import read_json

GENERATIONS = "generations.parquet"
_COLUMNS = ("task", "problem", "reward", "prompt", "gold")
_SIGNIFICANT = 0.05
"""p-value below which a difference is shown: that of the 95 % of the intervals."""

_OTHERWISE_SAID = ("model", "stop_token_ids")
"""Settings of a run that are another model's own."""

_HELD_AS = re.compile(r"[0-9a-f]{32}/(.+)|(served)/.*")
"""Of a model's fingerprint: its dtype, and vLLM where that drew; or that it is behind a server."""

_ESCAPES = re.compile(r"\\u[0-9a-f]{4}|\\[nt\"]")
_NO_WORD = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True)
class Change:
    """A problem and the share of right answers to it in A and in B."""

    problem: int
    a: float
    b: float


@dataclass(frozen=True)
class TaskComparison:
    """A task in A and in B, over the problems that both have.

    Attributes:
        task: its label.
        problems: how many both have.
        scores: mean over problems of the share of right answers in A and in B, the difference B - A with its 95 %
            bootstrap interval over problems, the p-value of a paired sign-flip test, and on how many problems B is
            better, worse and alike.
        answers_a, answers_b: how many were paired.
        changed: the problems whose shares differ, those that differ most first.
        notes: what a person must know of the numbers, a line each.
    """

    task: str
    problems: int
    scores: PairedDifference
    answers_a: int
    answers_b: int
    changed: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def contains_0(self) -> bool:
        """Whether the interval of the difference holds 0."""
        return self.scores.difference.low <= 0 <= self.scores.difference.high

    @property
    def differs(self) -> bool:
        """Whether both the interval and the sign-flip test say so.

        Where few problems differ, all in one direction, resamples hardly ever miss all of them: of four, chance alone
        puts all on one side in an eighth of the cases, and the interval leaves out 0.
        """
        return not self.contains_0 and self.scores.p_value < _SIGNIFICANT


@dataclass(frozen=True)
class Answers:
    """The answers to a task, by problem; arrays are [problems], sorted by problem.

    Attributes:
        path: of the file.
        task: its label.
        problems: indices in the data set.
        share: of right answers.
        counts: answers to each.
        unverified: answers that could not be verified, which count as not right.
    """

    path: Path
    task: str
    problems: np.ndarray
    share: np.ndarray
    counts: np.ndarray
    unverified: np.ndarray
    prompts: list[str]
    golds: list[str]

    def of(self, problems: np.ndarray) -> Answers:
        """Those to some of the problems."""
        kept = np.flatnonzero(np.isin(self.problems, problems))
        arrays = [values[kept] for values in (self.problems, self.share, self.counts, self.unverified)]
        texts = [[values[place] for place in kept] for values in (self.prompts, self.golds)]
        return Answers(self.path, self.task, *arrays, *texts)


def compare(a: str, b: str, tasks: Sequence[str] | None, *, seed: int) -> list[TaskComparison]:
    """Compares every task that A and B both have.

    Args:
        a, b: a folder of results, a task's folder in one, or a file of generations. One of the latter is compared with
            the other's only task, whatever they are called.
        tasks: only these, in this order.
        seed: of the bootstrap.

    Raises:
        UserError: no such folder, no common task or problem, a file that cannot be read, or other problems in A than B.
    """
    in_a, in_b = find_tasks(a), find_tasks(b)
    if len(in_a) == len(in_b) == 1 and tasks is None:
        (file_a,), (file_b,) = in_a.values(), in_b.values()
        if in_a.keys() == in_b.keys() or _is_single(a) or _is_single(b):
            return [compare_task(file_a, file_b, seed=seed)]
    common = [name for name in in_a if name in in_b]
    if not common:
        raise UserError(f"{a} has {', '.join(in_a)} and {b} has {', '.join(in_b)}: no task is in both")
    wanted = common if tasks is None else [_chosen(label, common) for label in tasks]
    return [compare_task(in_a[name], in_b[name], seed=seed) for name in wanted]


def _chosen(label: str, common: Sequence[str]) -> str:
    """The folder of a task: ``gpqa-diamond`` of ``gpqa:diamond``."""
    for name in common:
        if _NO_WORD.sub("", name) == _NO_WORD.sub("", label):
            return name
    raise UserError(f"--tasks {label}: not in both{did_you_mean(label, common)} (both have: {', '.join(common)})")


def find_tasks(place: str) -> dict[str, Path]:
    """The files of generations in a folder or at a path, by the task's folder.

    Raises:
        UserError: there is none.
    """
    path = Path(place)
    if path.is_file():
        return {path.parent.resolve().name if path.name == GENERATIONS else path.stem: path}
    if not path.is_dir():
        raise UserError(f"compare: {place} does not exist; give a folder that open-r1 evaluate wrote")
    if (path / GENERATIONS).is_file():
        return {path.resolve().name: path / GENERATIONS}
    found = {file.parent.name: file for file in sorted(path.glob(f"*/{GENERATIONS}"))}
    if found:
        return found
    if any(path.glob("*/parts/part-*.parquet")) or any(path.glob("parts/part-*.parquet")):
        raise UserError(f"compare: the evaluation in {place} is not finished: run the same evaluate command to its end")
    deeper = sorted({str(file.parent.parent) for file in path.glob(f"*/*/{GENERATIONS}")})
    hint = f"; did you mean {' or '.join(deeper[:3])}?" if deeper else ""
    raise UserError(f"compare: {place} holds no {GENERATIONS} of open-r1 evaluate{hint}")


def _is_single(place: str) -> bool:
    return Path(place).is_file() or (Path(place) / GENERATIONS).is_file()


def compare_task(file_a: Path, file_b: Path, *, seed: int) -> TaskComparison:
    """Compares one task from two files of generations.

    Raises:
        UserError: see `compare`.
    """
    all_a, all_b = read_answers(file_a), read_answers(file_b)
    task = all_a.task
    common = np.intersect1d(all_a.problems, all_b.problems)
    if not len(common):
        raise UserError(f"{task}: {file_a} and {file_b} have no problem in common")
    a, b = all_a.of(common), all_b.of(common)
    _check_same_problems(task, a, b)
    order = sorted(np.flatnonzero(a.share != b.share), key=lambda place: -abs(b.share[place] - a.share[place]))
    return TaskComparison(
        task=task,
        problems=len(common),
        scores=paired_difference(a.share, b.share, seed=seed),
        answers_a=int(a.counts.sum()),
        answers_b=int(b.counts.sum()),
        changed=[Change(int(common[i]), float(a.share[i]), float(b.share[i])) for i in order],
        notes=list(_notes(all_a, all_b, a, b)),
    )


def read_answers(path: Path) -> Answers:
    """Reads a file of generations.

    Raises:
        UserError: it is no Parquet file, is cut short, lacks a column, or is empty.
    """
    try:
        missing = [name for name in _COLUMNS if name not in pq.read_schema(path).names]
        if missing:
            raise UserError(f"{path} has no column {missing[0]!r}: it is no file of generations of open-r1 evaluate")
        rows = pq.read_table(path, schema=pa.schema([SCHEMA.field(name) for name in _COLUMNS]))
    except (pa.ArrowException, OSError) as error:
        torn = isinstance(error, pa.ArrowInvalid)
        reason = "cut short, or another kind of file" if torn else str(error).splitlines()[0][:160]
        raise UserError(f"{path} cannot be read as Parquet ({reason})") from None  # as `read_generations`
    if not rows.num_rows:
        raise UserError(f"{path} holds no answers")
    problems, first, place, counts = np.unique(
        rows["problem"].to_numpy(), return_index=True, return_inverse=True, return_counts=True
    )
    rewards = rows["reward"].to_numpy(zero_copy_only=False)  # NaN where there is none
    texts = rows.select(["task", "prompt", "gold"]).take(pa.array(first))
    return Answers(
        path=path,
        task=texts["task"][0].as_py(),
        problems=problems,
        share=np.bincount(place, rewards == 1) / counts,
        counts=counts,
        unverified=np.bincount(place, np.isnan(rewards)).astype(int),
        prompts=texts["prompt"].to_pylist(),
        golds=texts["gold"].to_pylist(),
    )


def _check_same_problems(task: str, a: Answers, b: Answers) -> None:
    differing = [int(p) for p, one, other in zip(a.problems, a.golds, b.golds, strict=True) if one != other]
    if differing:
        place = int(np.searchsorted(a.problems, differing[0]))
        raise UserError(
            f"{task}: A and B were asked other problems: {len(differing)} of {len(a.problems)} gold answers differ, "
            f"the first that of problem {differing[0]} ({a.golds[place][:60]!r} and {b.golds[place][:60]!r})"
        )


def _notes(all_a: Answers, all_b: Answers, a: Answers, b: Answers) -> Iterator[str]:
    alone = [f"{len(whole.problems) - len(a.problems)} only in {name}" for name, whole in (("A", all_a), ("B", all_b))]
    if len(all_a.problems) != len(a.problems) or len(all_b.problems) != len(a.problems):
        yield f"only the {len(a.problems)} problems that both have are compared ({', '.join(alone)})"
    counts = [_counted(side.counts) for side in (a, b)]
    if counts[0] != counts[1]:
        yield f"answers to a problem: {counts[0]} in A, {counts[1]} in B"
    settings = changed_settings(_settings(a.path), _settings(b.path))
    if settings:
        yield f"settings differ, A → B: {settings}"
    unverified = [f"{side.unverified.sum()} in {name}" for name, side in (("A", a), ("B", b)) if side.unverified.any()]
    if unverified:
        yield f"answers that could not be verified, which count as not right: {', '.join(unverified)}"
    reworded = _reworded(a, b)
    if reworded:
        yield (
            f"the prompts of {len(reworded)} problems differ by more than the chat template (the first: problem "
            f"{reworded[0]}): make sure that they are the same problems"
        )


def _counted(counts: np.ndarray) -> str:
    low, high = counts.min(), counts.max()
    return str(low) if low == high else f"{low} to {high}"


def _settings(path: Path) -> dict[str, object]:
    settings = read_json(path.parent / "settings.json") or {}
    held = _HELD_AS.fullmatch(str(settings.get("model")))
    kept = {name: value for name, value in settings.items() if name not in _OTHERWISE_SAID}
    return kept | ({"held_as": held[1] or held[2]} if held else {})


def _reworded(a: Answers, b: Answers) -> list[int]:
    """The problems whose texts differ between A and B once what all prompts of a side share is taken off its ends.

    What is left differs where a template changes the text of a problem itself, or the problems are not the same.
    """
    cores = zip(a.problems, _cores(a.prompts), _cores(b.prompts), strict=True)
    return [int(problem) for problem, one, other in cores if one != other]


def _cores(prompts: Sequence[str]) -> list[str]:
    # Only letters and digits: a served prompt may be JSON, in which line breaks and quotes are escaped.
    texts = [_NO_WORD.sub("", _ESCAPES.sub("", prompt)) for prompt in prompts]
    start = _shared_start(texts)
    texts = [text[start:] for text in texts]
    end = _shared_start([text[::-1] for text in texts])
    return [text[: len(text) - end] for text in texts]


def _shared_start(texts: Sequence[str]) -> int:
    """How many characters all texts begin with alike: as many as the first and the last in alphabetical order."""
    first, last = min(texts), max(texts)
    return next((place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
