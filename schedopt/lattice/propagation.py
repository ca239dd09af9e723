"""Windows made narrower until nothing changes: along edges and through lattices.

A *window* of an op is its earliest start and its latest end in schedules that end by
some time. Edges pass windows on from op to op. A stream's lattice makes the windows of
its ops as narrow as the stream alone can tell: with E(s) the earliest time in state s
and L(s) the latest at which the rest can still run, an op may run from state s to state
t if max(E(s), head) + duration <= min(L(t), last), and its new window spans all states
from which it may. No path is left out that keeps the windows, and none is kept that
does not.

If a window becomes too narrow, or a stream has no path, there is no such schedule.

Where fillers are left out (``states``), a path has gaps that they fill. In state s
``most`` of work can have been done, so that the stream has been idle for E(s) - most(s)
at least, and later it has been so at least as long. The least idle time I(s) over all
paths to s goes forward with E: a step that makes buffers starts no earlier than I(s)
plus what must have been done by then. In the other direction, the latest such start
less what must have been done limits the idle time before, U(s); that of the end is its
time less all work. So s must be left by U(s) + most(s).

E and L are kept from one sweep to the next. A sweep redoes the levels that changed
windows touch, and goes on only while values change.
"""

from __future__ import annotations

from schedopt.lattice.memo import NEVER, Memo, mark
from schedopt.lattice.problem import Arrays, Ints
from schedopt.lattice.states import Lattices

REFUTED, SETTLED, PAUSED = -1, 0, 1


def follow_edges(arrays: Arrays, memo: Memo) -> bool:
    """Pass changed windows on along edges; False if one becomes too narrow.

    Classes stand in topological order, so one pass in each direction is enough.
    """
    first, places, duration = arrays.first_op, arrays.places, arrays.duration
    head, last, unseen, unpassed = memo.head, memo.last, memo.unseen, memo.unpassed
    for c in range(len(duration)):
        low, high = unpassed[0, c], unpassed[1, c]
        unpassed[0, c], unpassed[1, c] = NEVER, -1
        k = 0
        while low <= high and arrays.following[c, k] >= 0:
            other, wait = arrays.following[c, k], arrays.follow_wait[c, k]
            k += 1
            for n in range(low, high + 1):
                start, op = head[first[c] + n] + wait, first[other] + n
                if start > head[op]:
                    head[op] = start
                    mark(places, unseen, unpassed, 0, other, n)
                    if start + duration[other] > last[op]:
                        return False
    for c in range(len(duration) - 1, -1, -1):
        low, high = unpassed[2, c], unpassed[3, c]
        unpassed[2, c], unpassed[3, c] = NEVER, -1
        k = 0
        while low <= high and arrays.leading[c, k] >= 0:
            other, wait = arrays.leading[c, k], arrays.lead_wait[c, k]
            k += 1
            for n in range(low, high + 1):
                end, op = last[first[c] + n] - wait, first[other] + n
                if end < last[op]:
                    last[op] = end
                    mark(places, unseen, unpassed, 2, other, n)
                    if end - duration[other] < head[op]:
                        return False
    return True


def level_of(begin: Ints, state: int) -> int:
    """The level that a state belongs to, by bisection."""
    low, high = 0, len(begin) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if begin[middle] <= state:
            low = middle
        else:
            high = middle
    return low


def sweep_forward(  # noqa: C901, PLR0912 - one loop, as numba needs it
    lattices: Lattices, memo: Memo, is_filled: int, begin: Ints, first: int, last: int
) -> int:
    """Redo E from level ``first``, at least to ``last``; the last level that changed.

    ``begin`` says where the stream's levels begin.
    """
    early, idle, head, latest = memo.early, memo.idle, memo.head, memo.last
    duration, before, makes = memo.duration, memo.before, memo.makes
    first_step, ops, afters = lattices.first_step, lattices.op, lattices.after
    if first == 0:
        early[begin[0]] = 0
        if is_filled == 1:
            idle[begin[0]] = -lattices.most[begin[0]]
    level = first
    while level < len(begin) - 2:
        base, until = begin[level + 1], begin[level + 2]
        for k in range(base, until):
            before[0, k - base] = early[k]
            early[k] = NEVER
            if is_filled == 1:
                before[1, k - base] = idle[k]
                idle[k] = NEVER
        for state in range(begin[level], base):
            time = early[state]
            if time >= NEVER:
                continue
            waiting = 0
            if is_filled == 1:
                waiting = idle[state] + lattices.must[state]
            for step in range(first_step[state], first_step[state + 1]):
                op, after = ops[step], afters[step]
                end = max(time, head[op], makes[op] * waiting) + duration[op]
                if end <= latest[op]:
                    early[after] = min(early[after], end)
                    if is_filled == 1:
                        idle[after] = min(idle[after], idle[state])
        memo.visits[0] += first_step[base] - first_step[begin[level]]
        changed = False
        for k in range(base, until):
            changed |= early[k] != before[0, k - base]
            if is_filled == 1:
                if early[k] < NEVER:
                    idle[k] = max(idle[k], early[k] - lattices.most[k])
                changed |= idle[k] != before[1, k - base]
        level += 1
        if not changed and level > last:
            break
    return level


def sweep_backward(
    lattices: Lattices,
    memo: Memo,
    is_filled: int,
    begin: Ints,
    first: int,
    last: int,
    end: int,
) -> int:
    """Redo L from level ``last``, at least to ``first``; the first that changed.

    By ``end`` the stream's last op has ended.
    """
    late, spare, head, latest = memo.late, memo.spare, memo.head, memo.last
    duration, makes = memo.duration, memo.makes
    first_step, ops, afters = lattices.first_step, lattices.op, lattices.after
    late[begin[-1] - 1] = NEVER
    if is_filled == 1:
        spare[begin[-1] - 1] = end - lattices.most[begin[-1] - 1]
    level = last
    while level >= 0:
        changed = False
        for state in range(begin[level], begin[level + 1]):
            best, most_spare = -1, -NEVER
            for step in range(first_step[state], first_step[state + 1]):
                op = ops[step]
                start = min(latest[op], late[afters[step]]) - duration[op]
                if start < head[op]:
                    continue
                best = max(best, start)
                if is_filled == 1:
                    left = spare[afters[step]]
                    if makes[op] == 1:
                        left = min(left, start - lattices.must[state])
                    most_spare = max(most_spare, left)
            if is_filled == 1:
                changed |= most_spare != spare[state]
                spare[state] = most_spare
                best = max(-1, min(best, most_spare + lattices.most[state]))
            changed |= best != late[state]
            late[state] = best
        memo.visits[0] += first_step[begin[level + 1]] - first_step[begin[level]]
        level -= 1
        if not changed and level < first:
            break
    return level + 1


def find_windows(
    lattices: Lattices, memo: Memo, is_filled: int, begin: int, end: int
) -> None:
    """The windows of all ops that steps from states ``begin`` to ``end`` run."""
    early, late, head, latest = memo.early, memo.late, memo.head, memo.last
    duration, makes, found = memo.duration, memo.makes, memo.found
    first_step, ops, afters = lattices.first_step, lattices.op, lattices.after
    for state in range(begin, end + 1):
        time = early[state]
        if time > late[state]:
            continue
        waiting = 0
        if is_filled == 1:
            waiting = memo.idle[state] + lattices.must[state]
        for step in range(first_step[state], first_step[state + 1]):
            op = ops[step]
            start = max(time, head[op], makes[op] * waiting)
            until = min(latest[op], late[afters[step]])
            if start + duration[op] <= until:
                found[0, op] = min(found[0, op], start)
                found[1, op] = max(found[1, op], until)
    memo.visits[0] += first_step[end + 1] - first_step[begin]


def narrow(
    arrays: Arrays, lattices: Lattices, memo: Memo, stream: int, begin: int, end: int
) -> bool:
    """New windows for ops that run from states between ``begin`` and ``end``.

    False if one of them cannot run at all.
    """
    first, last = end + 1, begin - 1
    spans = lattices.first_span
    span_begin, span_end = lattices.span_begin, lattices.span_end
    places = range(arrays.first_place[stream], arrays.first_place[stream + 1])
    for place in places:
        first_op = arrays.first_op[arrays.class_at[place]]
        for span in range(spans[place], spans[place + 1]):
            op = first_op + span - spans[place]
            if span_end[span] >= begin and span_begin[span] <= end:
                memo.found[0, op], memo.found[1, op] = NEVER, -1
                first = min(first, span_begin[span])
                last = max(last, span_end[span])
    if first <= last:
        find_windows(lattices, memo, lattices.is_filled[stream], first, last)
    for place in places:
        c = arrays.class_at[place]
        for span in range(spans[place], spans[place + 1]):
            n = span - spans[place]
            op = arrays.first_op[c] + n
            if span_end[span] >= begin and span_begin[span] <= end:
                start, until = memo.found[0, op], memo.found[1, op]
                if until < 0:
                    return False
                if start > memo.head[op]:
                    memo.head[op] = start
                    mark(arrays.places, memo.unseen, memo.unpassed, 0, c, n)
                if until < memo.last[op]:
                    memo.last[op] = until
                    mark(arrays.places, memo.unseen, memo.unpassed, 2, c, n)
        memo.unseen[0, place], memo.unseen[1, place] = NEVER, -1
    return True


def sweep(arrays: Arrays, lattices: Lattices, memo: Memo, stream: int) -> bool:
    """Make the windows of a stream's ops as narrow as its lattice allows.

    False if the stream has no path within the windows.
    """
    begin = lattices.level_begin[
        lattices.first_level[stream] : lattices.first_level[stream + 1]
    ]
    # The states from which an op with a changed window runs.
    first, last, end = begin[-1], -1, 0
    for place in range(arrays.first_place[stream], arrays.first_place[stream + 1]):
        low, high = memo.unseen[0, place], memo.unseen[1, place]
        memo.unseen[0, place], memo.unseen[1, place] = NEVER, -1
        span = lattices.first_span[place]
        if low <= high and lattices.span_end[span + high] >= 0:
            first = min(first, lattices.span_begin[span + low])
            last = max(last, lattices.span_end[span + high])
        c = arrays.class_at[place]
        if arrays.first_op[c + 1] > arrays.first_op[c]:
            end = max(end, memo.last[arrays.first_op[c + 1] - 1])
    if last < 0:
        return True
    first, last = level_of(begin, first), level_of(begin, last)
    is_filled = lattices.is_filled[stream]
    until = sweep_forward(lattices, memo, is_filled, begin, first, last)
    if memo.early[begin[-1] - 1] >= NEVER:
        return False
    since = sweep_backward(lattices, memo, is_filled, begin, first, last, end)
    if memo.late[begin[0]] < 0:
        return False
    # A step is possible or not by E before it, its op's window, and L after it.
    lowest = max(0, min(since, first) - 1)
    highest = min(max(until, last) + 1, len(begin) - 1)
    return narrow(arrays, lattices, memo, stream, begin[lowest], begin[highest] - 1)


def is_touched(unseen: Ints, first_place: int, end_place: int) -> bool:
    """Whether an op has a window that the stream's sweep has not seen."""
    for place in range(first_place, end_place):
        if unseen[0, place] <= unseen[1, place]:
            return True
    return False


def settle(arrays: Arrays, lattices: Lattices, memo: Memo, origin: Memo) -> int:
    """Narrow all windows until nothing changes.

    ``origin`` has E and L of streams for which the memo has none of its own. The result
    is REFUTED if no schedule keeps the windows, SETTLED if nothing more is to be
    learnt, and PAUSED if the memo's limit is reached: called again it goes on.
    """
    if not follow_edges(arrays, memo):
        return REFUTED
    streams = len(lattices.first_level) - 1
    downwards, again = False, True
    while again:
        again = False
        for k in range(streams):
            # In turns up and down the streams, since so do data in a pipeline.
            stream = streams - 1 - k if downwards else k
            begin = lattices.level_begin[lattices.first_level[stream]]
            end = lattices.level_begin[lattices.first_level[stream + 1] - 1]
            if begin == end or not is_touched(
                memo.unseen, arrays.first_place[stream], arrays.first_place[stream + 1]
            ):
                continue
            if memo.visits[0] >= memo.limit[0]:
                return PAUSED
            again = True
            if memo.own[stream] == 0:
                memo.own[stream] = 1
                for state in range(begin, end):
                    memo.early[state] = origin.early[state]
                    memo.late[state] = origin.late[state]
                    if lattices.is_filled[stream] == 1:
                        memo.idle[state] = origin.idle[state]
                        memo.spare[state] = origin.spare[state]
            if not sweep(arrays, lattices, memo, stream):
                return REFUTED
            if not follow_edges(arrays, memo):
                return REFUTED
        downwards = not downwards
    return SETTLED
