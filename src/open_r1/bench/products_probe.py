"""Child process: matrix products by type and shape, and copies within the device's memory and from the host's."""

from __future__ import annotations

from dataclasses import asdict

import torch

from open_r1.bench.gate import wait_for_gate
from open_r1.bench.gpu_state import gpu_state
from open_r1.bench.timing import Timing, time_calls
from open_r1.doctor.matmul_probe import TYPES, multiply, operands
from open_r1.doctor.matmul_shapes import Product
from open_r1.machine.answer import Answer
from open_r1.model.published import SHAPES

LOADED_SECONDS = 2
"""How long the device multiplies: its clock and power are read in the last of them, and power is an average."""


def main() -> None:
    """Tells, line by line, ``product``, ``copy`` (each with flops or bytes, seconds and spread), ``failed`` and
    ``state``.
    """
    answer = Answer()
    wait_for_gate(answer)
    asked = answer.asked
    device = torch.device(asked["device"])
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    square, rows = asked["square"], asked["rows"]
    for name in asked["dtypes"]:
        answer.begin(f"{name} {square}³")
        try:
            timing = time_product(Product("square", "forward", square, square, square), name, device)
            answer.say(product=_line("square", name, square, 2 * square**3, timing))
            if name == asked["dtypes"][0] and device.type == "cuda":
                answer.begin("clock and power")
                answer.say(state=state_under_load(square, name, device))
            for shape in asked["shapes"]:
                answer.begin(f"{name} layer of {shape}")
                timing, flops = time_layer(shape, rows, name, device)
                answer.say(product=_line(shape, name, rows, flops, timing))
        except RuntimeError as error:  # a type that this chip or this torch has not; memory that is not there
            lines = str(error).strip().splitlines()
            answer.say(failed=f"{name}: {lines[0] if lines else type(error).__name__}")
    answer.begin("copies")
    for kind, size, timing in time_copies(device, asked["copied"]):
        answer.say(copy={"kind": kind, "bytes": size, **asdict(timing)})
    answer.say(at="")


def time_product(product: Product, name: str, device: torch.device) -> Timing:
    """One product of standard normal numbers, whose bits cost the power that real ones do."""
    a, b = operands(product, TYPES[name], device)
    return time_calls(lambda: multiply(a, b), device)


def time_layer(shape: str, rows: int, name: str, device: torch.device) -> tuple[Timing, int]:
    """The products of one decoder layer, forward, one after the other; and their FLOPs."""
    pairs = []
    for ins, outs in SHAPES[shape].products:
        pairs.append(operands(Product(shape, "forward", rows, ins, outs), TYPES[name], device))

    def call() -> None:
        for a, b in pairs:
            multiply(a, b)

    return time_calls(call, device), sum(2 * rows * ins * outs for ins, outs in SHAPES[shape].products)


def time_copies(device: torch.device, size: int) -> list[tuple[str, int, Timing]]:
    """(kind, bytes read and written, timing): ``copy`` within memory, and to a GPU ``host copy`` from locked pages."""
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timings = [("copy", 2 * size, time_calls(lambda: target.copy_(source), device))]
    if device.type == "cuda":
        locked = torch.empty(size // 4, dtype=torch.uint8, pin_memory=True)
        part = target[: size // 4]
        timings.append(
            ("host copy", size // 4, time_calls(lambda: part.copy_(locked, non_blocking=True), device, seconds=0.5))
        )
    return timings


def state_under_load(square: int, name: str, device: torch.device) -> dict[str, float] | None:
    """What nvidia-smi says while the device multiplies; None where there is no such tool."""
    a, b = operands(Product("square", "forward", square, square, square), TYPES[name], device)
    a_second = max(10, round(1.0 / time_calls(lambda: multiply(a, b), device).seconds))
    for second in range(LOADED_SECONDS):
        if second:
            torch.cuda.synchronize(device)
        for _ in range(a_second):  # the last of them are in its queue while it is asked
            multiply(a, b)
    state = gpu_state(str(getattr(torch.cuda.get_device_properties(device), "uuid", "")).removeprefix("GPU-"))
    torch.cuda.synchronize(device)
    return asdict(state) if state else None


def _line(shape: str, dtype: str, rows: int, flops: int, timing: Timing) -> dict[str, object]:
    return {"shape": shape, "dtype": dtype, "rows": rows, "flops": flops, **asdict(timing)}


if __name__ == "__main__":
    main()
