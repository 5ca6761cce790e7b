"""The optimizer with a small state beside torch's: exact where it says so, close where moments are bytes."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from fake_runtime import FakeRuntime
from torch import Tensor, nn

from open_r1.errors import UserError
from open_r1.training import low_memory_adamw
from open_r1.training.block_quantization import BLOCK, dequantize, dynamic_codes, quantize
from open_r1.training.low_memory_adamw import LowMemoryAdamW, join_bits, split_bits
from open_r1.training.update import take_step

RATES = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8}


class Stepping(FakeRuntime):
    def optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()


def train(optimizer_class: type, dtype: torch.dtype, steps: int, **settings: object) -> tuple[Tensor, object]:
    """A 64 x 128 matrix after ``steps`` noisy gradients of the distance to another one, always the same."""
    generator = torch.Generator().manual_seed(0)
    start, goal = torch.randn(2, 64, 128, generator=generator) * 0.02
    weight = nn.Parameter(start.bfloat16().to(dtype))
    optimizer = optimizer_class([{"params": [weight], "weight_decay": 0.1}], **{**RATES, **settings})
    for _ in range(steps):
        noise = torch.randn(64, 128, generator=generator) * 0.01
        weight.grad = (weight.detach().float() - goal + noise).to(dtype)
        optimizer.step()
    return weight, optimizer


def master(weight: Tensor, optimizer: LowMemoryAdamW) -> Tensor:
    return join_bits(weight.data, optimizer.state[weight]["low_bits"])


def test_32_bit_moments_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_memory_adamw, "SLICE", 3 * BLOCK)  # slices that do not end with the tensor
    expected, _ = train(torch.optim.AdamW, torch.float32, 20)
    weight, optimizer = train(LowMemoryAdamW, torch.float32, 20)
    torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-8)
    assert set(optimizer.state[weight]) == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("moment_bits", [8, 32])
def test_bf16_weights_move_as_float32_ones_do(moment_bits: int) -> None:
    """At a learning rate of 1e-5 plain bf16 AdamW loses nine tenths of the movement."""
    start, _ = train(torch.optim.AdamW, torch.float32, 0)
    expected, _ = train(torch.optim.AdamW, torch.float32, 100, lr=1e-5)
    way = (expected - start).norm()
    rounded, _ = train(torch.optim.AdamW, torch.bfloat16, 100, lr=1e-5)
    assert (rounded.float() - expected).norm() > 0.8 * way
    weight, optimizer = train(LowMemoryAdamW, torch.bfloat16, 100, lr=1e-5, moment_bits=moment_bits)
    assert (master(weight, optimizer) - expected).norm() < 0.1 * way
    assert weight.dtype == torch.bfloat16


def test_8_bit_moments_are_a_quarter_and_near() -> None:
    expected, _ = train(torch.optim.AdamW, torch.float32, 50)
    start, _ = train(torch.optim.AdamW, torch.float32, 0)
    weight, optimizer = train(LowMemoryAdamW, torch.float32, 50, moment_bits=8)
    assert (weight - expected).norm() < 0.05 * (expected - start).norm()
    state = optimizer.state[weight]
    assert sum(tensor.nbytes for tensor in state.values()) < 2.1 * weight.numel()
    assert (state["exp_avg"].dtype, state["exp_avg_scale"].shape) == (torch.uint8, (64 * 128 // BLOCK,))


def test_small_and_uneven_tensors_keep_float32_moments() -> None:
    for shape in ((64, 63), (100, 41)):  # below 4096 elements; no multiple of 256
        weight = nn.Parameter(torch.ones(shape))
        optimizer = LowMemoryAdamW([{"params": [weight]}], moment_bits=8, **RATES)
        weight.grad = torch.ones(shape)
        optimizer.step()
        assert optimizer.state[weight]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize(("dtype", "moment_bits"), [(torch.bfloat16, 8), (torch.bfloat16, 32), (torch.float32, 8)])
def test_a_saved_state_continues_bit_for_bit(dtype: torch.dtype, moment_bits: int) -> None:
    weight, optimizer = train(LowMemoryAdamW, dtype, 7, moment_bits=moment_bits)
    file = io.BytesIO()
    torch.save({"weight": weight.data, "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = nn.Parameter(saved["weight"])
    continued = LowMemoryAdamW([{"params": [again]}], moment_bits=32, **RATES)
    before = copy.deepcopy(saved["optimizer"])
    continued.load_state_dict(saved["optimizer"])
    for parameter, owner in ((weight, optimizer), (again, continued)):
        for number in range(3):
            parameter.grad = torch.full_like(parameter, 0.1 * (number - 1))
            owner.step()
    assert torch.equal(weight, again)
    for name, tensor in optimizer.state[weight].items():
        assert torch.equal(tensor, continued.state[again][name]), name
        assert tensor.dtype == continued.state[again][name].dtype
    for name, tensor in before["state"][0].items():  # loading does not lend its tensors out
        assert torch.equal(tensor, saved["optimizer"]["state"][0][name])


def test_the_state_of_torchs_adamw_is_taken_over() -> None:
    weight, optimizer = train(torch.optim.AdamW, torch.bfloat16, 3)
    ours = LowMemoryAdamW([{"params": [weight]}], **RATES)
    ours.load_state_dict(optimizer.state_dict())
    state = ours.state[weight]
    torch.testing.assert_close(state["exp_avg"], optimizer.state[weight]["exp_avg"].float())
    assert (state["exp_avg"].dtype, state["step"].item()) == (torch.float32, 3)
    assert torch.equal(join_bits(weight.data, state["low_bits"]), weight.float())


class Crowded(LowMemoryAdamW):
    """Has no room for the state of the third weight, ``failures`` times."""

    def __init__(self, *args: object, failures: int, **settings: object) -> None:
        super().__init__(*args, **settings)
        self.made, self.failures = 0, failures

    def _fresh_state(self, parameter: nn.Parameter, moment_bits: int) -> dict[str, Tensor]:
        self.made += 1
        if self.made == 3 and self.failures:
            self.made, self.failures = 0, self.failures - 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._fresh_state(parameter, moment_bits)


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_no_room_for_the_state_changes_no_weight(failures: int) -> None:
    """So the first step is tried again with empty caches, and only then given up."""
    weights = [nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16)) for _ in range(4)]
    optimizer = Crowded([{"params": weights}], failures=failures, moment_bits=8, **RATES | {"lr": 0.1})
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    if failures < 2:
        take_step(Stepping(), optimizer, step=0)
        assert [optimizer.state[weight]["step"].item() for weight in weights] == [1, 1, 1, 1]
        assert all(torch.equal(weight, weights[0]) and (weight < 1).all() for weight in weights)
    else:
        with pytest.raises(UserError, match="out of memory in the optimizer of step 1"):
            take_step(Stepping(), optimizer, step=0)
        assert all((weight == 1).all() for weight in weights)


def test_split_and_joined() -> None:
    values = torch.randn(100_000) * torch.rand(100_000).pow(12)
    halfway = torch.tensor([1.0 + 2**-8, -1.0 - 2**-8, 1.0 + 3 * 2**-8, 0.0, -0.0, 3e38])
    values = torch.cat([values, halfway])
    high, low = split_bits(values)
    assert torch.equal(join_bits(high, low).view(torch.int32), values.view(torch.int32))
    nearest = (high.float() - values).abs()
    assert (nearest <= (values.bfloat16().float() - values).abs()).all()


def test_bytes_are_near_in_every_block() -> None:
    device = torch.device("cpu")
    for signed in (True, False):
        codes, midpoints = dynamic_codes(signed, device)
        assert len(codes) == 256 and len(midpoints) == 255 and (codes.diff() > 0).all()
        values = torch.randn(8 * BLOCK) * torch.logspace(-20, 3, 8).repeat_interleave(BLOCK)
        values = values if signed else values.square()
        values[:BLOCK] = 0.0
        stored, scale = quantize(values, midpoints)
        found = dequantize(stored, scale, codes)
        largest = values.view(-1, BLOCK).abs().amax(1)
        assert torch.equal(found[:BLOCK], torch.zeros(BLOCK))
        assert ((found - values).view(-1, BLOCK).abs().amax(1) <= 0.02 * largest).all()


def test_as_bitsandbytes() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    for signed in (True, False):
        codes, _ = dynamic_codes(signed, torch.device("cpu"))
        assert torch.equal(codes, bnb.functional.create_dynamic_map(signed=signed))
    start, _ = train(torch.optim.AdamW, torch.float32, 0)
    theirs, _ = train(bnb.optim.AdamW8bit, torch.float32, 50)
    ours, _ = train(LowMemoryAdamW, torch.float32, 50, moment_bits=8)
    assert (ours - theirs).norm() < 0.03 * (theirs - start).norm()
