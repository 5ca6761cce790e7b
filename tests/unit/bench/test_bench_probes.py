"""The probes in this process, on a CPU: what they compute is what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from open_r1.bench import sft_probe, timing
from open_r1.bench.attention_probe import document_lengths, flops, time_kernel
from open_r1.bench.cases import ON_CPU, SFTCase
from open_r1.bench.engine_probe import draw, make_requests
from open_r1.bench.packs import Repeating, made_up_tokens, trace_lengths
from open_r1.bench.parts import Part
from open_r1.bench.products_probe import time_copies, time_layer
from open_r1.bench.reading import Origin, read_part
from open_r1.bench.runner import run_parts
from open_r1.bench.sft_probe import ROUNDS, measure, random_model
from open_r1.bench.timing import SAMPLES, WARM_UP, time_calls
from open_r1.generation.transformers_engine import TransformersEngine
from open_r1.model.attention import NAME
from open_r1.model.published import SHAPES, write_config
from open_r1.model.shape import ModelShape
from open_r1.parallel.runtime import Runtime
from open_r1.training.step import TrainingStep

CPU = torch.device("cpu")
SMALL = replace(ON_CPU, length=64, batch=2, accumulation=2, steps=2, mean=30)


def test_a_median_of_samples_after_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.cumsum([0.0] + [value for one in [1.0] * 8 for value in (one, 5.0)]).tolist())
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls = []
    measured = time_calls(lambda: calls.append(1), CPU, seconds=1.0)
    assert measured == timing.Timing(1.0, 0.0)
    assert len(calls) == WARM_UP + 1 + SAMPLES


def test_short_calls_are_timed_together() -> None:
    calls = []
    assert time_calls(lambda: calls.append(1), CPU, seconds=0.01).seconds > 0
    assert len(calls) > 100 * SAMPLES


def test_a_layer_of_products_and_copies() -> None:
    measured, count = time_layer("demo", 16, "fp32", CPU)
    assert measured.seconds > 0
    assert count == 2 * 16 * ModelShape.of(SHAPES["demo"].config()).linear // SHAPES["demo"].layers
    ((kind, size, copied),) = time_copies(CPU, 1 << 16)
    assert (kind, size) == ("copy", 2 << 16)
    assert copied.seconds > 0


@pytest.mark.parametrize(("tokens", "longest"), [(16_384, 2048), (16_384, 16_384), (2048, 256), (100, 300)])
def test_documents_fill_packs_and_cross_none(tokens: int, longest: int) -> None:
    lengths = document_lengths(tokens, longest)
    assert sum(lengths) == tokens
    assert min(lengths) > 0
    ends = set(np.cumsum(lengths).tolist())
    assert set(range(longest, tokens, longest)) <= ends


def test_attention_forward_and_backward() -> None:
    lengths = (5, 11)
    assert flops(SHAPES["demo"], lengths) == 2 * 192 * (25 + 121)
    forward, both = time_kernel("documents", SHAPES["demo"], lengths, torch.float32, CPU)
    assert forward.seconds > 0
    assert both.seconds > 0


def test_made_up_traces_have_the_lengths_of_traces() -> None:
    lengths = trace_lengths(10_000_000, 16_384)
    assert lengths.mean() == pytest.approx(5500, rel=0.06)  # the longest are clipped
    assert lengths.max() <= 16_500
    assert 0.5 < np.log(lengths).std() < 0.8
    store = made_up_tokens(512, 4000, 256, 85)
    assert store.offsets[-1] == len(store.input_ids) >= 4000
    assert 0 <= store.input_ids.min() <= store.input_ids.max() < 512
    assert (store.input_ids == made_up_tokens(512, 4000, 256, 85).input_ids).all()


def test_training_goes_through_the_commands_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, order = [], []
    taken, given = TrainingStep.__call__, Repeating.batch

    def take(self: TrainingStep, step: int, *rest: object) -> object:
        steps.append(step)
        return taken(self, step, *rest)

    def give(self: Repeating, step: int, stop: object) -> object:
        batch = given(self, step, stop)
        order.append(sum(len(pack) for pack in batch.packs))
        return batch

    monkeypatch.setattr(TrainingStep, "__call__", take)
    monkeypatch.setattr(Repeating, "batch", give)
    said: list[str] = []
    longer = replace(SMALL, length=128, batch=1)
    first, second = measured_on_cpu(longer, SMALL, begin=said.append)
    rounds = SMALL.steps * (1 + ROUNDS)
    assert steps == 2 * list(range(rounds))
    for case, measured, tokens in ((longer, first, order[:rounds]), (SMALL, second, order[rounds:])):
        assert measured["case"] == asdict(case)
        assert tokens == tokens[: case.steps] * (1 + ROUNDS)
        assert measured["tokens"] == sum(tokens[: case.steps])
        assert 0.8 * case.tokens < measured["tokens"] <= case.tokens
        shape = SHAPES["demo"]
        parameters = ModelShape.of(shape.config()).parameters
        vectors = (2 * shape.layers + 1) * shape.hidden
        assert measured["parameters"] == parameters
        assert measured["flops_per_token"] > 6 * (parameters - vectors)
        assert measured["recompute"] == "none"
    assert first["flops_per_token"] > second["flops_per_token"]  # longer sequences attend to more
    assert first["start"] > 0 == second["start"]
    assert said == ["making weights", "compiling", "packs of 128 tokens", "packs of 64 tokens"]


def measured_on_cpu(*cases: SFTCase, begin: Callable[[str], None] = lambda what: None) -> list[dict[str, Any]]:
    stores = [made_up_tokens(512, case.tokens, case.length, case.mean) for case in cases]
    return list(measure(cases, stores, None, begin))


def test_a_slow_machine_goes_through_its_steps_once(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    taken = TrainingStep.__call__
    monkeypatch.setattr(sft_probe, "LONG", 0.0)
    monkeypatch.setattr(TrainingStep, "__call__", lambda self, *given: [steps.append(given[0]), taken(self, *given)][1])
    assert measured_on_cpu(SMALL)[0]["seconds"] > 0
    assert steps == list(range(2 * SMALL.steps))


def test_adapters_are_not_counted_as_the_models_own() -> None:
    case = replace(SMALL, adapters=True, steps=1)
    (measured,) = measured_on_cpu(case)
    assert measured["parameters"] == ModelShape.of(SHAPES["demo"].config()).parameters
    Runtime("bf16", 1).close()  # another precision than the one that was measured


def test_completions_have_their_full_length() -> None:
    requests = make_requests(12, 5, 512)
    prompts = [request.prompt_ids for request in requests]
    assert len(set(prompts)) == 2
    assert prompts[:8] == [prompts[0]] * 8
    assert len({request.seed for request in requests}) == 12
    model = random_model(SFTCase("demo", 0, 0, 0), "float32", CPU)
    assert model.config._attn_implementation == NAME
    assert draw(TransformersEngine(model, pad_token_id=0), requests, 6) == 72


def test_an_engine_finds_a_configuration(tmp_path) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(write_config(SHAPES["0.5B"], tmp_path / "model", "bfloat16"))
    assert (config.hidden_size, config.dtype, config.architectures) == (896, torch.bfloat16, ["Qwen2ForCausalLM"])
    assert ModelShape.of(config).parameters == ModelShape.of(SHAPES["0.5B"].config()).parameters


def test_several_devices_at_once_and_the_sums_over_them() -> None:
    asked = {"devices": ["cpu", "cpu"], "square": 64, "dtype": "fp32"}
    links = {"ranks": 2, "backend": "gloo", "seconds": 60.0}
    parts = [
        Part("gpus", "all", "open_r1.bench.gpus_probe", asked, 60.0),
        Part("gpus", "sums", "open_r1.parallel.all_reduce_probe", links, 60.0, gated=False),
    ]
    origin = Origin("CPU", {}, "2026-01-02T00:00:00Z")
    devices, sums = (read_part(done, origin) for done in run_parts(parts, seconds=200, ahead=2))
    assert devices.failures == sums.failures == []
    assert len(devices.devices) == 2
    assert [(rate.kind, rate.shape) for rate in sums.rates] == [("all-reduce", "2 GPUs")]
