"""Annealing on orders: shift one op along a stream, replay, accept or undo.

A move takes an op, mostly from a random critical path, and shifts it along a stream of
its by an exponentially distributed distance, stopping at ops that it must stay before
or after (its own class, and what its microbatch must run before or after it). The cost
is the makespan plus a twentieth of the streams' last ends, which gives the search a
gradient where the makespan alone is flat. A cycle or an excess of memory rejects the
move.

Only ops that start no earlier than the first changed place are replayed, and only until
one of them, with the least that must follow it, ends too late to be accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schedopt.compiled import compiled
from schedopt.lattice import Ints, Problem
from schedopt.search import draws, replaying
from schedopt.search.draws import TABLE, draw, exponentials, seeded
from schedopt.search.replaying import DONE, replay
from schedopt.search.tables import OpTables, sequences_of, tables_of

_NEVER = 2**61
_SPREAD = 0.05
"""What an end of a stream counts, as a part of the makespan."""


@dataclass(frozen=True, slots=True)
class Annealing:
    """How to anneal.

    Attributes
    ----------
    moves : int
        Moves tried.
    hot, cold : float
        First and last temperature, in mean durations of an op.
    reach : float
        Mean distance of a shift, ops.
    """

    moves: int
    hot: float = 0.45
    cold: float = 0.02
    reach: float = 3.0


_HELPERS = (
    draws.draw,
    replaying.replay,
)


def anneal(
    problem: Problem,
    ends: Ints,
    effort: Annealing,
    *,
    seed: int,
    compile_loops: bool = True,
) -> Ints | None:
    """The ends of the best schedule met from this one; None without tables."""
    tables = tables_of(problem)
    if tables is None:
        return None
    flat, first = sequences_of(tables, ends, len(problem.streams))
    room = np.array([rules.room for rules in problem.rules], np.int64)
    mean = max(1.0, float(tables.duration.mean()))
    run: Any = _anneal
    if compile_loops:
        run = compiled(_anneal, *_HELPERS, find_path, shift, fits, replay_from)
    exponential = exponentials()
    best: Ints = run(
        tables,
        flat,
        first,
        room,
        effort.moves,
        effort.hot * mean,
        (effort.cold / effort.hot) ** (1.0 / max(1, effort.moves)),
        mean,
        exponential,
        1 + (effort.reach * exponential).astype(np.int64),
        seeded(seed),
    )
    return best if len(best) else None


def find_path(  # noqa: C901, PLR0912 - one loop, as numba needs it
    tables: OpTables,
    flat: Ints,
    first: Ints,
    where: Ints,
    end: Ints,
    path: Ints,
    state: Ints,
) -> int:
    """A random critical path, last op first, in ``path``; its length."""
    makespan, tips = 0, 0
    for s in range(len(first) - 1):
        if first[s + 1] > first[s]:
            last = end[flat[first[s + 1] - 1]]
            if last > makespan:
                makespan, tips = last, 0
            if last == makespan:
                tips += 1
    pick = draw(state) % tips
    op = -1
    for s in range(len(first) - 1):
        if first[s + 1] > first[s] and end[flat[first[s + 1] - 1]] == makespan:
            if pick == 0:
                op = flat[first[s + 1] - 1]
            pick -= 1
    length = 0
    while op >= 0 and length < len(path):
        path[length] = op
        length += 1
        start = end[op] - tables.duration[op]
        # One of the ops that it starts right after, each as likely as the others.
        before, found = -1, 0
        k = 0
        while tables.waits[op, k] >= 0:
            other = tables.waits[op, k]
            if end[other] + tables.lags[op, k] == start and start > 0:
                found += 1
                if draw(state) % found == 0:
                    before = other
            k += 1
        k = 0
        while tables.streams[op, k] >= 0:
            place = where[op, k]
            if place > first[tables.streams[op, k]] and end[flat[place - 1]] == start:
                found += 1
                if draw(state) % found == 0:
                    before = flat[place - 1]
            k += 1
        op = before
    return length


def shift(
    tables: OpTables, flat: Ints, where: Ints, stream: int, origin: int, target: int
) -> None:
    """Move the op at one place of a stream to another; those between make room."""
    moved = flat[origin]
    step = 1 if target > origin else -1
    index = origin
    while index != target:
        flat[index] = flat[index + step]
        k = 0
        while tables.streams[flat[index], k] != stream:
            k += 1
        where[flat[index], k] = index
        index += step
    flat[target] = moved
    k = 0
    while tables.streams[moved, k] != stream:
        k += 1
    where[moved, k] = target


def fits(
    tables: OpTables,
    flat: Ints,
    stream: int,
    begin: int,
    low: int,
    high: int,
    room: int,
) -> bool:
    """Whether memory on a stream is kept between two places of its order."""
    level = 0
    for index in range(begin, high + 1):
        op = flat[index]
        k = 0
        while tables.streams[op, k] != stream:
            k += 1
        level += tables.allocated[op, k]
        if index >= low and level > room and tables.allocated[op, k] > 0:
            return False
        level -= tables.released[op, k]
    return True


def replay_from(  # noqa: PLR0913, PLR0917 - arrays, as numba needs them
    tables: OpTables,
    flat: Ints,
    first: Ints,
    position: Ints,
    end: Ints,
    fresh: Ints,
    queue: Ints,
    stream: int,
    low: int,
    latest: int,
) -> int:
    """Replay what may change if a stream's order is new from the place ``low`` on.

    ``end`` is that of the order before, ``fresh`` is filled.
    """
    since = end[flat[low - 1]] if low > first[stream] else 0
    # Ops of no duration just before start then, too, on other streams of theirs.
    while low > first[stream] and end[flat[low - 1]] == since:
        if tables.duration[flat[low - 1]] > 0:
            break
        low -= 1
    for op in range(len(end)):
        fresh[op] = end[op]
    for s in range(len(first) - 1):
        # The first op that started no earlier, by bisection; ops of the changed stream
        # from `low` on have other places now, but all of them did.
        lowest, highest = first[s], first[s + 1]
        if s == stream:
            lowest = highest = low
        while lowest < highest:
            middle = (lowest + highest) // 2
            if end[flat[middle]] - tables.duration[flat[middle]] >= since:
                highest = middle
            else:
                lowest = middle + 1
        position[s] = lowest
        for index in range(lowest, first[s + 1]):
            fresh[flat[index]] = -1
    return replay(tables, flat, first, position, fresh, queue, latest)


def _anneal(  # noqa: C901, PLR0912, PLR0913, PLR0915, PLR0917 - one loop, as numba needs it
    tables: OpTables,
    flat: Ints,
    first: Ints,
    room: Ints,
    moves: int,
    temperature: float,
    cooling: float,
    mean: float,
    exponential: npt.NDArray[np.float64],
    distances: Ints,
    state: Ints,
) -> Ints:
    """The ends of the best order met; nothing if the first one deadlocks."""
    ops, streams = len(tables.duration), len(first) - 1
    where = np.zeros(tables.streams.shape, np.int64)
    for s in range(streams):
        for index in range(first[s], first[s + 1]):
            k = 0
            while tables.streams[flat[index], k] != s:
                k += 1
            where[flat[index], k] = index
    end = np.zeros(ops, np.int64)
    fresh = np.zeros(ops, np.int64)
    best = np.zeros(ops, np.int64)
    position = np.zeros(streams, np.int64)
    queue = np.zeros(2 * streams, np.int64)
    path = np.zeros(ops, np.int64)
    for op in range(ops):
        end[op] = -1
    for s in range(streams):
        position[s] = first[s]
    if replay(tables, flat, first, position, end, queue, _NEVER) != DONE:
        return best[:0]
    cost, best_makespan, makespan, length = 0.0, _NEVER, 0, 0
    changed = True
    for _ in range(moves + 1):
        if changed:
            makespan, spread = 0, 0
            for s in range(streams):
                if first[s + 1] > first[s]:
                    last = end[flat[first[s + 1] - 1]]
                    spread += last
                    makespan = max(makespan, last)
            cost = makespan + _SPREAD * spread
            if makespan < best_makespan:
                best_makespan = makespan
                for op in range(ops):
                    best[op] = end[op]
            length = find_path(tables, flat, first, where, end, path, state)
            changed = False
        temperature *= cooling
        if draw(state) % 100 < 85:
            moved = path[draw(state) % length]
        else:
            moved = draw(state) % ops
        k = 0
        while tables.streams[moved, k + 1] >= 0 and draw(state) % 2 == 0:
            k += 1
        s = tables.streams[moved, k]
        distance = distances[draw(state) % TABLE]
        step = 1 if draw(state) % 2 == 0 else -1
        origin = where[moved, k]
        target = origin
        c, n = tables.op_class[moved], tables.number[moved]
        for _ in range(distance):
            if target + step < first[s] or target + step >= first[s + 1]:
                break
            other = flat[target + step]
            d = tables.op_class[other]
            if d == c or (tables.number[other] == n and tables.chained[c, d] == 1):
                break
            target += step
        if target == origin:
            continue
        shift(tables, flat, where, s, origin, target)
        low, high = min(origin, target), max(origin, target)
        margin = temperature * exponential[draw(state) % TABLE]
        accepted = False
        if fits(tables, flat, s, first[s], low, high, room[s]):
            latest = makespan + int(margin + _SPREAD * streams * mean)
            found = replay_from(
                tables, flat, first, position, end, fresh, queue, s, low, latest
            )
            if found == DONE:
                longest, spread = 0, 0
                for other in range(streams):
                    if first[other + 1] > first[other]:
                        last = fresh[flat[first[other + 1] - 1]]
                        spread += last
                        longest = max(longest, last)
                # With probability exp(-change / temperature), since so often does an
                # exponentially distributed number exceed change / temperature.
                accepted = longest + _SPREAD * spread - cost <= margin
        if accepted:
            end, fresh = fresh, end
            changed = True
        else:
            shift(tables, flat, where, s, target, origin)
    return best
