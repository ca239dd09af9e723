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
from schedopt.search.tables import ClassTables

NO_CAP = 2**40

_NEVER = 2**61
_ANY = -2 * _NEVER
"""Less than what is left in any state, even in one from which the rest cannot run."""

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
    least : int
        How long before L(s) all ops end, at least, in schedules worth having.
    """

    late: Ints
    spare: Ints
    filler: Ints
    room: Ints
    closing: Ints
    cap: Ints
    liking: Floats
    least: int


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
    tables: ClassTables,
    rule: Rule,
    closing: Ints,
    *,
    within: int | None = None,
    compile_loops: bool,
) -> tuple[Ints | None, int]:
    """The ends of the rule's schedule, and how many ops it has run.

    The ends are None if it gets stuck or takes too long.

    Parameters
    ----------
    closing : array by class
        The class that frees what this one makes; -1 if there is none.
    within : int
        The latest end that is worth having, beats; for settled windows only. If it is
        not after theirs, a rule is left as soon as a stream cannot end by then: in
        schedules that end earlier by some time, ops end before L by that time, too.
    """
    run: Any = _run
    if compile_loops:
        run = compiled(_run)
    problem, lattices, late, spare = windows.guide
    guide = _Guide(
        late=late,
        spare=spare,
        filler=windows.fillers,
        room=np.array([rules.room for rules in problem.rules], np.int64),
        closing=closing,
        cap=rule.cap,
        liking=rule.liking,
        least=_ANY if within is None or within > windows.end else windows.end - within,
    )
    progress = _beginning(problem, lattices)
    done = run(
        problem.arrays, lattices, tables, guide, progress, rule.slack, rule.idling
    )
    ran = int(progress.done.sum())
    if not done or (within is not None and progress.end.max() > within):
        return None, ran
    return progress.end, ran


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


def _run(  # noqa: PLR0912, PLR0915, C901 - one loop over arrays, as numba needs it
    arrays: Arrays,
    lattices: Lattices,
    tables: ClassTables,
    guide: _Guide,
    progress: _Progress,
    slack: float,
    idling: float,
) -> bool:
    """Take offers until all ops have run; whether they have.

    A tree has the stream of the earliest offer at its root, ``first[1]``; the leaves,
    from the middle on, are the streams. Those whose offers may have changed are
    ``waiting``. The named tuples are taken apart once: handed on to the functions that
    each offer calls, they would take most of the time.
    """
    first_op, duration, leading = arrays.first_op, arrays.duration, arrays.leading
    lag = tables.lag
    op_class, held, touched = tables.op_class, tables.streams, tables.touched
    allocated, released = tables.allocated, tables.released
    first_step, step_op, step_after = lattices.first_step, lattices.op, lattices.after
    is_filled, filler = lattices.is_filled, guide.filler
    late, spare, room = guide.late, guide.spare, guide.room
    closing, cap, liking, least = guide.closing, guide.cap, guide.liking, guide.least
    ends, done, state = progress.end, progress.done, progress.state
    free, level, worked = progress.free, progress.level, progress.work

    streams = len(state)
    leaves = 1
    while leaves < streams:
        leaves *= 2
    first = np.zeros(2 * leaves, np.int64)
    first[leaves:] = np.arange(leaves)
    for node in range(leaves - 1, 0, -1):
        first[node] = first[2 * node]
    begin = np.full(leaves, _NEVER, np.int64)
    offer = np.full(streams, -1, np.int64)
    spared = np.zeros(streams, np.int64)
    waiting = np.arange(streams)
    count = streams
    after = np.zeros(len(duration), np.int64)
    ops = np.zeros(len(duration), np.int64)
    starts = np.zeros(len(duration), np.int64)
    for _ in range(len(ends)):
        for waiter in range(count):
            s = waiting[waiter]
            offers = 0
            soonest = _NEVER
            low, high = first_step[state[s]], first_step[state[s] + 1]
            k = low
            j = 0
            while k < high or filler[s, j] >= 0:
                if k < high:
                    op, led = step_op[k], step_after[k]
                    c = op_class[op]
                    k += 1
                else:
                    c, led = filler[s, j], state[s]
                    op = first_op[c] + done[c]
                    j += 1
                    if op >= first_op[c + 1]:
                        continue
                n = op - first_op[c]
                start = free[s]
                if closing[c] >= 0 and done[c] - done[closing[c]] >= cap[c]:
                    start = _NEVER
                i = 0
                while leading[c, i] >= 0 and start < _NEVER:
                    before = ends[first_op[leading[c, i]] + n]
                    start = max(start, before + lag[c, i]) if before >= 0 else _NEVER
                    i += 1
                i = 0
                while held[c, i] >= 0 and start < _NEVER:
                    other = held[c, i]
                    more = allocated[c, i] if is_filled[other] == 1 else 0
                    if more > 0 and level[other] + more > room[other]:
                        start = _NEVER
                    if other != s and start < _NEVER:
                        start = max(start, free[other])
                        step = first_step[state[other]]
                        beyond = first_step[state[other] + 1]
                        while step < beyond and step_op[step] != op:
                            step += 1
                        if step == beyond:
                            start = _NEVER
                    i += 1
                if start < _NEVER:
                    ops[offers], after[offers], starts[offers] = op, led, start
                    soonest = min(soonest, start)
                    offers += 1
            offer[s], begin[s] = -1, _NEVER
            best = 0.0
            for k in range(offers):
                c = op_class[ops[k]]
                end = starts[k] + duration[c]
                left = late[after[k]]
                if is_filled[s] == 1:
                    left = min(left, spare[after[k]] + worked[s] + duration[c])
                is_last = left >= _NEVER
                left = 0 if is_last else left - end
                score = slack * left - idling * (starts[k] - soonest) + liking[c]
                if offer[s] < 0 or score > best:
                    best, offer[s], begin[s] = score, ops[k], starts[k]
                    spared[s] = _NEVER if is_last else left
            node = (leaves + s) >> 1
            while node > 0:
                left, right = first[2 * node], first[2 * node + 1]
                first[node] = right if begin[right] < begin[left] else left
                node >>= 1
        chosen = first[1]
        if offer[chosen] < 0 or spared[chosen] < least:
            return False
        op = offer[chosen]
        c = op_class[op]
        ends[op] = begin[chosen] + duration[c]
        done[c] += 1
        k = 0
        while held[c, k] >= 0:
            s = held[c, k]
            for step in range(first_step[state[s]], first_step[state[s] + 1]):
                if step_op[step] == op:  # in none, if it is a filler
                    state[s] = step_after[step]
                    break
            free[s] = ends[op]
            worked[s] += duration[c]
            level[s] += allocated[c, k] - released[c, k]
            k += 1
        count = 0
        while touched[c, count] >= 0:
            waiting[count] = touched[c, count]
            count += 1
    return True
