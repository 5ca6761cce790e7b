"""A small scheduler of vLLM's shape: whole prompts, single tokens, blocks of a cache, requests put off and resumed.

``VLLM`` holds it under the names by which `open_r1.generation.decode_scheduler` imports vLLM's.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

BLOCK, LONGEST, STOP = 4, 40, 1


OFF = (
    "num_spec_tokens",
    "num_lookahead_tokens",
    "use_pp",
    "lora_config",
    "connector",
    "ec_connector",
    "log_stats",
    "enable_kv_cache_events",
    "enable_return_routed_experts",
)
"""What an engine may have, and this one has not."""


class Status(IntEnum):
    WAITING, RUNNING, PREEMPTED, STOPPED, LENGTH, ABORTED = range(6)


class FullAttentionManager:
    block_size = BLOCK


class Cache:
    """Blocks of requests, by number; full ones are noted, as a prefix cache would."""

    def __init__(self, blocks: int) -> None:
        self.free, self.tables, self.cached = list(range(blocks)), {}, {}
        self.coordinator = SimpleNamespace(
            single_type_managers=[FullAttentionManager()], allocate_new_blocks=self.allocate_new_blocks
        )
        self.block_pool = SimpleNamespace(get_num_free_blocks=lambda: len(self.free))
        self.watermark_blocks = 0

    def allocate_new_blocks(self, name: str, tokens: int, _: int) -> tuple[list[Any], ...]:
        table = self.tables.setdefault(name, [])
        new = [self.free.pop(0) for _ in range(-(-tokens // BLOCK) - len(table))]
        table += new
        return ([SimpleNamespace(block_id=block) for block in new],)

    def short_of(self, name: str, tokens: int) -> bool:
        return -(-tokens // BLOCK) - len(self.tables.get(name, ())) > len(self.free)

    def cache_blocks(self, request: Any, tokens: int) -> None:
        self.cached[request.request_id] = max(self.cached.get(request.request_id, 0), tokens // BLOCK)

    def get_num_common_prefix_blocks(self, name: str) -> list[int]:
        return [len(self.tables[name]) // 2]

    def release(self, name: str) -> None:
        self.free += reversed(self.tables.pop(name, []))


class Request:
    def __init__(self, name: str, prompt: list[int], max_tokens: int, *, streams: bool = False) -> None:
        self.request_id, self.num_prompt_tokens, self.max_tokens = name, len(prompt), max_tokens
        self._all_token_ids, self._output_token_ids, self.hashed = list(prompt), [], 0
        self.status, self.stop_reason = Status.WAITING, None
        self.num_computed_tokens = self.num_output_placeholders = self.num_in_flight_tokens = self.client_index = 0
        self.use_structured_output = self.has_encoder_inputs = self.lora_request = self.resumable = None
        self.sampling_params = SimpleNamespace(
            output_kind="delta" if streams else "final", detokenize=False, stop=None, min_tokens=0,
            repetition_detection=None, logprobs=None, prompt_logprobs=None, stop_token_ids=[STOP], eos_token_id=None,
        )  # fmt: skip

    def update_block_hashes(self) -> None:
        self.hashed = len(self._all_token_ids) // BLOCK

    def is_finished(self) -> bool:
        return self.status > Status.PREEMPTED

    def get_finished_reason(self) -> str | None:
        return self.status.name if self.is_finished() else None


class AsyncScheduler:
    """What vLLM's does with whole prompts and single tokens."""

    def __init__(self, *, seats: int, blocks: int, batch: int) -> None:
        self.running, self.waiting, self.requests = [], deque(), {}
        self.max_num_running_reqs, self.max_num_scheduled_tokens, self.max_model_len = seats, batch, LONGEST
        self.kv_cache_manager, self.hash_block_size = Cache(blocks), BLOCK
        self.finished_req_ids, self.preempted, self.prev_step_scheduled_req_ids = set(), set(), set()
        self._inflight_prefills, self._pause_state, self.num_sampled_tokens_per_step = set(), 0, 1
        self.use_v2_model_runner = True
        for name in OFF:
            setattr(self, name, None)

    def add_request(self, request: Request) -> None:
        self.waiting.append(request)
        self.requests[request.request_id] = request

    def abort(self, name: str) -> None:
        if request := self.requests.get(name):
            request.status = Status.ABORTED
            self.running = [one for one in self.running if one is not request]
            self.waiting = deque(one for one in self.waiting if one is not request)
            self._free_request(request)

    def schedule(self, throttle_prefills: bool = False) -> Any:
        budget, extended, new = self.max_num_scheduled_tokens, [], []
        before = set(self.preempted)
        place = 0
        while place < len(self.running) and budget:
            request = self.running[place]
            place += 1
            tokens, ahead = len(request._all_token_ids), request.num_output_placeholders
            if ahead and tokens + 1 >= request.num_prompt_tokens + request.max_tokens:
                continue
            if request.num_computed_tokens + 1 >= self.max_model_len:
                continue
            while self.kv_cache_manager.short_of(request.request_id, request.num_computed_tokens + 1):
                self._preempt_request(last := self.running.pop())
                if last is request:
                    break
            else:
                extended.append((request, self._take(request, 1)))
                budget -= 1
        while self.waiting and budget and self.preempted == before and len(self.running) < self.max_num_running_reqs:
            request = self.waiting[0]
            count = len(request._all_token_ids)
            if count > budget or self.kv_cache_manager.short_of(request.request_id, count):
                break
            request.status = Status.RUNNING
            self.running.append(self.waiting.popleft())
            new.append((request, self._take(request, count), count))
            budget -= count
        output = SimpleNamespace(
            num_scheduled_tokens={one.request_id: 1 for one, _ in extended} | {n.request_id: c for n, _, c in new},
            total_num_scheduled_tokens=self.max_num_scheduled_tokens - budget,
            num_common_prefix_blocks=[0],
            scheduled_new_reqs=[(request.request_id, blocks) for request, blocks, _ in new],
            scheduled_cached_reqs=SimpleNamespace(
                req_ids=[request.request_id for request, _ in extended],
                new_block_ids=[blocks for _, blocks in extended],
                num_computed_tokens=[request.num_computed_tokens - 1 for request, _ in extended],
                num_output_tokens=[
                    len(request._output_token_ids) + request.num_output_placeholders - 1 for request, _ in extended
                ],
                all_token_ids={},
            ),
            finished_req_ids=self.finished_req_ids,
            preempted_req_ids=self.preempted,
        )
        if self.running:
            first = self.running[0].request_id
            output.num_common_prefix_blocks = self.kv_cache_manager.get_num_common_prefix_blocks(first)
        self.finished_req_ids, self.preempted = set(), set()
        return output

    def _take(self, request: Request, count: int) -> Any:
        computed = request.num_computed_tokens = request.num_computed_tokens + count
        (new,) = self.kv_cache_manager.allocate_new_blocks(request.request_id, computed, computed)
        self.kv_cache_manager.cache_blocks(request, min(computed, len(request._all_token_ids)))
        request.num_output_placeholders += 1
        request.num_in_flight_tokens += count
        return ([block.block_id for block in new],) if new else None

    def _preempt_request(self, request: Request) -> None:
        request.status, request.num_computed_tokens = Status.PREEMPTED, 0
        self.kv_cache_manager.release(request.request_id)
        self.waiting.appendleft(request)
        self.preempted.add(request.request_id)

    def _free_request(self, request: Request) -> None:
        self.kv_cache_manager.release(request.request_id)
        self.finished_req_ids.add(request.request_id)
        del self.requests[request.request_id]

    def update_from_output(self, scheduled: Any, output: Any) -> dict[int, Any]:
        made = []
        for name, count in scheduled.num_scheduled_tokens.items():
            if (request := self.requests.get(name)) is None:
                continue
            request.num_in_flight_tokens -= count
            was, tokens = request.status, output.sampled_token_ids[output.req_id_to_index[name]]
            request._output_token_ids += tokens
            request._all_token_ids += tokens
            request.update_block_hashes()
            ended = check_stop(request, self.max_model_len)
            request.num_output_placeholders -= 1
            if was == Status.RUNNING:
                done = request.num_computed_tokens - request.num_output_placeholders
                self.kv_cache_manager.cache_blocks(request, done)
            made.append(core_output(name, tokens, request.get_finished_reason(), request.stop_reason))
            if ended:
                self._free_request(request)
                self.running = [one for one in self.running if one is not request]
                self.waiting = deque(one for one in self.waiting if one is not request)
        return {0: SimpleNamespace(outputs=made)} if made else {}


def check_stop(request: Request, longest: int) -> bool:
    if request._output_token_ids[-1] in request.sampling_params.stop_token_ids:
        request.status, request.stop_reason = Status.STOPPED, request._output_token_ids[-1]
    elif len(request._output_token_ids) >= request.max_tokens or len(request._all_token_ids) >= longest:
        request.status = Status.LENGTH
    return request.is_finished()


def core_output(request_id: str, new_token_ids: list[int], finish_reason: Any, stop_reason: Any) -> Any:
    return SimpleNamespace(
        request_id=request_id, new_token_ids=new_token_ids, finish_reason=finish_reason, stop_reason=stop_reason
    )


VLLM = {
    "sampling_params": {"RequestOutputKind": SimpleNamespace(FINAL_ONLY="final")},
    "v1.core.sched.async_scheduler": {"AsyncScheduler": AsyncScheduler},
    "v1.core.sched.interface": {"PauseState": SimpleNamespace(UNPAUSED=0)},
    "v1.core.sched.output": {"SchedulerOutput": SimpleNamespace},
    "v1.core.sched.utils": {
        "check_stop": check_stop,
        "remove_all": lambda whole, gone: [one for one in whole if one not in gone],
    },
    "v1.core.single_type_kv_cache_manager": {"FullAttentionManager": FullAttentionManager},
    "v1.engine": {"EngineCoreOutput": core_output, "EngineCoreOutputs": lambda: SimpleNamespace(outputs=[])},
    "v1.outputs": {"ModelRunnerOutput": SimpleNamespace},
    "v1.request": {"Request": Request, "RequestStatus": Status},
}
