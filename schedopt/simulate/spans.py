"""The least longest device span of an order: start a device's first op late enough.

For a fixed order a span of at most D on every device is a system of difference
constraints: start(first) >= end(last) - D besides the waits of the order. Earliest
starts are raised until every device satisfies it. A system of p such constraints over
an acyclic graph that has a solution settles within p + 1 passes, since a longest path
then visits each of the p closing edges at most once; otherwise there is none. The least
D is found by bisection.
"""

from __future__ import annotations

from collections.abc import Sequence

from schedopt.instance import Objective
from schedopt.opgraph import OpGraph, StreamKind
from schedopt.schedule import Order, Schedule
from schedopt.simulate.indexed import IndexedGraph, indexed
from schedopt.simulate.presence import chains_of
from schedopt.simulate.replay import follow, simulate, topological


def best_times(graph: OpGraph, order: Order, objective: Objective) -> Schedule:
    """The schedule of ``order`` with the least value of the objective.

    For the period it is the one with the least makespan.

    Raises
    ------
    OrderError
        As ``simulate`` does.
    """
    match objective:
        case Objective.MAKESPAN | Objective.PERIOD | Objective.REFRESH:
            return simulate(graph, order)
        case Objective.DEVICE_SPAN:
            return with_least_spans(graph, order)


def with_least_spans(graph: OpGraph, order: Order) -> Schedule:
    """A schedule of ``order`` whose ``device_span`` is the least that it allows.

    Raises
    ------
    OrderError
        As ``simulate`` does.
    """
    earliest = simulate(graph, order)
    numbered = indexed(graph)
    present = [op in earliest.start for op in numbered.ops]
    replay = _Passes(numbered, present, order)
    spans = [
        (numbered.number[ops[0]], numbered.number[ops[-1]])
        for stream, ops in order.sequences.items()
        if stream.kind is StreamKind.COMPUTE and ops
    ]
    low, high = 0, earliest.device_span
    best = replay.within(spans, high)
    while low < high:
        middle = (low + high) // 2
        starts = replay.within(spans, middle)
        if starts is None:
            low = middle + 1
        else:
            best, high = starts, middle
    if best is None:
        return earliest
    return Schedule(
        graph, {op: best[n] for op, n in numbered.number.items() if present[n]}
    )


class _Passes:
    """Longest-path passes over one order, from given releases."""

    def __init__(
        self, numbered: IndexedGraph, present: Sequence[bool], order: Order
    ) -> None:
        self._numbered = numbered
        chains = chains_of(numbered, order.sequences)
        edges = [
            (numbered.number[before], numbered.number[after])
            for before, after in order.memory_edges
        ]
        self._followers, waiting = follow(numbered, present, chains, edges)
        self._present = present
        self._topological = topological(numbered, present, self._followers, waiting)

    def within(self, spans: Sequence[tuple[int, int]], span: int) -> list[int] | None:
        """Earliest starts with no device span above ``span``; None if impossible."""
        starts = [0] * len(self._present)
        durations = self._numbered.durations
        for _ in range(len(spans) + 1):
            self._raise(starts)
            settled = True
            for first, last in spans:
                least = starts[last] + durations[last] - span
                if starts[first] < least:
                    starts[first] = least
                    settled = False
            if settled:
                return starts
        return None

    def _raise(self, starts: list[int]) -> None:
        durations = self._numbered.durations
        for op in self._topological:
            end = starts[op] + durations[op]
            for after, lag in self._numbered.successors[op]:
                starts[after] = max(starts[after], end + lag)
            for after in self._followers[op]:
                starts[after] = max(starts[after], end)
