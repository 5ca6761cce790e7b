"""One call of ``open-r1 bench``: all parts, what they came to, and what is to be said about that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from open_r1.bench.gpu_state import gpu_state
from open_r1.bench.parts import Part, choose_parts
from open_r1.bench.reading import Origin, Reading, read_part
from open_r1.bench.remarks import busy_before, lagging, too_low
from open_r1.bench.runner import run_parts
from open_r1.config import BenchConfig
from open_r1.doctor.gpus import Torch
from open_r1.machine.cards import Card
from open_r1.machine.rates import Rate

AHEAD = 2
"""Parts whose processes wait on a GPU for their turn: importing vLLM takes longer than attention does."""
ROUND_UP = 30
"""Seconds to which a time that is advised is rounded."""


@dataclass
class Session:
    """What has been measured so far.

    Attributes:
        parts: those that are through or were left out, in order.
        before: remarks on the machine from before anything was measured.
    """

    config: BenchConfig
    torch: Torch
    origin: Origin
    card: Card | None
    parts: list[tuple[Part, Reading]] = field(default_factory=list)
    before: list[str] = field(default_factory=list)

    def measure(self, start: float, waiting: Callable[[Part, float], None]) -> Iterator[tuple[Part, Reading]]:
        """Measures part by part; ``start`` and ``waiting`` as of `run_parts`."""
        gpus = self.torch.gpus
        if gpus:
            self.before = busy_before(gpus[0], gpu_state())
        parts = choose_parts(self.torch, self.config.only)
        ahead = AHEAD if gpus else 0
        for done in run_parts(parts, seconds=self.config.seconds, start=start, ahead=ahead, waiting=waiting):
            self.parts.append((done.part, read_part(done, self.origin)))
            yield self.parts[-1]

    @property
    def rates(self) -> list[Rate]:
        return [rate for _, reading in self.parts for rate in reading.rates]

    @property
    def remarks(self) -> list[str]:
        """One line each."""
        state = next((reading.state for _, reading in self.parts if reading.state), None)
        devices = [rate for _, reading in self.parts for rate in reading.devices]
        return [*self.before, *too_low(self.rates, self.card, state), *lagging(devices)]

    @property
    def left_out(self) -> list[Part]:
        return [part for part, reading in self.parts if reading.left_out]

    def command_for_rest(self) -> str:
        """What measures the parts that were left out."""
        names = list(dict.fromkeys(part.name for part in self.left_out))
        again = [part for part, _ in self.parts if part.name in names]
        seconds = sum(part.usual for part in again)
        return f"open-r1 bench --only {' '.join(names)} --seconds {-(-int(seconds) // ROUND_UP) * ROUND_UP}"
