"""The least memory that any schedule needs, from the op graph alone.

While an op runs, every buffer on its device whose maker it follows (or is) and that it
precedes some user of (or is one) is alive, whatever the order. The largest such sum is
a lower bound on the device's peak. Running the microbatches one after the other attains
it for pipeline work without recomputation, so a limit at the least peak is always
enough there.

An op that takes no time does not run at any moment: what it frees is gone when what it
makes comes. There the moment before it counts, with what has certainly been made by
then, and its own moment, with what is certainly used after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import add
from typing import NamedTuple

import networkx as nx

from schedopt.opgraph import Buffer, OpGraph
from schedopt.ops import Op, OpKind

_Following = Mapping[Op, frozenset[Op]]


class _Moment(NamedTuple):
    """A moment in a schedule: what has certainly happened before, and will after.

    ``made`` says of an op that it has started, ``used`` that it has not ended.
    """

    made: Callable[[Op], bool]
    used: Callable[[Op], bool]


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
    instant = _instant(graph)
    known: dict[object, tuple[int, ...]] = {}
    for key, ops in groups.items():
        signature = _signature(graph, ops, buffers.get(key, []), instant)
        if signature not in known:
            known[signature] = _peaks_of(graph, ops, buffers.get(key, []), instant)
        peaks = list(map(max, peaks, known[signature]))
    return tuple(peaks)


def _instant(graph: OpGraph) -> frozenset[Op]:
    """The ops that may take no time, by themselves or in a joint op that takes none."""
    data = graph.data
    none = {op for op, item in data.items() if item.duration == 0}
    joint = {data[op].literal for op in none if op.kind is OpKind.OVERLAP}
    replaced = {
        name
        for choice in graph.choices
        if not joint.isdisjoint(choice.literals)
        for name in choice.literals
    }
    return frozenset(none) | {op for op in data if data[op].literal in replaced}


def _signature(
    graph: OpGraph, ops: list[Op], buffers: list[Buffer], instant: frozenset[Op]
) -> object:
    """What decides a microbatch's least peaks: equal for equal microbatches."""
    lags: tuple[bool, ...] = ()
    if not instant.isdisjoint(ops):  # else it does not matter whether there are any
        lags = tuple(lag > 0 for op in ops for _, lag in graph.successors(op))
    return (
        tuple((op.kind, op.stage, graph.data[op].device, op in instant) for op in ops),
        tuple((buffer.device, buffer.size) for buffer in buffers),
        lags,
    )


def _peaks_of(
    graph: OpGraph, ops: list[Op], buffers: list[Buffer], instant: frozenset[Op]
) -> tuple[int, ...]:
    """The least peaks of one microbatch alone, minimal over its alternatives."""
    reach = _reach(graph, ops)
    later = reach if instant.isdisjoint(ops) else _later(graph, reach, instant)
    certain = [device.static for device in graph.devices]
    by_literal: dict[str, list[int]] = {}
    for op in ops:
        levels = [device.static for device in graph.devices]
        for moment in _moments_of(op, reach, later, instant):
            at_once = _levels_at(graph, op, moment, buffers, reach)
            levels = list(map(max, levels, at_once))
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


def _moments_of(
    op: Op, reach: _Following, later: _Following, instant: frozenset[Op]
) -> Iterator[_Moment]:
    """While ``op`` runs; if it may take no time, just before it and just after."""
    if op not in instant:
        yield _Moment(lambda maker: op in reach[maker], reach[op].__contains__)
        return
    yield _Moment(lambda maker: op in later[maker], reach[op].__contains__)
    yield _Moment(
        lambda maker: op in reach[maker],
        lambda user: user in later[op] or (user in reach[op] and user not in instant),
    )


def _levels_at(
    graph: OpGraph, op: Op, moment: _Moment, buffers: list[Buffer], reach: _Following
) -> list[int]:
    """The least memory level of each device at a moment of ``op``, if it is present."""
    levels = [device.static for device in graph.devices]
    excluded = _excluded_with(graph, op)
    alive: set[int] = set()
    for index, buffer in enumerate(buffers):
        if not moment.made(buffer.maker):
            continue
        users = [
            user
            for user in buffer.users
            if user in reach and graph.data[user].literal not in excluded
        ]
        makes = op == buffer.maker and moment.used(op)
        if makes or (users and all(map(moment.used, users))):
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
                and moment.made(buffer.maker)
                and not moment.made(following.maker)
                and all(map(moment.used, filter(reach.__contains__, following.users)))
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


def _later(graph: OpGraph, reach: _Following, instant: frozenset[Op]) -> _Following:
    """The ops that start later than each of them in any case, where both are present.

    An op that takes time, or a lag, is on the way to them: on each way, whichever
    alternatives are taken.
    """
    literal_of = {op: graph.data[op].literal for op in reach}
    taken = set(literal_of.values())
    choices = [tuple(n for n in c.literals if n in taken) for c in graph.choices]
    choices = [literals for literals in choices if literals]
    later: dict[Op, frozenset[Op]] = {}
    for op in reach:  # those that follow come first
        found: set[Op] = set()
        ways: dict[str, set[Op]] = {}
        for after, lag in graph.successors(op):
            if after not in reach:
                continue
            takes_time = op not in instant or lag > 0
            there = reach[after] if takes_time else later[after]
            literal = literal_of[after]
            if literal is None or literal == literal_of[op]:
                found |= there
            else:
                found |= {one for one in there if literal_of[one] == literal}
                ways.setdefault(literal, set()).update(there)
        for literals in choices:
            if ways and ways.keys() >= set(literals):
                found |= set.intersection(*(ways[name] for name in literals))
        later[op] = frozenset(found)
    return later
