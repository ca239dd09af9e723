"""Other cycle lengths that keep what a periodic schedule decides.

It decides how the ops follow each other on every stream, over which cycles they wait
for each other, and how many buffers are alive when one is made. Each of these is a
difference constraint start(b) >= start(a) + w - h T with integers w and h, so the least
T is the largest ratio of the sums of w and h over a circle of constraints. Starting
from a bound, T is raised to the ratio of a violated one until there is none.

A longer cycle never forbids anything: with start = q T + r, keep q and r and let T
grow. Precedences hold, since q never falls along them (lags are not negative); on a
stream the gap before the next cycle grows; and of a buffer no more are alive. So if
there is no periodic schedule of one cycle length, there is none of a shorter one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from schedopt.steady.periodic import Periodic


def stretched(periodic: Periodic, cycle: int) -> Periodic:
    """The same decisions with a longer cycle, ticks; see above."""
    by_cycle = [divmod(time, periodic.cycle) for time in periodic.start]
    starts = tuple(cycles * cycle + phase for cycles, phase in by_cycle)
    return Periodic(periodic.problem, starts, cycle)


class _Wait(NamedTuple):
    """start(after) >= start(before) + ticks - cycles * T."""

    before: int
    after: int
    ticks: int
    cycles: int


def shortened(periodic: Periodic, least: int = 1) -> Periodic:
    """The periodic schedule with the same decisions and the least cycle.

    ``least`` is a cycle, ticks, below which none is looked for. The cycle is a multiple
    of the microbatches of a cycle.
    """
    waits = tuple(dict.fromkeys(_waits(periodic)))
    count = periodic.problem.microbatches
    cycle = max(count, -(-least // count) * count)
    while cycle < periodic.cycle:
        starts, circle = _earliest(len(periodic.start), waits, cycle)
        if not circle:
            first = min(starts)
            return Periodic(
                periodic.problem, tuple(time - first for time in starts), cycle
            )
        ticks = sum(waits[number].ticks for number in circle)
        cycles = sum(waits[number].cycles for number in circle)
        if cycles <= 0:  # cannot be: the given schedule keeps all of them
            return periodic
        cycle = max(cycle + count, -(-ticks // (cycles * count)) * count)
    return periodic


def _waits(periodic: Periodic) -> Iterator[_Wait]:
    problem, start, cycle = periodic.problem, periodic.start, periodic.cycle
    for before, after, lag in problem.edges:
        yield _Wait(before, after, problem.ops[before].duration + lag, 0)
    for numbers in problem.streams.values():
        by_phase = sorted(
            numbers, key=lambda n: (start[n] % cycle, problem.ops[n].duration)
        )
        for before, after in pairwise([*by_phase, by_phase[0]]):
            over = start[before] // cycle - start[after] // cycle
            if before == after or after == by_phase[0]:
                over += 1
            yield _Wait(before, after, problem.ops[before].duration, over)
    for buffers in problem.limited_buffers.values():
        for maker in {buffer.maker for buffer in buffers}:
            time = start[maker]
            for buffer in buffers:
                made = (time - start[buffer.maker]) // cycle
                closed = max(map(periodic.end, buffer.users))
                gone = (time - closed) // cycle
                if maker != buffer.maker:
                    # Of those made later than this, none is made earlier.
                    yield _Wait(maker, buffer.maker, 1, made + 1)
                for user in buffer.users:
                    duration = problem.ops[user].duration
                    yield _Wait(user, maker, duration, -gone)


def _earliest(
    count: int, waits: tuple[_Wait, ...], cycle: int
) -> tuple[list[int], list[int]]:
    """Earliest starts, or the numbers of waits that make a circle of positive length.

    Longest paths by rounds over all waits (Bellman and Ford), from all ops at once.
    """
    starts = [0] * count
    by: list[int | None] = [None] * count
    lengths = [wait.ticks - wait.cycles * cycle for wait in waits]
    moved = None
    for _ in range(count + 1):
        moved = None
        for number, (before, after, _ticks, _cycles) in enumerate(waits):
            time = starts[before] + lengths[number]
            if time > starts[after]:
                starts[after] = time
                by[after] = number
                moved = after
        if moved is None:
            return starts, []
    return starts, _circle(moved, by, waits)


def _circle(
    moved: int | None, by: list[int | None], waits: tuple[_Wait, ...]
) -> list[int]:
    """The waits of a circle in what moved each op last."""
    seen: dict[int, int] = {}
    path: list[int] = []
    at = moved
    while at is not None and at not in seen:
        seen[at] = len(path)
        number = by[at]
        if number is None:
            return []
        path.append(number)
        at = waits[number].before
    return [] if at is None else path[seen[at] :]
