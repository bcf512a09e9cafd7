"""Races: implementations of one job are timed in turns, and their times are compared."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

OURS, LIMIT = "sgdr_fused", "limit"

Steps = dict[str, Callable[[], Any]]  # by implementation
Times = dict[str, list[float]]  # seconds per step; the k-th times of all implementations belong to one round


class Pace(NamedTuple):
    """How long a race goes on: for a number of seconds, within bounds on the rounds."""

    seconds: float
    min_rounds: int = 15
    max_rounds: int = 2000
    warmup: int = 5

    def goes_on(self, rounds: int, seconds: float) -> bool:
        return rounds < self.min_rounds or (rounds < self.max_rounds and seconds < self.seconds)


SMOKE = Pace(0.0, min_rounds=2, max_rounds=2, warmup=1)


class Spread(NamedTuple):
    low: float  # 10 % are below
    median: float
    high: float  # 10 % are above

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        deciles = statistics.quantiles(values, n=10, method="inclusive")
        return cls(deciles[0], statistics.median(values), deciles[-1])


def race(steps: Steps, prepare: Callable[[str, int], None], pace: Pace) -> Times:
    """Times the steps in the order A B C, B C A, C A B, ..., so that each goes first equally often.

    `prepare(name, round)` prepares a step, and is not timed. No garbage is collected meanwhile.
    """
    names = list(steps)
    times: Times = {name: [] for name in names}

    def one_round(number: int) -> None:
        first = number % len(names)
        for name in names[first:] + names[:first]:
            prepare(name, number)
            step = steps[name]
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)

    gc.collect()
    gc.disable()
    try:
        for number in range(pace.warmup):
            one_round(number)
        for of_one in times.values():
            of_one.clear()
        rounds, start = 0, time.perf_counter()
        while pace.goes_on(rounds, time.perf_counter() - start):
            one_round(rounds)
            rounds += 1
    finally:
        gc.enable()
    return times


def best_torch(times: Times) -> str:
    return min((name for name in times if name.startswith("torch")), key=lambda name: statistics.median(times[name]))


def ratio(times: Times, name: str, to: str = OURS) -> Spread:
    """How many times as long `name` takes as `to`, round by round."""
    return Spread.of([a / b for a, b in zip(times[name], times[to], strict=True)])


class Replay:
    """A clock for pytest-benchmark: it moves only by the times that a race has measured.

    pytest-benchmark times one implementation after the other, and the machine is not the same from one minute to the
    next. So the race runs first, in turns, and pytest-benchmark is shown its times.
    """

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        return self._now

    def show(self, benchmark: Any, times: list[float]) -> None:
        left = iter(times)
        benchmark.pedantic(self._advance, setup=lambda: ((next(left),), {}), rounds=len(times))

    def _advance(self, seconds: float) -> None:
        self._now += seconds


CLOCK = Replay()
