"""What verifying answers costs the thread that keeps the GPU busy: steps a second of a loop as an engine's is, Python
for some milliseconds and a wait for the GPU, alone and beside a pool that always has answers to verify.

    python benchmarks/reward_contention.py

``equal`` is a pool whose processes are as important as the loop, one a core; ``gives way`` is the pool as it is beside
a GPU. The cases take turns; the median of each counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

from open_r1.machine.limits import usable_cores
from open_r1.rewards.pool import RewardPool

WORK, WAIT = 60_000, 0.001  # additions and seconds of a step
ANSWERS = [rf"so it is $\boxed{{\frac{{{a}}}{{{b}}} + \sqrt{{{a * b}}}}}$" for a in range(2, 10) for b in (3, 5, 7, 11)]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a case in a turn")
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {"alone": [], "equal": [], "gives way": []}
    verified: dict[str, list[float]] = {"equal": [], "gives way": []}
    for _ in range(arguments.turns):
        for case, taken in rates.items():
            pool = None if case == "alone" else RewardPool(["accuracy"], gives_way=case == "gives way")
            with pool or nullcontext():
                rate, answers = measure(pool, arguments.seconds)
            taken.append(rate)
            if pool:
                verified[case].append(answers)
    print(f"{usable_cores()} cores; medians of {arguments.turns}: steps of the loop and verified answers, a second")
    for case, taken in rates.items():
        beside = f", {statistics.median(verified[case]):,.0f} verified" if case in verified else ""
        print(f"{case}: {statistics.median(taken):.0f} ({min(taken):.0f} to {max(taken):.0f}){beside}")


def measure(pool: RewardPool | None, seconds: float) -> tuple[float, float]:
    """Steps and verified answers a second."""
    refill: Callable[[], int] = (lambda: 0) if pool is None else keep_busy(pool)
    if pool:  # its processes start
        end = time.monotonic() + 60
        while not refill() and time.monotonic() < end:
            time.sleep(0.05)
    steps = answers = 0
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        total = 0
        for number in range(WORK):
            total += number
        time.sleep(WAIT)
        answers += refill()
        steps += 1
    return steps / seconds, answers / seconds


def keep_busy(pool: RewardPool) -> Callable[[], int]:
    """A function that takes what is verified, hands in as much again, and says how much it was."""
    numbers = iter(range(10**9))

    def submit() -> None:
        pool.submit(next(numbers), ANSWERS, {"solution": [r"$\frac{2}{3}$"] * len(ANSWERS)})

    def refill() -> int:
        done = 0
        for _ in pool.results():
            done += len(ANSWERS)
            submit()
        return done

    for _ in range(4 * usable_cores()):
        submit()
    return refill


if __name__ == "__main__":
    main()
