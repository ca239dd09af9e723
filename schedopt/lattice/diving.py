"""Diving: ops are given their places one by one, and settling says what follows.

Of all streams the one that can go on first takes its next step: of those that its
windows allow the one with the highest score (see ``schedopt.search.guided``). The op is
tried at its earliest start; if settling refutes that, it starts later, and the stream
is asked again. A dive ends with a schedule, or where nothing is left.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schedopt.lattice.problem import Arrays, Ints
from schedopt.lattice.propagation import (
    NEVER,
    REFUTED,
    Memo,
    mark,
    settle,
)
from schedopt.lattice.shaving import begin_trial
from schedopt.lattice.states import Lattices

Floats = npt.NDArray[np.float64]


def adopt(lattices: Lattices, memo: Memo, trial: Memo) -> None:
    """Give the memo what a trial has found."""
    for op in range(len(memo.head)):
        memo.head[op] = trial.head[op]
        memo.last[op] = trial.last[op]
    for s in range(len(memo.own)):
        if trial.own[s] == 1:
            begin = lattices.level_begin[lattices.first_level[s]]
            end = lattices.level_begin[lattices.first_level[s + 1] - 1]
            for state in range(begin, end):
                memo.early[state] = trial.early[state]
                memo.late[state] = trial.late[state]


def next_start(lattices: Lattices, memo: Memo, state: int, free: int) -> int:
    """When the next step from a state can begin."""
    soonest = NEVER
    for step in range(lattices.first_step[state], lattices.first_step[state + 1]):
        op, after = lattices.op[step], lattices.after[step]
        start = max(free, memo.head[op])
        if start + memo.duration[op] <= min(memo.last[op], memo.late[after]):
            soonest = min(soonest, start)
    return soonest


def best_step(
    lattices: Lattices,
    memo: Memo,
    state: int,
    free: int,
    soonest: int,
    slack: float,
    idling: float,
    liking: Floats,
) -> int:
    """The step with the highest score; -1 if there is none."""
    best, chosen = 0.0, -1
    for step in range(lattices.first_step[state], lattices.first_step[state + 1]):
        op, after = lattices.op[step], lattices.after[step]
        start = max(free, memo.head[op])
        end = start + memo.duration[op]
        if end > min(memo.last[op], memo.late[after]):
            continue
        left = 0 if memo.late[after] >= NEVER else memo.late[after] - end
        score = slack * left - idling * (start - soonest) + liking[op]
        if chosen < 0 or score > best:
            best, chosen = score, step
    return chosen


def dive(
    arrays: Arrays,
    lattices: Lattices,
    memo: Memo,
    trial: Memo,
    class_of: Ints,
    slack: float,
    idling: float,
    liking: Floats,
    most_refuted: int,
) -> int:
    """Narrow the memo to one schedule, whose starts are its heads.

    Returns 1 if that was possible, 0 if nothing is left, -1 if it takes too long.
    """
    streams = len(lattices.first_level) - 1
    state = np.zeros(streams, np.int64)
    free = np.zeros(streams, np.int64)
    soonest = np.zeros(streams, np.int64)
    for s in range(streams):
        state[s] = lattices.level_begin[lattices.first_level[s]]
    refuted = 0
    while True:
        chosen = -1
        for s in range(streams):
            soonest[s] = next_start(lattices, memo, state[s], free[s])
            if soonest[s] < NEVER and (chosen < 0 or soonest[s] < soonest[chosen]):
                chosen = s
        if chosen < 0:
            for s in range(streams):
                if (
                    state[s]
                    != lattices.level_begin[lattices.first_level[s + 1] - 1] - 1
                ):
                    return 0
            return 1
        s = chosen
        step = best_step(
            lattices, memo, state[s], free[s], soonest[s], slack, idling, liking
        )
        op = lattices.op[step]
        c = class_of[op]
        n = op - arrays.first_op[c]
        start = max(free[s], memo.head[op])
        end = start + memo.duration[op]
        fixed = memo.head[op] == start and memo.last[op] == end
        if not fixed:
            begin_trial(memo, trial)
            trial.head[op], trial.last[op] = start, end
            mark(arrays.places, trial.unseen, trial.unpassed, 0, c, n)
            mark(arrays.places, trial.unseen, trial.unpassed, 2, c, n)
            if settle(arrays, lattices, trial, memo) == REFUTED:
                refuted += 1
                if refuted > most_refuted:
                    return -1
                memo.head[op] = start + 1
                if start + 1 + memo.duration[op] > memo.last[op]:
                    return 0
                mark(arrays.places, memo.unseen, memo.unpassed, 0, c, n)
                if settle(arrays, lattices, memo, memo) == REFUTED:
                    return 0
                continue
            adopt(lattices, memo, trial)
        state[s] = lattices.after[step]
        free[s] = end
