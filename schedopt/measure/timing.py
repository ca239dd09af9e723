"""Times of ops: repeated, as median and quartiles."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from schedopt.measure.sample import Microbatch, StageUnderTest

Action = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Spread:
    """A sample of times, microseconds: its median and its quartiles."""

    median: float
    lower: float
    upper: float
    count: int

    @property
    def relative(self) -> float:
        """(upper - lower quartile) / median; 0 where the median is 0."""
        return (self.upper - self.lower) / self.median if self.median else 0.0


def spread_of(times: Sequence[float]) -> Spread:
    """Median and quartiles of at least one time, linear between neighbours."""
    if len(times) == 1:
        return Spread(times[0], times[0], times[0], 1)
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return Spread(median, lower, upper, len(times))


def time_action(action: Action, device: torch.device) -> float:
    """How long an action takes, microseconds; on CUDA from kernel to kernel."""
    if device.type == "cuda":
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        begin.record()
        action()
        end.record()
        torch.cuda.synchronize(device)
        return float(begin.elapsed_time(end)) * 1e3
    start = time.perf_counter_ns()
    action()
    return (time.perf_counter_ns() - start) / 1e3


def time_ops(
    stage: StageUnderTest, device: torch.device, warmup: int, repetitions: int
) -> dict[str, Spread]:
    """F, I, W and B of a stage, microseconds.

    Each repetition is one microbatch with the whole backward and one with the split
    one, so that slow drifts of the machine meet all ops alike. Gradients accumulate.
    """
    times: dict[str, list[float]] = {kind: [] for kind in "FIWB"}
    with without_collector():
        for repetition in range(warmup + repetitions):
            for kind, action in _microbatches(stage):
                elapsed = time_action(action, device)
                if kind and repetition >= warmup:
                    times[kind].append(elapsed)
    return {kind: spread_of(found) for kind, found in times.items()}


def _microbatches(stage: StageUnderTest) -> Iterator[tuple[str, Action]]:
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
