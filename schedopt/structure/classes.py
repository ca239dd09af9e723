"""The op graph folded up: one node for all ops of a role that pass in order.

A *class* holds the ops of one (stage, kind, part) of a group of equal microbatches, in
the order in which they may be required to start (``fifo.fifo_classes``). Since no edge
or buffer joins two microbatches, the n-th op of a class waits for the n-th of others,
and every buffer is made and used by n-th ops: so precedences and buffers are those of
one microbatch, and a stream's past is told by how many ops of each class have run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from schedopt.opgraph import OpGraph, Stream
from schedopt.ops import Op
from schedopt.structure.fifo import equal_microbatches


@dataclass(frozen=True, slots=True)
class OpClass:
    """Ops of equal duration (ticks) and streams that start in this order."""

    ops: tuple[Op, ...]
    duration: int
    streams: tuple[Stream, ...]


class ClassEdge(NamedTuple):
    """The n-th op of class ``after`` waits for the n-th of ``before`` plus a lag."""

    before: int
    after: int
    lag: int


class ClassBuffer(NamedTuple):
    """A buffer of ``size`` grains for each n; classes by number."""

    device: int
    size: int
    maker: int
    users: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ClassGraph:
    """The classes of an op graph; classes that edges join are of one group.

    ``classes`` stand in a topological order of ``edges``.
    """

    graph: OpGraph
    classes: tuple[OpClass, ...]
    edges: tuple[ClassEdge, ...]
    buffers: tuple[ClassBuffer, ...]


@lru_cache(maxsize=4)
def class_graph(graph: OpGraph) -> ClassGraph | None:
    """The graph folded up; None with choices or what joins several microbatches.

    A microbatch that no other equals makes classes of one op.
    """
    if graph.choices:
        return None
    groups = equal_microbatches(graph)
    if sum(map(len, groups)) != len(graph.microbatches):
        return None
    position = {op: index for index, op in enumerate(_topological(graph))}
    classes: list[OpClass] = []
    edges: list[ClassEdge] = []
    buffers: list[ClassBuffer] = []
    buffers_of: dict[tuple[int, int], list[int]] = {}
    for index, buffer in enumerate(graph.buffers):
        key = (buffer.maker.step, buffer.maker.microbatch)
        buffers_of.setdefault(key, []).append(index)
    for group in groups:
        first = sorted(graph.microbatches[group[0]], key=position.__getitem__)
        number = {op: len(classes) + index for index, op in enumerate(first)}
        for op in first:
            data = graph.data[op]
            ops = tuple(
                op._replace(step=step, microbatch=microbatch)
                for step, microbatch in group
            )
            classes.append(OpClass(ops, data.duration, data.streams))
            edges += [
                ClassEdge(number[op], number[after], lag)
                for after, lag in graph.successors(op)
            ]
        for index in buffers_of.get(group[0], ()):
            found = graph.buffers[index]
            users = tuple(number[user] for user in found.users)
            buffers.append(
                ClassBuffer(found.device, found.size, number[found.maker], users)
            )
    return ClassGraph(graph, tuple(classes), tuple(edges), tuple(buffers))


def _topological(graph: OpGraph) -> tuple[Op, ...]:
    """All ops, predecessors first; canonical order where that leaves a choice."""
    waiting = {op: graph.digraph.in_degree(op) for op in graph.ops}
    ready = [op for op in reversed(graph.ops) if waiting[op] == 0]
    found: list[Op] = []
    while ready:
        op = ready.pop()
        found.append(op)
        for after, _ in graph.successors(op):
            waiting[after] -= 1
            if waiting[after] == 0:
                ready.append(after)
    return tuple(found)
