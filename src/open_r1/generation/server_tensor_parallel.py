"""vLLM over several GPUs behind a server: its own processes receive a trainer's weights, each what it needs of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from open_r1.config.serve import ServeConfig
from open_r1.errors import UserError
from open_r1.generation.engine import Completion, Request, SamplingParams
from open_r1.generation.server_model import Meeting, facts_of, vllm_dtype
from open_r1.generation.server_protocol import ServerFacts
from open_r1.generation.vllm_engine import VllmEngine, VllmOptions, completion_of, sampling_params
from open_r1.parallel.weight_channel import WeightReceiver

_LONGEST_CAUSE = 300


class WeightWorker:
    """What vLLM mixes into its worker (``worker_extension_cls``); ``rank`` and ``device`` are the worker's."""

    rank: int
    device: torch.device
    model_runner: Any

    def open_r1_meet(self, host: str, port: int, processes: int, dtype: str, timeout: float) -> None:
        """Joins the trainer's weight channel."""
        self.open_r1_receiver = None
        self.open_r1_receiver = WeightReceiver(
            host,
            port,
            rank=self.rank + 1,
            world_size=processes,
            dtype=getattr(torch, dtype),
            device=self.device,
            timeout=timeout,
        )

    def open_r1_receive(self) -> None:
        """Loads one update in place: addresses stay, and with them captured CUDA graphs."""
        with torch.no_grad():
            self.model_runner.model.load_weights(self.open_r1_receiver.receive())
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class TensorParallelEngine(VllmEngine):
    """Draws with log-probabilities, every completion by its own seed; weights come by `WeightWorker`."""

    def load_weights(self, weights: Any) -> None:
        """Not the way here.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("the processes that hold the model receive weights themselves")

    def _parameters(self, batch: list[Request], params: SamplingParams) -> Any:
        return sampling_params(params, n=len(batch), seed=batch[0].seed, logprobs=0)

    def _completions(self, name: str, batch: list[Request], output: Any) -> Iterator[Completion]:
        for request, answer in zip(batch, output.outputs, strict=True):
            logprobs = [at[token].logprob for at, token in zip(answer.logprobs, answer.token_ids, strict=True)]
            yield completion_of(request, answer, tuple(logprobs))


class TensorParallelModel:
    """The `ServedModel` of such an engine."""

    def __init__(self, engine: TensorParallelEngine, facts: ServerFacts) -> None:
        self.engine, self.facts = engine, facts

    def meet(self, meeting: Meeting) -> None:
        self._all("open_r1_meet", meeting.host, meeting.port, meeting.processes, self.facts.dtype, meeting.timeout)

    def receive(self) -> None:
        self._all("open_r1_receive")
        self.engine.llm.reset_prefix_cache()

    def _all(self, method: str, *arguments: object) -> None:
        try:
            self.engine.llm.collective_rpc(method, args=arguments)
        except Exception as error:  # of another process, as text
            said = " ".join(str(error).split())
            raise UserError(f"the processes of vLLM could not take the weights: {said[:_LONGEST_CAUSE]}") from error


def open_tensor_parallel(config: ServeConfig, log: Path) -> TensorParallelModel:
    """Starts vLLM over ``config.tensor_parallel_size`` GPUs.

    Raises:
        UserError: it does not start.
    """
    dtype = vllm_dtype(config)
    options = VllmOptions(
        revision=config.revision,
        dtype=dtype,
        max_model_length=config.max_model_len,
        gpu_memory_utilization=config.gpu_memory_utilization,
        tensor_parallel_size=config.tensor_parallel_size,
        max_num_seqs=config.max_num_seqs,
        enforce_eager=config.enforce_eager,
        trust_remote_code=config.trust_remote_code,
    )
    extension = f"{WeightWorker.__module__}.{WeightWorker.__qualname__}"
    arguments = {"worker_extension_cls": extension, "logprobs_mode": "processed_logprobs"}
    engine = TensorParallelEngine(config.model, options, log=log, arguments=arguments)
    facts = facts_of(config, context=engine.context, dtype=getattr(torch, dtype), device="cuda")
    return TensorParallelModel(engine, facts)
