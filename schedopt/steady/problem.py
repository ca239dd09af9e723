"""The steady state as a problem: the ops of one cycle, which repeats for ever.

A *cycle* holds the ops of K microbatches, 0 to K - 1, and lasts T ticks; the same ops
of microbatches K to 2 K - 1 start T ticks later, and so on. K is a multiple of the
distance at which microbatches are equal: 1 where all are, 2 where two directions
alternate. The *period* is T / K.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from schedopt.opgraph import OpGraph, Stream
from schedopt.ops import Op
from schedopt.structure import ClassBuffer, ClassEdge, ClassGraph, class_graph

LONGEST_PATTERN = 8
"""Microbatches after which the pattern of unequal ones must repeat."""


@dataclass(frozen=True, slots=True)
class CycleOp:
    """An op that runs once in every cycle: its first one, duration (ticks), streams.

    ``twin`` is the number of the same op of the previous equal microbatch of the cycle.
    """

    op: Op
    duration: int
    streams: tuple[Stream, ...]
    twin: int | None = None


@dataclass(frozen=True, eq=False)
class CycleProblem:
    """One cycle of ``microbatches``; edges and buffers name ops by their numbers.

    Attributes
    ----------
    ops : tuple of CycleOp
        In a topological order of ``edges``.
    buffers : tuple of ClassBuffer
        One of each for every cycle; all have users.
    rooms : tuple of (int or None)
        Each device's limit minus its static memory, grains.
    """

    graph: OpGraph
    microbatches: int
    ops: tuple[CycleOp, ...]
    edges: tuple[ClassEdge, ...]
    buffers: tuple[ClassBuffer, ...]
    rooms: tuple[int | None, ...]

    @cached_property
    def streams(self) -> Mapping[Stream, tuple[int, ...]]:
        """The ops on each stream."""
        found: dict[Stream, list[int]] = {}
        for number, op in enumerate(self.ops):
            for stream in op.streams:
                found.setdefault(stream, []).append(number)
        return {stream: tuple(numbers) for stream, numbers in found.items()}

    @cached_property
    def predecessors(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each op what it waits for: (number, duration plus lag)."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.ops]
        for before, after, lag in self.edges:
            found[after].append((before, self.ops[before].duration + lag))
        return tuple(map(tuple, found))

    @cached_property
    def limited_buffers(self) -> Mapping[int, tuple[ClassBuffer, ...]]:
        """The buffers that have a size, of each device that has a limit."""
        found: dict[int, list[ClassBuffer]] = {}
        for buffer in self.buffers:
            if buffer.size and self.rooms[buffer.device] is not None:
                found.setdefault(buffer.device, []).append(buffer)
        return {device: tuple(buffers) for device, buffers in found.items()}

    def longest_paths(self, origin: int) -> dict[int, int]:
        """Least ticks from the start of ``origin`` to that of each op that follows."""
        after = {origin: 0}
        for number in range(origin + 1, len(self.ops)):
            waits = [
                after[before] + needed
                for before, needed in self.predecessors[number]
                if before in after
            ]
            if waits:
                after[number] = max(waits)
        return after


def pattern_length(graph: OpGraph) -> int | None:
    """The least K for which every microbatch equals the K-th after it, if it has one.

    None where there is no such pattern of at most ``LONGEST_PATTERN`` microbatches, the
    graph has choices, or several training steps.
    """
    folded = class_graph(graph)
    if folded is None or any(step for step, _ in graph.microbatches):
        return None
    group_of = _groups(folded)
    total = len(group_of)
    if sorted(group_of) != list(range(total)):
        return None
    for length in range(1, min(LONGEST_PATTERN, total) + 1):
        if all(group_of[i] == group_of[i - length] for i in range(length, total)):
            return length
    return None


@lru_cache(maxsize=16)
def cycle_problem(graph: OpGraph, microbatches: int = 0) -> CycleProblem | None:
    """The problem of one cycle of so many microbatches; 0: as few as possible.

    None where the graph has no pattern that repeats (``pattern_length``), or none that
    repeats after ``microbatches``, or fewer microbatches than that.
    """
    length = pattern_length(graph)
    folded = class_graph(graph)
    if length is None or folded is None:
        return None
    count = microbatches or length
    if count % length or count > len(graph.microbatches):
        return None
    numbers: dict[tuple[int, int], int] = {}  # (class, microbatch) -> op of the cycle
    ops: list[CycleOp] = []
    for kind, folded_class in enumerate(folded.classes):
        twin = None
        for op in folded_class.ops:
            if op.microbatch < count:
                numbers[kind, op.microbatch] = len(ops)
                ops.append(
                    CycleOp(op, folded_class.duration, folded_class.streams, twin)
                )
                twin = len(ops) - 1

    def copies(kind: int) -> Iterator[int]:
        for op in folded.classes[kind].ops:
            if op.microbatch < count:
                yield op.microbatch

    edges = tuple(
        ClassEdge(numbers[before, i], numbers[after, i], lag)
        for before, after, lag in folded.edges
        for i in copies(before)
    )
    buffers = tuple(
        ClassBuffer(
            buffer.device,
            buffer.size,
            numbers[buffer.maker, i],
            tuple(numbers[user, i] for user in buffer.users or (buffer.maker,)),
        )
        for buffer in folded.buffers
        for i in copies(buffer.maker)
    )
    rooms = tuple(
        None if device.limit is None else device.limit - device.static
        for device in graph.devices
    )
    return CycleProblem(graph, count, tuple(ops), edges, buffers, rooms)


def _groups(folded: ClassGraph) -> dict[int, int]:
    """For each microbatch the first one that is equal to it."""
    return {
        op.microbatch: kind.ops[0].microbatch
        for kind in folded.classes
        for op in kind.ops
    }
