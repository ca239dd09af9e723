"""Replay: every op of an order starts as early as what it waits for lets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from schedopt.errors import OrderError
from schedopt.opgraph import OpGraph
from schedopt.ops import Op
from schedopt.schedule import Order, Schedule
from schedopt.simulate.deadlock import deadlock
from schedopt.simulate.indexed import IndexedGraph, indexed
from schedopt.simulate.presence import (
    Chains,
    chains_of,
    check_places,
    number_of_places,
    present_ops,
)


class _Numbers(NamedTuple):
    """A graph and an order of it by op numbers."""

    graph: IndexedGraph
    present: Sequence[bool]
    chains: Chains
    memory_edges: Sequence[tuple[int, int]]


def simulate(graph: OpGraph, order: Order) -> Schedule:
    """The schedule in which every op of ``order`` starts as early as it can, from 0.

    An op waits for the end of its present predecessors plus the lags, of the op before
    it in each of its sequences, and of the releasing ops of its memory edges: starts
    are longest paths, exact and in linear time. Memory limits are not looked at.

    Raises
    ------
    OrderError
        If the order lacks an op, has one too many or at a wrong place, or deadlocks.
    """
    numbered, present, chains, memory_edges = _numbers_of(graph, order)
    starts = earliest_starts(numbered, present, chains, memory_edges)
    return Schedule(
        graph, {op: starts[n] for op, n in numbered.number.items() if present[n]}
    )


def earliest_starts(
    numbered: IndexedGraph,
    present: Sequence[bool],
    chains: Chains,
    memory_edges: Sequence[tuple[int, int]] = (),
) -> list[int]:
    """Earliest starts by op number, ticks; meaningless for absent ops.

    Raises
    ------
    OrderError
        If ops wait for each other.
    """
    followers, waiting = follow(numbered, present, chains, memory_edges)
    successors, durations = numbered.successors, numbered.durations
    starts = [0] * len(present)
    ready = [op for op, count in enumerate(waiting) if count == 0 and present[op]]
    done = 0
    while ready:
        op = ready.pop()
        done += 1
        end = starts[op] + durations[op]
        for after, lag in successors[op]:
            starts[after] = max(starts[after], end + lag)
            waiting[after] -= 1
            if waiting[after] == 0 and present[after]:
                ready.append(after)
        for after in followers[op]:
            starts[after] = max(starts[after], end)
            waiting[after] -= 1
            if waiting[after] == 0:
                ready.append(after)
    if done < sum(present):
        blocked = [op for op, count in enumerate(waiting) if count > 0 and present[op]]
        raise deadlock(numbered, blocked, chains, memory_edges)
    return starts


def tails(graph: OpGraph, order: Order) -> Mapping[Op, int]:
    """For each op of an order, how long after its end the last op ends, ticks.

    The counterpart of the starts of ``simulate``: what must follow an op in the order,
    by the longest path.

    Raises
    ------
    OrderError
        As ``simulate`` does, but not for deadlocks: tails of what waits for itself
        mean nothing.
    """
    numbered, present, chains, memory_edges = _numbers_of(graph, order)
    followers, waiting = follow(numbered, present, chains, memory_edges)
    durations = numbered.durations
    tail = [0] * len(present)
    for op in reversed(topological(numbered, present, followers, waiting)):
        tail[op] = max(
            (
                lag + durations[n] + tail[n]
                for n, lag in numbered.successors[op]
                if present[n]
            ),
            default=0,
        )
        for after in followers[op]:
            tail[op] = max(tail[op], durations[after] + tail[after])
    return {op: tail[n] for op, n in numbered.number.items() if present[n]}


def topological(
    numbered: IndexedGraph,
    present: Sequence[bool],
    followers: Sequence[Sequence[int]],
    waiting: Sequence[int],
) -> list[int]:
    """The present ops, each after all that it waits for; ``follow`` gives the rest."""
    found: list[int] = []
    left = list(waiting)
    ready = [op for op, count in enumerate(left) if not count and present[op]]
    while ready:
        op = ready.pop()
        found.append(op)
        for after in (*(n for n, _ in numbered.successors[op]), *followers[op]):
            left[after] -= 1
            if not left[after] and present[after]:
                ready.append(after)
    return found


def follow(
    numbered: IndexedGraph,
    present: Sequence[bool],
    chains: Chains,
    memory_edges: Sequence[tuple[int, int]] = (),
) -> tuple[list[list[int]], list[int]]:
    """What follows each op in the order, and how many waits each op has in all."""
    waiting = numbered.predecessor_counts.copy()
    if not all(present):
        for op, is_present in enumerate(present):
            if not is_present:
                for after, _ in numbered.successors[op]:
                    waiting[after] -= 1
    followers: list[list[int]] = [[] for _ in present]
    for chain in chains.values():
        for before, after in pairwise(chain):
            followers[before].append(after)
            waiting[after] += 1
    for releasing, held in memory_edges:
        followers[releasing].append(held)
        waiting[held] += 1
    return followers, waiting


def _numbers_of(graph: OpGraph, order: Order) -> _Numbers:
    """An order by op numbers, after checking that it is one of the graph."""
    numbered = indexed(graph)
    chains = chains_of(numbered, order.sequences)
    places = number_of_places(numbered, chains)
    check_places(numbered, chains, places)
    present = present_ops(graph, numbered, map(bool, places), complete=True)
    memory_edges = _memory_edges(numbered, present, order.memory_edges)
    return _Numbers(numbered, present, chains, memory_edges)


def _memory_edges(
    numbered: IndexedGraph, present: Sequence[bool], edges: Sequence[tuple[Op, Op]]
) -> list[tuple[int, int]]:
    for op in (op for edge in edges for op in edge):
        if not present[numbered.number[op]] if op in numbered.number else True:
            msg = f"a memory edge names {op}, which is not in the order"
            raise OrderError(msg)
    return [
        (numbered.number[before], numbered.number[after]) for before, after in edges
    ]
