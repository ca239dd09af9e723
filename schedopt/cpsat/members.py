"""How the portfolio uses CP-SAT: whole problems, proofs, and bounds by projection.

Members take and give exact schedules and bounds; coarser time stays inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from schedopt.cpsat.coarse import (
    LARGEST_HORIZON,
    ROUNDED_HORIZON,
    coarsened,
    exact_scale,
    scale_within,
)
from schedopt.cpsat.model import Effort, Outcome, Result, Starts, run
from schedopt.cpsat.projection import is_one_stream, project
from schedopt.cpsat.replaying import replayed
from schedopt.cpsat.variables import Scope
from schedopt.instance import Objective
from schedopt.opgraph import OpGraph
from schedopt.paths import paths
from schedopt.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Found:
    """A member's best schedule, if any, and a proven bound; exact ticks."""

    schedule: Schedule | None
    lower_bound: int


def solve_graph(
    graph: OpGraph,
    objective: Objective,
    effort: Effort,
    *,
    incumbent: Schedule | None = None,
    lower_bound: int = 0,
    on_schedule: Callable[[Schedule], None] | None = None,
    on_bound: Callable[[int], None] | None = None,
) -> Found:
    """Search and prove on the whole op graph; the general member.

    Where time has to be rounded, two thirds of the effort look for schedules and one
    third for a bound.
    """
    horizon = _horizon(graph, objective, incumbent)
    scale = exact_scale(graph)
    if horizon // scale <= LARGEST_HORIZON:
        return _solve_coarse(
            graph,
            coarsened(graph, scale, round_up=True),
            scale,
            objective,
            effort,
            incumbent=incumbent,
            lower_bound=lower_bound,
            proves=True,
            on_schedule=on_schedule,
            on_bound=on_bound,
        )
    scale = -(-horizon // ROUNDED_HORIZON)
    found = _solve_coarse(
        graph,
        coarsened(graph, scale, round_up=True),
        scale,
        objective,
        _share(effort, 2 / 3),
        incumbent=incumbent,
        lower_bound=lower_bound,
        proves=False,
        on_schedule=on_schedule,
    )
    best = found.schedule or incumbent
    proof = _solve_coarse(
        graph,
        coarsened(graph, scale, round_up=False),
        scale,
        objective,
        _share(effort, 1 / 3),
        incumbent=best,
        lower_bound=lower_bound,
        proves=True,
        on_bound=on_bound,
    )
    return Found(found.schedule, proof.lower_bound)


def prove(
    graph: OpGraph, objective: Objective, effort: Effort, upper_bound: int, lower: int
) -> int:
    """A bound from asking whether the objective can be below ``upper_bound``."""
    scale = scale_within(graph, upper_bound)
    coarse = coarsened(graph, scale, round_up=False)
    upper = (upper_bound - 1) // scale
    horizon = _horizon_of_value(coarse, objective, upper)
    scope = _scope(coarse, objective, lower // scale, upper, horizon)
    if scope is None:
        return upper_bound
    result = run(scope, objective, effort)
    return max(lower, min(upper_bound, result.lower_bound * scale))


def project_bound(  # noqa: PLR0913 - limits and reports by keyword
    graph: OpGraph,
    devices: frozenset[int],
    objective: Objective,
    effort: Effort,
    *,
    lower_bound: int,
    upper_bound: int,
    incumbent: Schedule | None = None,
    on_bound: Callable[[int], None] | None = None,
) -> int:
    """A lower bound from the ops of some devices; see ``cpsat.projection``.

    Parameters
    ----------
    incumbent : Schedule, optional
        A schedule whose part on the devices is the solver's first solution; without one
        it may find none, and then proves nothing.
    lower_bound : int
        What is proven already; the result is no less.
    upper_bound : int
        The value of a known schedule; the result is no more.
    """
    projected = project(graph, devices)
    if projected is None or not projected.data or lower_bound >= upper_bound:
        return lower_bound
    alone = objective is Objective.DEVICE_SPAN and is_one_stream(projected, devices)
    # One device's span is the makespan of its ops, counted from its own first start.
    whole = paths(projected if objective is Objective.DEVICE_SPAN else graph)
    head = {op: whole.head[op] for op in projected.data}
    tail = {op: whole.tail[op] for op in projected.data}
    horizon = upper_bound if alone else _horizon_of_value(graph, objective, upper_bound)
    moments = (*head.values(), *tail.values())
    scale = scale_within(projected, upper_bound, moments)
    coarse = coarsened(projected, scale, round_up=False)
    scope = Scope(
        graph=coarse,
        head={op: time // scale for op, time in head.items()},
        tail={op: time // scale for op, time in tail.items()},
        horizon=-(-horizon // scale),
        # Rounded down: what is proven elsewhere need not be a multiple of the scale.
        lower_bound=lower_bound // scale,
        upper_bound=-(-upper_bound // scale),
    )
    report = None
    if on_bound is not None:
        report = partial(_report_scaled, on_bound, scale, upper_bound)
    measure = Objective.MAKESPAN if alone else objective
    hint = None if incumbent is None else _part(incumbent, coarse, scale, alone=alone)
    result = run(scope, measure, effort, hint=hint, on_bound=report)
    return max(lower_bound, min(upper_bound, result.lower_bound * scale))


def _part(
    schedule: Schedule, part: OpGraph, scale: int, *, alone: bool
) -> Starts | None:
    """A schedule's starts of the ops of ``part``, counted from their first if alone."""
    if not all(op in schedule.start for op in part.data):
        return None
    first = min(schedule.start[op] for op in part.data) if alone else 0
    return {op: (schedule.start[op] - first) // scale for op in part.data}


def _report_scaled(
    report: Callable[[int], None], scale: int, upper_bound: int, bound: int
) -> None:
    report(min(upper_bound, bound * scale))


def _solve_coarse(  # noqa: PLR0913 - as solve_graph, and the coarse graph
    graph: OpGraph,
    coarse: OpGraph,
    scale: int,
    objective: Objective,
    effort: Effort,
    *,
    incumbent: Schedule | None,
    lower_bound: int,
    proves: bool,
    on_schedule: Callable[[Schedule], None] | None = None,
    on_bound: Callable[[int], None] | None = None,
) -> Found:
    """Solve the graph in coarse ticks; replay schedules exactly, scale bounds back.

    A schedule that no order reproduces is passed over: one that fits in memory only
    because some buffer is held for no time at all. The bound is valid without it.
    """
    hint = _coarse_incumbent(coarse, incumbent, objective)
    horizon = _horizon(coarse, objective, hint)
    upper = horizon if hint is None else hint.value(objective)
    least = lower_bound // scale if proves else 0
    scope = _scope(coarse, objective, least, upper, horizon)
    if scope is None:
        return Found(None, lower_bound)
    best: list[Schedule] = []

    def receive(start: Starts) -> None:
        schedule = _exact(graph, coarse, start, objective)
        if schedule is None:
            return
        if not best or schedule.value(objective) < best[-1].value(objective):
            best.append(schedule)
            if on_schedule is not None:
                on_schedule(schedule)

    report = None
    if on_bound is not None and proves:
        ceiling = upper * scale
        report = partial(_report_scaled, on_bound, scale, ceiling)
    result: Result = run(
        scope,
        objective,
        effort,
        hint=None if hint is None else hint.start,
        on_schedule=receive,
        on_bound=report,
    )
    if result.start is not None:
        receive(result.start)
    proven = lower_bound
    if proves and result.outcome in (Outcome.OPTIMAL, Outcome.FEASIBLE):
        proven = max(lower_bound, result.lower_bound * scale)
    return Found(best[-1] if best else None, proven)


def _scope(
    graph: OpGraph, objective: Objective, lower: int, upper: int, horizon: int
) -> Scope | None:
    """The whole graph between two values; None if nothing lies between them."""
    if lower > upper:
        return None
    found = paths(graph)
    return Scope(
        graph=graph,
        head=found.head,
        tail=found.tail,
        horizon=horizon,
        lower_bound=lower if objective is Objective.MAKESPAN else 0,
        upper_bound=upper,
    )


def _coarse_incumbent(
    coarse: OpGraph, incumbent: Schedule | None, objective: Objective
) -> Schedule | None:
    """The incumbent's order, replayed in coarse ticks; None if that does not fit."""
    if incumbent is None:
        return None
    return replayed(coarse, incumbent, objective)


def _exact(
    graph: OpGraph, coarse: OpGraph, start: Starts, objective: Objective
) -> Schedule | None:
    """The solver's schedule, its order replayed in exact time; None if it cannot be."""
    return replayed(graph, Schedule(coarse, start), objective)


def _horizon(graph: OpGraph, objective: Objective, incumbent: Schedule | None) -> int:
    """When everything has ended in some schedule at least as good as the incumbent."""
    if incumbent is not None and objective is Objective.MAKESPAN:
        return incumbent.makespan
    return _serial_horizon(graph)


def _horizon_of_value(graph: OpGraph, objective: Objective, value: int) -> int:
    return value if objective is Objective.MAKESPAN else _serial_horizon(graph)


def _serial_horizon(graph: OpGraph) -> int:
    """All ops and lags one after the other, and every device idle once for as long."""
    total = sum(data.duration for data in graph.data.values())
    return total + sum(edge.lag for edge in graph.edges)


def _share(effort: Effort, part: float) -> Effort:
    """The same effort for a part of the time."""
    return replace(
        effort,
        time_limit_s=effort.time_limit_s * part,
        deterministic_time=None
        if effort.deterministic_time is None
        else effort.deterministic_time * part,
    )
