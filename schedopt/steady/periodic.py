"""A periodic schedule: the starts of one cycle's ops, repeated every cycle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from schedopt.opgraph import OpGraph, StreamKind
from schedopt.ops import Op
from schedopt.steady.problem import CycleProblem


@dataclass(frozen=True, eq=False)
class Periodic:
    """The op number i of the problem starts at ``start[i]`` + n ``cycle``, for every n.

    Ticks; the first start is 0 and ``cycle`` a multiple of the microbatches of a cycle.
    The class trusts its content; ``schedopt.verify.steady_violations`` is the judge.
    """

    problem: CycleProblem
    start: tuple[int, ...]
    cycle: int

    @property
    def graph(self) -> OpGraph:
        """The op graph that it is a schedule of."""
        return self.problem.graph

    @property
    def period(self) -> int:
        """Ticks per microbatch."""
        return self.cycle // self.problem.microbatches

    @cached_property
    def starts(self) -> Mapping[Op, int]:
        """The starts by op, in canonical order: what the verifier is shown."""
        found = {
            op.op: time for op, time in zip(self.problem.ops, self.start, strict=True)
        }
        return {op: found[op] for op in self.problem.graph.ops if op in found}

    def end(self, number: int) -> int:
        """When an op of the cycle ends, ticks."""
        return self.start[number] + self.problem.ops[number].duration

    @cached_property
    def in_flight(self) -> tuple[int, ...]:
        """The most microbatches at once between first start and last end on a device.

        A microbatch is in flight on a device from its first start on the compute stream
        to its last end there; 0 for a device that computes nothing.
        """
        spans: list[dict[int, list[tuple[int, int]]]] = [
            {} for _ in self.problem.graph.devices
        ]
        for number, op in enumerate(self.problem.ops):
            for stream in op.streams:
                if stream.kind is StreamKind.COMPUTE:
                    spans[stream.device].setdefault(op.op.microbatch, []).append(
                        (self.start[number], self.end(number))
                    )
        return tuple(
            self._most_at_once(
                [
                    (min(start for start, _ in times), max(end for _, end in times), 1)
                    for times in of_device.values()
                ]
            )
            for of_device in spans
        )

    @cached_property
    def peak_memory(self) -> tuple[int, ...]:
        """The highest level of each device in the steady state, static included."""
        alive: list[list[tuple[int, int, int]]] = [
            [] for _ in self.problem.graph.devices
        ]
        for buffer in self.problem.buffers:
            opened = self.start[buffer.maker]
            closed = max(opened, *map(self.end, buffer.users))
            alive[buffer.device].append((opened, closed, buffer.size))
        return tuple(
            device.static + self._most_at_once(intervals)
            for device, intervals in zip(self.problem.graph.devices, alive, strict=True)
        )

    @cached_property
    def bubble_ratio(self) -> float:
        """1 - work / (devices x T) for T = cycle, work and T of one cycle."""
        if self.cycle == 0:
            return 0.0
        work = sum(op.duration for op in self.problem.ops if op.op.kind.is_compute)
        return 1 - work / (len(self.problem.graph.devices) * self.cycle)

    def _most_at_once(self, intervals: list[tuple[int, int, int]]) -> int:
        """The largest sum of weights of (opened, closed, weight) alive at a time.

        Every interval repeats in every cycle; sums grow at openings only.
        """
        if self.cycle == 0:
            return 0
        return max(
            (
                sum(
                    weight
                    * ((time - opened) // self.cycle - (time - closed) // self.cycle)
                    for opened, closed, weight in intervals
                )
                for time, _, _ in intervals
            ),
            default=0,
        )
