"""Child process: one matrix product on every GPU at once, to find one that lags."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from open_r1.bench.gate import wait_for_gate
from open_r1.bench.products_probe import time_product
from open_r1.doctor.matmul_shapes import Product
from open_r1.machine.answer import Answer


def main() -> None:
    """Tells ``rates``: FLOP/s of each device, in order."""
    answer = Answer()
    wait_for_gate(answer)
    asked = answer.asked
    side = asked["square"]
    product = Product("square", "forward", side, side, side)

    def rate(name: str) -> float:
        return 2 * side**3 / time_product(product, asked["dtype"], torch.device(name)).seconds

    answer.begin("all at once")
    with ThreadPoolExecutor(len(asked["devices"])) as threads:
        rates = list(threads.map(rate, asked["devices"]))
    answer.say(at="", rates=rates)


if __name__ == "__main__":
    main()
