"""A packing as a schedule: the frame in every step, the refresh in every cycle."""

from __future__ import annotations

from schedopt.build import build_graph
from schedopt.instance import Instance
from schedopt.refresh.problem import Packing, with_interval
from schedopt.schedule import Schedule


def unrolled_instance(packing: Packing, refreshes: int = 2) -> Instance:
    """The training, unrolled for several refreshes and all steps that they reach."""
    problem = packing.problem
    cycles = refreshes + 1 if problem.wrap else refreshes
    return with_interval(
        problem.frame.instance,
        interval=problem.interval,
        refreshes=refreshes,
        steps=problem.interval * cycles,
    )


def schedule_of(packing: Packing, refreshes: int = 2) -> Schedule:
    """The schedule of several refreshes and of all steps that their work reaches.

    Two refreshes show everything that one may do to the next, since work never reaches
    past the next cycle.
    """
    problem = packing.problem
    frame, interval = problem.frame, problem.interval
    instance = unrolled_instance(packing, refreshes)
    start = {
        op._replace(step=step): time + step * frame.period
        for step in range(instance.steps)
        for op, time in frame.start.items()
    }
    for refresh in range(refreshes):
        step = refresh * interval
        for op, time in packing.start.items():
            start[op._replace(step=step)] = time + step * frame.period
    return Schedule(build_graph(instance), start)
