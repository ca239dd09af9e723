"""Groups of bins whose shares' factors are reduced together, and when they can be.

A group are bins of a component that overlap in time, directly or through others, and
that no collective of the frame divides: it is the unit in which reductions over copies
are counted and laid out. Steps are alike, so groups are, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from schedopt.refresh.problem import Bin, Problem

_Span = tuple[int, int]
_NEVER = 2**62  # ticks


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Bins whose reductions run together, ticks from the cycle's start.

    Attributes
    ----------
    bins : tuple of Bin
        Those of its gaps that may be used.
    begin : int
        When its first gap begins.
    free_from, limit : int
        Between them the frame leaves the collective streams free, and no later group
        has begun.
    kind : tuple
        Equal for groups of steps that are equal modulo the interval.
    is_endless : bool
        Whether it goes on into the next step, and so for ever.
    """

    bins: tuple[Bin, ...]
    begin: int
    free_from: int
    limit: int
    kind: tuple[object, ...]
    is_endless: bool


class _Place(NamedTuple):
    """A gap in a step, ticks from the cycle's start; step -1 is the one before."""

    begin: int
    end: int
    device: int
    gap: int
    step: int


def groups_of(
    problem: Problem, bins: Mapping[int, Sequence[Bin]], collectives: Iterable[_Span]
) -> tuple[Group, ...]:
    """The groups of some devices' bins, by time.

    ``collectives`` are the frame's own on these devices, ticks in its step.
    """
    used = {(b.device, b.gap, b.step): b for mine in bins.values() for b in mine}
    steps = range(-1, max((step for _, _, step in used), default=0) + 2)
    period = problem.frame.period
    busy = _merged(
        (begin + step * period, end + step * period)
        for step in steps
        for begin, end in collectives
    )
    places = sorted(
        _Place(gap.begin + step * period, gap.end + step * period, device, number, step)
        for step in steps
        for device in bins
        for number, gap in enumerate(problem.frame.gaps[device])
    )
    found = []
    for together in _clusters(places):
        windows: dict[int, list[_Place]] = {}
        for place in together:
            windows.setdefault(_window(place.begin, busy), []).append(place)
        found += list(windows.items())
    groups = []
    for (window, members), (_, next_one) in pairwise(found):
        mine = tuple(used[p[2:]] for p in members if p[2:] in used)
        if mine:
            free_from, limit = _free(window, busy)
            begin = members[0].begin
            groups.append(
                Group(
                    mine,
                    begin,
                    max(begin, free_from),
                    min(limit, next_one[0].begin),
                    _kind(members, problem.interval),
                    len({(p.device, p.gap) for p in members}) < len(members),
                )
            )
    return tuple(groups)


def _clusters(places: Sequence[_Place]) -> list[list[_Place]]:
    """Places that overlap in time, directly or through others."""
    found: list[list[_Place]] = []
    end = None
    for place in places:
        if end is None or place.begin >= end:
            found.append([])
            end = place.end
        found[-1].append(place)
        end = max(end, place.end)
    return found


def _merged(spans: Iterable[_Span]) -> list[_Span]:
    """Spans by time, those that touch as one."""
    found: list[_Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def _window(begin: int, busy: Sequence[_Span]) -> int:
    """Which of the stretches between busy spans is free at a time, or the next."""
    return sum(span[0] <= begin for span in busy)


def _free(window: int, busy: Sequence[_Span]) -> _Span:
    """When a stretch is free: from the end of one span to the begin of the next."""
    before = busy[window - 1][1] if window else 0
    return before, busy[window][0] if window < len(busy) else _NEVER


def _kind(members: Sequence[_Place], interval: int) -> tuple[object, ...]:
    first = min(place.step for place in members)
    gaps = tuple((p.device, p.gap, p.step - first) for p in members)
    return first % interval, gaps
