"""One attempt at a packing: a frame, an interval, what may move, and some time.

Memory limits are in the models only where the pipeline stands still; elsewhere a
packing that breaks one, as the verifier says, is no result.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from schedopt.cpsat import (
    Effort,
    Outcome,
    PackingResult,
    Sliding,
    cannot_slide,
    components,
    pack,
    pack_reordered,
    pack_sliding,
)
from schedopt.ops import Op
from schedopt.refresh.bounds import best_bound, interval_bounds
from schedopt.refresh.cycle import Cycle
from schedopt.refresh.moving import breaks_memory, faults_of
from schedopt.refresh.problem import Packing, Problem, at, problem_of, without_memory
from schedopt.refresh.settings import Freedom

_SHARE_OF_PROOF = 0.4  # of the time, where ops slide


WAYS: tuple[Mapping[str, bool], ...] = (
    {"outlined": True, "relaxed": True},
    {"outlined": True},
    {},
    {"relaxed": True},
)
"""How a component is packed, one way after the other; some prove that it cannot be."""


class Packed(NamedTuple):
    """A packing, what the pipeline's ops do in it, and its swaps from the order."""

    cycle: Cycle
    freedom: Freedom
    swaps: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of it.

    ``is_impossible`` says that none exists: at the frame's times, or in its order. Of
    other orders nothing is proven.
    """

    packed: Packed | None = None
    is_impossible: bool = False
    breaks_memory: bool = False


def attempt(freedom: Freedom, task: Sliding, effort: Effort) -> Attempt:
    """Look for a packing with this freedom, and no less; it keeps every rule."""
    match freedom:
        case Freedom.FROZEN:
            found = _frozen(task, effort)
        case Freedom.SLIDING:
            found = _slid(task, effort)
        case Freedom.REORDERED:
            result = pack_reordered(task, effort, least_swaps=1)
            packing = result.found.packing
            found = Attempt()
            if packing is not None:
                found = Attempt(Packed(packing, freedom, result.swaps))
    if found.packed is not None and not is_valid(found.packed.cycle):
        return Attempt(breaks_memory=True)
    return found


def is_valid(cycle: Cycle, *, may_be_longer: bool = False) -> bool:
    """Whether a packing found keeps every rule; only memory may be left to break."""
    if faults := faults_of(cycle, may_be_longer=may_be_longer):
        msg = f"a packing breaks a rule, which is a fault of schedopt: {faults[0]}"
        raise AssertionError(msg)
    return not breaks_memory(cycle)


def pack_component(
    problem: Problem, devices: tuple[int, ...], effort: Effort, end: float
) -> PackingResult:
    """The ways to pack a component, each for half of the time, until a moment.

    Where work may wrap, a packing that does not is looked for as well.
    """
    result = PackingResult(Outcome.UNKNOWN, None)
    for one, way in _ways(problem):
        share = min(effort.time_limit_s / 2, end - time.monotonic())
        if share <= 0:
            break
        found = pack(one, devices, replace(effort, time_limit_s=share), **way)
        if found.start is not None or one is problem:
            result = found
        if result.outcome is not Outcome.UNKNOWN:
            break
    return result


def _ways(problem: Problem) -> Iterator[tuple[Problem, Mapping[str, bool]]]:
    first, *others = WAYS
    yield problem, first
    if problem.wrap:
        latest = min(problem.latest, problem.interval)
        within = at(problem, problem.interval, wrap=False, latest=latest)
        yield within, {"outlined": True}
    for way in others:
        yield problem, way


def _frozen(task: Sliding, effort: Effort) -> Attempt:
    """At the frame's own times."""
    bound = best_bound(interval_bounds(task.frame, wrap=task.wrap))
    if bound is not None and (bound.interval or task.interval + 1) > task.interval:
        return Attempt(is_impossible=True)
    full = problem_of(task.frame, task.interval, wrap=task.wrap, latest=task.latest)
    has_limits = any(device.limit is not None for device in full.memory)
    problem = full if has_limits else without_memory(full)
    end = time.monotonic() + effort.time_limit_s
    start: dict[Op, int] = {}
    for devices in components(problem):
        result = pack_component(problem, devices, effort, end)
        if result.start is None:
            return Attempt(is_impossible=result.outcome is Outcome.INFEASIBLE)
        start |= result.start
    return Attempt(_at_rest(full, start))


def _at_rest(problem: Problem, start: Mapping[Op, int]) -> Packed:
    cycle = Packing(problem, start, "packing").cycle
    return Packed(cycle, Freedom.FROZEN, 0)


def _slid(task: Sliding, effort: Effort) -> Attempt:
    """In the frame's own order; or a proof that it allows none."""
    proof = replace(effort, time_limit_s=_SHARE_OF_PROOF * effort.time_limit_s)
    if cannot_slide(task, proof):
        return Attempt(is_impossible=True)
    rest = effort.time_limit_s - proof.time_limit_s
    result = pack_sliding(task, replace(effort, time_limit_s=rest))
    if result.packing is None:
        return Attempt(is_impossible=result.outcome is Outcome.INFEASIBLE)
    return Attempt(Packed(result.packing, Freedom.SLIDING, 0))
