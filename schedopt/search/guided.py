"""A greedy that the lattices guide: of what may run next, what leaves most slack.

Every stream offers one op: of the steps from its state whose predecessors have run the
one with the highest score, and of all streams the offer with the earliest start is
taken. An op scores

    slack x (L(s) - end) - idling x (start - earliest start) + liking of its class,

where L(s) is the latest time from which the rest of the stream can still run within the
windows of ``schedopt.lattice``, s being the state that the op leads to. So what is put
off too long, what memory will soon forbid, and what other devices wait for, are all
weighed against each other by their exact consequences for the stream.

A class that makes buffers may have a cap on how many of its ops are ahead of those of
the class that frees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schedopt.compiled import compiled
from schedopt.lattice import Ints, Windows
from schedopt.lattice.problem import Arrays
from schedopt.lattice.states import Lattices
from schedopt.search.tables import OpTables

NO_CAP = 2**40

_NEVER = 2**61

Floats = npt.NDArray[np.float64]


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
        run = compiled(_run, _offer, _step_of)
    problem, lattices, late = windows.guide
    done, ends = run(
        problem.arrays,
        lattices,
        late,
        tables,
        closing,
        rule.slack,
        rule.idling,
        rule.liking,
        rule.cap,
    )
    return ends if done else None


def _step_of(lattices: Lattices, state: int, op: int) -> int:
    """The step from a state that runs an op; -1 if there is none."""
    for step in range(lattices.first_step[state], lattices.first_step[state + 1]):
        if lattices.op[step] == op:
            return step
    return -1


def _offer(  # noqa: PLR0913, PLR0917 - arrays, as numba needs them
    lattices: Lattices,
    late: Ints,
    tables: OpTables,
    end: Ints,
    state: Ints,
    free: Ints,
    done: Ints,
    closing: Ints,
    slack: float,
    idling: float,
    liking: Floats,
    cap: Ints,
    s: int,
    starts: Ints,
) -> int:
    """The step that a stream offers; -1 if none can be taken now.

    ``starts`` is room for the steps from one state.
    """
    first, last = lattices.first_step[state[s]], lattices.first_step[state[s] + 1]
    soonest = _NEVER
    for step in range(first, last):
        op = lattices.op[step]
        c = tables.op_class[op]
        start = free[s]
        k = 0
        while tables.waits[op, k] >= 0:
            before = end[tables.waits[op, k]]
            start = _NEVER if before < 0 else max(start, before + tables.lags[op, k])
            k += 1
        k = 0
        while start < _NEVER and tables.streams[op, k] >= 0:
            other = tables.streams[op, k]
            k += 1
            if other != s and _step_of(lattices, state[other], op) < 0:
                start = _NEVER
            start = max(start, free[other])
        if closing[c] >= 0 and done[c] - done[closing[c]] >= cap[c]:
            start = _NEVER
        starts[step - first] = start
        soonest = min(soonest, start)
    best, chosen = 0.0, -1
    for step in range(first, last):
        start = starts[step - first]
        if start >= _NEVER:
            continue
        op = lattices.op[step]
        left = late[lattices.after[step]]
        left = 0 if left >= _NEVER else left - start - tables.duration[op]
        score = slack * left - idling * (start - soonest) + liking[tables.op_class[op]]
        if chosen < 0 or score > best:
            best, chosen = score, step
    return chosen


def _run(  # noqa: PLR0913, PLR0917 - arrays, as numba needs them
    arrays: Arrays,
    lattices: Lattices,
    late: Ints,
    tables: OpTables,
    closing: Ints,
    slack: float,
    idling: float,
    liking: Floats,
    cap: Ints,
) -> tuple[bool, Ints]:
    streams, ops = len(lattices.first_level) - 1, len(tables.duration)
    end = np.zeros(ops, np.int64)
    state = np.zeros(streams, np.int64)
    free = np.zeros(streams, np.int64)
    offer = np.zeros(streams, np.int64)
    begin = np.zeros(streams, np.int64)
    stale = np.zeros(streams, np.int64)
    done = np.zeros(len(arrays.duration), np.int64)
    starts = np.zeros(len(arrays.duration), np.int64)
    for op in range(ops):
        end[op] = -1
    for s in range(streams):
        state[s] = lattices.level_begin[lattices.first_level[s]]
        stale[s] = 1
    for _ in range(ops):
        chosen = -1
        for s in range(streams):
            if stale[s] == 1:
                stale[s] = 0
                offer[s] = _offer(
                    lattices,
                    late,
                    tables,
                    end,
                    state,
                    free,
                    done,
                    closing,
                    slack,
                    idling,
                    liking,
                    cap,
                    s,
                    starts,
                )
                if offer[s] >= 0:
                    begin[s] = starts[offer[s] - lattices.first_step[state[s]]]
            if offer[s] >= 0 and (chosen < 0 or begin[s] < begin[chosen]):
                chosen = s
        if chosen < 0:
            return False, end
        op = lattices.op[offer[chosen]]
        end[op] = begin[chosen] + tables.duration[op]
        done[tables.op_class[op]] += 1
        k = 0
        while tables.streams[op, k] >= 0:
            s = tables.streams[op, k]
            k += 1
            state[s] = lattices.after[_step_of(lattices, state[s], op)]
            free[s] = end[op]
            stale |= tables.shared[s]  # what others offer may need this one, too
        k = 0
        while tables.wakes[op, k] >= 0:
            woken = tables.wakes[op, k]
            k += 1
            j = 0
            while tables.streams[woken, j] >= 0:
                stale[tables.streams[woken, j]] = 1
                j += 1
    return True, end
