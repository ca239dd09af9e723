"""Windows of ops, what lattices say of them, and what has changed since."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from schedopt.lattice.problem import Arrays, Ints
from schedopt.lattice.states import Lattices

NEVER = 2**61
"""Later than any time."""


class Memo(NamedTuple):
    """Windows, what lattices say of them, and what has changed since.

    Ops whose windows have changed are kept as ranges, by their numbers in a class: from
    row 0 (2) to row 1 (3) of an array; there are none if the first is above the second.

    Attributes
    ----------
    duration, makes : arrays by op
    head, last : arrays by op
        The windows: earliest start, latest end; beats.
    early, late : arrays by state
        E and L, see above.
    idle, spare : arrays by state
        I and U, see above; empty if no stream is filled.
    unseen : array [2, place]
        What the stream's sweep has not seen.
    unpassed : array [4, class]
        Heads, and in rows 2 and 3 last ends, that have not been passed on.
    found : array [2, op]
        What a sweep finds, heads and last ends.
    before : array [2, state]
        Room for the states of a level.
    own : array by stream
        Whether ``early`` and ``late`` are those of this memo; else of its origin.
    visits, limit : arrays of one
        Steps looked at so far, and how many there may be.
    """

    duration: Ints
    makes: Ints
    head: Ints
    last: Ints
    early: Ints
    late: Ints
    idle: Ints
    spare: Ints
    unseen: Ints
    unpassed: Ints
    found: Ints
    before: Ints
    own: Ints
    visits: Ints
    limit: Ints


def memo_of(arrays: Arrays, lattices: Lattices, head: Ints, last: Ints) -> Memo:
    """A memo of these windows in which everything counts as changed."""
    counts = np.diff(arrays.first_op)
    states = int(lattices.level_begin[-1])
    return Memo(
        duration=np.repeat(arrays.duration, counts),
        makes=np.repeat(arrays.makes, counts),
        head=head.copy(),
        last=last.copy(),
        early=np.full(states, NEVER, np.int64),
        late=np.full(states, -1, np.int64),
        idle=np.full(len(lattices.must), NEVER, np.int64),
        spare=np.full(len(lattices.must), -NEVER, np.int64),
        unseen=_ranges(counts[arrays.class_at]),
        unpassed=np.concatenate([_ranges(counts), _ranges(counts)]),
        found=np.zeros((2, len(head)), np.int64),
        before=np.zeros((2, np.diff(lattices.level_begin).max(initial=0)), np.int64),
        own=np.ones(len(lattices.first_level) - 1, np.int64),
        visits=np.zeros(1, np.int64),
        limit=np.full(1, NEVER, np.int64),
    )


def _ranges(counts: Ints) -> Ints:
    return np.stack([np.zeros_like(counts), counts - 1])


def trial_of(memo: Memo) -> Memo:
    """A memo of the same size for trials, which counts its visits with the other."""
    trial = Memo(*(np.empty_like(values) for values in memo))
    trial.limit[0] = NEVER
    return trial._replace(duration=memo.duration, makes=memo.makes, visits=memo.visits)


def add(ranges: Ints, row: int, index: int, n: int) -> None:
    """Add the n-th op to the range of a place or class."""
    ranges[row, index] = min(ranges[row, index], n)
    ranges[row + 1, index] = max(ranges[row + 1, index], n)


def mark(places: Ints, unseen: Ints, unpassed: Ints, row: int, c: int, n: int) -> None:
    """The head (row 0) or last end (row 2) of the n-th op of class c has changed."""
    add(unpassed, row, c, n)
    k = 0
    while places[c, k] >= 0:
        add(unseen, 0, places[c, k], n)
        k += 1
