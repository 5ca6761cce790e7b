"""A prompt that is computed once for all of its completions gives the numbers of one that is computed with each."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from families import ATTENTION, OTHERS, VOCABULARY, build
from peft import LoraConfig, get_peft_model
from test_pack_shapes import pieces
from test_packed_is_padded import assert_equal, packed, padded, take_gradients
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import PreTrainedModel

from open_r1.data.pack import Pack, TrainingSequence, make_pack, pad_pack
from open_r1.model import attention as attention_module
from open_r1.model.attention import NAME
from open_r1.model.layers import LEVELS
from open_r1.model.pack_model import PackModel

GROUPS = ((7, (5, 1, 9)), (1, (4, 4)), (3, (6,)), (12, (2, 3, 3, 1)))
"""Tokens of a prompt, and of each of its completions."""


def groups() -> tuple[list[TrainingSequence], list[int]]:
    """Sequences, and how many tokens each has in common with the one before."""
    generator = torch.Generator().manual_seed(0)

    def draw(size: int) -> Tensor:
        return torch.randint(2, VOCABULARY, (size,), generator=generator)

    sequences, shared = [], []
    for size, answers in GROUPS:
        prompt = draw(size)
        for number, answer in enumerate(answers):
            weight = torch.rand(size + answer, generator=generator) + 0.1
            weight[:size] = 0
            sequences.append(TrainingSequence(torch.cat([prompt, draw(answer)]).numpy(), weight.numpy()))
            shared.append(size if number else 0)
    return sequences, shared


def pack() -> Pack:
    return make_pack(*groups())


def unshared(model: PreTrainedModel) -> tuple[Tensor, dict[str, Tensor]]:
    return packed(model, [make_pack(groups()[0])])


@pytest.mark.parametrize("attention", [NAME, "eager", "sdpa"])
@pytest.mark.parametrize("family", ATTENTION)
def test_as_padded_rows(family: str, attention: str) -> None:
    if attention == "sdpa" and "softcap" in family:
        pytest.skip("transformers has no SDPA for it")
    model = build(family)
    model.set_attn_implementation("eager")
    expected = padded(model, groups()[0])
    model.set_attn_implementation(attention)
    assert_equal(packed(model, [pack()]), expected)
    assert_equal(packed(model, [pad_pack(pack(), pack().computed + 13, 32)]), expected)
    assert_equal(packed(model, pieces(pack())), expected)


def test_sinks() -> None:
    model = build("gpt-oss, sinks")
    model.set_attn_implementation("eager")
    assert_equal(packed(model, [pack()]), unshared(model))


@pytest.mark.parametrize("family", [name for name in OTHERS if "sinks" not in name])
def test_models_that_keep_sequences_apart_take_no_notice(family: str) -> None:
    model = build(family)
    assert_equal(packed(model, [pack()]), unshared(model))


def test_less_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = build("qwen2"), []
    model.model.layers[0].mlp.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[1]))
    packed(model, [pack()])
    assert seen == [7 + 15 + 1 + 8 + 3 + 6 + 12 + 9]


@pytest.mark.parametrize("level", LEVELS)
def test_adapters_at_every_level(level: str) -> None:
    def module(with_pack: Pack) -> dict[str, Tensor]:
        torch.manual_seed(1)
        model = build("qwen2")
        model.set_attn_implementation(NAME)
        adapters = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
        adapted = PackModel(get_peft_model(model, adapters)).train()
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        adapted.layers.recompute = level
        (adapted(with_pack).logprobs * with_pack.loss_weight).sum().backward()
        return {name: parameter.grad for name, parameter in adapted.named_parameters() if parameter.requires_grad}

    expected = module(make_pack(groups()[0]))
    assert any("lora" in name for name in expected)
    for name, gradient in module(pack()).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-5)


@torch.library.custom_op("open_r1_tests::varlen", mutates_args=())
def varlen(query: Tensor, key: Tensor, value: Tensor, cu_queries: Tensor, cu_keys: Tensor, scale: float) -> Tensor:
    """What the kernels of a GPU say that they compute: causal, the last query of a sequence beside its last key."""
    repeats, output = query.shape[1] // key.shape[1], torch.empty_like(query)
    for queries, keys in sequences_of(cu_queries, cu_keys):
        weights = weigh(query[queries], key[keys], scale)
        output[queries] = torch.einsum("hqk,khd->qhd", weights, value[keys].repeat_interleave(repeats, dim=1))
    return output


def sequences_of(*cumulative: Tensor) -> Iterator[tuple[slice, ...]]:
    for number in range(len(cumulative[0]) - 1):
        yield tuple(slice(*cu[number : number + 2].tolist()) for cu in cumulative)


def weigh(query: Tensor, key: Tensor, scale: float) -> Tensor:
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    later = torch.ones(len(query), len(key)).triu(1 + len(key) - len(query)).bool()
    return (torch.einsum("qhd,khd->hqk", query, key) * scale).masked_fill(later, -torch.inf).softmax(-1)


@varlen.register_fake
def _(query, key, value, cu_queries, cu_keys, scale):
    return torch.empty_like(query)


@torch.library.custom_op("open_r1_tests::varlen_backward", mutates_args=())
def varlen_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, cu_queries: Tensor, cu_keys: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    repeats = query.shape[1] // key.shape[1]
    of_query, of_key, of_value = (torch.full_like(tensor, torch.nan) for tensor in (query, key, value))
    for queries, keys in sequences_of(cu_queries, cu_keys):  # beyond them a kernel writes nothing
        q, g, weights = query[queries], grad[queries], weigh(query[queries], key[keys], scale)
        k, v = (tensor[keys].repeat_interleave(repeats, dim=1) for tensor in (key, value))
        of_weights = torch.einsum("qhd,khd->hqk", g, v)
        of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True)) * scale
        of_query[queries] = torch.einsum("hqk,khd->qhd", of_scores, k)
        of_key[keys] = torch.einsum("hqk,qhd->khd", of_scores, q).unflatten(1, (-1, repeats)).sum(2)
        of_value[keys] = torch.einsum("hqk,qhd->khd", weights, g).unflatten(1, (-1, repeats)).sum(2)
    return of_query, of_key, of_value


@varlen_backward.register_fake
def _(grad, query, key, value, cu_queries, cu_keys, scale):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _keep(ctx, inputs, output):
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


varlen.register_autograd(
    lambda ctx, grad: (*varlen_backward(grad, *ctx.saved_tensors, ctx.scale), None, None, None), setup_context=_keep
)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that a GPU takes."""

    def run(query, key, value, cu_keys, _longest, scale, _window, cu_queries):
        return varlen(query, key, value, cu_keys if cu_queries is None else cu_queries, cu_keys, scale)

    monkeypatch.setattr(attention_module, "choose_kernel", lambda *_: "varlen")
    monkeypatch.setattr(attention_module, "varlen_attention", run)


@pytest.mark.parametrize("family", ["qwen2", "llama", "granite, divides logits"])
def test_as_a_gpu_computes_it(family: str, kernel: None) -> None:
    model = build(family)
    model.set_attn_implementation("eager")
    expected = padded(model, groups()[0])
    model.set_attn_implementation(NAME)
    assert_equal(unshared(model), expected)
    assert_equal(packed(model, [pack()]), expected)
    assert_equal(packed(model, [pad_pack(pack(), pack().computed + 13, 32)]), expected)


def test_softcaps_go_another_way(kernel: None) -> None:
    model = build("gemma2, sliding, softcap")
    model.set_attn_implementation("eager")
    expected = padded(model, groups()[0])
    model.set_attn_implementation(NAME)
    assert_equal(packed(model, [pad_pack(pack(), pack().computed + 13, 32)]), expected)


def test_compiled_at_every_level_for_one_shape(kernel: None) -> None:
    """A pack in which nothing is shared has the shape of the others."""
    torch._dynamo.reset()
    counters.clear()
    model = build("qwen2")
    model.set_attn_implementation(NAME)
    alone = make_pack(groups()[0][:6], [0] * 6)
    expected = [(one, packed(copy.deepcopy(model), [one])) for one in (pack(), alone)]
    module = PackModel(model).train()
    module.full, module.longest = 72, 32
    module.layers.compile(backend="aot_eager")
    for level in LEVELS:
        module.layers.recompute = level
        compiled = set()
        for one, numbers in expected:
            logprobs = module(one).logprobs
            (-(logprobs * one.loss_weight).sum() / one.loss_weight.sum()).backward()
            assert_equal((logprobs.detach(), take_gradients(model)), numbers)
            compiled.add(counters["stats"]["unique_graphs"])
        assert len(compiled) == 1 and compiled != {0}
