"""Times of ops: repeated, as median and quartiles.

On CUDA an op's time is that between two events of the stream, and nothing waits for the
GPU until all repetitions are under way. So the CPU is ahead, as it is in training, and
what it needs to launch an op hides behind the op before. Where the CPU is the slower
one, the GPU waits for it in training too: the time measured is then that of launching,
and ``Spread.idle`` tells.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch

from schedopt.measure.sample import Microbatch, StageUnderTest

Action = Callable[[], None]


Work = Callable[[], Iterator[tuple[str, Action]]]
"""The actions of one repetition, in order, by name; those called "" are not timed."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A sample of times, microseconds: its median and its quartiles.

    ``idle`` is the share of the sample at whose start a GPU had nothing left to do.
    """

    median: float
    lower: float
    upper: float
    count: int
    idle: float = 0.0

    @property
    def relative(self) -> float:
        """(upper - lower quartile) / median; 0 where the median is 0."""
        return (self.upper - self.lower) / self.median if self.median else 0.0


def spread_of(times: Sequence[float], idle: float = 0.0) -> Spread:
    """Median and quartiles of at least one time, linear between neighbours."""
    if len(times) == 1:
        return Spread(times[0], times[0], times[0], 1, idle)
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return Spread(median, lower, upper, len(times), idle)


def time_work(
    work: Work, device: torch.device, warmup: int, repetitions: int
) -> dict[str, Spread]:
    """How long each action of some work takes, microseconds, by name."""
    clock = _CudaClock(device) if device.type == "cuda" else _CpuClock()
    with without_collector():
        for repetition in range(warmup + repetitions):
            for name, action in work():
                if name and repetition >= warmup:
                    clock.time(name, action)
                else:
                    clock.skip(action)
        return clock.spreads()


class _CpuClock:
    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}

    def time(self, name: str, action: Action) -> None:
        start = time.perf_counter_ns()
        action()
        elapsed = (time.perf_counter_ns() - start) / 1e3
        self._times.setdefault(name, []).append(elapsed)

    def skip(self, action: Action) -> None:
        action()

    def spreads(self) -> dict[str, Spread]:
        return {name: spread_of(times) for name, times in self._times.items()}


class _Taken(NamedTuple):
    """An action on the GPU, between two events."""

    begin: torch.cuda.Event
    end: torch.cuda.Event
    was_idle: bool


class _CudaClock:
    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device)
        self._was_idle = False  # since the last action that was timed
        self._taken: dict[str, list[_Taken]] = {}

    def time(self, name: str, action: Action) -> None:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        was_idle = self._was_idle or self._stream.query()
        self._was_idle = False
        begin.record(self._stream)
        action()
        end.record(self._stream)
        self._taken.setdefault(name, []).append(_Taken(begin, end, was_idle))

    def skip(self, action: Action) -> None:
        self._was_idle |= self._stream.query()
        action()

    def spreads(self) -> dict[str, Spread]:
        self._stream.synchronize()
        return {
            name: spread_of(
                [1e3 * one.begin.elapsed_time(one.end) for one in taken],
                sum(one.was_idle for one in taken) / len(taken),
            )
            for name, taken in self._taken.items()
        }


def time_ops(
    stage: StageUnderTest, device: torch.device, warmup: int, repetitions: int
) -> dict[str, Spread]:
    """F, I, W and B of a stage, microseconds.

    Each repetition is one microbatch with the whole backward and one with the split
    one, so that slow drifts of the machine meet all ops alike. Gradients accumulate.
    """
    found = time_work(lambda: both_backwards(stage), device, warmup, repetitions)
    return {kind: found[kind] for kind in "FIWB"}


def both_backwards(stage: StageUnderTest) -> Iterator[tuple[str, Action]]:
    """A microbatch with the whole backward, then one with the split one."""
    for split in (False, True):
        microbatch = Microbatch(stage)
        yield "", microbatch.receive_inputs
        yield "F", microbatch.forward
        yield "", microbatch.receive_gradients
        if split:
            yield "I", microbatch.backward_input
            yield "W", microbatch.backward_weight
        else:
            yield "B", microbatch.backward


@contextmanager
def without_collector() -> Iterator[None]:
    """Python's garbage collector comes before, not while something is measured."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
