"""The objective ``period``: where solving begins, and the batch at its end."""

from __future__ import annotations

import time

from schedopt.bounds import quick_bounds
from schedopt.build import in_microbatch_order
from schedopt.errors import NotApplicableError
from schedopt.instance import Instance
from schedopt.opgraph import OpGraph
from schedopt.runtimes import profile_of
from schedopt.schedule import Schedule
from schedopt.solve.incumbent import Incumbent
from schedopt.steady import (
    Periodic,
    as_repeated,
    cycle_problem,
    direct_schedules,
    pattern_length,
    unrolled,
)
from schedopt.steady.problem import LONGEST_PATTERN
from schedopt.verify import runtime_violations, violations


def require_steady_state(instance: Instance, graph: OpGraph) -> None:
    """Refuse an instance that no cycle describes.

    Raises
    ------
    NotApplicableError
        If its microbatches do not repeat, if it leaves choices open, or if it has
        several steps or second-order work.
    """
    if instance.steps > 1 or instance.kfac is not None:
        msg = (
            f"{instance.name} has no period, which is of one step without end: give"
            " steps: 1 and no kfac, or choose another objective"
        )
        raise NotApplicableError(msg)
    if pattern_length(graph) is not None:
        return
    if instance.runtime and profile_of(instance.runtime).last_stage_paired:
        msg = (
            f"{instance.name} has no period under the rules of {instance.runtime}:"
            " on its last stage a microbatch waits for the one before; choose another"
            " objective"
        )
        raise NotApplicableError(msg)
    why = (
        "its microbatches differ, and not in a pattern of at most"
        f" {LONGEST_PATTERN} that repeats: give them equal costs"
    )
    if graph.choices:
        why = (
            "it leaves choices open, which may differ from cycle to cycle: give"
            " backward: split or whole, and no overlap"
        )
    msg = f"{instance.name} has no period: {why}, or choose another objective"
    raise NotApplicableError(msg)


def begin_period(incumbent: Incumbent, deadline: float | None) -> None:
    """The bounds, and periodic schedules that need no solver.

    ``deadline`` is that of ``time.monotonic``; None is no deadline.
    """
    graph = incumbent.graph
    for name, bound in quick_bounds(graph, incumbent.objective).items():
        incumbent.prove(bound, name)
    problem = cycle_problem(graph)
    if problem is None:
        return
    least = incumbent.lower_bound * problem.microbatches
    for periodic in direct_schedules(problem, least):
        if periodic is not None:
            incumbent.offer_periodic(periodic, "direct")
        if incumbent.is_proven or (deadline and time.monotonic() > deadline):
            return


def unroll_verified(
    incumbent: Incumbent, periodic: Periodic, instance: Instance
) -> Schedule | None:
    """The batch in the order of the steady state, after the verifier has passed it."""
    for unroll in (unrolled, as_repeated):
        schedule = unroll(incumbent.graph, periodic)
        schedule = in_microbatch_order(instance, schedule)
        broken = violations(incumbent.graph, schedule.start)
        broken += runtime_violations(instance.runtime, schedule.start)
        if not broken:
            return schedule
        incumbent.complaints.append(f"unrolling gave an invalid schedule: {broken[0]}")
    return None
