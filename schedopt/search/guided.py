"""A greedy that the lattices guide: of what may run next, what leaves most slack.

Every stream offers one op: of the steps from its state whose predecessors have run the
one with the highest score, and of all streams the offer with the earliest start is
taken. An op scores

    slack x (L(s) - end) - idling x (start - earliest start) + liking of its class,

where L(s) is the latest time from which the rest of the stream can still run within the
windows of ``schedopt.lattice``, s being the state that the op leads to. So what is put
off too long, what memory will soon forbid, and what other devices wait for, are all
weighed against each other by their exact consequences for the stream.

Where a stream's lattice leaves out fillers, these are offered too, whenever they can
run. They change no state, but are part of the work that must be done by L(s); makers
of buffers then wait until memory really allows them.

A class that makes buffers may have a cap on how many of its ops are ahead of those of
the class that frees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from schedopt.compiled import compiled
from schedopt.lattice import Ints, Problem, Windows
from schedopt.lattice.problem import Arrays
from schedopt.lattice.states import Lattices
from schedopt.search.tables import OpTables

NO_CAP = 2**40

_NEVER = 2**61

Floats = npt.NDArray[np.float64]


class _Guide(NamedTuple):
    """What does not change while the greedy runs.

    Attributes
    ----------
    late, spare : arrays by state
        L, and U of ``lattice.propagation``.
    filler : array [stream, k]
        The classes of fillers that the stream's lattice leaves out; rows end with -1.
    room : array by stream
        Grains.
    closing, cap, liking : arrays by class
    """

    late: Ints
    spare: Ints
    filler: Ints
    room: Ints
    closing: Ints
    cap: Ints
    liking: Floats


class _Progress(NamedTuple):
    """What has been done so far.

    Attributes
    ----------
    end : array by op
        -1 where it has not run.
    done : array by class
    state, free, level, work : arrays by stream
        Its state, when it is free, the grains alive, and the work done.
    """

    end: Ints
    done: Ints
    state: Ints
    free: Ints
    level: Ints
    work: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """The greedy's parameters; see the module's docstring.

    Attributes
    ----------
    slack, idling : float
        Weights.
    liking : array by class
        Beats.
    cap : array by class
        ``NO_CAP`` for none.
    """

    slack: float
    idling: float
    liking: Floats
    cap: Ints


def guided(
    windows: Windows,
    tables: OpTables,
    rule: Rule,
    closing: Ints,
    *,
    compile_loops: bool,
) -> Ints | None:
    """The ends of the rule's schedule; None if it leaves the windows or gets stuck.

    Parameters
    ----------
    closing : array by class
        The class that frees what this one makes; -1 if there is none.
    """
    run: Any = _run
    if compile_loops:
        run = compiled(_run, _offer, _step_of, _start_of, _take)
    problem, lattices, late, spare = windows.guide
    guide = _Guide(
        late=late,
        spare=spare,
        filler=windows.fillers,
        room=np.array([rules.room for rules in problem.rules], np.int64),
        closing=closing,
        cap=rule.cap,
        liking=rule.liking,
    )
    progress = _beginning(problem, lattices)
    done = run(
        problem.arrays, lattices, tables, guide, progress, rule.slack, rule.idling
    )
    return progress.end if done else None


def _beginning(problem: Problem, lattices: Lattices) -> _Progress:
    streams = len(problem.streams)
    return _Progress(
        end=np.full(len(problem.ops), -1, np.int64),
        done=np.zeros(len(problem.arrays.duration), np.int64),
        state=lattices.level_begin[lattices.first_level[:-1]].copy(),
        free=np.zeros(streams, np.int64),
        level=np.zeros(streams, np.int64),
        work=np.zeros(streams, np.int64),
    )


def _step_of(lattices: Lattices, state: int, op: int) -> int:
    """The step from a state that runs an op; -1 if there is none."""
    for step in range(lattices.first_step[state], lattices.first_step[state + 1]):
        if lattices.op[step] == op:
            return step
    return -1


def _start_of(
    lattices: Lattices,
    tables: OpTables,
    guide: _Guide,
    progress: _Progress,
    s: int,
    op: int,
) -> int:
    """When an op that stream s offers could start; ``_NEVER`` if it cannot now."""
    c = tables.op_class[op]
    closing = guide.closing[c]
    if closing >= 0 and progress.done[c] - progress.done[closing] >= guide.cap[c]:
        return _NEVER
    start = progress.free[s]
    k = 0
    while tables.waits[op, k] >= 0:
        before = progress.end[tables.waits[op, k]]
        if before < 0:
            return _NEVER
        start = max(start, before + tables.lags[op, k])
        k += 1
    k = 0
    while tables.streams[op, k] >= 0:
        other = tables.streams[op, k]
        if other != s and _step_of(lattices, progress.state[other], op) < 0:
            return _NEVER
        if lattices.is_filled[other] == 1:
            level = progress.level[other] + tables.allocated[op, k]
            if tables.allocated[op, k] > 0 and level > guide.room[other]:
                return _NEVER
        start = max(start, progress.free[other])
        k += 1
    return int(start)


def _offer(  # noqa: PLR0913, PLR0917 - arrays, as numba needs them
    arrays: Arrays,
    lattices: Lattices,
    tables: OpTables,
    guide: _Guide,
    progress: _Progress,
    slack: float,
    idling: float,
    s: int,
    ops: Ints,
    starts: Ints,
) -> tuple[int, int]:
    """The op that a stream offers, and its start; -1 if none can be taken now.

    ``ops`` and ``starts`` are room for what can be offered.
    """
    state = progress.state[s]
    count = 0
    for step in range(lattices.first_step[state], lattices.first_step[state + 1]):
        ops[count] = lattices.op[step]
        count += 1
    steps = count
    k = 0
    while guide.filler[s, k] >= 0:
        c = guide.filler[s, k]
        k += 1
        op = arrays.first_op[c] + progress.done[c]
        if op < arrays.first_op[c + 1]:
            ops[count] = op
            count += 1
    soonest = _NEVER
    for k in range(count):
        starts[k] = _start_of(lattices, tables, guide, progress, s, ops[k])
        soonest = min(soonest, starts[k])
    best, chosen = 0.0, -1
    for k in range(count):
        if starts[k] >= _NEVER:
            continue
        op, end = ops[k], starts[k] + tables.duration[ops[k]]
        after = state
        if k < steps:
            after = lattices.after[lattices.first_step[state] + k]
        left = guide.late[after]
        if lattices.is_filled[s] == 1:
            work = progress.work[s] + tables.duration[op]
            left = min(left, guide.spare[after] + work)
        left = 0 if left >= _NEVER else left - end
        score = slack * left - idling * (starts[k] - soonest)
        score += guide.liking[tables.op_class[op]]
        if chosen < 0 or score > best:
            best, chosen = score, k
    if chosen < 0:
        return -1, _NEVER
    return ops[chosen], starts[chosen]


def _take(
    lattices: Lattices, tables: OpTables, progress: _Progress, op: int, start: int
) -> None:
    """Run an op."""
    progress.end[op] = start + tables.duration[op]
    progress.done[tables.op_class[op]] += 1
    k = 0
    while tables.streams[op, k] >= 0:
        s = tables.streams[op, k]
        step = _step_of(lattices, progress.state[s], op)
        if step >= 0:  # else it is a filler
            progress.state[s] = lattices.after[step]
        progress.free[s] = progress.end[op]
        progress.work[s] += tables.duration[op]
        progress.level[s] += tables.allocated[op, k] - tables.released[op, k]
        k += 1


def _run(
    arrays: Arrays,
    lattices: Lattices,
    tables: OpTables,
    guide: _Guide,
    progress: _Progress,
    slack: float,
    idling: float,
) -> bool:
    """Take offers until all ops have run; whether they have."""
    streams = len(progress.state)
    offer = np.full(streams, -1, np.int64)
    begin = np.zeros(streams, np.int64)
    stale = np.ones(streams, np.int64)
    ops = np.zeros(len(arrays.duration), np.int64)
    starts = np.zeros(len(arrays.duration), np.int64)
    for _ in range(len(progress.end)):
        chosen = -1
        for s in range(streams):
            if stale[s] == 1:
                stale[s] = 0
                offer[s], begin[s] = _offer(
                    arrays,
                    lattices,
                    tables,
                    guide,
                    progress,
                    slack,
                    idling,
                    s,
                    ops,
                    starts,
                )
            if offer[s] >= 0 and (chosen < 0 or begin[s] < begin[chosen]):
                chosen = s
        if chosen < 0:
            return False
        op = offer[chosen]
        _take(lattices, tables, progress, op, begin[chosen])
        k = 0
        while tables.streams[op, k] >= 0:
            s = tables.streams[op, k]
            k += 1
            for other in range(streams):  # what others offer may need this one, too
                stale[other] |= tables.shared[s, other]
        k = 0
        while tables.wakes[op, k] >= 0:
            woken = tables.wakes[op, k]
            k += 1
            j = 0
            while tables.streams[woken, j] >= 0:
                stale[tables.streams[woken, j]] = 1
                j += 1
    return True
