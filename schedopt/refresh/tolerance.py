"""How much longer the work of a refresh may take until its packing no longer fits.

All durations of a refresh's ops (curvature, syncs, inversions) grow by one factor; the
steps of the cycle stay. Every op stays in its gap, and the ops of a gap in their order;
what may change are start times. The greatest factor is exact, and found as follows.

For a factor the earliest starts are longest paths from the begins of gaps and from the
data of the steps, over the order within gaps, the precedences and, since cycles repeat,
the same across cycles. A path costs a constant plus factor x durations; it fits if it
ends by the end of the last op's gap, so every path gives a greatest factor. Begin with
a factor that is too great, and go down to what the worst path found allows until no
path is too long (Newton's method on a maximum of linear functions; it ends because
every path found is a new one). A path that runs into itself gives a greatest factor
too: that at which going around takes no longer than the cycles that it crosses.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from schedopt.opgraph import Stream
from schedopt.ops import Op
from schedopt.refresh.cycle import Cycle


def tolerance_of(cycle: Cycle) -> Fraction | None:
    """By how much a valid cycle's second-order work may grow: 1/10 is by 10 %.

    None where there is no work. Ages and memory may change before the packing no longer
    fits.
    """
    waits = _Waits(cycle)
    factor = min(
        (
            Fraction(waits.latest[op] - waits.earliest[op], duration)
            for op, duration in waits.duration.items()
            if duration
        ),
        default=None,
    )
    if factor is None:
        return None
    while (lower := waits.allowed(factor)) is not None:
        factor = lower
    return factor - 1


class _Wait(NamedTuple):
    """``after`` starts at the earliest ``lag`` ticks after the end of ``before``."""

    before: Op
    after: Op
    lag: int


class _Place(NamedTuple):
    """An op in a gap of a stream; ``begin`` and ``end`` are the gap's."""

    op: Op
    stream: Stream
    begin: int
    end: int


class _Waits:
    """What every op of a refresh waits for, and when it must have ended, ticks.

    ``earliest`` starts and ``latest`` ends are what the steps alone allow.
    """

    def __init__(self, cycle: Cycle) -> None:
        self._cycle = cycle
        self._start = cycle.start
        data = cycle.schedule.graph.data
        self.duration = {op: data[op].duration for op in cycle.start}
        self.earliest: dict[Op, int] = {}
        self.latest: dict[Op, int] = {}
        places = list(self._places())
        for op, _, begin, end in places:
            self.earliest[op] = max(begin, self.earliest.get(op, begin))
            self.latest[op] = min(end, self.latest.get(op, end))
        waits = {*self._orders(places), *self._precedences()}
        # In the order of the packing itself few passes are needed.
        self._waits = sorted(waits, key=lambda w: (self._start[w.after], w))

    def allowed(self, factor: Fraction) -> Fraction | None:
        """A smaller factor that some path allows at most; None if all paths fit."""
        growth, parts = factor.as_integer_ratio()
        start = {op: parts * time for op, time in self.earliest.items()}
        last: dict[Op, _Wait] = {}
        changed = True
        while changed:
            changed = False
            for wait in self._waits:
                before, after, lag = wait
                time = start[before] + growth * self.duration[before] + parts * lag
                if time > start[after]:
                    start[after] = time
                    last[after] = wait
                    changed = True
            if circle := _circle(last):
                work = sum(self.duration[wait.before] for wait in circle)
                return Fraction(-sum(wait.lag for wait in circle), work)
            late = {
                op: time + growth * self.duration[op] - parts * self.latest[op]
                for op, time in start.items()
            }
            worst = max(late, key=late.__getitem__)
            if late[worst] > 0:
                return self._allowed_by_path(worst, last)
        return None

    def _allowed_by_path(self, op: Op, last: dict[Op, _Wait]) -> Fraction:
        """What the path that ends with an op allows."""
        work, lags, first = self.duration[op], 0, op
        while first in last:
            wait = last[first]
            work += self.duration[wait.before]
            lags += wait.lag
            first = wait.before
        return Fraction(self.latest[op] - self.earliest[first] - lags, work)

    def _places(self) -> Iterator[_Place]:
        """Where every op stands on each of its streams, between ops of the steps.

        Every stream that they use has some: forwards, or reductions of gradients.
        """
        length, period = self._cycle.length, self._cycle.frame.period
        data = self._cycle.schedule.graph.data
        busy: dict[Stream, list[tuple[int, int]]] = {}
        for step, times in enumerate(self._cycle.steps):
            for op, time in times.items():
                begin = time + step * period
                for stream in data[op].streams:
                    end = begin + data[op].duration
                    busy.setdefault(stream, []).append((begin, end))
        for op, start in self._start.items():
            end = start + self.duration[op]
            for stream in data[op].streams:
                begins = [
                    over + (start - over) // length * length for _, over in busy[stream]
                ]
                ends = [
                    next_ - (next_ - end) // length * length
                    for next_, _ in busy[stream]
                ]
                yield _Place(op, stream, max(begins), min(ends))

    def _orders(self, places: list[_Place]) -> Iterator[_Wait]:
        """The order within gaps; those of equal steps of different cycles are one."""
        gaps: dict[tuple[Stream, int], list[_Place]] = {}
        for place in places:
            same = (place.stream, place.begin % self._cycle.length)
            gaps.setdefault(same, []).append(place)
        for gap in gaps.values():
            gap.sort(
                key=lambda p: (
                    self._start[p.op] - p.begin,
                    self.duration[p.op],
                    self._start[p.op],
                    p.op,
                )
            )
            for one, other in pairwise(gap):
                yield _Wait(one.op, other.op, other.begin - one.begin)

    def _precedences(self) -> Iterator[_Wait]:
        """Those of a refresh and to the next one; of the steps, as times."""
        schedule = self._cycle.schedule
        known = schedule.start
        for before, after, lag in schedule.graph.edges:
            if before not in known or after not in known:
                continue
            next_one = after._replace(step=after.step - self._cycle.interval)
            if before in self._start and after in self._start:
                yield _Wait(before, after, lag)
            elif before in self._start and next_one in self._start:
                yield _Wait(before, next_one, lag - self._cycle.length)
            elif after in self._start:
                time = schedule.end(before) + lag
                self.earliest[after] = max(time, self.earliest[after])
            elif before in self._start:
                time = known[after] - lag
                self.latest[before] = min(time, self.latest[before])


def _circle(last: dict[Op, _Wait]) -> list[_Wait]:
    """A path that runs into itself, if the last waits have one."""
    settled: set[Op] = set()
    for op in last:
        path: list[Op] = []
        here: set[Op] = set()
        at = op
        while at in last and at not in settled and at not in here:
            path.append(at)
            here.add(at)
            at = last[at].before
        if at in here:
            return [last[one] for one in path[path.index(at) :]]
        settled |= here
    return []
