"""vLLM in the training process, on the training GPU: it takes the policy's weights in place, and sleeps while training
needs the memory.

With several processes each has an engine of its own, over its own GPU. Only what vLLM 0.26 and 0.28 have in common is
used, but for `sampled_logprobs` and `decode_scheduler`, which are done without where vLLM is another one.
"""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open_r1.errors import UserError
from open_r1.generation.decode_graphs import compilation_config
from open_r1.generation.engine import Completion, Request, SamplingParams
from open_r1.generation.sampled_logprobs import follow_sampler
from open_r1.generation.vllm_engine import VllmEngine, completion_of, sampling_params
from open_r1.generation.vllm_process import ENVIRONMENT, check_machine, decode_scheduler, explain, log_to, output_to

IN_PROCESS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_HOST_IP": "127.0.0.1",  # where its one-rank rendezvous is; a rented machine may not resolve its own name
}

_LOST: list[Any] = []
"""Engines that a CUDA error has left behind: their destructors throw, which would end the process before it is told."""


@dataclass(frozen=True)
class ColocatedOptions:
    """How the engine is started.

    Attributes:
        max_model_length: longest prompt and completion together, in tokens.
        max_num_seqs: completions decoded at once.
        cache_bytes: of keys and values; None leaves it to vLLM, which then takes ``memory_share``.
        memory_share: of the GPU, for weights, cache and work; None is most of what is free.
        sleeps: gives weights and cache back between generations.
        processes: of the training run; each has an engine.
        logprobs: whether completions come with the log-probabilities of their tokens.
        own_stream: work in a CUDA stream of its own, for a thread that draws while another one trains: kernels of one
            stream wait in line.
    """

    max_model_length: int
    max_num_seqs: int
    cache_bytes: int | None
    dtype: str = "bfloat16"
    revision: str | None = None
    sleeps: bool = False
    processes: int = 1
    enforce_eager: bool = False
    trust_remote_code: bool = False
    logprobs: bool = True
    seed: int = 0
    memory_share: float | None = None
    own_stream: bool = False


class ColocatedEngine(VllmEngine):
    """Draws completions with the weights that `load_weights` gave it last.

    Requests with one prompt are sent as one, whose first seed decides the draws of all: sample ``i`` is drawn with that
    seed plus ``i``.

    Whichever thread calls, the engine works in one CUDA stream, that of its start: there vLLM goes on after each step
    whose stream was another one, and copies tokens before they are drawn.

    Args:
        model: hub id or local folder; of it only the configuration is read, the weights come by `load_weights`.
        log: file that takes what vLLM writes.

    Raises:
        UserError: vLLM is not installed, there is no GPU, or vLLM does not start; says what to change.
    """

    def __init__(self, model: str, options: ColocatedOptions, *, log: Path) -> None:
        self._options, self._log = options, log
        self._llm, self._cuda_stream = _start(model, options, log)
        self._device = torch.cuda.current_device()
        self.context = options.max_model_length
        self._names = itertools.count()
        self._asleep = False
        self._logprobs = follow_sampler(self._llm) if options.logprobs else None
        self._asks = options.logprobs and self._logprobs is None
        self._cuda_stream.synchronize()
        if options.sleeps:
            self._sleep()
        # What two libraries have built by now stays for good; looking through it again and again costs whole steps.
        gc.collect()
        gc.freeze()

    @property
    def llm(self) -> Any:
        """The ``vllm.LLM`` that draws."""
        return self._llm

    def close(self) -> None:
        """Gives back the GPU's memory; harmless when repeated."""
        llm, self._llm, self._logprobs = self._llm, None, None
        if llm is None:
            return
        try:
            self._cuda_stream.synchronize()
        except RuntimeError:  # of CUDA, after which nothing can be given back
            _LOST.append(llm)
            return
        with suppress(Exception):
            llm.llm_engine.engine_core.shutdown()
        del llm
        torch.cuda.empty_cache()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copies ``weights`` (names of a transformers checkpoint, whole tensors on this GPU) into the engine's own.

        Raises:
            UserError: there is no memory to wake up in.
        """
        caller = torch.cuda.current_stream()
        caller.wait_stream(self._cuda_stream)  # a step that was given up may still read the weights before
        self._wake("weights")
        with torch.no_grad():
            self._llm.apply_model(lambda model: len(list(model.load_weights(weights))))
        self._wake("kv_cache")
        self._llm.reset_prefix_cache()
        self._cuda_stream.wait_stream(caller)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        """As `VllmEngine.generate`; log-probabilities are those of softmax(logits / temperature) where nothing is cut
        off by top-p or top-k, else of what was left.

        Raises:
            UserError: as there, and where the GPU runs out of memory.
        """
        return self._until_asleep(super().generate(requests, params))

    def _until_asleep(self, completions: Iterator[Completion]) -> Iterator[Completion]:
        if self._logprobs is not None:
            self._logprobs.clear()
        try:
            yield from completions
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"vLLM ran out of memory while it was drawing ({str(error).splitlines()[0][:120]}): lower "
                "--vllm_gpu_memory_utilization or --vllm_max_num_seqs, or set --vllm_enable_sleep_mode true"
            ) from error
        self._cuda_stream.synchronize()  # log-probabilities are read in other streams
        if self._options.sleeps:
            self._sleep()

    def _in_stream(self) -> AbstractContextManager[Any]:
        torch.cuda.set_device(self._device)  # each thread has its own
        return torch.cuda.stream(self._cuda_stream)

    def _add(self, engine: Any, batch: list[Request], params: SamplingParams) -> str:
        with self._in_stream():
            return super()._add(engine, batch, params)

    def _step(self, engine: Any) -> list[Any]:
        with self._in_stream():
            return super()._step(engine)

    def _batches(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[list[Request]]:
        if params.temperature == 0:  # vLLM draws one greedy answer to a request
            yield from ([request] for request in requests)
        else:
            for _, batch in itertools.groupby(requests, key=lambda request: request.prompt_ids):
                yield list(batch)

    def _parameters(self, batch: list[Request], params: SamplingParams) -> Any:
        return sampling_params(params, n=len(batch), seed=batch[0].seed, logprobs=0 if self._asks else None)

    def _completions(self, name: str, batch: list[Request], output: Any) -> Iterator[Completion]:
        prompt = len(batch[0].prompt_ids)
        with self._in_stream():
            logprobs = [
                self._logprobs_of((name, number), prompt, answer) for number, answer in enumerate(output.outputs)
            ]
        for request, answer, values in zip(batch, output.outputs, logprobs, strict=True):
            yield completion_of(request, answer, values)

    def _logprobs_of(self, key: tuple[str, int], prompt: int, answer: Any) -> Any:
        if self._logprobs is not None:
            return self._logprobs.read(key, prompt, len(answer.token_ids))
        if self._asks:
            return tuple(at[token].logprob for at, token in zip(answer.logprobs, answer.token_ids, strict=True))
        return ()

    def _sleep(self) -> None:
        # Weights are not kept: the next ones come before the next generation.
        self._llm.sleep(level=2)
        self._asleep = True

    def _wake(self, part: str) -> None:
        if not self._asleep:
            return
        torch.cuda.empty_cache()  # what training has left in its allocator is of no use to another one
        try:
            self._llm.wake_up([part])
        except Exception as error:  # of a C++ allocator, by many names
            raise UserError(
                f"there is no memory for vLLM to wake up in ({str(error).splitlines()[0][:120]}): lower "
                "--vllm_gpu_memory_utilization, or train with less (--gradient_checkpointing full, --optim adamw_8bit)"
            ) from error
        self._asleep = part == "weights"


def _start(model: str, options: ColocatedOptions, log: Path) -> tuple[Any, torch.cuda.Stream]:
    """The ``vllm.LLM``, and the stream in which it works."""
    os.environ.update(IN_PROCESS)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    check_machine("use_vllm")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    own = torch.cuda.Stream() if options.own_stream else None
    try:
        with output_to(log):
            from vllm import LLM  # before the stream is entered: from its import on vLLM keeps track of streams

            with torch.cuda.stream(own):  # of None: nothing changes
                llm = LLM(model=model, **_arguments(options))
    except Exception as error:
        raise UserError(f"vLLM could not start with {model}: {explain(log, str(error))}") from error
    log_to(log)
    return llm, own or torch.cuda.current_stream()


def _arguments(options: ColocatedOptions) -> dict[str, Any]:
    """The arguments of ``vllm.LLM`` that do not keep vLLM's own default."""
    arguments: dict[str, Any] = {
        "load_format": "dummy",
        "dtype": options.dtype,
        "kv_cache_memory_bytes": options.cache_bytes,
        "gpu_memory_utilization": options.memory_share or _asked_share(options.cache_bytes),
        "max_model_len": options.max_model_length,
        "max_num_seqs": options.max_num_seqs,
        "enforce_eager": options.enforce_eager,
        "compilation_config": compilation_config(options.max_num_seqs, options.enforce_eager),
        "enable_sleep_mode": options.sleeps,
        "trust_remote_code": options.trust_remote_code,
        "skip_tokenizer_init": True,  # prompts go in and completions come out as token ids
        "generation_config": "vllm",  # sampling is what a request says, not the model's own default
        "logprobs_mode": "processed_logprobs",
        "scheduler_cls": decode_scheduler(),
        "seed": options.seed,
        "revision": options.revision,
        # Engines of several training processes lie side by side in the process group that these have already.
        "distributed_executor_backend": "external_launcher" if options.processes > 1 else None,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def _asked_share(cache_bytes: int | None) -> float:
    """Of the GPU, what vLLM may ask to be free when it starts; without ``cache_bytes``, also what it takes.

    Where the cache is given, nothing follows from the share. So as little as there is a sense in is asked for: another
    process may take some of what is free now before vLLM looks.
    """
    free, total = free_memory()
    share = min(0.9, 0.9 * free / total)
    return share if cache_bytes is None else min(share, cache_bytes / total)


def free_memory() -> tuple[int, int]:
    """Bytes of the GPU that this process can still have (it may be allowed less than all), and all that there are."""
    device = torch.cuda.current_device()
    free, total = torch.cuda.mem_get_info(device)
    allowed = int(total * torch.cuda.get_per_process_memory_fraction(device)) - torch.cuda.memory_reserved(device)
    return max(0, min(free, allowed)), total
