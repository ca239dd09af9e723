"""Replay of orders: every op starts as early as its stream and predecessors allow."""

from __future__ import annotations

from schedopt.lattice import Ints
from schedopt.search.tables import OpTables

LATE, WAITING, DONE = -1, 0, 1


def replay(  # noqa: C901, PLR0912 - one loop, as numba needs it
    tables: OpTables,
    flat: Ints,
    first: Ints,
    position: Ints,
    end: Ints,
    queue: Ints,
    latest: int,
) -> int:
    """Fill ``end`` for the ops from ``position`` on, stream by stream.

    Ends of ops before ``position`` are known, those from there on are -1. ``queue`` is
    room for two entries per stream.

    Returns
    -------
    int
        DONE; WAITING if ops wait for each other; LATE if the end of all is after
        ``latest``, in which case not all ends are filled.
    """
    duration, tail = tables.duration, tables.tail
    waits, lags, wakes, held = tables.waits, tables.lags, tables.wakes, tables.streams
    streams = len(first) - 1
    left = 0
    for s in range(streams):
        queue[s] = s
        queue[streams + s] = 1  # whether it is in the queue
        left += first[s + 1] - position[s]
    height = streams
    while height > 0:
        height -= 1
        s = queue[height]
        queue[streams + s] = 0
        while position[s] < first[s + 1]:
            op = flat[position[s]]
            # An op can start if what it waits for is done and it is next everywhere.
            start, k = 0, 0
            while start >= 0 and waits[op, k] >= 0:
                before = end[waits[op, k]]
                start = -1 if before < 0 else max(start, before + lags[op, k])
                k += 1
            k = 0
            while start >= 0 and held[op, k] >= 0:
                place = position[held[op, k]]
                if place >= first[held[op, k] + 1] or flat[place] != op:
                    start = -1
                elif place > first[held[op, k]]:
                    start = max(start, end[flat[place - 1]])
                k += 1
            if start < 0:
                break
            end[op] = start + duration[op]
            if end[op] + tail[op] > latest:
                return LATE
            k = 0
            while held[op, k] >= 0:
                other = held[op, k]
                k += 1
                position[other] += 1
                left -= 1
                if other != s and queue[streams + other] == 0:
                    queue[streams + other] = 1
                    queue[height] = other
                    height += 1
            k = 0
            while wakes[op, k] >= 0:
                other = held[wakes[op, k], 0]
                k += 1
                if other != s and queue[streams + other] == 0:
                    queue[streams + other] = 1
                    queue[height] = other
                    height += 1
    return DONE if left == 0 else WAITING
