"""The engine behind the address that a trainer is given, whichever kind of server it is; started here where asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from open_r1.errors import UserError
from open_r1.generation.engine import TrainableEngine
from open_r1.generation.served_engine import ServedEngine
from open_r1.generation.server_client import ServerClient
from open_r1.generation.server_port import check_free, check_group_port
from open_r1.generation.server_process import ServerProcess, nth_devices, serve_command
from open_r1.generation.stock_server import StockServerEngine


@dataclass(frozen=True)
class Trainer:
    """Who asks.

    Attributes:
        device: on which its weights are.
        sizes: of its model (`server_protocol.sizes_of`).
        sends_weights: it is the process that sends them, and that starts a server.
        parties: trainer processes, each of which draws its share.
    """

    device: torch.device
    sizes: Mapping[str, int]
    sends_weights: bool = True
    parties: int = 1


def open_served(url: str, trainer: Trainer, *, start_timeout: float = 240.0, group_port: int = 0) -> TrainableEngine:
    """The engine at ``url``: a server of ``open-r1 serve-vllm``, or a ``vllm serve``.

    Args:
        start_timeout: seconds that the server may take to come up.
        group_port: port of this machine at which the server's processes meet the trainer; 0 takes a free one.

    Raises:
        UserError: no server comes up in time, it serves another model, or takes no weights; the group port is taken.
    """
    client = ServerClient(url)
    if trainer.sends_weights:
        check_group_port(group_port)
    settings = {"device": trainer.device, "sends_weights": trainer.sends_weights, "group_port": group_port}
    if client.wait_until_up(start_timeout) is None:
        return StockServerEngine(client, **settings)
    return ServedEngine(url, sizes=trainer.sizes, parties=trainer.parties, start_timeout=start_timeout, **settings)


def start_served(
    settings: Mapping[str, object],
    trainer: Trainer,
    *,
    log: Path,
    devices: str | None = None,
    start_timeout: float = 240.0,
    group_port: int = 0,
) -> ServedEngine:
    """Starts ``open-r1 serve-vllm`` on this machine, in the process that sends weights, and waits for it in all.

    Args:
        settings: of the server (`open_r1.config.serve`), its port among them.
        log: of the server's output; vLLM's own goes beside it.
        devices: numbers of the GPUs that it takes, as this process counts them; None leaves that to the server.

    Raises:
        UserError: another process has one of the ports; it ends, or is not up in time, with its last lines.
    """
    port = settings.get("port")
    if not port:
        raise UserError("a server that is started here needs a port: give --vllm_server_port")
    process = None
    if trainer.sends_weights:
        check_free(int(port))
        check_group_port(group_port)
        visible = nth_devices(devices, os.environ.get("CUDA_VISIBLE_DEVICES")) if devices is not None else None
        command = serve_command({"log": log.with_suffix(".vllm.log"), **settings})
        process = ServerProcess(command, log=log, devices=visible)
    return ServedEngine(
        f"http://127.0.0.1:{port}",
        device=trainer.device,
        sizes=trainer.sizes,
        sends_weights=trainer.sends_weights,
        parties=trainer.parties,
        start_timeout=start_timeout,
        group_port=group_port,
        process=process,
    )
