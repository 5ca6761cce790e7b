"""A pack gives the log-probabilities, the loss and the gradients of the same sequences as padded rows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from families import ATTENTION, OTHERS, build, random_sequences
from torch import Tensor
from transformers import PreTrainedModel

from open_r1.data.pack import TrainingSequence, make_pack, merge_packs
from open_r1.model.attention import NAME
from open_r1.model.load import load_model
from open_r1.model.pack_model import PackModel

TOLERANCE = 1e-5


def padded(model: PreTrainedModel, sequences: Sequence[TrainingSequence]) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities of the targets that have a weight, and the gradients of their weighted mean, as anyone would
    compute them: one row a sequence, padded at the right, full logits.
    """
    longest = max(len(sequence.ids) for sequence in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.int64)
    weight = torch.zeros(len(sequences), longest)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence.ids)] = torch.from_numpy(sequence.ids)
        weight[row, : len(sequence.ids)] = torch.from_numpy(sequence.loss_weight)
    real = torch.arange(longest) < torch.tensor([[len(sequence.ids)] for sequence in sequences])
    logits = model(ids, attention_mask=real.long(), use_cache=False).logits.float()
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    weight = weight[:, 1:]
    (-(logprobs * weight).sum() / weight.sum()).backward()
    return logprobs[weight > 0].detach(), take_gradients(model)


def packed(model: PreTrainedModel, packs: Sequence) -> tuple[Tensor, dict[str, Tensor]]:
    module = PackModel(model)
    total = sum(pack.loss_weight.sum() for pack in packs)
    logprobs = []
    for pack in packs:
        logprobs.append(module(pack).logprobs)
        (-(logprobs[-1] * pack.loss_weight).sum() / total).backward()
    return torch.cat(logprobs).detach(), take_gradients(model)


def take_gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


def assert_equal(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(one[0], other[0], atol=TOLERANCE, rtol=0)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], atol=TOLERANCE, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("attention", [NAME, "eager", "sdpa"])
@pytest.mark.parametrize("family", ATTENTION)
def test_loss_and_gradients(family: str, attention: str) -> None:
    if attention == "sdpa" and "softcap" in family:
        pytest.skip("transformers has no SDPA for it")
    model = build(family)
    sequences = random_sequences()
    model.set_attn_implementation("eager")
    expected = padded(model, sequences)
    model.set_attn_implementation(attention)
    assert_equal(packed(model, [make_pack(sequences)]), expected)


@pytest.mark.parametrize("family", OTHERS)
def test_families_that_need_more_than_a_mask(family: str, tmp_path) -> None:
    build(family).save_pretrained(tmp_path)
    model = load_model(str(tmp_path)).eval()
    sequences = random_sequences()
    assert_equal(packed(model, [make_pack(sequences)]), padded(model, sequences))


def test_a_token_of_another_sequence_changes_nothing() -> None:
    module = PackModel(build("qwen2"))
    module.model.set_attn_implementation(NAME)
    first, second = random_sequences((7, 8))
    other = random_sequences((7,), seed=1)[0]
    mine = make_pack([first, second]).sequence_index == 1
    logprobs = module(make_pack([first, second])).logprobs[mine]
    again = make_pack([other, second])
    assert torch.equal(logprobs, module(again).logprobs[again.sequence_index == 1])
    # The first token of a sequence is seen by its own.
    second.ids[0] = 63 - second.ids[0]
    assert not torch.allclose(logprobs, module(make_pack([first, second])).logprobs[mine])


@pytest.mark.parametrize("cuts", [(1, 2, 3), (2, 4), (5,)])
def test_how_sequences_share_packs_changes_nothing(cuts: tuple[int, ...]) -> None:
    model = build("gemma2, sliding, softcap")
    model.set_attn_implementation(NAME)
    sequences = random_sequences()
    parts = [make_pack(sequences[first:last]) for first, last in zip((0, *cuts), (*cuts, None), strict=True)]
    whole = packed(model, [make_pack(sequences)])
    assert_equal(packed(model, parts), whole)
    assert_equal(packed(model, [merge_packs(parts)]), whole)


def test_recomputed_activations_give_the_same_gradients() -> None:
    model = build("qwen2").train()
    model.set_attn_implementation(NAME)
    pack = make_pack(random_sequences())
    expected = packed(model, [pack])
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_equal(packed(model, [pack]), expected)


def test_a_pack_without_targets_gives_zero_gradients_to_every_weight() -> None:
    model = build("llama")
    model.set_attn_implementation(NAME)
    sequence = random_sequences((4,))[0]
    pack = make_pack([TrainingSequence(sequence.ids, 0 * sequence.loss_weight)])
    output = PackModel(model)(pack, entropy=True)
    assert output.logprobs.shape == output.entropy.shape == (0,)
    output.logprobs.sum().backward()
    gradients = take_gradients(model)
    assert len(gradients) == len(list(model.parameters()))
    assert all(not gradient.any() for gradient in gradients.values())


def test_bfloat16_is_near() -> None:
    model = build("qwen2")
    model.set_attn_implementation(NAME)
    pack = make_pack(random_sequences())
    exact = PackModel(model)(pack).logprobs
    with torch.autocast("cpu", torch.bfloat16):
        near = PackModel(model)(pack).logprobs
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().mean() < 0.05
