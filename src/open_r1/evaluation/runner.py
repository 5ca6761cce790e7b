"""Running tasks: draw what is missing, verify while drawing, keep every generation, say what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from open_r1.config import EvaluateConfig
from open_r1.data.bad_rows import BadRow
from open_r1.errors import UserError
from open_r1.evaluation.answers import Answer, Question, Verifiers, draw_answers
from open_r1.evaluation.chat_model import ChatModel, Prompt
from open_r1.evaluation.exactly_once import ExactlyOnce
from open_r1.evaluation.generations import Generation
from open_r1.evaluation.gold import verifier_pool
from open_r1.evaluation.judged_again import judge_again, judging_code
from open_r1.evaluation.meter import AnswerMeter
from open_r1.evaluation.registry import TaskSource
from open_r1.evaluation.result_files import write_results
from open_r1.evaluation.results import TaskResult, results_table, shortened, stated, summarize
from open_r1.evaluation.store import GenerationStore
from open_r1.evaluation.task import Problem, Task
from open_r1.generation.engine import SamplingParams
from open_r1.generation.openai_stream import RequestsFailed
from open_r1.generation.seeds import sample_seed
from open_r1.locks import held
from open_r1.rewards.code_sandbox import isolation_line
from open_r1.rewards.pool import RewardPool
from open_r1.rewards.registry import reward_spec


def evaluate(
    model: ChatModel, sources: Sequence[TaskSource], config: EvaluateConfig, *, console: Console | None = None
) -> list[TaskResult]:
    """Evaluates ``model`` on each task.

    Writes ``<output_dir>/<task>/generations.parquet`` while a task runs, and at the end, also one that comes too soon,
    ``results.json``, ``results.parquet`` and ``model_card.md`` of the tasks that are finished
    (`open_r1.evaluation.result_files`).

    Answers that an earlier start with the same settings left in the folder are used and not drawn again; those that
    could not be verified then, or were by code of the user's own that has changed, are verified again. All tasks are
    loaded, their gold answers verified and their folders opened before the first answer is drawn.

    Raises:
        UserError: data that cannot be used, a folder that holds answers made with other settings or that another start
            is using, or a model that did not give every answer once.
    """
    console = console or Console()
    folder = output_folder(config)
    with ExitStack() as stack:
        rewards = {source.task.reward_name: source.task.reward for source in sources}
        specs = [reward_spec(reward) if isinstance(reward, str) else reward for reward in rewards.values()]
        if line := isolation_line(specs):
            console.print(line, markup=False)
        pools: dict[str, RewardPool] = {}
        for name, reward in rewards.items():
            pools[name] = stack.enter_context(verifier_pool(reward, config))
        for source in sources:
            stack.enter_context(_held(folder / source.folder))
        runs = [prepare(model, source, config, pools[source.task.reward_name], folder, console) for source in sources]
        if config.overwrite_output_dir:
            model.start()  # what can fail has been tried before the answers of an earlier start are removed
            for run in runs:
                run.store.start_anew()
            console.print("started anew; after a stop leave out --overwrite_output_dir, and the command goes on")
        results: list[TaskResult] = []
        try:
            _run_all(model, runs, results, console)
        finally:  # what is finished has its results, whatever befalls the other tasks
            if results and (line := write_results(folder, model, results, config)):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    return results


def _held(folder: Path) -> AbstractContextManager[None]:
    """The folder of a task, for this start alone.

    Raises:
        UserError: another start has it.
    """
    way_on = "wait until it ends, or choose another --output_dir"
    return held(folder / ".lock", f"{folder} is in use by another start ({{holder}}): {way_on}")


def _run_all(model: ChatModel, runs: Sequence[TaskRun], results: list[TaskResult], console: Console) -> None:
    """Runs every task, the later ones too where some requests of an earlier one failed for good.

    Args:
        results: takes that of each task when it is finished.

    Raises:
        RequestsFailed: after the last task, if a request got no answer; the results of the others are shown before.
    """
    failures = []
    for run in runs:
        try:
            results.append(run_task(model, run, console))
        except RequestsFailed as failed:
            console.print(f"{run.label}: {failed.failed:,} of {failed.total:,} requests failed", markup=False)
            failures.append(failed)
    if failures:
        if results:
            console.print(results_table(results))
        raise RequestsFailed.together(failures)


def output_folder(config: EvaluateConfig) -> Path:
    """Where results go: ``output_dir``, or ``runs/evaluate/<model>``."""
    return Path(config.output_dir or f"runs/evaluate/{config.model.strip('./').replace('/', '--')}")


@dataclass(frozen=True)
class TaskRun:
    """A task that is ready to run: problems loaded and encoded, gold answers checked, folder opened.

    Attributes:
        prompts: one a problem.
        samples: answers to draw for each problem.
        extract: the task's, for majority vote.
        seed: of the run; each answer's own seed follows from it, the problem and the sample.
        rejected_gold: problems whose own gold answer the verifier does not accept.
        dataset: where on the hub the problems are from, if they are all of it.
        limit: of the problems that are asked; None is all.
    """

    label: str
    problems: list[Problem]
    prompts: list[Prompt]
    samples: int
    seed: int
    params: SamplingParams
    verifiers: Verifiers
    extract: Callable[[str], str | None] | None
    store: GenerationStore
    rejected_gold: Sequence[int] = ()
    dataset: dict[str, str | None] | None = None
    limit: int | None = None


def prepare(
    model: ChatModel, source: TaskSource, config: EvaluateConfig, verifiers: Verifiers, folder: Path, console: Console
) -> TaskRun:
    """Everything about a task that can fail before an answer is drawn.

    Raises:
        UserError: see `evaluate`.
    """
    problems = source.load(config.limit)
    rejected_gold = _check_gold(source, problems, verifiers, console)
    prompts = [_encode(source, model, problem) for problem in problems]
    _check_room(source, model, prompts)
    params = model.sampling_params(config)
    # All that an answer depends on, but for prompt and gold answer, which every row of the store carries itself.
    settings = {"model": model.fingerprint, "seed": config.seed, "reward": source.task.reward_name, **asdict(params)}
    return TaskRun(
        label=source.label,
        problems=problems,
        prompts=prompts,
        samples=1 if config.temperature == 0 else config.num_samples or source.task.num_samples,
        seed=config.seed,
        params=params,
        verifiers=verifiers,
        extract=source.task.extract,
        store=GenerationStore(
            folder / source.folder, settings, judged_by=judging_code(source), overwrite=config.overwrite_output_dir
        ),
        rejected_gold=rejected_gold,
        dataset=None if source.path or config.limit else _dataset(source.task),
        limit=config.limit,
    )


def _dataset(task: Task) -> dict[str, str | None] | None:
    return task.hub_id and {"id": task.hub_id, "config": task.hub_config, "split": task.split}


def _check_gold(source: TaskSource, problems: list[Problem], verifiers: Verifiers, console: Console) -> list[int]:
    found = source.task.rejected(problems, verifiers)
    rejected = [one.place for one in found]
    if not rejected:
        return []
    if len(rejected) == len(problems):
        raise UserError(
            f"{source.label}: the verifier accepts none of the {len(problems)} gold answers (the first is "
            f"{problems[0].gold[:80]!r}: {found[0].why}); is it the right column, and an answer that can be checked?"
        )
    console.print(
        f"{source.label}: the verifier does not accept the gold answers of {len(rejected)} of {len(problems)} problems "
        f"(rows {shortened(rejected)}) as right; answers to them hardly count",
        markup=False,
        highlight=False,
    )
    return rejected


def _encode(source: TaskSource, model: ChatModel, problem: Problem) -> Prompt:
    try:
        return model.prompt(problem.messages)
    except BadRow as bad:
        raise UserError(f"{source.label}: problem {problem.index}: {bad}") from bad


def _check_room(source: TaskSource, model: ChatModel, prompts: list[Prompt]) -> None:
    for index, prompt in enumerate(prompts):
        if not model.leaves_room(prompt):
            raise UserError(
                f"{source.label}: problem {index} has {len(prompt.ids)} tokens, which leaves no room for an answer in "
                f"the model's context of {model.context_length}"
            )


def _say_where_answers_end(model: ChatModel, run: TaskRun, console: Console) -> None:
    longest = max(len(prompt.ids or ()) for prompt in run.prompts)
    if model.context_length is not None and longest + run.params.max_new_tokens > model.context_length:
        known = f" (prompts have up to {longest} tokens)" if longest else ""  # a server alone can count them
        console.print(
            f"{run.label}: max_new_tokens {run.params.max_new_tokens} is more than the model's context of "
            f"{model.context_length} leaves{known}: answers end where it is full",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def run_task(model: ChatModel, run: TaskRun, console: Console) -> TaskResult:
    """Draws and verifies the answers that the store does not hold yet, and sums up all of them."""
    problems = {problem.index: problem for problem in run.problems}
    prompts = {problem.index: prompt for problem, prompt in zip(run.problems, run.prompts, strict=True)}
    wanted = [(index, sample) for index in problems for sample in range(run.samples)]
    done = run.store.done(
        {index: prompt.text for index, prompt in prompts.items()},
        {index: problem.gold for index, problem in problems.items()},
    )
    questions = [
        Question((index, sample), prompts[index], sample_seed(run.seed, 0, index, sample), problems[index].columns)
        for index, sample in wanted
        if (index, sample) not in done
    ]

    def generation(answer: Answer) -> Generation:
        index, sample = answer.question.key
        return Generation(
            task=run.label,
            problem=index,
            sample=sample,
            prompt=prompts[index].text,
            completion=answer.text,
            tokens=answer.tokens,
            finish_reason=answer.finish_reason,
            reward=answer.reward,
            gold=problems[index].gold,
            subject=problems[index].subject,
            extracted=stated(run.extract, answer.text),
            seed=answer.question.seed,
        )

    if questions:
        _say_where_answers_end(model, run, console)
        model.start()  # not while the answers are timed
    with AnswerMeter(console, run.label, total=len(wanted), done=len(wanted) - len(questions)) as meter, run.store:
        judge_again(run.label, run.store, problems, run.verifiers, run.extract, console)
        for answer in draw_answers(questions, ExactlyOnce(model, run.label), run.params, run.verifiers):
            run.store.append(generation(answer))
            meter.count(answer)
    rows, seconds = run.store.merge(set(wanted))
    return summarize(
        run.label,
        rows,
        run.samples,
        seconds,
        run.store.path,
        seed=run.seed,
        extract=run.extract,
        subjects={index: problem.subject for index, problem in problems.items()},
        rejected_gold=run.rejected_gold,
        dataset=run.dataset,
        limit=run.limit,
    )
