"""The model behind a server: an engine, and the way by which a trainer's weights get into it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoConfig

from open_r1 import __version__
from open_r1.config.serve import ServeConfig
from open_r1.errors import UserError
from open_r1.generation.engine import TrainableEngine
from open_r1.generation.server_protocol import ServerFacts, sizes_of
from open_r1.generation.transformers_engine import TransformersEngine
from open_r1.generation.vllm_process import check_machine
from open_r1.model.load import load_model, stored_dtype
from open_r1.parallel.weight_channel import WeightReceiver

DEFAULT_SEQUENCES = 1024
"""Completions that vLLM decodes at once: about as many as a step of GRPO asks for."""


@dataclass(frozen=True)
class Meeting:
    """Where a trainer waits for the processes that hold the model.

    Attributes:
        processes: at the meeting, the trainer among them.
        timeout: seconds that each side waits for the other.
    """

    host: str
    port: int
    processes: int
    timeout: float


class ServedModel(Protocol):
    """What a server needs of a model."""

    engine: TrainableEngine
    facts: ServerFacts

    def meet(self, meeting: Meeting) -> None:
        """Joins the trainer's weight channel; an earlier one is left."""

    def receive(self) -> None:
        """Takes one update of all weights from the channel."""


class LocalModel:
    """A model in this process: weights are received here and loaded into the engine as they come."""

    def __init__(self, engine: TrainableEngine, facts: ServerFacts) -> None:
        self.engine, self.facts = engine, facts
        self._receiver: WeightReceiver | None = None

    def meet(self, meeting: Meeting) -> None:
        self._receiver = None
        self._receiver = WeightReceiver(
            meeting.host,
            meeting.port,
            rank=1,
            world_size=meeting.processes,
            dtype=getattr(torch, self.facts.dtype),
            device=torch.device(self.facts.device),
            timeout=meeting.timeout,
        )

    def receive(self) -> None:
        if self._receiver is None:
            raise UserError("no trainer has opened a weight channel")
        try:
            self.engine.load_weights(self._receiver.receive())
        except ValueError as error:
            raise UserError(f"the weights do not fit the model: {error}") from error
        if self.facts.device == "cuda":
            torch.cuda.synchronize()  # the next generation may run in another stream


def open_model(config: ServeConfig, log: Path) -> ServedModel:
    """Loads the model with the engine that ``config`` names.

    Raises:
        UserError: it cannot be loaded, or its engine does not start.
    """
    if config.engine == "transformers":
        return _with_transformers(config)
    if not torch.cuda.is_available():
        raise UserError("engine vllm needs a GPU, and torch finds none: add --engine transformers to serve without one")
    check_machine("engine vllm")
    if config.tensor_parallel_size > 1:
        from open_r1.generation.server_tensor_parallel import open_tensor_parallel

        return open_tensor_parallel(config, log)
    return _with_vllm(config, log)


def facts_of(config: ServeConfig, *, context: int | None, dtype: torch.dtype, device: str) -> ServerFacts:
    """What the server says of a model that is loaded."""
    return ServerFacts(
        model=config.model,
        engine=config.engine,
        context=context,
        workers=config.tensor_parallel_size,
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        sizes=sizes_of(text_config(config)),
        version=__version__,
        waits_for_weights=config.engine == "vllm" and config.tensor_parallel_size == 1,
    )


def text_config(config: ServeConfig) -> Any:
    """The configuration of the language model."""
    whole = AutoConfig.from_pretrained(
        config.model, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    return whole.get_text_config()


def _with_transformers(config: ServeConfig) -> ServedModel:
    model = load_model(config.model, config.revision, config.dtype, trust_remote_code=config.trust_remote_code)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).eval().requires_grad_(False)
    # Padding is never attended to.
    engine = TransformersEngine(model, pad_token_id=0, batch_size=config.max_num_seqs, shares_weights=False)
    return LocalModel(engine, facts_of(config, context=engine.context, dtype=model.dtype, device=device))


def _with_vllm(config: ServeConfig, log: Path) -> ServedModel:
    from open_r1.generation.colocated_engine import ColocatedEngine, ColocatedOptions

    dtype = vllm_dtype(config)
    options = ColocatedOptions(
        max_model_length=config.max_model_len or text_config(config).max_position_embeddings,
        max_num_seqs=config.max_num_seqs or DEFAULT_SEQUENCES,
        cache_bytes=None,
        dtype=dtype,
        revision=config.revision,
        enforce_eager=config.enforce_eager,
        trust_remote_code=config.trust_remote_code,
        memory_share=config.gpu_memory_utilization,
    )
    engine = ColocatedEngine(config.model, options, log=log)
    facts = facts_of(config, context=engine.context, dtype=getattr(torch, dtype), device="cuda")
    return LocalModel(engine, facts)


def vllm_dtype(config: ServeConfig) -> str:
    """The type of vLLM's weights: bfloat16 where float32 is stored and nothing else is asked for."""
    if config.dtype != "auto":
        return config.dtype
    stored = stored_dtype(config.model, config.revision, config.trust_remote_code)
    return "bfloat16" if stored == torch.float32 else str(stored).removeprefix("torch.")
