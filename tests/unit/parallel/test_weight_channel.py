"""Weights go from one process to another in buckets, and neither waits for ever for the other."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from open_r1.background import Background
from open_r1.errors import UserError
from open_r1.parallel.launch_environment import without_launch
from open_r1.parallel.weight_channel import WeightReceiver, WeightSender, fill_buckets

CPU = torch.device("cpu")
SHAPES = {"a": (3, 5), "scalar": (), "b": (16,), "large": (9, 9), "c": (2, 2, 2), "d": (7,)}


def weights(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("elements", [1, 15, 16, 17, 32, 100, 10_000])
def test_buckets_hold_everything_in_order_and_part_nothing(elements: int) -> None:
    sent = weights(0)
    names, sizes = [], []
    for bucket in fill_buckets(sent.items(), dtype=torch.float32, device=CPU, bucket_bytes=4 * elements):
        place = 0
        for name, shape in bucket.entries:
            part = bucket.flat[place : place + sent[name].numel()].view(shape)
            assert torch.equal(part, sent[name])
            place += part.numel()
            names.append(name)
        assert place == len(bucket.flat)
        assert place <= elements or len(bucket.entries) == 1
        sizes.append(place)
    assert names == list(SHAPES)
    assert all(before + after > elements for before, after in itertools.pairwise(sizes)), "a bucket too many"


def test_buckets_are_filled_only_when_asked_for() -> None:
    taken = []

    def gathered() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in weights(0).items():
            taken.append(name)
            yield name, tensor

    next(fill_buckets(gathered(), dtype=torch.float32, device=CPU, bucket_bytes=64))
    assert taken == ["a", "scalar", "b"], "one more than fits, and no further"


def receiver(
    connection: Any, port: int, rank: int, world_size: int, timeout: float = 30.0, die_after: int = -1
) -> None:
    """Answers every word with the weights of one update, or with what went wrong."""
    end = WeightReceiver(
        "127.0.0.1", port, rank=rank, world_size=world_size, dtype=torch.bfloat16, device=CPU, timeout=timeout
    )
    while connection.recv() == "receive":
        try:
            got = {}
            for number, (name, tensor) in enumerate(end.receive()):
                if number == die_after:
                    os._exit(1)
                got[name] = tensor.float().tolist()
            connection.send(got)
        except UserError as error:
            connection.send(str(error))


@pytest.fixture
def start() -> Iterator[Callable[..., list[Any]]]:
    context = multiprocessing.get_context("spawn")
    processes = []

    def begin(port: int, count: int = 1, **arguments: object) -> list[Any]:
        connections = []
        for rank in range(1, count + 1):
            here, there = context.Pipe()
            process = context.Process(
                target=receiver, args=(there, port, rank, count + 1), kwargs=arguments, daemon=True
            )
            process.start()
            there.close()
            processes.append(process)
            connections.append(here)
        return connections

    begin.processes = processes
    yield begin
    for process in processes:
        process.kill()
        process.join()


def test_every_receiver_gets_every_update(start: Callable[..., list[Any]]) -> None:
    sender = WeightSender(2, dtype=torch.bfloat16, device=CPU, timeout=60, bucket_bytes=64)
    ends = start(sender.port, 2)
    sender.connect()
    for seed in range(3):
        sent = weights(seed)
        for end in ends:
            end.send("receive")
        sender.send(sent.items())
        expected = {name: tensor.bfloat16().float().tolist() for name, tensor in sent.items()}
        assert [end.recv() for end in ends] == [expected, expected]
    assert not torch.distributed.is_initialized(), "the trainer's own group is not touched"


def test_an_update_that_is_given_up_is_said_and_the_next_one_goes_through(start: Callable[..., list[Any]]) -> None:
    sender = WeightSender(1, dtype=torch.bfloat16, device=CPU, timeout=60, bucket_bytes=64)
    (end,) = start(sender.port)
    sender.connect()

    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield from list(weights(0).items())[:4]
        raise KeyError("gathering failed")

    end.send("receive")
    with pytest.raises(KeyError):
        sender.send(broken())
    assert "gave up" in end.recv()
    end.send("receive")
    sender.send(weights(1).items())
    assert list(end.recv()) == list(SHAPES)


def test_a_receiver_that_dies_is_noticed_at_once(start: Callable[..., list[Any]]) -> None:
    sender = WeightSender(1, dtype=torch.bfloat16, device=CPU, timeout=60, bucket_bytes=64)
    (end,) = start(sender.port, die_after=0)
    sender.connect()
    end.send("receive")
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"weights did not get through: .*has the other side ended"):
        sender.send(weights(0).items())
    assert time.monotonic() - begun < 30


def test_a_trainer_that_dies_is_noticed_by_the_receiver(start: Callable[..., list[Any]]) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    trainer = context.Process(target=dying_trainer, args=(there,), daemon=True)
    trainer.start()
    there.close()
    (end,) = start(here.recv(), timeout=120.0)
    end.send("receive")
    trainer.join()
    assert end.poll(60), "the receiver hangs"
    assert "weights" in end.recv()


def dying_trainer(connection: Any) -> None:
    sender = WeightSender(1, dtype=torch.bfloat16, device=CPU, timeout=60, bucket_bytes=64)
    connection.send(sender.port)
    sender.connect()

    def deadly() -> Iterator[tuple[str, torch.Tensor]]:
        yield from list(weights(0).items())[:4]
        os._exit(1)

    sender.send(deadly())


def test_nobody_waits_for_ever() -> None:
    sender = WeightSender(1, dtype=torch.bfloat16, device=CPU, timeout=0.3)
    with pytest.raises(UserError, match=r"waited 0.3 s for the 2 processes to meet"):
        sender.connect()


def test_what_the_check_raises_ends_the_wait() -> None:
    def refuse() -> None:
        raise UserError("the server refuses")

    with pytest.raises(UserError, match="the server refuses"):
        WeightSender(1, dtype=torch.bfloat16, device=CPU, timeout=60).connect(refuse)


def test_a_port_that_is_taken_is_said() -> None:
    first = WeightSender(1, dtype=torch.bfloat16, device=CPU)
    with pytest.raises(UserError, match="choose another --vllm_group_port"):
        WeightSender(1, dtype=torch.bfloat16, device=CPU, port=first.port)


def test_a_receiver_without_a_trainer_ends() -> None:
    port = WeightSender(1, dtype=torch.bfloat16, device=CPU).port  # gone with its sender
    arguments = {"rank": 1, "world_size": 2, "dtype": torch.bfloat16, "device": CPU, "timeout": 0.5}
    attempt = Background(lambda: WeightReceiver("127.0.0.1", port, **arguments))
    with pytest.raises(UserError, match="can this machine reach the trainer's"):
        attempt.result()


def test_a_child_of_a_rank_is_no_rank() -> None:
    environment = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1", "ACCELERATE_USE_FSDP": "true", "PATH": "/bin"}
    assert without_launch(environment) == {"PATH": "/bin"}
