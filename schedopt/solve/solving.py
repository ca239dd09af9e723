"""``solve``: from an instance to a verified schedule with a proven bound."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from schedopt.bounds import LOAD_BOUNDS, quick_bounds
from schedopt.build import Shortfall, build_graph, shortfalls
from schedopt.errors import NotApplicableError
from schedopt.instance import Instance, Objective
from schedopt.opgraph import OpGraph
from schedopt.schedule import Schedule
from schedopt.solve.incumbent import Incumbent, Progress
from schedopt.solve.interrupts import hearing_interrupts
from schedopt.solve.period import (
    begin_period,
    require_steady_state,
    unroll_verified,
)
from schedopt.solve.plan import is_large
from schedopt.solve.portfolio import Portfolio
from schedopt.solve.solution import Hint, Solution, SolveParameters, Status
from schedopt.solve.starts import one_by_one, starts
from schedopt.version import own_version


def solve(
    instance: Instance,
    parameters: SolveParameters | None = None,
    progress: Progress | None = None,
    *,
    known: Solution | None = None,
    hint: Hint | None = None,
) -> Solution:
    """Find a good schedule of the instance and prove how good it is.

    It is never worse than the best hand-made schedule that fits (of large problems: of
    those tried), and has passed the verifier. Ctrl-C (KeyboardInterrupt) ends the
    search early: the solution then holds the best so far and says ``interrupted``.

    Parameters
    ----------
    progress : callable, optional
        Called with a ``TraceEntry`` whenever the value or the bound improves.
    known : Solution, optional
        What an earlier call found for this instance and objective; this one goes on
        from its schedule and its bound, and is never worse.
    hint : Hint, optional
        What solving another instance says of this one.
    """
    parameters = parameters or SolveParameters()
    began = time.monotonic()
    deadline = began + parameters.time_limit_s
    fixed = parameters.reproducible
    with hearing_interrupts() as interrupts, interrupts.hold_back():
        with interrupts.let_in():
            graph = build_graph(instance)
            short = shortfalls(graph)
        objective = parameters.objective or instance.objective
        if objective is Objective.REFRESH:
            msg = (
                f"{instance.name} has the objective refresh, which solve_refresh"
                " minimises; choose another objective"
            )
            raise NotApplicableError(msg)
        if objective is Objective.PERIOD:
            require_steady_state(instance, graph)
        ruled = instance if instance.runtime else None
        incumbent = Incumbent(graph, objective, progress, ruled=ruled)
        baselines: dict[str, int] = {}
        all_tried = bool(short) or objective is Objective.PERIOD
        if known is not None:
            all_tried = _go_on(known, incumbent, baselines)
        if hint is not None and not short:
            _take(hint, incumbent)
        interrupted = False
        with Portfolio(
            instance, incumbent, parameters, deadline, interrupts
        ) as portfolio:
            try:
                with interrupts.let_in():
                    if not short and objective is Objective.PERIOD:
                        begin_period(incumbent, None if fixed else deadline)
                        if not incumbent.is_proven:
                            portfolio.start()
                            portfolio.run()
                    elif not short:
                        portfolio.start()
                        if known is None:
                            all_tried = _begin(instance, incumbent, baselines)
                        portfolio.run()
            except KeyboardInterrupt:
                interrupted = True
        interrupted |= interrupts.take()
        schedule = incumbent.schedule
        if incumbent.periodic is not None:
            schedule = unroll_verified(incumbent, incumbent.periodic, instance)
    baselines |= portfolio.baselines
    reasons = [_infeasible(graph, short)] if short else []
    reasons += incumbent.complaints + portfolio.failures
    best = min(baselines.items(), key=lambda item: item[1], default=None)
    return Solution(
        instance=instance,
        graph=graph,
        objective=objective,
        status=_status(incumbent, short),
        schedule=schedule,
        value=incumbent.value,
        lower_bound=incumbent.lower_bound,
        method=incumbent.method,
        wall_seconds=time.monotonic() - began,
        parameters=parameters,
        periodic=incumbent.periodic,
        best_baseline=best,
        all_baselines_tried=all_tried or portfolio.has_all_baselines,
        trace=tuple(incumbent.trace),
        versions=versions(),
        reason="; ".join(reasons),
        interrupted=interrupted,
    )


def _begin(instance: Instance, incumbent: Incumbent, baselines: dict[str, int]) -> bool:
    """Quick bounds and first schedules; whether all hand-made ones are among them."""
    graph, objective = incumbent.graph, incumbent.objective
    if is_large(graph):
        _begin_large(instance, incumbent)
        return False
    for name, bound in quick_bounds(graph, objective).items():
        incumbent.prove(bound, name)
    for start in starts(instance, graph, objective):
        incumbent.offer(start.schedule, start.name)
        if start.published:
            baselines[start.name] = start.schedule.value(objective)
    return True


def _begin_large(instance: Instance, incumbent: Incumbent) -> None:
    """Only what takes little time on a large graph; workers do the rest of it."""
    graph, objective = incumbent.graph, incumbent.objective
    for name, bound in LOAD_BOUNDS[objective].items():
        incumbent.prove(bound(graph), name)
    serial = one_by_one(instance, graph)
    if serial is not None:
        incumbent.offer(serial, "one microbatch at a time")


def _go_on(known: Solution, incumbent: Incumbent, baselines: dict[str, int]) -> bool:
    """Where an earlier run ended; whether it had tried all hand-made schedules."""
    if known.periodic is not None:
        incumbent.offer_periodic(known.periodic, known.method)
    elif known.schedule is not None:
        schedule = Schedule(incumbent.graph, known.schedule.start)
        incumbent.offer(schedule, known.method)
    incumbent.prove(known.lower_bound, "an earlier run")
    if known.best_baseline is not None:
        baselines.update([known.best_baseline])
    return known.all_baselines_tried


def _take(hint: Hint, incumbent: Incumbent) -> None:
    """A schedule and a bound that come from elsewhere."""
    if hint.schedule is not None and incumbent.objective is not Objective.PERIOD:
        schedule = Schedule(incumbent.graph, hint.schedule.start)
        incumbent.offer(schedule, hint.method)
    if hint.lower_bound > 0:
        incumbent.prove(hint.lower_bound, hint.method)


def bounds_of(
    instance: Instance,
    objective: Objective | None = None,
    *,
    time_limit_s: float = 10.0,
) -> Iterator[tuple[str, int]]:
    """Lower bounds by name, ticks, quick ones first; then those that take a solver.

    The solver's bounds need a schedule to measure against and are skipped where the
    memory limits allow none.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C, after the bounds that were known then.
    """
    graph = build_graph(instance)
    objective = objective or instance.objective
    yield from quick_bounds(graph, objective).items()
    solution = solve(
        instance, SolveParameters(time_limit_s=time_limit_s, objective=objective)
    )
    for entry in solution.trace:
        if entry.lower_bound == solution.lower_bound > 0:
            yield f"portfolio ({entry.member})", solution.lower_bound
            break
    if solution.interrupted:
        raise KeyboardInterrupt


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    found = {"python": platform.python_version(), "schedopt": own_version()}
    for package in ("ortools", "numpy", "numba", "networkx"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # installed by other means
            found[package] = "unknown"
    return found


def _status(incumbent: Incumbent, short: tuple[Shortfall, ...]) -> Status:
    if short:
        return Status.INFEASIBLE
    if incumbent.value is None:
        return Status.UNKNOWN
    return Status.OPTIMAL if incumbent.is_proven else Status.FEASIBLE


def _infeasible(graph: OpGraph, short: tuple[Shortfall, ...]) -> str:
    """One line: the worst device, the least possible peak, the limit that would do."""
    worst = max(short, key=lambda shortfall: shortfall.least_peak - shortfall.limit)
    unit = graph.units.memory
    least = graph.units.memory_of(worst.least_peak)
    limit = graph.units.memory_of(worst.limit)
    device = f"device {worst.device}"
    if worst.name != device:
        device += f" ({worst.name})"
    others = ""
    if len(short) > 1:
        others = f"; {len(short) - 1} more device{'s' if len(short) > 2 else ''} too"
    return (
        f"{device} has a memory limit of {limit} {unit}, but any schedule needs at"
        f" least {least} {unit} there: raise its memory_limit to {least} {unit} or"
        f" more{others}"
    )
