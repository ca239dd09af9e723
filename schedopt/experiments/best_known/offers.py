"""What a schedule file offers to the store: nothing of it is taken on trust.

The exception is the lower bound, which a schedule cannot prove: it is kept as a claim,
with the name of who makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schedopt.build import build_graph
from schedopt.errors import OrderError, SchedOptError
from schedopt.experiments.best_known.entries import (
    Finder,
    KnownBound,
    KnownValue,
    Problem,
)
from schedopt.formats import ScheduleFile, instance_sha256, starts_from
from schedopt.instance import FINITE_OBJECTIVES
from schedopt.opgraph import OpGraph
from schedopt.schedule import Schedule
from schedopt.simulate import best_times, with_memory_edges
from schedopt.verify import verify_file, violations
from schedopt.verify.quantities import ticks_of

_PACKAGES = ("schedopt", "ortools")  # what decides values and bounds


class RefusedScheduleError(SchedOptError):
    """A schedule file has no schedule, or one that breaks a rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A problem, the value of a schedule of it, and perhaps a bound; from a file."""

    where: str
    problem: Problem
    value: KnownValue
    bound: KnownBound | None = None


def offer_from(file: ScheduleFile, where: str) -> Offer:
    """What a schedule file offers; ``where`` names it in messages.

    Raises
    ------
    RefusedScheduleError
        If it has no schedule, the verifier refuses it, or its order cannot be replayed.
    """
    require_verified(file, where)
    if file.objective not in FINITE_OBJECTIVES:
        msg = (
            f"{where}: objective = {file.objective.value}: only values of one batch"
            " are recorded"
        )
        raise RefusedScheduleError(msg)
    graph = build_graph(file.instance)
    schedule = replayed(file, graph, where)
    ticks = schedule.value(file.objective)
    return Offer(
        where=where,
        problem=Problem(
            name=file.instance.name,
            sha256=instance_sha256(file.instance),
            objective=file.objective,
            units=graph.units,
        ),
        value=KnownValue(
            ticks=ticks,
            found_by=Finder(file.method, _versions(file)),
            bubble_ratio=schedule.bubble_ratio(ticks),
            peak_memory_grains=schedule.peak_memory,
        ),
        bound=claimed_bound(file, graph, where),
    )


def require_verified(file: ScheduleFile, where: str) -> None:
    """The file has a schedule, and the verifier finds nothing wrong with any of it."""
    if not file.ops:
        msg = f"{where}: status = {file.status}: there is no schedule to record"
        raise RefusedScheduleError(msg)
    found = verify_file(file)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        msg = f"{where}: not recorded, the verifier refuses it: {found[0]}{more}"
        raise RefusedScheduleError(msg)


def replayed(file: ScheduleFile, graph: OpGraph, where: str) -> Schedule:
    """The file's order with the best exact times, which are never its own claims."""
    rows = starts_from(file, graph.units.ticks_per_unit)
    stored = Schedule(graph, {row.op: row.start for row in rows})
    try:
        schedule = best_times(graph, with_memory_edges(stored), file.objective)
    except OrderError as error:
        msg = f"{where}: not recorded, its order cannot be replayed: {error}"
        raise RefusedScheduleError(msg) from None
    # Memory edges do not cover buffers of ops that take no time.
    broken = violations(graph, schedule.start)
    if broken:
        msg = f"{where}: not recorded, its replay breaks a rule: {broken[0]}"
        raise RefusedScheduleError(msg)
    return schedule


def claimed_bound(file: ScheduleFile, graph: OpGraph, where: str) -> KnownBound | None:
    """The file's lower bound as the claim of the member that first had it."""
    if file.lower_bound is None:
        return None
    ticks = ticks_of(file.lower_bound, graph.units.ticks_per_unit)
    if ticks is None:
        msg = f"{where}: lower_bound = {file.lower_bound}: is no whole number of ticks"
        raise RefusedScheduleError(msg)
    members = (row.member for row in file.trace if row.bound == file.lower_bound)
    return KnownBound(
        ticks=ticks, claimed_by=Finder(next(members, ""), _versions(file))
    )


def _versions(file: ScheduleFile) -> Mapping[str, str]:
    return {name: file.versions[name] for name in _PACKAGES if file.versions.get(name)}
