"""vLLM's scheduler with a short way for its commonest work: one more token for each of hundreds of completions.

vLLM decides anew about each running request in each step, and each token goes through several objects: with 512
completions of a small model that is several times what the GPU needs. Here running requests that decode are extended in
two plain loops, which touch the cache of keys and values only where a block is full, and a completion leaves the
scheduler once, when it is finished. Whatever else there is to do (prompts, requests put off for want of memory, aborted
ones) is left to vLLM's own methods, in the same step. All numbers that vLLM keeps on a request are kept, so that any
step can be vLLM's; scheduled tokens, blocks and completions are the same, which `benchmarks/scheduling.py` asserts.

Importing this module needs vLLM, and raises ImportError where its classes are others than those of 0.26 to 0.28.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

from vllm.sampling_params import RequestOutputKind
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.utils import check_stop, remove_all
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

IN_FLIGHT = 8
"""Steps remembered until their tokens come back; vLLM runs two at once."""

_ENGINE = attrgetter(
    "_inflight_prefills",
    "_pause_state",
    "kv_cache_manager.block_pool.get_num_free_blocks",
    "kv_cache_manager.cache_blocks",
    "kv_cache_manager.coordinator.allocate_new_blocks",
    "kv_cache_manager.get_num_common_prefix_blocks",
    "prev_step_scheduled_req_ids",
    "use_v2_model_runner",
)
_REQUEST = attrgetter(
    "_all_token_ids", "_output_token_ids", "num_computed_tokens", "num_in_flight_tokens", "num_output_placeholders"
)
"""What is used besides: where one of them is missing, vLLM goes its own way."""


class Step(NamedTuple):
    """What the short way scheduled: ``decoding`` comes first in ``output``; ``preemptions`` were counted by then."""

    output: SchedulerOutput
    decoding: list[Request]
    preemptions: int


class DecodeScheduler(AsyncScheduler):
    """Schedules as `AsyncScheduler`; tokens of requests whose output is wanted whole come in one piece."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._steps: deque[Step] = deque(maxlen=IN_FLIGHT)
        self._preemptions = 0
        self._unusual: set[str] = set()  # requests that the short way cannot serve
        self._ends: set[int] = set()  # tokens that may end some request
        self._handed: dict[str, int] = {}  # how many of a request's tokens have left the scheduler
        self._usual = self._is_usual()

    def _is_usual(self) -> bool:
        """Whether the engine has full attention over one cache, and nothing that acts on single tokens."""
        try:
            _ENGINE(self)
            managers = self.kv_cache_manager.coordinator.single_type_managers
            return (
                [type(manager) for manager in managers] == [FullAttentionManager]
                and managers[0].block_size == self.hash_block_size
                and self.num_sampled_tokens_per_step == 1
                and not (self.num_spec_tokens or self.num_lookahead_tokens)
                and not (self.use_pp or self.lora_config or self.connector or self.ec_connector)
                and not (self.log_stats or self.enable_kv_cache_events or self.kv_cache_manager.watermark_blocks)
                and not self.enable_return_routed_experts
                and not getattr(self, "return_sampling_mask", False)  # of 0.28
            )
        except AttributeError:
            return False

    def add_request(self, request: Request) -> None:
        """Takes a request as `AsyncScheduler` does."""
        super().add_request(request)
        if not is_usual(request):
            self._unusual.add(request.request_id)
        elif params := request.sampling_params:
            self._ends.update(params.stop_token_ids or (), [params.eos_token_id])

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """The next step: one token for each request that decodes, and what vLLM adds of those that wait."""
        decoding = None if throttle_prefills else self._decoding()
        if not decoding:
            return super().schedule(throttle_prefills)
        first = self.running[0].request_id
        names, blocks, computed, drawn = self._extend(decoding)
        texts = {} if self.use_v2_model_runner else self._texts(decoding)
        output = self._schedule_waiting(len(decoding))
        output.num_scheduled_tokens = dict.fromkeys(names, 1) | output.num_scheduled_tokens
        output.total_num_scheduled_tokens += len(names)
        output.num_common_prefix_blocks = self.kv_cache_manager.get_num_common_prefix_blocks(first)
        cached = output.scheduled_cached_reqs  # here are those that come back after they were put off
        cached.req_ids[:0], cached.new_block_ids[:0] = names, blocks
        cached.num_computed_tokens[:0], cached.num_output_tokens[:0] = computed, drawn
        if not self.use_v2_model_runner:
            cached.all_token_ids.update(texts)
            self.prev_step_scheduled_req_ids.update(names)
        self._steps.append(Step(output, decoding, self._preemptions))
        return output

    def _decoding(self) -> list[Request] | None:
        """Running requests that draw a token in this step; None where vLLM must look: a prompt is half read, memory
        is short, a request is unusual, or the engine is paused."""
        if self._unusual:
            self._unusual &= self.requests.keys()
        if not self._usual or self._unusual or self._inflight_prefills or self._pause_state != PauseState.UNPAUSED:
            return None
        decoding, full, size = [], 0, self.hash_block_size
        for request in self.running:
            computed, ahead = request.num_computed_tokens, request.num_output_placeholders
            tokens = len(request._all_token_ids)
            if tokens + ahead != computed + 1:
                return None
            # A token that is being drawn may be the last one.
            last = ahead and tokens + 1 >= request.num_prompt_tokens + request.max_tokens
            if not last and computed + 1 < self.max_model_len:
                decoding.append(request)
                full += computed % size == 0
        enough = full <= self.kv_cache_manager.block_pool.get_num_free_blocks()
        return decoding if enough and len(decoding) <= self.max_num_scheduled_tokens else None

    def _extend(self, decoding: list[Request]) -> tuple[list[str], list[Any], list[int], list[int]]:
        """Gives each request room for a token and counts it; names, new blocks, tokens before and tokens drawn."""
        names, blocks, before, drawn = [], [], [], []
        manager, size = self.kv_cache_manager, self.hash_block_size
        for request in decoding:
            computed, ahead = request.num_computed_tokens, request.num_output_placeholders
            name, added, tokens = request.request_id, None, len(request._all_token_ids)
            if computed % size == 0:
                new = manager.coordinator.allocate_new_blocks(name, computed + 1, computed + 1)
                added = tuple([block.block_id for block in group] for group in new) if any(new) else None
            if tokens % size == 0:
                manager.cache_blocks(request, tokens)
            names.append(name)
            blocks.append(added)
            before.append(computed)
            drawn.append(len(request._output_token_ids) + ahead)
            request.num_computed_tokens = computed + 1
            request.num_output_placeholders = ahead + 1
            request.num_in_flight_tokens += 1
        return names, blocks, before, drawn

    def _texts(self, decoding: list[Request]) -> dict[str, list[int]]:
        """Tokens of requests that the older model runner has not seen in the last step."""
        seen = self.prev_step_scheduled_req_ids
        return {each.request_id: each._all_token_ids.copy() for each in decoding if each.request_id not in seen}

    def _schedule_waiting(self, scheduled: int) -> SchedulerOutput:
        """vLLM's own step, with the seats and tokens that the running requests leave."""
        running, seats, budget = self.running, self.max_num_running_reqs, self.max_num_scheduled_tokens
        self.running = []
        self.max_num_running_reqs, self.max_num_scheduled_tokens = seats - len(running), budget - scheduled
        try:
            return super().schedule()
        finally:
            self.running = running + self.running
            self.max_num_running_reqs, self.max_num_scheduled_tokens = seats, budget

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """Takes the tokens of a step; what is handed out of them: those of finished completions, and those of steps
        that were vLLM's."""
        if not self._usual:
            return super().update_from_output(scheduler_output, model_runner_output)
        outputs = []
        if self._steps and self._steps[0].output is scheduler_output:
            step = self._steps.popleft()
            tokens = sampled_tokens(step.decoding, model_runner_output)
            # A request that was put off since then may be anything by now.
            if tokens is not None and step.preemptions == self._preemptions:
                outputs = self._draw(step.decoding, tokens)
                left = islice(scheduler_output.num_scheduled_tokens.items(), len(tokens), None)
                scheduler_output = copy(scheduler_output)
                scheduler_output.num_scheduled_tokens = dict(left)
        others = [each for name in scheduler_output.num_scheduled_tokens if (each := self.requests.get(name))]
        handed = self._handed
        outputs += [self._hand_out(one) for one in others if len(one._output_token_ids) > handed.get(one.request_id, 0)]
        result = super().update_from_output(scheduler_output, model_runner_output)
        for request in others:
            if not request.is_finished():
                handed[request.request_id] = len(request._output_token_ids)
        if outputs:
            result.setdefault(0, EngineCoreOutputs()).outputs[:0] = outputs
        return result

    def _draw(self, decoding: list[Request], tokens: list[int]) -> list[EngineCoreOutput]:
        """Appends each request's token; the completions that are finished by it."""
        finished, outputs, ends, size = set(), [], self._ends, self.hash_block_size
        for request, token in zip(decoding, tokens, strict=True):
            if request.status is not RequestStatus.RUNNING:
                continue  # aborted, or finished by the step before
            drawn, text = request._output_token_ids, request._all_token_ids
            drawn.append(token)
            text.append(token)
            request.num_in_flight_tokens -= 1
            request.num_output_placeholders -= 1
            length = len(text)
            if length % size == 0:
                request.update_block_hashes()
            may_end = token in ends or len(drawn) >= request.max_tokens or length >= self.max_model_len
            ended = may_end and check_stop(request, self.max_model_len)
            if length % size == 1:  # keys and values of the last token are not there yet
                self.kv_cache_manager.cache_blocks(request, length - 1)
            if ended:
                outputs.append(self._hand_out(request))
                finished.add(request)
                self._free_request(request)
        self.running = remove_all(self.running, finished)
        return outputs

    def _hand_out(self, request: Request) -> EngineCoreOutput:
        """Tokens of a request that have not left yet."""
        return EngineCoreOutput(
            request_id=request.request_id,
            new_token_ids=request._output_token_ids[self._handed.get(request.request_id, 0) :],
            finish_reason=request.get_finished_reason(),
            stop_reason=request.stop_reason,
        )

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        self._handed.pop(request.request_id, None)
        return super()._free_request(request, *args, **kwargs)

    def _preempt_request(self, *args: Any, **kwargs: Any) -> None:
        self._preemptions += 1
        super()._preempt_request(*args, **kwargs)


def is_usual(request: Request) -> bool:
    """Whether only the finished completion of a request is wanted, as token ids, and only token ids decide on it."""
    params = request.sampling_params
    try:
        _REQUEST(request)
        return (
            params is not None
            and params.output_kind == RequestOutputKind.FINAL_ONLY
            and not (params.detokenize or params.stop or params.min_tokens or params.repetition_detection)
            and params.logprobs is None
            and params.prompt_logprobs is None
            and not (request.use_structured_output or request.has_encoder_inputs or request.lora_request)
            and not (request.resumable or request.client_index)
        )
    except AttributeError:
        return False


def sampled_tokens(decoding: list[Request], output: ModelRunnerOutput) -> list[int] | None:
    """The token of each request; None where one has more or less than one, or more was measured than tokens."""
    if not output.sampled_token_ids or output.num_nans_in_logits:
        return None
    index, rows = output.req_id_to_index, output.sampled_token_ids
    try:
        return [token for request in decoding for (token,) in (rows[index[request.request_id]],)]
    except ValueError:
        return None
