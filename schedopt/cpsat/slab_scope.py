"""A slab of a schedule as a small problem with heads and tails.

See ``schedopt.cpsat.slabs`` for what slabs are. Buffers that are there before a slab
begins, or still there after it ends, are made and freed by *gates*: ops of no duration
before, or after, all that allocates on a device.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import networkx as nx

from schedopt.cpsat.variables import Scope
from schedopt.opgraph import Buffer, Edge, OpData, OpGraph, Stream
from schedopt.ops import Op, OpKind
from schedopt.schedule import Order, Schedule
from schedopt.simulate import tails
from schedopt.structure import fifo_classes


class Links:
    """What does not depend on times: each op's buffers, and its equals.

    Attributes
    ----------
    buffers : tuple of Buffer
        Those on devices with a limit.
    made, used : mapping
        For each op those that it makes, or uses.
    chain : mapping
        For ops of equal microbatches the number of their class (``fifo_classes``).
    """

    def __init__(self, graph: OpGraph) -> None:
        self.buffers = tuple(
            buffer
            for buffer in graph.buffers
            if graph.devices[buffer.device].limit is not None
        )
        self.made: dict[Op, list[Buffer]] = {}
        self.used: dict[Op, list[Buffer]] = {}
        for buffer in self.buffers:
            self.made.setdefault(buffer.maker, []).append(buffer)
            for user in buffer.users:
                self.used.setdefault(user, []).append(buffer)
        self.chain = {
            op: number
            for number, slots in enumerate(fifo_classes(graph))
            for slot in slots
            for op in slot
        }


class Slab:
    """What a schedule runs from a moment on: ops in order of their starts.

    All that comes before them has ended by ``begin``.
    """

    def __init__(self, in_time: Sequence[Op], begin: int) -> None:
        self.in_time = tuple(in_time)
        self.begin = begin
        self._ops = frozenset(in_time)

    def __contains__(self, op: Op) -> bool:
        return op in self._ops

    def __len__(self) -> int:
        return len(self.in_time)


class SlabProblem(NamedTuple):
    """A slab as a problem of its own.

    Its objective is the makespan of the whole from ``base`` on; it asks for less than
    that of the schedule. ``hint`` is what the schedule does.
    """

    scope: Scope
    base: int
    hint: Mapping[Op, int]


class Timeline:
    """A schedule, the replay of an order, and what follows each of its ops in that."""

    def __init__(self, schedule: Schedule, order: Order, links: Links) -> None:
        self.schedule = schedule
        self._links = links
        self._tail = tails(schedule.graph, order)
        self._end = {op: schedule.end(op) for op in schedule.start}
        self._ops = sorted(schedule.start, key=schedule.start.__getitem__)
        self._starts = [schedule.start[op] for op in self._ops]
        data = schedule.graph.data
        self._longest = max((data[op].duration for op in self._ops), default=0)
        self._sequences = order.sequences
        self._places = {
            stream: {op: place for place, op in enumerate(sequence)}
            for stream, sequence in order.sequences.items()
        }
        self._memory_edges: dict[Op, list[Edge]] = {}
        for before, after in order.memory_edges:
            for op in (before, after):
                self._memory_edges.setdefault(op, []).append(Edge(before, after, 0))
        self._levels = [
            _Level(self._end, (b for b in links.buffers if b.device == device))
            for device in range(len(schedule.graph.devices))
        ]

    def between(self, first: int, last: int) -> Slab:
        """What runs from the start of the op at one place to that of another.

        The ops count by their starts. With each two that wait for each other a slab has
        all that are between them.
        """
        begin = self._starts[max(first, 0)]
        end = len(self._ops)
        if last < end:
            end = bisect_left(self._starts, self._starts[last])
        running = bisect_left(self._starts, begin - self._longest)
        ops = self._ops[running:end]
        return Slab([op for op in ops if self._end[op] > begin], begin)

    def problem(self, slab: Slab) -> SlabProblem:
        """What is to be solved for a slab."""
        data = self.schedule.graph.data
        head = dict.fromkeys(slab.in_time, 0)
        tail = dict.fromkeys(slab.in_time, 0)
        inner: list[Edge] = []
        for before, after, lag in self._waits(slab):
            if before not in slab:
                head[after] = max(head[after], self._end[before] + lag)
            elif after not in slab:
                following = lag + data[after].duration + self._tail[after]
                tail[before] = max(tail[before], following)
            else:
                inner.append(Edge(before, after, lag))
        part = self._part(slab, inner)
        _propagate(part, head, tail)
        base = min(head.values(), default=0)
        left = self.schedule.makespan - base
        gates = [op for op in part.ops if op not in slab]
        scope = Scope(
            graph=part,
            head={op: time - base for op, time in head.items()}
            | dict.fromkeys(gates, 0),
            tail=tail | dict.fromkeys(gates, 0),
            horizon=left,
            lower_bound=0,
            upper_bound=left - 1,
        )
        hint = {op: self.schedule.start[op] - base for op in slab.in_time}
        hint |= {op: left if op.microbatch == _LAST else 0 for op in gates}
        return SlabProblem(scope, base, hint)

    def with_slab(self, slab: Slab, start: Mapping[Op, int]) -> Schedule:
        """The schedule with other times in a slab, and what follows as late as it may.

        Its replay shows what was gained.
        """
        makespan, data = self.schedule.makespan, self.schedule.graph.data
        times = {}
        for op, time in self.schedule.start.items():
            if op in slab:
                times[op] = start[op]
            elif self._end[op] <= slab.begin:
                times[op] = time
            else:
                times[op] = makespan - self._tail[op] - data[op].duration
        return Schedule(self.schedule.graph, times)

    def _waits(self, slab: Slab) -> Iterator[Edge]:
        """What a slab's ops wait for, and what waits for them."""
        graph = self.schedule.graph
        places: dict[Stream, list[int]] = {}
        for op in slab.in_time:
            for before, lag in graph.predecessors(op):
                yield Edge(before, op, lag)
            for after, lag in graph.successors(op):
                if after not in slab:
                    yield Edge(op, after, lag)
            for stream in graph.data[op].streams:
                places.setdefault(stream, []).append(self._places[stream][op])
            for wait in self._memory_edges.get(op, ()):
                if wait.before not in slab or wait.after not in slab:
                    yield wait
        for stream, those in places.items():
            yield from self._waits_of_stream(stream, min(those), max(those) + 1)

    def _waits_of_stream(self, stream: Stream, first: int, end: int) -> Iterator[Edge]:
        """All of a slab follows what comes before it on a stream, and so on.

        Within the slab only equal ops of equal microbatches keep their order.
        """
        sequence, chain = self._sequences[stream], self._links.chain
        latest: dict[int, Op] = {}
        for op in sequence[first:end]:
            if first > 0:
                yield Edge(sequence[first - 1], op, 0)
            if end < len(sequence):
                yield Edge(op, sequence[end], 0)
            if op in chain:
                if chain[op] in latest:
                    yield Edge(latest[chain[op]], op, 0)
                latest[chain[op]] = op

    def _part(self, slab: Slab, waits: Iterable[Edge]) -> OpGraph:
        """The op graph of a slab's ops, with gates."""
        graph, links = self.schedule.graph, self._links
        digraph: nx.DiGraph[Op] = nx.DiGraph()
        digraph.add_nodes_from((op, {"data": graph.data[op]}) for op in slab.in_time)
        for before, after, lag in waits:
            known = digraph.get_edge_data(before, after, {"lag": lag})["lag"]
            digraph.add_edge(before, after, lag=max(lag, known))
        held = [level.at(slab.begin) for level in self._levels]
        buffers: list[Buffer] = []
        for buffer in (b for op in slab.in_time for b in links.made.get(op, ())):
            users = buffer.users
            if self._is_used_after(buffer, slab):
                users = (_gate(buffer.device, _LAST),)
            buffers.append(buffer._replace(users=users))
        used = (b for op in slab.in_time for b in links.used.get(op, ()))
        for buffer in {id(b): b for b in used if b.maker not in slab}.values():
            if not self._is_used_after(buffer, slab):
                users = tuple(user for user in buffer.users if user in slab)
                maker = _gate(buffer.device, _FIRST)
                buffers.append(buffer._replace(maker=maker, users=users))
                held[buffer.device] -= buffer.size
        _add_gates(digraph, buffers)
        devices = tuple(
            memory._replace(static=memory.static + size)
            for memory, size in zip(graph.devices, held, strict=True)
        )
        return OpGraph(digraph, tuple(buffers), (), devices, graph.units)

    def _is_used_after(self, buffer: Buffer, slab: Slab) -> bool:
        return any(
            user not in slab and self._end[user] > slab.begin for user in buffer.users
        )


class _Level:
    """What is alive on a device at a moment, without its static memory."""

    def __init__(self, end: Mapping[Op, int], buffers: Iterable[Buffer]) -> None:
        here = list(buffers)
        self._made = _running((end[b.maker], b.size) for b in here)
        self._freed = _running(
            (max(end[op] for op in (b.maker, *b.users)), b.size) for b in here
        )

    def at(self, moment: int) -> int:
        """Grains made by ops that have ended by a moment, and still needed."""
        made, freed = (
            sizes[bisect_right(times, moment)]
            for times, sizes in (self._made, self._freed)
        )
        return made - freed


def _running(changes: Iterable[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Times in order, and the sums of sizes before each of them and of all."""
    in_order = sorted(changes)
    sums = accumulate((size for _, size in in_order), initial=0)
    return [time for time, _ in in_order], list(sums)


_FIRST, _LAST = 0, 1


def _gate(device: int, side: int) -> Op:
    """The op that stands for all before, or after, a slab on a device."""
    return Op(OpKind.STEP, device, side, -1, "gate")


def _add_gates(digraph: nx.DiGraph[Op], buffers: Sequence[Buffer]) -> None:
    """Add the gates that buffers name, before and after all that allocates there."""
    makers: dict[int, dict[Op, None]] = {}
    for buffer in buffers:
        if buffer.maker != _gate(buffer.device, _FIRST):
            makers.setdefault(buffer.device, {})[buffer.maker] = None
    named = dict.fromkeys(op for b in buffers for op in (b.maker, *b.users))
    for gate in (op for op in named if op not in digraph):
        digraph.add_node(gate, data=OpData(0, gate.stage, ()))
        for op in makers.get(gate.stage, ()):
            pair = (gate, op) if gate.microbatch == _FIRST else (op, gate)
            digraph.add_edge(*pair, lag=0)


def _propagate(part: OpGraph, head: dict[Op, int], tail: dict[Op, int]) -> None:
    """Pass heads and tails on along the slab's own waits."""
    data = part.data
    in_order = [op for op in nx.topological_sort(part.digraph) if op in head]
    for op in in_order:
        for before, lag in part.predecessors(op):
            if before in head:
                earliest = head[before] + data[before].duration + lag
                head[op] = max(head[op], earliest)
    for op in reversed(in_order):
        for after, lag in part.successors(op):
            if after in tail:
                tail[op] = max(tail[op], lag + data[after].duration + tail[after])
