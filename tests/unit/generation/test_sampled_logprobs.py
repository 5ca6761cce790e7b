"""The sampler of a model runner is followed: each token's log-probability is found again under its request."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from open_r1.generation.sampled_logprobs import SampledLogprobs, key_of

VOCABULARY = 11


class Book:
    """The runner's book of requests, as vLLM keeps it."""

    def __init__(self, rows: int, longest: int) -> None:
        self.max_num_reqs, self.max_model_len, self.device = rows, longest, torch.device("cpu")
        self.req_id_to_index: dict[str, int] = {}
        self.free = list(range(rows))

    def add_request(self, req_id: str, prompt_len: int) -> None:
        self.req_id_to_index[req_id] = self.free.pop()

    def remove_request(self, req_id: str) -> None:
        self.free.append(self.req_id_to_index.pop(req_id))


class Runner:
    """Draws seeded tokens for the requests in hand, and remembers the log-probabilities it drew them with."""

    def __init__(self, rows: int = 3, longest: int = 12) -> None:
        self.req_states = Book(rows, longest)
        self.sampler = SimpleNamespace(sample=self._draw)
        self.drawn: dict[str, list[float]] = {}
        self.length: dict[str, int] = {}

    def _draw(self, logits: Tensor, states: Tensor, states_np: np.ndarray, position: Tensor) -> tuple[Tensor, Tensor]:
        return torch.multinomial(logits.softmax(-1), 1)[:, 0], logits

    def _remove_request(self, req_id: str) -> bool:
        self.req_states.remove_request(req_id)
        return True

    def add(self, req_id: str, prompt: int) -> None:
        self.req_states.add_request(req_id, prompt_len=prompt)
        self.length.setdefault(req_id, prompt)

    def step(self) -> None:
        """One token for each request."""
        names = list(self.req_states.req_id_to_index)
        rows = torch.tensor([self.req_states.req_id_to_index[name] for name in names], dtype=torch.int32)
        position = torch.tensor([self.length[name] - 1 for name in names])
        logits = torch.randn(len(names), VOCABULARY)
        sampled, _ = self.sampler.sample(logits, rows, rows.numpy(), position)
        for name, token, row in zip(names, sampled, logits.log_softmax(-1), strict=True):
            self.drawn.setdefault(name, []).append(float(row[token]))
            self.length[name] += 1


def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]


@pytest.fixture
def runner() -> Runner:
    torch.manual_seed(0)
    return Runner()


def test_every_token_is_found_under_its_request(runner: Runner) -> None:
    follower = SampledLogprobs(runner, token_logprobs)
    runner.add("0_7-ab12", 2)
    runner.add("1_7-ab12", 2)
    runner.step()
    runner.add("8-cd34", 5)
    runner.step()
    runner._remove_request("0_7-ab12")  # done; another one takes its row
    runner.add("9-ef56", 1)
    runner.step()
    for name, key, prompt in (("0_7-ab12", ("7", 0), 2), ("1_7-ab12", ("7", 1), 2), ("8-cd34", ("8", 0), 5)):
        expected = runner.drawn[name]
        assert np.asarray(follower.read(key, prompt, len(expected))) == pytest.approx(expected)
    assert np.asarray(follower.read(("9", 0), 1, 1)) == pytest.approx(runner.drawn["9-ef56"])


def test_what_was_put_off_keeps_what_it_had_drawn(runner: Runner) -> None:
    follower = SampledLogprobs(runner, token_logprobs)
    runner.add("1-aa", 3)
    runner.add("2-bb", 1)
    runner.step()
    runner.step()
    runner._remove_request("1-aa")
    runner.add("3-cc", 4)  # in its row
    runner.step()
    runner.add("1-aa", 3)
    runner.step()
    assert len(runner.drawn["1-aa"]) == 3
    assert np.asarray(follower.read(("1", 0), 3, 3)) == pytest.approx(runner.drawn["1-aa"])
    assert np.asarray(follower.read(("3", 0), 4, 2)) == pytest.approx(runner.drawn["3-cc"])


def test_what_nobody_read_is_forgotten(runner: Runner) -> None:
    follower = SampledLogprobs(runner, token_logprobs)
    runner.add("1-aa", 3)
    runner.step()
    runner._remove_request("1-aa")
    follower.clear()
    with pytest.raises(KeyError):
        follower.read(("1", 0), 3, 1)


def test_values_are_numbers_once_somebody_asks(runner: Runner) -> None:
    follower = SampledLogprobs(runner, token_logprobs)
    runner.add("1-aa", 3)
    runner.step()
    values = follower.read(("1", 0), 3, 1)
    runner.step()
    assert len(values) == 1
    assert np.asarray(values) == pytest.approx(runner.drawn["1-aa"][:1])
    assert np.asarray(values).dtype == np.float32
    kept = pickle.loads(pickle.dumps(values))
    assert isinstance(kept, np.ndarray)
    assert kept == pytest.approx(runner.drawn["1-aa"][:1])


@pytest.mark.parametrize("older", [SimpleNamespace(), SimpleNamespace(req_states=Book(1, 4), sampler=None)])
def test_another_runner_is_left_alone(older: Any) -> None:
    before = dict(vars(older))
    with pytest.raises(AttributeError):
        SampledLogprobs(older, token_logprobs)
    assert vars(older) == before


@pytest.mark.parametrize(
    ("name", "key"),
    [("3_17-0a1b2c3d", ("17", 3)), ("17-0a1b2c3d", ("17", 0)), ("17", ("17", 0)), ("12_5", ("5", 12))],
)
def test_the_names_that_vllm_gives(name: str, key: tuple[str, int]) -> None:
    assert key_of(name) == key
