"""Shaving: what no schedule can do is cut off the windows.

Suppose that an op ends within the first ``step`` beats of its window, or starts within
the last. If settling then finds a window too narrow, no schedule does that, and the
window loses these beats; steps grow for as long as that succeeds. So every op is looked
at one decision ahead, and where windows are narrow this refutes what no stream can
alone. The idea is that of P. Martin and D. B. Shmoys ("A new approach to computing
optimal schedules for the job-shop scheduling problem", IPCO 1996, section 3).
"""

from __future__ import annotations

from schedopt.lattice.memo import NEVER, Memo, mark
from schedopt.lattice.problem import Arrays, Ints
from schedopt.lattice.propagation import PAUSED, REFUTED, settle
from schedopt.lattice.states import Lattices

NOTHING_LEFT, UNCUT, CUT = -1, 0, 1


def begin_trial(memo: Memo, trial: Memo) -> None:
    """Let ``trial`` have the memo's windows, with nothing changed."""
    for op in range(len(memo.head)):
        trial.head[op] = memo.head[op]
        trial.last[op] = memo.last[op]
    for stream in range(len(memo.own)):
        trial.own[stream] = 0
    for place in range(trial.unseen.shape[1]):
        trial.unseen[0, place], trial.unseen[1, place] = NEVER, -1
    for c in range(trial.unpassed.shape[1]):
        trial.unpassed[0, c], trial.unpassed[1, c] = NEVER, -1
        trial.unpassed[2, c], trial.unpassed[3, c] = NEVER, -1


def is_possible(
    arrays: Arrays,
    lattices: Lattices,
    memo: Memo,
    trial: Memo,
    edge: Ints,
    step: int,
    patience: int,
) -> bool:
    """Whether settling allows an op to lie within ``step`` beats of a window's edge.

    It does, too, if it has looked at ``patience`` steps without an answer.
    """
    begin_trial(memo, trial)
    trial.limit[0] = trial.visits[0] + patience
    c, n = edge[0], edge[1]
    op = arrays.first_op[c] + n
    if edge[2] == 1:
        trial.head[op] = memo.last[op] - arrays.duration[c] - step + 1
    else:
        trial.last[op] = memo.head[op] + arrays.duration[c] + step - 1
    mark(arrays.places, trial.unseen, trial.unpassed, 2 - 2 * edge[2], c, n)
    return settle(arrays, lattices, trial, memo) != REFUTED


def shave(
    arrays: Arrays,
    lattices: Lattices,
    memo: Memo,
    trial: Memo,
    edge: Ints,
    least: int,
    patience: int,
) -> int:
    """Cut what is impossible off one edge of an op's window, in steps from ``least``.

    An edge is an op's class, its number in the class, and 1 for the window's end.
    """
    c, n = edge[0], edge[1]
    op = arrays.first_op[c] + n
    starts = memo.last[op] - arrays.duration[c] - memo.head[op] + 1
    if starts <= 1:
        return UNCUT
    cut, step = 0, min(least, starts)
    while not is_possible(arrays, lattices, memo, trial, edge, step, patience):
        cut = step
        if step >= starts:
            return NOTHING_LEFT
        step = min(2 * step, starts)
    if cut == 0:
        return UNCUT
    middle = (cut + step) // 2
    if step - cut > least and not is_possible(
        arrays, lattices, memo, trial, edge, middle, patience
    ):
        cut = middle
    if edge[2] == 1:
        memo.last[op] -= cut
    else:
        memo.head[op] += cut
    mark(arrays.places, memo.unseen, memo.unpassed, 2 * edge[2], c, n)
    return CUT


def refine(  # noqa: PLR0913, PLR0917 - arrays, as numba needs them
    arrays: Arrays,
    lattices: Lattices,
    memo: Memo,
    trial: Memo,
    edges: Ints,
    begin: int,
    least: int,
    patience: int,
    most_visits: int,
    cuts: Ints,
) -> int:
    """Settle the memo, then shave edges of windows; -1 if no schedule keeps them.

    Parameters
    ----------
    edges : array [edge, 3]
        See ``shave``.
    begin : int
        The first of them to be shaved.
    patience : int
        See ``is_possible``.
    most_visits : int
        Stop when about so many steps have been looked at.
    cuts : array of one
        How many edges could be cut; added to.

    Returns
    -------
    int
        The edge at which to go on; one more than their number if nothing is left to do.
    """
    memo.limit[0] = memo.visits[0] + most_visits
    for k in range(begin, len(edges) + 1):
        found = settle(arrays, lattices, memo, memo)
        if found == REFUTED:
            return -1
        if found == PAUSED or memo.visits[0] >= memo.limit[0]:
            return k
        if k < len(edges):
            shaved = shave(arrays, lattices, memo, trial, edges[k], least, patience)
            if shaved == NOTHING_LEFT:
                return -1
            cuts[0] += shaved
    return len(edges) + 1
