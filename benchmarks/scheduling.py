"""vLLM's scheduler beside ours, without a model and without a GPU: microseconds of Python in each step.

    python benchmarks/scheduling.py [--sequences 512] [--tokens 512]

Needs vLLM, of which the Python parts are enough (on ``PYTHONPATH``, with what they import). The model is made up: a
token depends on its completion and its place in it. Both schedulers answer the same requests, 8 completions to a
prompt, two steps in flight as in vLLM's engine; every step's scheduled tokens, blocks and finished requests, and every
completion must be the same. Counted are scheduling, taking up the tokens, and making completions of them. Prints one
JSON line.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

from open_r1.generation.engine import SamplingParams
from open_r1.generation.vllm_engine import sampling_params

MODEL = Path(__file__).parents[1] / "recipes" / "demo" / "base"
"""Only its configuration is read."""

BLOCK = 16
STOP = 1
EACH = 8


class Prompt(NamedTuple):
    """A prompt, and what to draw for it: a token is ``STOP`` once in ``stops`` times."""

    tokens: list[int]
    max_new_tokens: int
    completions: int = EACH
    stops: int = 1 << 30


class MadeUpModel:
    """What a model runner keeps and gives back; a token depends on prompt, seed, completion and place.

    Args:
        stops: of a request, once in how many tokens one is ``STOP``.

    Attributes:
        tables: blocks of each request in the batch, which are as many as its tokens need.
    """

    def __init__(self, stops: Callable[[str], int]) -> None:
        self._stops = stops
        self.tables: dict[str, list[int]] = {}
        self._known: dict[str, int] = {}  # tokens that a request has when it enters the batch
        self._drawn_from: dict[str, tuple[int, ...]] = {}

    def run(self, scheduled: Any) -> Any:
        """The ``ModelRunnerOutput`` of a ``SchedulerOutput``."""
        from vllm.v1.outputs import ModelRunnerOutput

        for name in scheduled.finished_req_ids | (scheduled.preempted_req_ids or set()):
            self.tables.pop(name, None)
        done = {}
        for new in scheduled.scheduled_new_reqs:
            self.tables[new.req_id] = list(new.block_ids[0])
            self._known[new.req_id] = len(new.prefill_token_ids or new.prompt_token_ids)
            number = int(new.req_id.partition("_")[0]) if "_" in new.req_id else 0
            prompt = zlib.crc32(repr(new.prompt_token_ids).encode())
            self._drawn_from[new.req_id] = (prompt, new.sampling_params.seed or 0, number)
            done[new.req_id] = new.num_computed_tokens
        cached = scheduled.scheduled_cached_reqs
        for name, computed, blocks in zip(
            cached.req_ids, cached.num_computed_tokens, cached.new_block_ids, strict=True
        ):
            if name in cached.resumed_req_ids:
                self.tables[name] = []
                self._known[name] = len(cached.all_token_ids[name])
            self.tables[name] += blocks[0] if blocks else ()
            done[name] = computed
        rows = []
        for name, count in scheduled.num_scheduled_tokens.items():
            length = done[name] + count
            assert len(self.tables[name]) == -(-length // BLOCK)
            rows.append([self._token(name, length)] if length >= self._known[name] else [])
        names = list(scheduled.num_scheduled_tokens)
        return ModelRunnerOutput(names, {name: index for index, name in enumerate(names)}, rows)

    def _token(self, name: str, place: int) -> int:
        value = hash((*self._drawn_from[name], place)) % (1 << 40)
        return STOP if value % self._stops(name) == 0 else 2 + value % 1000


class Engine:
    """vLLM's engine around a scheduler, two steps in flight; the model is made up.

    Args:
        kind: class of the scheduler.
        v2: as for vLLM's newer model runner, which is told of a preempted request as of a new one.
        record: what is kept of a step.

    Attributes:
        history: of each step the tokens scheduled, the block tables, and the requests that left.
        completions: tokens and finish reason of every completion, by request and number.
        seconds: spent in vLLM's Python or ours.
    """

    def __init__(
        self,
        kind: type,
        *,
        seats: int,
        blocks: int,
        longest: int,
        batch: int = 8192,
        v2: bool = True,
        record: Callable[[Any], Any] = repr,
    ) -> None:
        import torch
        from vllm.config import CacheConfig, DeviceConfig, ModelConfig, ParallelConfig, SchedulerConfig, VllmConfig
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.engine.output_processor import OutputProcessor
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        model = ModelConfig(model=str(MODEL), dtype="float32", skip_tokenizer_init=True, max_model_len=longest)
        config = VllmConfig(
            model_config=model,
            scheduler_config=SchedulerConfig(
                max_num_seqs=seats,
                max_num_batched_tokens=batch,
                max_model_len=longest,
                is_encoder_decoder=False,
                async_scheduling=True,
            ),
            cache_config=CacheConfig(block_size=BLOCK, enable_prefix_caching=True),
            parallel_config=ParallelConfig(),
            device_config=DeviceConfig(device="cpu"),
        )
        config.cache_config.num_gpu_blocks = blocks
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
        self.scheduler = kind(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
            structured_output_manager=StructuredOutputManager(config),
            block_size=BLOCK,
        )
        self.scheduler.use_v2_model_runner = v2
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(BLOCK, sha256)
        self._processor = OutputProcessor(None, log_stats=False)
        self._in_flight: deque[tuple[Any, Any]] = deque()
        self._stops: dict[str, int] = {}
        self._model = MadeUpModel(self._stops.__getitem__)
        self._record, self.history = record, []
        self.completions: dict[tuple[str, int], tuple[list[int], str]] = {}
        self.seconds = 0.0

    def add(self, name: str, prompt: Prompt) -> None:
        """Adds a request, as vLLM's ``LLMEngine.add_request`` does with several completions."""
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.engine.parallel_sampling import ParentRequest
        from vllm.v1.request import Request

        params = sampling_params(SamplingParams(prompt.max_new_tokens, stop_token_ids=(STOP,)), n=prompt.completions)
        request = EngineCoreRequest(name, prompt.tokens, None, params, None, 0.0, None, None, None)
        request.external_req_id = name
        parent = ParentRequest(request)
        for number in range(prompt.completions):
            child = copy(request)
            child.request_id, child.sampling_params = parent.get_child_info(number)
            self._stops[child.request_id] = prompt.stops
            self._processor.add_request(child, None, parent, number)
            self.scheduler.add_request(Request.from_engine_core_request(child, self._hasher))

    def abort(self, name: str) -> None:
        """Gives a request up, as ``LLMEngine.abort_request`` does."""
        from vllm.v1.request import RequestStatus

        names = self._processor.abort_requests([name], internal=False)
        self.scheduler.finish_requests(names, RequestStatus.FINISHED_ABORTED)

    def step(self) -> bool:
        """One step; False when there is nothing left to do."""
        start = time.perf_counter()
        scheduled = self.scheduler.schedule() if self.scheduler.has_requests() else None
        self.seconds += time.perf_counter() - start
        if scheduled is not None:
            self._in_flight.append((scheduled, self._run(scheduled)))
        if self._in_flight and (len(self._in_flight) == 2 or scheduled is None):
            start = time.perf_counter()
            outputs = self.scheduler.update_from_output(*self._in_flight.popleft())
            made = self._processor.process_outputs(outputs[0].outputs).request_outputs if 0 in outputs else []
            self.seconds += time.perf_counter() - start
            for answer in made:
                for each in answer.outputs:
                    self.completions[answer.request_id, each.index] = each.token_ids, each.finish_reason
        return bool(self._in_flight) or self.scheduler.has_requests()

    def _run(self, scheduled: Any) -> Any:
        """A step of the model; what it was told is recorded."""
        output = self._model.run(scheduled)
        tables = self._model.tables
        self.history.append(
            self._record(
                (
                    list(scheduled.num_scheduled_tokens.items()),
                    scheduled.total_num_scheduled_tokens,
                    scheduled.num_common_prefix_blocks,
                    {name: tuple(tables[name]) for name in scheduled.num_scheduled_tokens},
                    sorted(scheduled.finished_req_ids),
                    sorted(scheduled.preempted_req_ids or ()),
                    [(new.req_id, new.num_computed_tokens) for new in scheduled.scheduled_new_reqs],
                    vars(scheduled.scheduled_cached_reqs),
                )
            )
        )
        return output


def ours() -> type:
    """The scheduler under test."""
    from open_r1.generation.decode_scheduler import DecodeScheduler

    return DecodeScheduler


def theirs() -> type:
    """vLLM's."""
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler

    return AsyncScheduler


def answer(kind: Callable[[], type], prompts: Sequence[Prompt], **options: Any) -> Engine:
    """An engine that has answered all prompts, which came at once."""
    engine = Engine(kind(), **options)
    for number, prompt in enumerate(prompts):
        engine.add(str(number), prompt)
    gc.collect()
    gc.freeze()  # as our engine does
    while engine.step():
        pass
    return engine


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--seats", type=int, help="completions decoded at once; default all")
    parser.add_argument(
        "--stops", type=int, default=1 << 30, help="a completion ends at each token once in so many times"
    )
    parser.add_argument("--blocks", type=int, default=100_000)
    arguments = parser.parse_args()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        theirs()
    except ImportError as error:
        raise SystemExit(f"vLLM cannot be imported here, so nothing was measured: {error}") from error
    rng = random.Random(0)
    prompts = [
        Prompt(
            [rng.randrange(3, 1000) for _ in range(rng.randrange(100, 300))], arguments.tokens, stops=arguments.stops
        )
        for _ in range(arguments.sequences // EACH)
    ]
    options = {
        "seats": arguments.seats or arguments.sequences,
        "blocks": arguments.blocks,
        "longest": 1024,
        "record": lambda step: hash(repr(step)),
    }
    engines = {name: answer(kind, prompts, **options) for name, kind in (("vllm", theirs), ("ours", ours))}
    one, other = engines.values()
    assert one.history == other.history and one.completions == other.completions
    steps = len(one.history)
    report = {name: round(engine.seconds / steps * 1e6) for name, engine in engines.items()}
    print(json.dumps({"steps": steps, "microseconds_a_step": report, "times": round(one.seconds / other.seconds, 1)}))


if __name__ == "__main__":
    main()
