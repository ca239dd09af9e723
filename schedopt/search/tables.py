"""What search reads of a problem, by op and by class, and schedules as arrays of ends.

Schedules of a problem (``schedopt.lattice``) are arrays of ends by op number, in beats;
orders are the op numbers of all streams, one stream after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from schedopt.lattice import Ints, Problem
from schedopt.lattice.windows import earliest_and_latest
from schedopt.ops import Op
from schedopt.schedule import Schedule


class OpTables(NamedTuple):
    """By op number; rows end with -1.

    Attributes
    ----------
    duration : array by op
    op_class, number : arrays by op
        Its class, and its number in it.
    waits, lags : arrays [op, k]
        The ops that it waits for, and the lags.
    wakes : array [op, k]
        The ops that wait for it.
    streams : array [op, k]
        The streams that it holds.
    allocated, released : arrays [op, k]
        Grains at its start and at its end, on the device of its k-th stream.
    tail : array by op
        The least time from its end to the end of all.
    chained : array [class, class]
        1 where ops of equal number cannot change places.
    """

    duration: Ints
    op_class: Ints
    number: Ints
    waits: Ints
    lags: Ints
    wakes: Ints
    streams: Ints
    allocated: Ints
    released: Ints
    tail: Ints
    chained: Ints


class ClassTables(NamedTuple):
    """By class, beside ``lattice.problem.Arrays``: small enough to stay in a cache.

    Attributes
    ----------
    op_class : array by op
    lag : array [class, k]
        The lags of ``Arrays.leading``.
    streams : array [class, k]
        The streams that its ops hold; rows end with -1.
    touched : array [class, k]
        The streams that may offer something else once an op has run: those that hold
        some op together with one of its own, and those of ops that wait for it.
    allocated, released : arrays [class, k]
        Grains at an op's start and at its end, on the device of its k-th stream.
    """

    op_class: Ints
    lag: Ints
    streams: Ints
    touched: Ints
    allocated: Ints
    released: Ints


@lru_cache(maxsize=4)
def class_tables_of(problem: Problem) -> ClassTables:
    """The tables by class, of a problem that has tables by op."""
    arrays, streams = problem.arrays, len(problem.streams)
    counts = np.diff(arrays.first_op)
    stream_at = np.repeat(np.arange(streams), np.diff(arrays.first_place))
    held = np.where(arrays.places < 0, -1, stream_at[arrays.places])
    touched = np.full((len(counts), streams + 1), -1, np.int64)
    for c, following in enumerate(arrays.following):
        sharing = held[np.isin(held, held[c][held[c] >= 0]).any(axis=1)]
        found = np.union1d(sharing, held[following[following >= 0]])
        touched[c, : (found >= 0).sum()] = found[found >= 0]
    allocated, released = _memory_changes(problem)
    return ClassTables(
        op_class=np.repeat(np.arange(len(counts)), counts),
        lag=arrays.lead_wait - arrays.duration[:, None],
        streams=held,
        touched=touched,
        allocated=allocated,
        released=released,
    )


@lru_cache(maxsize=4)
def tables_of(problem: Problem) -> OpTables | None:
    """The tables; None where the order of ops does not tell what memory is needed.

    Every buffer must be made and freed by ops of its device's stream, and have one
    user.
    """
    if not problem.is_complete:
        return None
    if any((np.diff(rules.first_user) != 1).any() for rules in problem.rules):
        return None
    arrays, by_class = problem.arrays, class_tables_of(problem)
    op_class = by_class.op_class
    number = np.arange(len(op_class)) - arrays.first_op[op_class]
    classes = len(arrays.duration)
    chained = problem.reached | problem.reached.T | np.eye(classes, dtype=np.int64)
    return OpTables(
        duration=arrays.duration[op_class],
        op_class=op_class,
        number=number,
        waits=_ops(arrays.leading, arrays.first_op, op_class, number),
        lags=by_class.lag[op_class],
        wakes=_ops(arrays.following, arrays.first_op, op_class, number),
        streams=by_class.streams[op_class],
        allocated=by_class.allocated[op_class],
        released=by_class.released[op_class],
        tail=-earliest_and_latest(arrays, 0)[1],
        chained=chained,
    )


def _ops(classes: Ints, first_op: Ints, op_class: Ints, number: Ints) -> Ints:
    """The ops of equal number in the classes that a row lists."""
    rows = classes[op_class]
    return np.where(rows < 0, -1, first_op[rows] + number[:, None])


def _memory_changes(problem: Problem) -> tuple[Ints, Ints]:
    """What an op of each class allocates at its start and releases at its end.

    By class and place: an op that holds streams of several devices may allocate on one
    and release on another.
    """
    arrays = problem.arrays
    allocated = np.zeros(arrays.places.shape, np.int64)
    released = np.zeros_like(allocated)
    for rules, begin in zip(problem.rules, arrays.first_place, strict=False):
        for b in range(len(rules.maker)):
            user = rules.users[rules.first_user[b]]
            allocated[arrays.places == begin + rules.maker[b]] += rules.size[b]
            released[arrays.places == begin + user] += rules.size[b]
    return allocated, released


def ends_of(problem: Problem, start: Mapping[Op, int]) -> Ints:
    """A schedule's starts as ends in beats, rounded down, each class in order."""
    begun = np.array([start[op] // problem.beat for op in problem.ops], np.int64)
    first = problem.arrays.first_op
    for c in range(len(first) - 1):
        # Equal microbatches that pass each other may change places (structure.fifo).
        begun[first[c] : first[c + 1]].sort()
    return begun + np.repeat(problem.arrays.duration, np.diff(first))


def schedule_of(problem: Problem, ends: Ints) -> Schedule:
    """The schedule with these ends."""
    counts = np.diff(problem.arrays.first_op)
    starts = (ends - np.repeat(problem.arrays.duration, counts)) * problem.beat
    return Schedule(problem.graph, dict(zip(problem.ops, starts.tolist(), strict=True)))


def sequences_of(tables: OpTables, ends: Ints, streams: int) -> tuple[Ints, Ints]:
    """The order on each stream that these ends imply, and where each stream begins.

    Of ops that start together those of no duration come first, then predecessors.
    """
    start = ends - tables.duration
    flat, first = [], [0]
    for stream in range(streams):
        ops = np.flatnonzero((tables.streams == stream).any(axis=1))
        # Classes are numbered in topological order, ops within them by turn.
        flat.append(ops[np.lexsort((ops, ends[ops], start[ops]))])
        first.append(first[-1] + len(ops))
    return np.concatenate(flat).astype(np.int64), np.array(first, np.int64)
