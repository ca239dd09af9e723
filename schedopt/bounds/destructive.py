"""Destructive bounds: if no schedule can end by some time, the makespan is longer.

The bound is raised for as long as the windows of all ops, narrowed along edges, through
the lattices of the streams, and by shaving (``schedopt.lattice``), show that there is
no schedule. Weak and cheap ways first; each begins where the one before it ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from schedopt.lattice import Ints, Problem, Windows, classes_on, windows_by

_SHAVE_COMPILED_FROM = 60
_SETTLE_COMPILED_FROM = 250
"""Ops from which loops are compiled."""

_CLOSE = 100_000
"""Without shaving the bound is made exact to this part of the value."""

_MOST_STEPS = 40_000_000
"""Steps of all lattices together; each takes some 10 bytes."""

_MANY_OPS = 20_000
_MOST_STEPS_OF_MANY = 10_000_000
"""The same for problems of many ops: lattices that grow so far take time in vain."""

_LARGE = 60_000
"""Steps of all lattices from which on those without fillers are shaved first."""

_MOST_FULL = 2_000
"""Steps of a stream's lattice that keeps its fillers even then."""

_MOST_BRIEF = 1_000_000
"""Steps of lattices without fillers from which on those with fillers are too large."""


@dataclass(frozen=True, slots=True)
class Care:
    """Which lattices are used, which edges of windows are shaved, and how finely.

    Attributes
    ----------
    is_brief : bool
        Whether large lattices leave out fillers; they are far smaller then.
    rounds : int
        How often all edges are looked at, at most, while something can be cut.
    every : int
        Those of ops on every n-th stream.
    fineness : int
        The first step cut off is this part of a mean duration.
    apart : int
        If not 0, only ops that make buffers on the one stream with the least slack
        are shaved, every n-th of a class. What is cut there narrows the windows on all
        streams, whose lattices then refute much of what all edges together would.
    first : int
        The first end that is tried is this part of what is open.
    patience : int
        If not 0, how many times all steps a trial may look at.
    """

    is_brief: bool
    rounds: int = 0
    every: int = 1
    fineness: int = 12
    apart: int = 0
    first: int = 16
    patience: int = 0


CARES = (
    Care(is_brief=False),
    Care(is_brief=True, rounds=2),
    Care(is_brief=False, rounds=2, apart=8, first=64, patience=1),
    Care(is_brief=False, rounds=2, apart=2, first=64, patience=2),
    Care(is_brief=False, rounds=2, apart=1, first=128, patience=3),
    Care(is_brief=False, rounds=2, every=2),
    Care(is_brief=False, rounds=4, fineness=24),
    Care(is_brief=False, rounds=20, fineness=200),
)

CARES_OF_MANY = (
    *(replace(care, is_brief=True) for care in CARES if care.apart),
    *CARES,
)
"""Of many ops: lattices with fillers take long, and one stream shows more without."""


class Destructive:
    """Raises a lower bound on the makespan, in steps of some tenths of a second."""

    def __init__(self, problem: Problem, lower_bound: int, upper_bound: int) -> None:
        """Begin from a proven bound and the value of a known schedule, ticks."""
        self._problem = problem
        self._low = self._high = 0  # no schedule ends before low beats; high: a value
        self._known: list[Windows] = []  # by falling ends; not refuted
        self._spent = 0.0
        self._ceiling = 0  # lattices are listed for earlier ends only
        self._has_two_kinds = False  # lattices with fillers and without
        self._high = -(-upper_bound // problem.beat)
        self.learn(lower_bound, upper_bound)

    @property
    def lower_bound(self) -> int:
        """Proven, ticks."""
        return self._low * self._problem.beat

    @property
    def spent(self) -> float:
        """Seconds of a usual machine, counted from the work done."""
        return self._spent

    def learn(self, lower_bound: int, upper_bound: int) -> None:
        """Take note of what others have found, ticks."""
        # Where ops start as early as they can, every time is a whole number of beats.
        self._low = max(self._low, -(-lower_bound // self._problem.beat))
        self._high = min(self._high, -(-upper_bound // self._problem.beat))
        self._known = [windows for windows in self._known if windows.end >= self._low]

    def steps(self) -> Iterator[None]:
        """Raise the bound step by step, until nothing is left to try."""
        while self._low < self._high:
            yield from self._list()
            cares = CARES_OF_MANY if self._has_many_ops else CARES
            for care in cares if self._low < self._ceiling else ():
                is_new = care.apart or (care.rounds and not care.is_brief)
                if self._has_two_kinds or is_new:
                    yield from self._raise(care)
            if self._low < self._ceiling:
                return

    def _list(self) -> Iterator[None]:
        """List lattices, and narrow the windows down to ends that settling allows."""
        end = self._first_end
        windows = windows_by(
            self._problem,
            end,
            most_steps=self._most_steps,
            most_full=_MOST_FULL,
            compile_loops=self._is_large,
        )
        self._ceiling = end + 1
        if windows is None:
            self._low = self._ceiling
            yield
            return
        self._spent += windows.spent
        yield
        self._has_two_kinds = windows.is_filled and windows.steps < _MOST_BRIEF
        brief = Care(is_brief=True)
        yield from self._try(windows, brief)
        while self._latest - self._low > self._close:
            yield from self._try(self._by((self._low + self._latest) // 2), brief)

    def refute(self, value: int) -> None:
        """Take note that no schedule ends by ``value`` ticks, as others have found."""
        self._low = max(self._low, value // self._problem.beat + 1)
        self._known = [windows for windows in self._known if windows.end >= self._low]

    def windows_by(self, value: int) -> Windows | None:
        """Narrow windows of schedules that end by ``value`` ticks, if any are known.

        None before the first step, and where they show that none ends by then, of
        which note is taken.
        """
        end = value // self._problem.beat
        known = [windows for windows in self._known if windows.end >= end]
        if not known:
            return None
        windows = known[-1]
        if windows.end > end:
            windows = windows.by(end)
            for _ in windows.settle(compile_loops=self._is_large):
                pass
        if windows.is_refuted:
            self.refute(value)
            return None
        return windows

    @property
    def _first_end(self) -> int:
        """The end for which lattices are listed first: that of any better schedule.

        Of many ops hardly a good schedule is known at first, and lattices grow with the
        end: then one not far above the bound. Once that is refuted, a later one.
        """
        last = self._high - 1
        if not self._has_many_ops:
            return last
        return min(last, max(self._low * 5 // 4, self._high // 16))

    @property
    def _has_many_ops(self) -> bool:
        return len(self._problem.ops) > _MANY_OPS

    @property
    def _most_steps(self) -> int:
        return _MOST_STEPS_OF_MANY if self._has_many_ops else _MOST_STEPS

    @property
    def _is_large(self) -> bool:
        return len(self._problem.ops) >= _SETTLE_COMPILED_FROM

    @property
    def _close(self) -> int:
        return self._high // _CLOSE

    @property
    def _latest(self) -> int:
        """The earliest time of which it is not known that no schedule ends by then."""
        return self._known[-1].end if self._known else self._low

    def _by(self, end: int) -> Windows:
        """Windows of schedules that end by ``end``, from the narrowest ones known."""
        return [windows for windows in self._known if windows.end >= end][-1].by(end)

    def _raise(self, care: Care) -> Iterator[None]:
        """Refute later and later ends; what this care cannot refute is the limit.

        What is left when they are close is for the next care.
        """
        limit = min(self._high, self._ceiling)
        step = max(1, (limit - self._low) // care.first)
        close = 0 if care.rounds else self._close
        if care.apart:
            close = step - 1
        while self._low + close < min(limit, self._high):
            end = min(self._low + step, limit, self._high) - 1
            windows = self._by(end)
            yield from self._try(windows, care)
            if windows.is_refuted:
                step *= 2
            else:
                limit = end
                step = max(1, (limit - self._low) // 2)

    def _try(self, windows: Windows, care: Care) -> Iterator[None]:
        """Narrow the windows; take note of what comes of it."""
        seen = windows.spent
        for _ in self._narrow(windows, care):
            self._spent += windows.spent - seen
            seen = windows.spent
            yield
        self._spent += windows.spent - seen
        if windows.is_refuted:
            self._low = max(self._low, windows.end + 1)
            self._known = [other for other in self._known if other.end >= self._low]
            return
        if windows.end < self._low:
            return  # others have refuted it meanwhile
        windows.thin()
        known = [other for other in self._known if other.end != windows.end]
        known = sorted([*known, windows], key=lambda other: -other.end)
        self._known = known if len(known) < 4 else [known[0], *known[-3:]]

    def _narrow(self, windows: Windows, care: Care) -> Iterator[None]:
        """Without fillers first, where that is less work, then with them."""
        yield from windows.settle(compile_loops=self._is_large)
        if windows.is_refuted:
            return
        if care.rounds:
            windows.thin()
        if self._has_two_kinds:
            brief = windows
            if not windows.is_filled and windows.steps > _LARGE and care.rounds:
                brief = self._relisted(windows, _MOST_FULL)
                yield
            if brief.is_filled:
                yield from self._shave(brief, care)
                if not (brief.is_refuted or care.is_brief):
                    brief = self._relisted(brief, None)
                    yield from brief.settle(compile_loops=self._is_large)
                    # Too large still, they will be so again.
                    self._has_two_kinds = brief.is_refuted or not brief.is_filled
            windows.adopt(brief)
            if windows.is_refuted or care.is_brief or windows.is_filled:
                return
        yield from self._shave(windows, care)

    def _relisted(self, windows: Windows, most_full: int | None) -> Windows:
        """Windows on lattices listed anew, with fillers or without."""
        return windows.relisted(
            most_steps=self._most_steps,
            most_full=most_full,
            compile_loops=self._is_large,
        )

    def _shave(self, windows: Windows, care: Care) -> Iterator[None]:
        """Both edges of windows, again and again while something can be cut."""
        mean = int(self._problem.arrays.duration.mean())
        least = max(1, mean // care.fineness)
        classes = self._shaved_classes(windows, care)
        for _ in range(care.rounds):
            cuts = [0, 0]
            for at_end in (False, True):
                if windows.is_refuted:
                    return
                edges = windows.edges(classes, at_end=at_end)
                if care.apart:
                    edges = edges[edges[:, 1] % care.apart == 0]
                for cuts[at_end] in windows.shave(
                    edges,
                    least,
                    patience=care.patience,
                    compile_loops=len(self._problem.ops) >= _SHAVE_COMPILED_FROM,
                ):
                    yield
            if not any(cuts):
                return
            if not windows.is_refuted:
                windows.thin()

    def _shaved_classes(self, windows: Windows, care: Care) -> Ints:
        """Those whose ops others wait for, on the streams that the care names."""
        arrays = self._problem.arrays
        waited = arrays.following[:, 0] >= 0
        if care.apart:
            here = classes_on(arrays, windows.tightest_stream)
            makers = waited[here] & (arrays.makes[here] == 1)
            return here[makers if makers.any() else waited[here]]
        return np.array(
            [
                c
                for c in np.flatnonzero(waited).tolist()
                if not any(self._streams(c) % care.every)
            ],
            np.int64,
        )

    def _streams(self, c: int) -> Ints:
        """The numbers of a class's streams."""
        arrays = self._problem.arrays
        places = arrays.places[c, arrays.places[c] >= 0]
        streams: Ints = np.searchsorted(arrays.first_place, places, side="right")
        return streams - 1
