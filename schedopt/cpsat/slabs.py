"""Improving a schedule slab by slab: all that is near one moment, on all devices.

A slab is what a schedule runs between two moments. What comes before it stays where it
is; what comes after it keeps its order and moves up. The former gives every op of the
slab a head and the latter a tail, both by longest paths through the orders of all
streams, so the best times of the slab's ops for the whole schedule are those of a small
problem with heads and tails (``Scope``). All ways from the first op to the last pass
through the slab, which is why a better slab makes the whole shorter.

Search moves few ops at a time, and bounds look at one stream at a time; a slab sees how
devices that are short of memory stall each other.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import NamedTuple

import networkx as nx

from schedopt.cpsat.coarse import (
    LARGEST_HORIZON,
    ROUNDED_HORIZON,
    coarsened,
    exact_scale,
)
from schedopt.cpsat.model import Effort, Outcome, run
from schedopt.cpsat.replaying import replayed
from schedopt.cpsat.rules import PROBLEM
from schedopt.cpsat.variables import Scope
from schedopt.instance import Objective
from schedopt.opgraph import Buffer, OpData, OpGraph
from schedopt.ops import Op, OpKind
from schedopt.schedule import Schedule
from schedopt.simulate import tails, with_memory_edges
from schedopt.structure import fifo_classes

_FIRST_OPS = 140
"""Ops of a slab to begin with."""

_SLAB_S = 2.0
"""The most effort for a slab, seconds."""

_LEAST_S = 0.001
"""What every slab counts for at least, so that an end is reached."""

_QUICK = 0.25
"""The share of a slab's effort within which it is solved quickly."""

_SETTINGS = {"linearization_level": 0}
"""Measured: a sweep takes two thirds of the time, and finds more."""

_GROWTH, _SHRINKAGE = 1.25, 0.8
_MOST_LATE, _LEAST_QUICK = 0.25, 0.9
"""Shares of a sweep's slabs from which on they are too large, or too small."""


class _Answer(Enum):
    """How long a slab took: it was not solved in time, or within a share of it."""

    LATE = auto()
    SLOW = auto()
    QUICK = auto()


class _Budget:
    """What is left of an effort, and each slab's part of it."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._began = time.monotonic()
        self._spent = 0.0
        self.last = 0.0

    @property
    def left(self) -> float:
        """Seconds, by the clock or of deterministic effort."""
        if self._effort.deterministic_time is not None:
            return self._effort.deterministic_time - self._spent
        return self._effort.time_limit_s - (time.monotonic() - self._began)

    def slab(self) -> Effort:
        """The effort for the next slab."""
        self._spend(_LEAST_S)
        seconds = max(_LEAST_S, min(_SLAB_S, self.left))
        is_exact = self._effort.deterministic_time is not None
        return replace(
            self._effort,
            time_limit_s=self._effort.time_limit_s if is_exact else seconds,
            deterministic_time=seconds if is_exact else None,
            on_spent=self._spend,
            by_levels=False,
            settings=_SETTINGS,
        )

    def _spend(self, seconds: float) -> None:
        self.last = seconds
        self._spent += seconds
        if self._effort.on_spent is not None:
            self._effort.on_spent(seconds)


class Slabs:
    """Sweeps over a schedule, slab after slab.

    Slabs of a sweep overlap by half and come in random order. They grow while most are
    solved quickly, and shrink where many are not solved in time.
    """

    def __init__(self, schedule: Schedule, seed: int) -> None:
        graph, horizon = schedule.graph, schedule.makespan
        scale = exact_scale(graph)
        if horizon // scale > LARGEST_HORIZON:
            scale = -(-horizon // ROUNDED_HORIZON)
        self._coarse = coarsened(graph, scale, round_up=True)
        self._chains = _chains(graph)
        self._random = random.Random(seed)
        self._size = min(float(_FIRST_OPS), len(schedule.start))
        self._timeline: _Timeline | None = None
        self._is_settled = False
        self.best = schedule
        self.learn(schedule)

    def learn(self, schedule: Schedule) -> None:
        """Go on from another schedule of the same op graph."""
        coarse = replayed(self._coarse, schedule, Objective.MAKESPAN)
        self.best = schedule
        self._timeline = None if coarse is None else _Timeline(coarse)
        self._is_settled = coarse is None

    def improve(
        self, effort: Effort, on_schedule: Callable[[Schedule], None] | None = None
    ) -> None:
        """Sweep until the effort is spent, or one slab is all and solved.

        Every better schedule is reported.
        """
        budget = _Budget(effort)
        while budget.left > 0 and not self._is_settled:
            best = self.best
            for _ in self._sweep(budget):
                if self.best is not best and on_schedule is not None:
                    best = self.best
                    on_schedule(best)
                if budget.left <= 0:
                    break

    def _sweep(self, budget: _Budget) -> Iterator[None]:
        """Solve slabs all over the schedule, each from the best known."""
        step = max(1, round(self._size / 2))
        ops = len(self.best.start)
        begins = list(range(-self._random.randrange(step), ops, step))
        self._random.shuffle(begins)
        late = quick = 0
        for begin in begins:
            answer = self._solve(begin, begin + 2 * step, budget)
            late += answer is _Answer.LATE
            quick += answer is _Answer.QUICK
            yield
        if late > _MOST_LATE * len(begins):
            self._size *= _SHRINKAGE
        elif quick > _LEAST_QUICK * len(begins):
            self._size = min(self._size * _GROWTH, ops)

    def _solve(self, begin: int, end: int, budget: _Budget) -> _Answer:
        """Look for better times of one slab."""
        timeline = self._timeline
        assert timeline is not None
        slab = timeline.between(begin, end)
        scope, base = timeline.scope(slab, self._chains)
        known = timeline.schedule.start
        effort = budget.slab()
        result = run(
            scope,
            Objective.MAKESPAN,
            effort,
            hint={op: known.get(op, base) - base for op in scope.graph.ops},
            rules=PROBLEM,
        )
        if result.start is not None:
            found = {op: base + time for op, time in result.start.items() if op in slab}
            self._take(timeline.with_slab(slab, found))
        if result.outcome in (Outcome.FEASIBLE, Outcome.UNKNOWN):
            return _Answer.LATE
        self._is_settled = len(slab) == len(timeline.ops)
        return _Answer.QUICK if budget.last < _QUICK * _SLAB_S else _Answer.SLOW

    def _take(self, schedule: Schedule) -> None:
        """Go on from a schedule in coarse ticks if its replay is a shorter one."""
        coarse = replayed(self._coarse, schedule, Objective.MAKESPAN)
        assert self._timeline is not None
        if coarse is None or coarse.makespan >= self._timeline.schedule.makespan:
            return
        self._timeline = _Timeline(coarse)
        exact = replayed(self.best.graph, coarse, Objective.MAKESPAN)
        if exact is not None and exact.makespan < self.best.makespan:
            self.best = exact


class _Wait(NamedTuple):
    """``after`` starts at the earliest ``lag`` ticks after the end of ``before``."""

    before: Op
    after: Op
    lag: int


class _Timeline:
    """A schedule as early as its order allows, and what follows each of its ops."""

    def __init__(self, schedule: Schedule) -> None:
        order = with_memory_edges(schedule)
        self.schedule = schedule
        self.ops = sorted(schedule.start, key=lambda op: schedule.start[op])
        self._tail = tails(schedule.graph, order)
        self._sequences = order.sequences
        self._memory_edges = order.memory_edges

    def between(self, begin: int, end: int) -> set[Op]:
        """What runs from the start of the op at one place until that at another.

        With each two of its ops that wait for each other it has all that are between.
        """
        start = self.schedule.start
        first = start[self.ops[max(begin, 0)]]
        found = self.ops[:end]
        if end < len(self.ops):
            last = start[self.ops[end]]
            found = [op for op in found if start[op] < last]
        return {op for op in found if self.schedule.end(op) > first}

    def scope(
        self, slab: Collection[Op], chains: Mapping[Op, int]
    ) -> tuple[Scope, int]:
        """The slab as a problem of its own, and the moment from which it counts."""
        graph, makespan = self.schedule.graph, self.schedule.makespan
        data = graph.data
        head = dict.fromkeys(slab, 0)
        tail = dict.fromkeys(slab, 0)
        inner: list[_Wait] = []
        for before, after, lag in self._waits(slab, chains):
            if before not in slab:
                head[after] = max(head[after], self.schedule.end(before) + lag)
            elif after not in slab:
                following = lag + data[after].duration + self._tail[after]
                tail[before] = max(tail[before], following)
            else:
                inner.append(_Wait(before, after, lag))
        in_time = sorted(slab, key=self.schedule.start.__getitem__)
        part = _part(graph, in_time, inner, self._is_before(slab))
        _propagate(part, head, tail)
        base = min(head.values(), default=0)
        gates = {op: 0 for op in part.ops if op not in slab}
        return (
            Scope(
                graph=part,
                head={op: head[op] - base for op in slab} | gates,
                tail=tail | gates,
                horizon=makespan - base,
                lower_bound=0,
                upper_bound=makespan - base - 1,
            ),
            base,
        )

    def with_slab(self, slab: Collection[Op], start: Mapping[Op, int]) -> Schedule:
        """The schedule with other times in a slab, and what follows as late as it may.

        Of the same makespan; its replay shows what was gained.
        """
        makespan, graph = self.schedule.makespan, self.schedule.graph
        is_before = self._is_before(slab)
        times = {}
        for op, moment in self.schedule.start.items():
            if op in slab:
                times[op] = start[op]
            elif is_before(op):
                times[op] = moment
            else:
                times[op] = makespan - self._tail[op] - graph.data[op].duration
        return Schedule(graph, times)

    def _is_before(self, slab: Collection[Op]) -> Callable[[Op], bool]:
        """Whether an op that is not in the slab comes before it, and not after."""
        start = self.schedule.start
        last = max((start[op] for op in slab), default=0)
        return lambda op: start[op] <= last

    def _waits(self, slab: Collection[Op], chains: Mapping[Op, int]) -> Iterator[_Wait]:
        """What the slab's ops wait for, and what waits for them."""
        graph = self.schedule.graph
        for op in slab:
            for before, lag in graph.predecessors(op):
                yield _Wait(before, op, lag)
            for after, lag in graph.successors(op):
                if after not in slab:
                    yield _Wait(op, after, lag)
        for sequence in self._sequences.values():
            yield from _waits_of_stream(sequence, slab, chains)
        for before, after in self._memory_edges:
            if (before in slab) != (after in slab):
                yield _Wait(before, after, 0)


def _waits_of_stream(
    sequence: Sequence[Op], slab: Collection[Op], chains: Mapping[Op, int]
) -> Iterator[_Wait]:
    """All of a slab follows what comes before it on a stream, and so on.

    Within the slab only equal ops of equal microbatches keep their order.
    """
    places = [place for place, op in enumerate(sequence) if op in slab]
    if not places:
        return
    first, end = places[0], places[-1] + 1
    latest: dict[int, Op] = {}
    for op in sequence[first:end]:
        if first > 0:
            yield _Wait(sequence[first - 1], op, 0)
        if end < len(sequence):
            yield _Wait(op, sequence[end], 0)
        if op in chains:
            if chains[op] in latest:
                yield _Wait(latest[chains[op]], op, 0)
            latest[chains[op]] = op


def _chains(graph: OpGraph) -> dict[Op, int]:
    """For ops of equal microbatches the number of their class (``fifo_classes``)."""
    return {
        op: number
        for number, slots in enumerate(fifo_classes(graph))
        for slot in slots
        for op in slot
    }


def _part(
    graph: OpGraph,
    slab: Collection[Op],
    waits: Collection[_Wait],
    is_before: Callable[[Op], bool],
) -> OpGraph:
    """The op graph of a slab's ops.

    Buffers that are there when it begins, or still there when it ends, are made or
    freed by gates: ops of no duration before, or after, all that allocates on a device.
    """
    inside = set(slab)
    digraph: nx.DiGraph[Op] = nx.DiGraph()
    digraph.add_nodes_from((op, {"data": graph.data[op]}) for op in slab)
    for before, after, lag in waits:
        known = digraph.get_edge_data(before, after, {"lag": lag})["lag"]
        digraph.add_edge(before, after, lag=max(lag, known))
    devices = list(graph.devices)
    buffers: list[Buffer] = []
    makers: dict[int, dict[Op, None]] = {}
    for buffer in graph.buffers:
        memory = devices[buffer.device]
        if memory.limit is None:
            continue
        made_before = buffer.maker not in inside and is_before(buffer.maker)
        here = tuple(user for user in buffer.users if user in inside)
        used_after = any(
            user not in inside and not is_before(user) for user in buffer.users
        )
        if buffer.maker in inside:
            makers.setdefault(buffer.device, {})[buffer.maker] = None
            users = (_gate(buffer.device, 1),) if used_after else here
            buffers.append(buffer._replace(users=users))
        elif made_before and used_after:
            devices[buffer.device] = memory._replace(static=memory.static + buffer.size)
        elif made_before and here:
            maker = _gate(buffer.device, 0)
            buffers.append(buffer._replace(maker=maker, users=here))
    for device in {buffer.device: None for buffer in buffers}:
        data = OpData(0, device, ())
        for side in (0, 1):
            digraph.add_node(_gate(device, side), data=data)
        for op in makers.get(device, ()):
            digraph.add_edge(_gate(device, 0), op, lag=0)
            digraph.add_edge(op, _gate(device, 1), lag=0)
    return OpGraph(digraph, tuple(buffers), (), tuple(devices), graph.units)


def _gate(device: int, side: int) -> Op:
    """The op that stands for all before (0) or after (1) a slab on a device."""
    return Op(OpKind.STEP, device, side, -1, "gate")


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
