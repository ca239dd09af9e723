"""A packing that tolerates longer work, at the same interval, age and peak memory.

All durations of second-order work are taken to be longer by a factor, and packed again:
what fits then fits as it is, with room. The factor is searched by bisection between
what the packing tolerates already and what the fullest device leaves at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from schedopt.ops import Op
from schedopt.refresh.problem import FactorClass, Packing, Problem
from schedopt.refresh.tolerance import tolerance_of

Pack = Callable[[Problem, tuple[int, ...]], Mapping[Op, int] | None]
"""Starts of a component's ops, if some are found in the time that there is."""

_ROUNDS = 4  # of bisection


def loosened(
    packing: Packing,
    components: Sequence[tuple[int, ...]],
    pack: Pack,
    is_over: Callable[[], bool],
) -> Packing:
    """The packing that tolerates most among those found; at worst the one given."""
    problem = packing.problem
    cycle = packing.cycle
    tolerance = tolerance_of(cycle)
    if tolerance is None:
        return packing
    peak = cycle.peak_memory
    capped = replace(
        problem,
        memory=tuple(
            device._replace(
                limit=peak if device.limit is None else min(peak, device.limit)
            )
            for device in problem.memory
        ),
    )
    best, low, high = packing, tolerance, _most(problem)
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        found = _packed(_longer(capped, middle), components, pack)
        if is_over() and found is None:
            break
        if found is None:
            high = middle
            continue
        candidate = Packing(problem, found, packing.method)
        reached = tolerance_of(candidate.cycle)
        if reached is not None and reached > tolerance:
            best, tolerance = candidate, reached
        low = max(middle, tolerance)
        if low >= high:
            break
    return best


def _packed(
    problem: Problem, components: Sequence[tuple[int, ...]], pack: Pack
) -> dict[Op, int] | None:
    """Starts of all components' ops; None if those of one are not found."""
    found: dict[Op, int] = {}
    for devices in components:
        start = pack(problem, devices)
        if start is None:
            return None
        found |= start
    return found


def _most(problem: Problem) -> Fraction:
    """What the fullest device would tolerate if its work were a fluid."""
    return min(
        (
            Fraction(idle * problem.interval, work) - 1
            for idle, work in zip(problem.frame.idle, problem.work, strict=True)
            if work
        ),
        default=Fraction(0),
    )


def _longer(problem: Problem, factor: Fraction) -> Problem:
    """The same work, every op of it longer by a factor, rounded up."""

    def longer(ticks: int) -> int:
        return -(-ticks * (factor.numerator + factor.denominator) // factor.denominator)

    def of(group: FactorClass) -> FactorClass:
        return group._replace(
            shares=tuple(s._replace(duration=longer(s.duration)) for s in group.shares),
            inverting=tuple(
                i._replace(duration=longer(i.duration)) for i in group.inverting
            ),
            sync=None if group.sync is None else longer(group.sync),
        )

    return replace(problem, classes=tuple(map(of, problem.classes)))
