"""The least memory that any schedule needs, from the op graph alone.

While an op runs, every buffer on its device whose maker it follows (or is) and that it
precedes some user of (or is one) is alive, whatever the order. The largest such sum is
a lower bound on the device's peak. Running the microbatches one after the other attains
it for pipeline work without recomputation, so a limit at the least peak is always
enough there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import add

import networkx as nx

from schedopt.opgraph import Buffer, OpGraph
from schedopt.ops import Op


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A device whose limit is below what any schedule needs; all in grains."""

    device: int
    name: str
    limit: int
    least_peak: int


def shortfalls(graph: OpGraph) -> tuple[Shortfall, ...]:
    """The devices on which no schedule fits."""
    return tuple(
        Shortfall(index, device.name, device.limit, least)
        for index, (device, least) in enumerate(
            zip(graph.devices, least_peaks(graph), strict=True)
        )
        if device.limit is not None and least > device.limit
    )


def least_peaks(graph: OpGraph) -> tuple[int, ...]:
    """A lower bound on each device's peak memory, static memory included, grains.

    Microbatches are looked at one by one, in the alternatives that hold least; ops that
    belong to several microbatches (overlap) are passed over, since they hold no less
    than the ops that they replace.
    """
    groups: dict[tuple[int, int], list[Op]] = {}
    for op in graph.ops:
        if not op.part:
            groups.setdefault((op.step, op.microbatch), []).append(op)
    buffers: dict[tuple[int, int], list[Buffer]] = {}
    for buffer in graph.buffers:
        if not buffer.maker.part:
            key = (buffer.maker.step, buffer.maker.microbatch)
            buffers.setdefault(key, []).append(buffer)
    peaks = [device.static for device in graph.devices]
    known: dict[object, tuple[int, ...]] = {}
    for key, ops in groups.items():
        signature = _signature(graph, ops, buffers.get(key, []))
        if signature not in known:
            known[signature] = _peaks_of(graph, ops, buffers.get(key, []))
        peaks = list(map(max, peaks, known[signature]))
    return tuple(peaks)


def _signature(graph: OpGraph, ops: list[Op], buffers: list[Buffer]) -> object:
    """What decides a microbatch's least peaks: equal for equal microbatches."""
    return (
        tuple(
            (op.kind, op.stage, graph.data[op].device, graph.data[op].duration > 0)
            for op in ops
        ),
        tuple((buffer.device, buffer.size) for buffer in buffers),
    )


def _peaks_of(graph: OpGraph, ops: list[Op], buffers: list[Buffer]) -> tuple[int, ...]:
    """The least peaks of one microbatch alone, minimal over its alternatives."""
    reach = _reach(graph, ops)
    certain = [device.static for device in graph.devices]
    by_literal: dict[str, list[int]] = {}
    for op in ops:
        levels = _levels_during(graph, op, buffers, reach)
        literal = graph.data[op].literal
        if literal is None:
            certain = list(map(max, certain, levels))
        else:
            known = by_literal.get(literal, certain)
            by_literal[literal] = list(map(max, known, levels))
    peaks = certain
    for choice in graph.choices:
        ways = [by_literal[name] for name in choice.literals if name in by_literal]
        if ways:
            least = [min(levels) for levels in zip(*ways, strict=True)]
            peaks = list(map(max, peaks, least))
    return tuple(peaks)


def _levels_during(
    graph: OpGraph, op: Op, buffers: list[Buffer], reach: Mapping[Op, frozenset[Op]]
) -> list[int]:
    """The least memory level of each device while ``op`` runs, if it is present."""
    levels = [device.static for device in graph.devices]
    excluded = _excluded_with(graph, op)
    alive: set[int] = set()
    for index, buffer in enumerate(buffers):
        if op not in reach[buffer.maker]:
            continue
        users = [
            user
            for user in buffer.users
            if user in reach and graph.data[user].literal not in excluded
        ]
        makes = op == buffer.maker and graph.data[op].duration > 0
        if makes or (users and all(user in reach[op] for user in users)):
            alive.add(index)
    own = graph.data[op].literal
    optional: dict[str, list[int]] = {}
    for index in alive:
        buffer = buffers[index]
        literal = graph.data[buffer.maker].literal
        if literal is None or literal == own:
            levels[buffer.device] += buffer.size
        elif literal not in excluded:
            sizes = optional.setdefault(literal, [0] * len(levels))
            sizes[buffer.device] += buffer.size
    for held in _least_of_each_choice(graph, optional, reach):
        levels = list(map(add, levels, held))
    for index, buffer in enumerate(buffers):
        # A buffer whose user makes the next one (a checkpoint, then what recomputation
        # makes of it): while neither is certain, one of the two is alive.
        for other, following in enumerate(buffers):
            handed_over = (
                following.maker in buffer.users
                and following.device == buffer.device
                and not alive & {index, other}
                and op in reach[buffer.maker]
                and op not in reach[following.maker]
                and all(user in reach[op] for user in following.users if user in reach)
            )
            if handed_over:
                levels[buffer.device] += min(buffer.size, following.size)
                break
    return levels


def _least_of_each_choice(
    graph: OpGraph, optional: Mapping[str, list[int]], reach: Mapping[Op, object]
) -> Iterator[list[int]]:
    """What buffers with optional makers hold at least, device by device."""
    known = {name for op in reach if (name := graph.data[op].literal) is not None}
    counted: set[str] = set()
    for choice in graph.choices if optional else ():
        literals = known & set(choice.literals)
        if literals <= optional.keys() and literals and not counted & literals:
            counted |= literals
            yield [
                min(sizes)
                for sizes in zip(*map(optional.__getitem__, literals), strict=True)
            ]


def _excluded_with(graph: OpGraph, op: Op) -> frozenset[str]:
    """The literals that are false when ``op`` is present."""
    literal = graph.data[op].literal
    if literal is None:
        return frozenset()
    return frozenset(
        name
        for choice in graph.choices
        if literal in choice.literals
        for name in choice.literals
        if name != literal
    )


def _reach(graph: OpGraph, ops: list[Op]) -> dict[Op, frozenset[Op]]:
    """The ops of a microbatch that follow each of them, itself included."""
    members = set(ops)
    reach: dict[Op, frozenset[Op]] = {}
    for op in reversed(list(nx.topological_sort(graph.digraph.subgraph(ops)))):
        found = {op}
        for after, _ in graph.successors(op):
            if after in members:
                found |= reach[after]
        reach[op] = frozenset(found)
    return reach
