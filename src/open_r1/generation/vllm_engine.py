"""vLLM as an engine, its scheduler and model in a process of their own that is never short of requests.

Only what vLLM 0.26 and 0.28 have in common is used: ``LLM``, ``SamplingParams``, and the ``add_request``,
``abort_request`` and ``step`` of ``LLM.llm_engine``.
"""

from __future__ import annotations

import itertools
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_r1.errors import UserError
from open_r1.generation.decode_graphs import compilation_config
from open_r1.generation.engine import Completion, Request, SamplingParams, check_requests
from open_r1.generation.interruption import check_interruption
from open_r1.generation.vllm_process import VllmProcess, decode_scheduler, explain

WINDOW = 4096
"""Completions that vLLM has in hand or waiting: several times what it decodes at once, so that it never waits for this
process, and a bound on the memory of a run of any size."""

_FINISHED = ("stop", "length")
_NONE: Mapping[str, Any] = {}


@dataclass(frozen=True)
class VllmOptions:
    """How vLLM is started.

    Attributes:
        max_model_length: longest prompt and completion together; None is the model's own context.
        dtype: "bfloat16", "float16", "float32", or "auto" (vLLM's choice).
        max_num_seqs: completions decoded at once; None is vLLM's choice.
        seed_each: every completion by its request's seed, so that it depends on nothing drawn before it. The sampler
            of vLLM's newer model runner (dense models) does that for nothing; the older one (mixtures of experts)
            slows down. Otherwise each start of vLLM draws anew, and requests with one prompt are sent as one.
    """

    revision: str | None = None
    dtype: str = "auto"
    max_model_length: int | None = None
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    max_num_seqs: int | None = None
    enforce_eager: bool = False
    trust_remote_code: bool = False
    seed_each: bool = True


class VllmEngine:
    """Draws completions with vLLM; gives no log-probabilities.

    Args:
        model: hub id or local folder of whole weights.
        log: file that takes what vLLM writes.
        arguments: further ones of ``vllm.LLM``.

    Raises:
        UserError: vLLM is not installed, there is no GPU, or vLLM does not start; says what to change.
    """

    _process: VllmProcess | None = None
    """None of an engine in this process."""

    def __init__(self, model: str, options: VllmOptions, *, log: Path, arguments: Mapping[str, Any] = _NONE) -> None:
        self._options, self._log = options, log
        self._process = VllmProcess(model, _arguments(options) | dict(arguments), log)
        self.context: int = self._process.llm.model_config.max_model_len
        self._names = itertools.count()

    @property
    def llm(self) -> Any:
        """The ``vllm.LLM`` that draws."""
        return self._process.llm

    def close(self) -> None:
        """Ends vLLM's processes, which gives back the GPU's memory; harmless when repeated."""
        self._process.close()

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        """Yields each completion as soon as it is finished (requests sent as one: when the last of them is).

        Raises:
            UserError: a prompt is empty or leaves no room, vLLM refuses the settings, or its process dies.
            ValueError: if two requests share an id, or ``max_new_tokens`` is below 1.
        """
        check_requests(requests, params, self.context)
        return self._stream(deque(self._batches(requests, params)), params)

    def _batches(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[list[Request]]:
        """Requests that are sent as one: alone, or neighbours with one prompt."""
        if self._options.seed_each or params.temperature == 0:
            yield from ([request] for request in requests)
        else:
            for _, batch in itertools.groupby(requests, key=lambda request: request.prompt_ids):
                yield list(batch)

    def _stream(self, waiting: deque[list[Request]], params: SamplingParams) -> Iterator[Completion]:
        engine = self.llm.llm_engine
        in_hand: dict[str, list[Request]] = {}
        count = 0
        try:
            while waiting or in_hand:
                while waiting and count < WINDOW:
                    batch = waiting.popleft()
                    in_hand[self._add(engine, batch, params)] = batch
                    count += len(batch)
                check_interruption()
                for output in self._step(engine):
                    batch = in_hand.pop(output.request_id)
                    count -= len(batch)
                    yield from self._completions(output.request_id, batch, output)
        finally:
            if in_hand:  # the consumer left early, or something failed: what is in hand must not run on
                with suppress(Exception):
                    engine.abort_request(list(in_hand))

    def _add(self, engine: Any, batch: list[Request], params: SamplingParams) -> str:
        name = str(next(self._names))
        prompt = {"type": "token", "prompt_token_ids": list(batch[0].prompt_ids)}
        with self._alive():
            try:
                engine.add_request(name, prompt, self._parameters(batch, params))
            except ValueError as error:
                raise UserError(f"vLLM refuses request {batch[0].id}: {' '.join(str(error).split())[:300]}") from error
        return name

    def _parameters(self, batch: list[Request], params: SamplingParams) -> Any:
        """vLLM's parameters for requests that are sent as one."""
        return sampling_params(params, n=len(batch), seed=batch[0].seed if self._options.seed_each else None)

    def _completions(self, name: str, batch: list[Request], output: Any) -> Iterator[Completion]:
        """Ours for vLLM's answers to what was sent as ``name``."""
        for request, answer in zip(batch, output.outputs, strict=True):
            yield completion_of(request, answer)

    def _step(self, engine: Any) -> list[Any]:
        """Waits for the engine's next step; the requests that it finished.

        Raises:
            UserError: the engine's process is dead.
            RuntimeError: the engine has nothing to do although requests are unanswered.
        """
        if not engine.has_unfinished_requests():
            raise RuntimeError(f"vLLM lost requests that it had accepted; its log is {self._log}")
        with self._alive():
            return [output for output in engine.step() if output.finished]

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Raises UserError where the engine's process turns out to be dead."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            yield
        except EngineDeadError as error:
            raise UserError(f"vLLM died while it was drawing: {self._why(error)}") from error

    def _why(self, error: Exception) -> str:
        """Why its process is dead."""
        if self._process is not None and (killed := self._process.killed):
            return (
                f"its process was ended by {killed}, as the system does where the machine's memory runs out (not the "
                f"GPU's; `dmesg` tells): take a machine with more of it (log: {self._log})"
            )
        return explain(self._log, str(error))


def sampling_params(params: SamplingParams, *, n: int = 1, seed: int | None = None, logprobs: int | None = None) -> Any:
    """vLLM's parameters for ours: token ids only (text is decoded here), sent once a completion is finished."""
    from vllm import SamplingParams as VllmParams
    from vllm.sampling_params import RequestOutputKind

    return VllmParams(
        n=n,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        max_tokens=params.max_new_tokens,
        stop_token_ids=list(params.stop_token_ids),
        ignore_eos=True,  # of the model's own: what ends a completion is in stop_token_ids
        seed=seed,
        logprobs=logprobs,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def completion_of(request: Request, answer: Any, logprobs: Sequence[float] = ()) -> Completion:
    """Ours for one of vLLM's answers.

    Raises:
        RuntimeError: vLLM gave it up.
    """
    if answer.finish_reason not in _FINISHED:
        raise RuntimeError(f"vLLM ended request {request.id} with {answer.finish_reason!r}")
    return Completion(request.id, tuple(answer.token_ids), logprobs, answer.finish_reason)


def _arguments(options: VllmOptions) -> dict[str, Any]:
    """The arguments of ``vllm.LLM`` that do not keep vLLM's own default."""
    arguments: dict[str, Any] = {
        "dtype": options.dtype,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "tensor_parallel_size": options.tensor_parallel_size,
        "enforce_eager": options.enforce_eager,
        "trust_remote_code": options.trust_remote_code,
        "skip_tokenizer_init": True,  # prompts go in and completions come out as token ids
        "generation_config": "vllm",  # sampling is what a request says, not the model's own default
        "scheduler_cls": decode_scheduler(),
        # Where requests have no seeds, two starts with one seed would draw the same answers to the same places.
        "seed": 0 if options.seed_each else secrets.randbits(31),
        "revision": options.revision,
        "max_model_len": options.max_model_length,
        "max_num_seqs": options.max_num_seqs,
        "compilation_config": compilation_config(options.max_num_seqs, options.enforce_eager),
    }
    return {name: value for name, value in arguments.items() if value is not None}
