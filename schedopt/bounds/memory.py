"""Heads and tails that know the memory limits, by counting ops.

Take a device with one stage. Each microbatch runs three ops there, F, B (or I) and W
(of no duration where the backward is whole), numbered by their order of start; with
equal microbatches that is their order of microbatches (``structure.fifo_classes``).
When the n-th op of a kind starts, on a serial device, every op before it has ended; the
numbers of ended ops of the other kinds must bring the memory level within the limit,
counting what the op itself allocates. So the op starts no earlier than the time by
which some minimal such set of ops can be done: in the order of their heads, each as
early as it can (``_completion``). The least of these times over the minimal sets is a
valid head.

Heads also pass through the pipeline: along precedences, and from each op to the next of
its kind. In reversed time ops change roles, what an end releases is what a start
allocates, and the same argument gives tails. Every evaluation turns valid bounds into a
valid bound, so any number of sweeps is sound.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from schedopt.compiled import compiled
from schedopt.opgraph import OpGraph
from schedopt.ops import Op, OpKind
from schedopt.paths import Paths
from schedopt.structure import Lane, LaneStage, lanes_of

Ints = npt.NDArray[np.int64]

_SWEEPS = 50
_COMPILE_FROM = 400
"""Ops from which the counting loops are compiled."""

_UNLIMITED = 2**62
_NEVER = 2**61


class _Stage(NamedTuple):
    """What counting needs of a stage: by kind, in the order that the kinds run in time.

    ``allocated`` at each start, ``released`` at each end; ticks and grains.
    """

    durations: tuple[int, int, int]
    allocated: tuple[int, int, int]
    released: tuple[int, int, int]
    room: int


class _Wait(NamedTuple):
    """The n-th op of ``kind`` at ``stage`` waits for the n-th ``before`` plus a lag."""

    stage: int
    kind: int
    before_stage: int
    before_kind: int
    lag: int


def memory_paths(graph: OpGraph) -> Paths | None:
    """Heads and tails that respect memory; None where the structure is missing.

    It needs a single lane with one stage per device (``_only_lane``). They hold for
    schedules in which equal microbatches pass in order, hence for the optimum.
    """
    lane = _only_lane(graph)
    if lane is None:
        return None
    rooms = [_room(graph, stage) for stage in lane.stages]
    count = len(lane.microbatches)
    forward = [_forward(s, room) for s, room in zip(lane.stages, rooms, strict=True)]
    backward = [_reversed(stage) for stage in forward]
    heads = _heads(forward, _waits(lane.stages), count)
    tails = _heads(backward, _reversed_waits(lane.stages), count)
    return _by_op(lane, heads, tails)


def device_paths(graph: OpGraph) -> dict[int, Paths]:
    """For each device heads and tails of its own ops, counted from its own first start.

    They bound the device's span: only delays between its own ops are kept. None of the
    structure that ``memory_paths`` needs may be missing; otherwise nothing is returned.
    """
    lane = _only_lane(graph)
    if lane is None:
        return {}
    count = len(lane.microbatches)
    found = {}
    for index, stage in enumerate(lane.stages):
        trip = _round_trip(lane.stages, index)
        line = [_forward(stage, _room(graph, stage))]
        waits = [_Wait(0, 1, 0, 0, trip), _Wait(0, 2, 0, 1, 0)]
        reversed_waits = [_Wait(0, 1, 0, 0, 0), _Wait(0, 2, 0, 1, trip)]
        heads = _heads(line, waits, count)
        tails = _heads([_reversed(line[0])], reversed_waits, count)
        alone = Lane(lane.microbatches, (stage,), lane.split)
        found[stage.device] = _by_op(alone, heads, tails)
    return found


def _only_lane(graph: OpGraph) -> Lane | None:
    """The graph as one lane with one stage per device; None if it is not one.

    F and B (or I) must take time: one of no duration may allocate in the very moment in
    which it releases, and the counts "ended before the n-th starts" would miss it.
    """
    lanes = lanes_of(graph)
    if len(lanes) != 1:
        return None
    (lane,) = lanes
    if len({stage.device for stage in lane.stages}) < len(lane.stages):
        return None
    if not all(stage.forward and stage.backward for stage in lane.stages):
        return None
    return lane


def _round_trip(stages: tuple[LaneStage, ...], index: int) -> int:
    """The least time from the end of a stage's F to the start of its backward."""
    later = range(index + 1, len(stages))
    down = sum(stages[s].lag_forward + stages[s].forward for s in later)
    return down + sum(stages[s].backward + stages[s - 1].lag_backward for s in later)


def _room(graph: OpGraph, stage: LaneStage) -> int:
    memory = graph.devices[stage.device]
    return _UNLIMITED if memory.limit is None else memory.limit - memory.static


def _forward(stage: LaneStage, room: int) -> _Stage:
    return _Stage(
        (stage.forward, stage.backward, stage.weight),
        (stage.held, stage.gradient, 0),
        (0, stage.freed, stage.held - stage.freed + stage.gradient),
        room,
    )


def _reversed(stage: _Stage) -> _Stage:
    """The stage in reversed time: W, B, F; ends become starts."""
    return _Stage(
        stage.durations[::-1], stage.released[::-1], stage.allocated[::-1], stage.room
    )


def _waits(stages: tuple[LaneStage, ...]) -> list[_Wait]:
    """Precedences of a microbatch, in topological order of what waits."""
    last = len(stages) - 1
    waits = [_Wait(s, 0, s - 1, 0, stages[s].lag_forward) for s in range(1, last + 1)]
    waits.append(_Wait(last, 1, last, 0, 0))
    waits += [
        _Wait(s, 1, s + 1, 1, stages[s].lag_backward) for s in reversed(range(last))
    ]
    return waits + [_Wait(s, 2, s, 1, 0) for s in range(last + 1)]


def _reversed_waits(stages: tuple[LaneStage, ...]) -> list[_Wait]:
    """The same precedences in reversed time, where kind 0 is W and kind 2 is F."""
    return [
        _Wait(w.before_stage, 2 - w.before_kind, w.stage, 2 - w.kind, w.lag)
        for w in reversed(_waits(stages))
    ]


def _heads(stages: list[_Stage], waits: list[_Wait], count: int) -> Ints:
    """Earliest starts, indexed [stage, kind, n]."""
    size = len(stages) * 3 * count
    tighten: Any = _tighten
    if size >= _COMPILE_FROM:
        tighten = compiled(_tighten, _seconds, _advance, _completion)
    heads = np.zeros((len(stages), 3, count), np.int64)
    order = _evaluation_order(len(stages), waits)
    for _ in range(_SWEEPS):
        before = heads.copy()
        for stage, kind in order:
            here = stages[stage]
            for wait in waits:
                if (wait.stage, wait.kind) == (stage, kind):
                    ready = heads[wait.before_stage, wait.before_kind] + (
                        stages[wait.before_stage].durations[wait.before_kind] + wait.lag
                    )
                    np.maximum(heads[stage, kind], ready, out=heads[stage, kind])
            tighten(
                heads[stage],
                kind,
                np.array(here.durations, np.int64),
                np.array(here.allocated, np.int64),
                np.array(here.released, np.int64),
                here.room,
            )
        if np.array_equal(before, heads):
            break
    return heads


def _evaluation_order(stages: int, waits: Iterable[_Wait]) -> list[tuple[int, int]]:
    """(stage, kind) such that what waits comes after what it waits for."""
    waiting = [(wait.stage, wait.kind) for wait in waits]
    free = {(s, k) for s in range(stages) for k in range(3)} - set(waiting)
    return sorted(free) + waiting


def _tighten(  # noqa: C901, PLR0912 - three cases in one loop, as numba needs it
    heads: Ints,
    kind: int,
    durations: Ints,
    allocated: Ints,
    released: Ints,
    room: int,
) -> None:
    """Raise the heads of one kind on one device by counting; ``heads`` is [kind, n]."""
    count = heads.shape[1]
    # What one op of the middle kind changes in the end, and what the last kind frees.
    freed = released[1] - allocated[1]
    done = np.zeros(4, np.int64)
    best = 0
    for n in range(count):
        if n > 0:
            heads[kind, n] = max(heads[kind, n], heads[kind, n - 1] + durations[kind])
        least = _NEVER if kind == 0 else -1
        if kind == 0:
            # n firsts have ended; b seconds and c <= b thirds bring the level down.
            first, last, fewest = n + 1, -1, n + 1
            for c in range(n + 1):
                b = _seconds(allocated[0] * (n + 1) - released[2] * c - room, freed, c)
                if b > n:
                    continue
                first, last, fewest = min(first, c), c, min(fewest, b)
                if b == c:
                    break  # more thirds only add work
            _advance(heads, durations, n, fewest, first, done)
            for turn in range(last - first + 1):
                # What was best for the op before is likely to be good again.
                c = first + (turn + best - first) % (last - first + 1)
                b = _seconds(allocated[0] * (n + 1) - released[2] * c - room, freed, c)
                if b <= n:
                    found = _completion(heads, durations, n, b, c, done, least)
                    if found < least:
                        least, best = found, c
            best += 1
            least = -1 if last < 0 else least
        elif kind == 1:
            # n seconds have ended, n + 1 firsts, and c <= n thirds.
            missing = (allocated[0] + allocated[1]) * (n + 1) - released[1] * n - room
            c = 0
            if missing > 0:
                c = n + 1 if released[2] <= 0 else -(-missing // released[2])
            if c <= n:
                _advance(heads, durations, n + 1, n, c, done)
                least = _completion(heads, durations, n + 1, n, c, done, _NEVER)
        else:
            _advance(heads, durations, n + 1, n + 1, n, done)
            least = _completion(heads, durations, n + 1, n + 1, n, done, _NEVER)
        heads[kind, n] = max(heads[kind, n], least)


def _seconds(missing: int, freed: int, c: int) -> int:
    """How many seconds free what c thirds leave; at least c, and many if none can."""
    if missing - freed * c <= 0:
        return c
    return _NEVER if freed <= 0 else -(-missing // freed)


def _advance(heads: Ints, durations: Ints, a: int, b: int, c: int, done: Ints) -> None:
    """Run what comes first in all sets of at least a firsts, b seconds and c thirds.

    ``done`` is how many of each have run, and the time then. Later calls have no
    smaller numbers, and no job that they add has an earlier head.
    """
    if a < done[0] or b < done[1] or c < done[2]:
        done[:] = 0
    if a == 0:
        return
    until = heads[0, a - 1]
    until = min(until, heads[1, b]) if b < heads.shape[1] else until
    until = min(until, heads[2, c]) if c < heads.shape[1] else until
    while True:
        kind = 0 if done[0] < a - 1 and heads[0, done[0]] <= until else -1
        head = heads[0, done[0]] if kind == 0 else until + 1
        if done[1] < b and heads[1, done[1]] < head:
            kind, head = 1, heads[1, done[1]]
        if done[2] < c and heads[2, done[2]] < head:
            kind, head = 2, heads[2, done[2]]
        if kind < 0:
            return
        done[3] = max(done[3], head) + durations[kind]
        done[kind] += 1


def _completion(
    heads: Ints, durations: Ints, a: int, b: int, c: int, done: Ints, most: int
) -> int:
    """The earliest time by which a firsts, b seconds and c thirds can be done.

    Those in ``done`` (see ``_advance``) have run. ``most`` if it is not less.
    """
    i, j, k, time = done[0], done[1], done[2], done[3]
    left = (a - i) * durations[0] + (b - j) * durations[1] + (c - k) * durations[2]
    while i < a or j < b or k < c:
        if time + left >= most:
            return most
        kind = -1
        if i < a:
            kind = 0
        if j < b and (kind < 0 or heads[1, j] < heads[0, i]):
            kind = 1
        if k < c and (
            kind < 0
            or (kind == 0 and heads[2, k] < heads[0, i])
            or (kind == 1 and heads[2, k] < heads[1, j])
        ):
            kind = 2
        if kind == 0:
            time = max(time, heads[0, i]) + durations[0]
            i += 1
        elif kind == 1:
            time = max(time, heads[1, j]) + durations[1]
            j += 1
        else:
            time = max(time, heads[2, k]) + durations[2]
            k += 1
        left -= durations[kind]
    return int(min(time, most))


def _by_op(lane: Lane, heads: Ints, tails: Ints) -> Paths:
    count = len(lane.microbatches)
    entry = OpKind.BACKWARD_INPUT if lane.split else OpKind.BACKWARD
    kinds = [OpKind.FORWARD, entry] + [OpKind.BACKWARD_WEIGHT] * lane.split
    head: dict[Op, int] = {}
    tail: dict[Op, int] = {}
    for index, stage in enumerate(lane.stages):
        for kind, op_kind in enumerate(kinds):
            for n, (step, microbatch) in enumerate(lane.microbatches):
                op = Op(op_kind, stage.stage, microbatch, step)
                head[op] = int(heads[index, kind, n])
                tail[op] = int(tails[index, 2 - kind, count - 1 - n])
    return Paths(head, tail)
