from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
)

from open_r1.errors import UserError
from open_r1.generation.engine import Completion, Request, SamplingParams
from open_r1.generation.transformers_engine import TransformersEngine
from open_r1.model.attention import NAME

VOCABULARY = 64
CONTEXT = 128
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
}
MODELS = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "mistral, sliding": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)),
    "gemma3, sliding and full": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SIZES, head_dim=8, sliding_window=6, layer_types=["sliding_attention", "full_attention"], pad_token_id=0
        )
    ),
    "lfm2, convolution and full": lambda: Lfm2ForCausalLM(
        Lfm2Config(**SIZES, layer_types=["conv", "full_attention"], block_multiple_of=16)
    ),
    "qwen3.5, linear and full": lambda: Qwen3_5ForCausalLM(
        Qwen3_5TextConfig(
            **SIZES,
            head_dim=8,
            layer_types=["linear_attention", "full_attention"],
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
        )
    ),
}


def build(name: str = "qwen2") -> torch.nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


@pytest.fixture(params=MODELS)
def any_model(request):
    return build(request.param)


@pytest.fixture
def model():
    return build()


def make_requests(count: int, longest: int = 25, group: int = 1, seed: int = 0) -> list[Request]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    prompts = [tuple(torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()) for length in lengths]
    return [Request(index, prompts[index // group * group], seed=1000 + index) for index in range(count)]


def engine_of(model, **settings) -> TransformersEngine:
    return TransformersEngine(model, pad_token_id=0, **settings)


def tokens_by_id(completions) -> dict[int, tuple[int, ...]]:
    return {completion.request_id: completion.token_ids for completion in completions}


def by_id(completions) -> dict[int, Completion]:
    return {completion.request_id: completion for completion in completions}


class ForwardSpy:
    """Records the shape of ``input_ids`` of every forward call."""

    def __init__(self, model):
        self.shapes: list[tuple[int, int]] = []
        self.handle = model.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, module, args, kwargs):
        self.shapes.append(tuple(kwargs["input_ids"].shape))


def test_greedy_equals_generate_token_for_token(any_model):
    requests = make_requests(13)
    params = SamplingParams(max_new_tokens=20, temperature=0, stop_token_ids=(7, 11))
    expected = {}
    for request in requests:
        prompt = torch.tensor([request.prompt_ids])
        mask = torch.ones_like(prompt)
        options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": [7, 11], "pad_token_id": 0}
        generated = any_model.generate(prompt, attention_mask=mask, **options)
        expected[request.id] = tuple(generated[0, prompt.shape[1] :].tolist())
    for batch_size in (1, 4, 16):
        assert tokens_by_id(engine_of(any_model, batch_size=batch_size).generate(requests, params)) == expected


def test_logprobs_equal_a_plain_forward(any_model):
    requests = make_requests(9)
    params = SamplingParams(max_new_tokens=20, temperature=0.7, top_p=0.9, stop_token_ids=(3,))
    for completion in engine_of(any_model, batch_size=4).generate(requests, params):
        prompt = requests[completion.request_id].prompt_ids
        with torch.no_grad():
            logits = any_model(torch.tensor([prompt + completion.token_ids])).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 0.7).log_softmax(-1)[torch.arange(len(logits)), torch.tensor(completion.token_ids)]
        # A whole sequence of linear attention is computed in chunks, by another formula than one step of it.
        atol = 5e-5 if isinstance(any_model, Qwen3_5ForCausalLM) else 1e-5
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=atol, rtol=0)


def test_samples_depend_neither_on_batch_size_nor_on_the_other_requests(any_model):
    requests = make_requests(14, group=3)
    params = SamplingParams(max_new_tokens=15, temperature=1.3, stop_token_ids=(1, 2, 3, 4))
    alone = {}
    for request in requests:
        alone |= tokens_by_id(engine_of(any_model).generate([request], params))
    for batch_size in (3, 5, 64):
        assert tokens_by_id(engine_of(any_model, batch_size=batch_size).generate(requests[::-1], params)) == alone
    assert len(set(alone.values())) > len(requests) // 2


def test_requests_of_one_prompt_differ_by_seed_and_share_a_prefill(model):
    prompt = (5, 6, 7, 8)
    spy = ForwardSpy(model)
    requests = [Request(index, prompt, seed=index) for index in range(6)] + [Request(6, (9, 9), seed=0)]
    answers = by_id(engine_of(model).generate(requests, SamplingParams(max_new_tokens=12)))
    assert len({answer.token_ids for answer in answers.values()}) == 7
    assert spy.shapes == [(2, 4)] + [(7, 1)] * 11


def test_a_group_waits_until_it_fits_whole(model):
    spy = ForwardSpy(model)
    requests = [Request(index, (index // 4 + 1, 2, 3), seed=index) for index in range(20)]
    list(engine_of(model, batch_size=18).generate(requests, SamplingParams(max_new_tokens=3)))
    assert spy.shapes == [(4, 3), (16, 1), (16, 1), (1, 3), (4, 1), (4, 1)]


def test_a_group_larger_than_the_batch_is_cut(model):
    spy = ForwardSpy(model)
    requests = [Request(index, (1, 2, 3), seed=index) for index in range(11)]
    list(engine_of(model, batch_size=8).generate(requests, SamplingParams(max_new_tokens=3)))
    assert spy.shapes == [(1, 3), (8, 1), (8, 1), (1, 3), (3, 1), (3, 1)]


def test_rows_leave_at_once_and_others_join(model):
    spy = ForwardSpy(model)
    params = SamplingParams(max_new_tokens=40, temperature=1.5, stop_token_ids=tuple(range(1, 6)))
    answers = by_id(engine_of(model, batch_size=8).generate(make_requests(40), params))
    steps = [shape[0] for shape in spy.shapes if shape[1] == 1]
    assert max(steps) == 8
    assert min(steps) == 1
    # Every token but each completion's first comes from exactly one row of one step: no step computes a finished row.
    prefilled = len(answers)
    assert sum(steps) == sum(len(answer.token_ids) for answer in answers.values()) - prefilled
    prefills = [shape for shape in spy.shapes if shape[1] > 1]
    assert len(prefills) > 3
    joined_while_decoding = any(
        before[1] == 1 and after[1] == 1 and between[1] > 1 and after[0] > before[0] - 1 > 0
        for before, between, after in zip(spy.shapes, spy.shapes[1:], spy.shapes[2:], strict=False)
    )
    assert joined_while_decoding


def test_completions_stream_in_the_order_in_which_they_finish(model):
    spy = ForwardSpy(model)
    params = SamplingParams(max_new_tokens=40, temperature=1.5, stop_token_ids=tuple(range(1, 6)))
    lengths = []
    for completion in engine_of(model, batch_size=32).generate(make_requests(20), params):
        # One batch: the prefill gives every first token, then each forward gives one more.
        assert len(completion.token_ids) == len(spy.shapes)
        lengths.append(len(completion.token_ids))
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_stop_and_length(model):
    requests = make_requests(30)
    params = SamplingParams(max_new_tokens=12, temperature=1.5, stop_token_ids=(4, 5, 6))
    reasons = set()
    for completion in engine_of(model, batch_size=7).generate(requests, params):
        stops = [token in params.stop_token_ids for token in completion.token_ids]
        assert not any(stops[:-1])
        assert completion.finish_reason == ("stop" if stops[-1] else "length")
        assert stops[-1] or len(completion.token_ids) == 12
        assert len(completion.logprobs) == len(completion.token_ids)
        reasons.add(completion.finish_reason)
    assert reasons == {"stop", "length"}


@settings(max_examples=30, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=70), max_size=20),
    batch_size=st.integers(1, 9),
    max_new_tokens=st.integers(1, 70),
    stops=st.sets(st.integers(1, VOCABULARY - 1), max_size=30),
)
def test_every_request_is_answered_once_and_as_if_alone(prompts, batch_size, max_new_tokens, stops):
    model = build()
    requests = [Request(10 + index, tuple(prompt), seed=index) for index, prompt in enumerate(prompts)]
    params = SamplingParams(max_new_tokens, stop_token_ids=tuple(stops))
    completions = list(engine_of(model, batch_size=batch_size).generate(requests, params))
    assert sorted(completion.request_id for completion in completions) == [request.id for request in requests]
    for completion in completions:
        prompt = requests[completion.request_id - 10].prompt_ids
        stopped = completion.token_ids[-1] in stops
        assert stopped or len(completion.token_ids) == min(max_new_tokens, CONTEXT - len(prompt))
    if completions:
        last = completions[-1]
        alone = next(engine_of(model).generate([requests[last.request_id - 10]], params))
        assert alone.token_ids == last.token_ids


def test_a_completion_is_cut_at_the_context(model):
    request = Request(0, tuple([1] * (CONTEXT - 3)), seed=0)
    completion = next(engine_of(model).generate([request], SamplingParams(max_new_tokens=50)))
    assert len(completion.token_ids) == 3
    assert completion.finish_reason == "length"


@pytest.mark.parametrize(("prompt", "words"), [((), "empty"), ((1,) * CONTEXT, "context of 128")])
def test_impossible_prompts_are_named_before_anything_is_decoded(model, prompt, words):
    requests = [Request(3, (1, 2), seed=0), Request(4, prompt, seed=0)]
    with pytest.raises(UserError, match=f"request 4.*{words}"):
        engine_of(model).generate(requests, SamplingParams(max_new_tokens=5))


def test_impossible_calls_are_refused(model):
    with pytest.raises(ValueError, match="max_new_tokens"):
        engine_of(model).generate(make_requests(1), SamplingParams(max_new_tokens=0))
    with pytest.raises(ValueError, match="share an id"):
        engine_of(model).generate(make_requests(1) * 2, SamplingParams(max_new_tokens=1))


def test_no_request_gives_no_completion(model):
    assert list(engine_of(model).generate([], SamplingParams(max_new_tokens=5))) == []


def test_weights_of_the_moment_are_used(model):
    engine = engine_of(model)
    request = Request(0, (1, 2, 3), seed=0)
    params = SamplingParams(max_new_tokens=5, temperature=0)
    before = next(engine.generate([request], params)).token_ids
    with torch.no_grad():
        model.lm_head.weight.copy_(-model.lm_head.weight)
    after = next(engine.generate([request], params)).token_ids
    assert before != after
    engine.load_weights(iter(["taken"]))  # which it is not
    copy = engine_of(build(), shares_weights=False)
    assert next(copy.generate([request], params)).token_ids == before
    copy.load_weights((name, tensor) for name, tensor in model.state_dict().items())
    assert next(copy.generate([request], params)).token_ids == after
    with pytest.raises(ValueError, match="has no nowhere"):
        copy.load_weights([("nowhere.weight", torch.ones(1))])
    with pytest.raises(ValueError, match=r"no weights for model\.embed_tokens\.weight"):
        copy.load_weights([])


def test_training_goes_on_as_if_nothing_had_been_generated():
    model = build()
    model.gradient_checkpointing_enable()
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    params = SamplingParams(max_new_tokens=6, temperature=0)
    expected = tokens_by_id(engine_of(build()).generate(make_requests(4), params))

    stream = engine_of(model, batch_size=2).generate(make_requests(4), params)
    first = next(stream)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    answers = tokens_by_id([first, *stream])
    assert answers == expected
    assert [module.training for module in model.modules()] == modes
    assert not any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers()))
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_modes_come_back_when_the_stream_is_closed_early(model):
    model.train()
    stream = engine_of(model).generate(make_requests(4), SamplingParams(max_new_tokens=6))
    next(stream)
    stream.close()
    assert all(module.training for module in model.modules())


def test_autocast_does_not_leak_into_the_consumer(model):
    requests = make_requests(5)
    params = SamplingParams(max_new_tokens=8, temperature=0)
    for completion in engine_of(model, batch_size=2, dtype=torch.bfloat16).generate(requests, params):
        assert not torch.is_autocast_enabled("cpu")
        prompt = requests[completion.request_id].prompt_ids
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion.token_ids])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[torch.arange(len(logits)), torch.tensor(completion.token_ids)]
        difference = (torch.tensor(completion.logprobs) - expected).abs().max()
        assert 0 < difference < 0.2


def test_no_kernel_is_asked_that_plans_anew_for_each_number_of_keys(model):
    asked = []
    hook = model.register_forward_pre_hook(lambda *_: asked.append(torch.backends.cuda.cudnn_sdp_enabled()))
    engine = TransformersEngine(model, pad_token_id=0)
    for _ in engine.generate([Request(0, (1, 2), seed=0)], SamplingParams(4)):
        assert torch.backends.cuda.cudnn_sdp_enabled()
    hook.remove()
    assert asked and not any(asked)
    assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_attention_reads_the_cache_where_it_lies(model, monkeypatch, dtype):
    model.set_attn_implementation(NAME)
    seen = []
    attend = functional.scaled_dot_product_attention

    def spy(query, key, value, **options):
        if len(query) == len(requests):  # not the prefill, which is of one prompt
            seen.append((query, key, value))
        return attend(query, key, value, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    requests = make_requests(5, group=5)
    list(engine_of(model, dtype=dtype).generate(requests, SamplingParams(max_new_tokens=8)))
    assert len(seen) == 7 * SIZES["num_hidden_layers"]
    for query, key, value in seen:
        assert query.dtype == key.dtype == value.dtype == (dtype or torch.float32)
        assert query.shape[1:3] == (2, 2)  # two query heads to each of two key heads
        for states in (key, value):
            assert states.shape[1] == SIZES["num_key_value_heads"]
    storages = {states.untyped_storage().data_ptr() for _, key, value in seen for states in (key, value)}
    assert len(storages) == 2 * SIZES["num_hidden_layers"]  # keys and values of a layer, at every step


def test_out_of_memory_halves_the_batch_and_says_so_once(model, caplog):
    requests = make_requests(12, longest=4)
    params = SamplingParams(max_new_tokens=10, temperature=1.5, stop_token_ids=(1, 2, 3))
    expected = tokens_by_id(engine_of(model).generate(requests, params))
    calls = []

    def refuse_three_rows(module, args, kwargs):
        calls.append(kwargs["input_ids"].shape[0])
        if len(calls) > 4 and calls[-1] > 3:
            raise torch.OutOfMemoryError("no memory")

    model.register_forward_pre_hook(refuse_three_rows, with_kwargs=True)
    engine = engine_of(model, batch_size=6)
    with caplog.at_level(logging.WARNING):
        completions = list(engine.generate(requests, params))
    assert len(completions) == len(requests)
    assert tokens_by_id(completions) == expected
    assert engine.batch_size == 3
    assert len(caplog.records) == 1


def test_out_of_memory_with_one_row_is_raised(model):
    def refuse(module, args, kwargs):
        raise torch.OutOfMemoryError("no memory")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    with pytest.raises(torch.OutOfMemoryError):
        list(engine_of(model).generate(make_requests(3), SamplingParams(max_new_tokens=2)))
