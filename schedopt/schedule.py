"""Orders and schedules: what a runtime executes, and when each op runs.

An order says which ops follow each other on every stream; a schedule adds start times.
Measures that the literature calls "makespan" are two, and both are here:
``makespan`` (last end of all ops minus first start) and ``device_span`` (the longest
last end minus first start on one device's compute stream).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from schedopt.instance import Objective
from schedopt.opgraph import OpGraph, Stream, StreamKind
from schedopt.ops import Op


@dataclass(frozen=True)
class Order:
    """The sequence of ops on each stream.

    Attributes
    ----------
    sequences : mapping
        For each stream its ops, first to last. An op that holds several streams stands
        in each of their sequences.
    memory_edges : tuple of (releasing op, waiting op)
        Where memory depends on times and not on the order alone: the waiting op starts
        no earlier than the releasing op's end.
    """

    sequences: Mapping[Stream, tuple[Op, ...]]
    memory_edges: tuple[tuple[Op, Op], ...] = ()


@dataclass(frozen=True, eq=False)
class Schedule:
    """Start times, in ticks, of the present ops of an op graph.

    The class trusts its content; ``schedopt.verify`` is the judge.
    """

    graph: OpGraph
    start: Mapping[Op, int]

    def end(self, op: Op) -> int:
        """When ``op`` ends, ticks."""
        return self.start[op] + self.graph.data[op].duration

    @cached_property
    def makespan(self) -> int:
        """Last end of all ops minus first start, ticks."""
        if not self.start:
            return 0
        return max(map(self.end, self.start)) - min(self.start.values())

    @cached_property
    def order(self) -> Order:
        """The sequence on each stream that these times imply.

        Ops of no duration that start with another op stand before it, and after each
        other in canonical order. Memory edges are not derived here.
        """
        position = {op: index for index, op in enumerate(self.graph.ops)}
        sequences = {
            stream: tuple(
                sorted(
                    (op for op in ops if op in self.start),
                    key=lambda op: (self.start[op], self.end(op), position[op]),
                )
            )
            for stream, ops in self.graph.streams.items()
        }
        return Order({stream: ops for stream, ops in sequences.items() if ops})

    @cached_property
    def device_spans(self) -> tuple[int, ...]:
        """Last end minus first start on each device's compute stream, ticks."""
        return tuple(
            self.end(ops[-1]) - self.start[ops[0]] if ops else 0
            for ops in map(self._compute_sequence, range(len(self.graph.devices)))
        )

    @property
    def device_span(self) -> int:
        """The longest device span, ticks."""
        return max(self.device_spans, default=0)

    def value(self, objective: Objective) -> int:
        """What the objective counts, ticks.

        Raises
        ------
        ValueError
            For the period and the refresh, which a finite schedule does not have.
        """
        match objective:
            case Objective.MAKESPAN:
                return self.makespan
            case Objective.DEVICE_SPAN:
                return self.device_span
            case Objective.PERIOD | Objective.REFRESH:
                msg = f"a finite schedule has no {objective.value}"
                raise ValueError(msg)

    @cached_property
    def work(self) -> int:
        """Ticks of compute time used on all devices together.

        A blocking transfer occupies compute streams but is not work.
        """
        return sum(
            self.graph.data[op].duration for op in self.start if op.kind.is_compute
        )

    @cached_property
    def pipeline_work(self) -> int:
        """Of ``work`` what is the pipeline's own: forwards, backwards, recomputation.

        Second-order work and optimizer's steps are left out.
        """
        data = self.graph.data
        kinds = (op for op in self.start if op.kind.is_compute and op.kind.is_pipeline)
        return sum(data[op].duration for op in kinds)

    def bubble_ratio(self, span: int, *, pipeline_only: bool = False) -> float:
        """1 - work / (devices x span): the idle share of the compute time.

        With ``pipeline_only`` nothing but the pipeline's own work counts, so that
        second-order work in its bubbles does not make them smaller.
        """
        if span == 0:
            return 0.0
        work = self.pipeline_work if pipeline_only else self.work
        return 1 - work / (len(self.graph.devices) * span)

    @cached_property
    def peak_memory(self) -> tuple[int, ...]:
        """The highest level of each device's memory, static memory included, grains."""
        profiles = self.memory_profiles
        return tuple(
            max((level for _, level in profile), default=device.static)
            for device, profile in zip(self.graph.devices, profiles, strict=True)
        )

    @cached_property
    def memory_profiles(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each device its memory level, as (time, level from then on) steps."""
        changes: list[dict[int, int]] = [{} for _ in self.graph.devices]
        for buffer in self.graph.buffers:
            if buffer.maker not in self.start:
                continue
            change = changes[buffer.device]
            opened = self.start[buffer.maker]
            users = [self.end(user) for user in buffer.users if user in self.start]
            closed = max(users, default=self.end(buffer.maker))
            change[opened] = change.get(opened, 0) + buffer.size
            change[closed] = change.get(closed, 0) - buffer.size
        profiles = []
        for device, change in zip(self.graph.devices, changes, strict=True):
            level = device.static
            steps = []
            for time in sorted(change):
                level += change[time]
                steps.append((time, level))
            profiles.append(tuple(steps))
        return tuple(profiles)

    def shifted_to_zero(self) -> Schedule:
        """The same schedule with its first start at 0."""
        first = min(self.start.values(), default=0)
        return Schedule(
            self.graph, {op: time - first for op, time in self.start.items()}
        )

    def _compute_sequence(self, device: int) -> tuple[Op, ...]:
        return self.order.sequences.get(Stream(StreamKind.COMPUTE, device), ())
