"""The method ``refresh``: second-order work in the gaps of hand-made schedules."""

from __future__ import annotations

from collections.abc import Sequence

from schedopt.build import form_of
from schedopt.errors import NotApplicableError
from schedopt.experiments.measures import MEASURES
from schedopt.experiments.outcome import Outcome
from schedopt.experiments.record import RunStatus
from schedopt.experiments.spec_model import SHORTEST
from schedopt.instance import Instance, Objective
from schedopt.refresh.greedy import greedy_of
from schedopt.refresh.settings import Minimise
from schedopt.report.refresh import refresh_document
from schedopt.solve.frames import NamedFrame, frame_named, shortest_frames
from schedopt.solve.refresh_frames import solve_in_frames
from schedopt.solve.refresh_solution import RefreshParameters
from schedopt.solve.solution import SolveParameters


def refresh(
    instance: Instance,
    parameters: SolveParameters,
    *,
    minimise: str,
    wrap: bool,
    pipeline: str,
) -> Outcome:
    """Pack the second-order work of one refresh; keep two of them as a schedule.

    Raises
    ------
    NotApplicableError
        If there is no second-order work, or no such hand-made schedule.
    """
    if instance.kfac is None:
        msg = "needs second-order work; the instance has no kfac"
        raise NotApplicableError(msg)
    named, solution = solve_in_frames(
        _frames(instance, pipeline),
        RefreshParameters(
            minimise=Minimise(minimise),
            wrap=wrap,
            time_limit_s=parameters.time_limit_s,
            workers=parameters.workers,
            seed=parameters.seed,
        ),
    )
    told = refresh_document(named, solution, greedy_of(named.frame))
    cycle = solution.cycle
    schedule = None if cycle is None else cycle.schedule
    return Outcome(
        status=RunStatus(solution.status.value),
        objective=Objective.REFRESH,
        problem=instance if cycle is None else cycle.instance(),
        form=str(form_of(instance)),
        graph=None if schedule is None else schedule.graph,
        schedule=schedule,
        member=f"refresh in {named.name}",
        reason=solution.reason,
        measures={measure.name: told.get(measure.name) for measure in MEASURES},
    )


def _frames(instance: Instance, pipeline: str) -> Sequence[NamedFrame]:
    """The frames that a spec's ``pipeline`` means; at least one."""
    if pipeline != SHORTEST:
        return (frame_named(pipeline, instance),)
    frames = shortest_frames(instance)
    if not frames:
        msg = "no hand-made schedule has the instance's form"
        raise NotApplicableError(msg)
    return frames
