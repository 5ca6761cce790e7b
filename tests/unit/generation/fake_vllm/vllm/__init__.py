"""The part of vLLM that open-r1 uses, made up: every completion is its prompt reversed, and stop token 0.

What a test wants to see or to go wrong stands in attributes of ``LLM``: ``made`` (the instances so far), and ``start``
(called instead of loading). ``LLMEngine.silent``: nothing comes of the process any more, and a step waits for it.
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar

from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError

__all__ = ["LLM", "SamplingParams"]

logging.getLogger("vllm").addHandler(logging.StreamHandler(sys.stdout))


@dataclass
class Answer:
    token_ids: list[int]
    finish_reason: str
    logprobs: list[dict[int, SimpleNamespace]] | None = None


@dataclass
class Output:
    request_id: str
    outputs: list[Answer]
    finished: bool = True


@dataclass
class EngineCore:
    """The process that would hold the model."""

    process: multiprocessing.Process
    calls: int = 0
    outputs_queue: queue.Queue = field(default_factory=queue.Queue)

    def shutdown(self) -> None:
        self.calls += 1
        self.process.terminate()


@dataclass
class LLMEngine:
    """Decodes ``at_once`` requests, and finishes the last of them first, one a step."""

    engine_core: EngineCore
    at_once: int
    queue: deque = field(default_factory=deque)
    most_in_hand: int = 0
    asked: list = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    steps_to_live: int | None = None
    silent: bool = False
    finish_reason: str | None = None

    def add_request(self, request_id: str, prompt: dict, params: SamplingParams) -> str:
        assert prompt["type"] == "token" and params.output_kind is RequestOutputKind.FINAL_ONLY
        assert not params.detokenize and params.ignore_eos
        if params.temperature > 2:
            raise ValueError(f"temperature must be in [0, 2],\n got {params.temperature}.")
        if params.temperature == 0 and params.n > 1:
            raise ValueError("n must be 1 when using greedy sampling")
        self.asked.append((tuple(prompt["prompt_token_ids"]), params.n, params.seed))
        self.queue.append((request_id, list(prompt["prompt_token_ids"]), params))
        self.most_in_hand = max(self.most_in_hand, sum(params.n for _, _, params in self.queue))
        return f"{request_id}-internal"

    def has_unfinished_requests(self) -> bool:
        return bool(self.queue)

    def step(self) -> list[Output]:
        if self.silent:
            raise self.engine_core.outputs_queue.get()
        if self.steps_to_live is not None:
            self.steps_to_live -= 1
            if self.steps_to_live < 0:
                raise EngineDeadError
        place = min(self.at_once, len(self.queue)) - 1
        request_id, prompt, params = self.queue[place]
        del self.queue[place]
        answers = []
        for index in range(params.n):
            ids = [*reversed(prompt), *[7] * index, params.stop_token_ids[0]]
            cut = len(ids) > params.max_tokens
            reason = self.finish_reason or ("length" if cut else "stop")
            ids = ids[: params.max_tokens]
            logprobs = [{token: SimpleNamespace(logprob=-float(token))} for token in ids]
            answers.append(Answer(ids, reason, None if params.logprobs is None else logprobs))
        return [Output("unfinished", [], finished=False), Output(request_id, answers)]

    def abort_request(self, request_ids: list[str]) -> None:
        self.aborted += request_ids
        self.queue = deque(entry for entry in self.queue if entry[0] not in request_ids)


class LLM:
    made: ClassVar[list[LLM]] = []
    start = staticmethod(lambda: None)

    def __init__(self, model: str, **arguments: object) -> None:
        self.model, self.arguments = model, arguments
        print("INFO loading the weights", flush=True)
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
        process.start()
        self.made.append(self)
        self.process = process
        type(self).start()
        self.model_config = SimpleNamespace(max_model_len=arguments.get("max_model_len", 512))
        self.llm_engine = LLMEngine(EngineCore(process), at_once=3)
        self.weights: dict[str, object] = {}
        self.calls: list[str] = []

    def load_weights(self, weights: object) -> set[str]:
        self.calls.append("load")
        self.weights = dict(weights)
        return set(self.weights)

    def apply_model(self, function: Callable) -> list:
        return [function(self)]

    def reset_prefix_cache(self) -> None:
        self.calls.append("forget prompts")

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"wake {' '.join(tags)}")
