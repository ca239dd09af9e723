"""A packing into a frame that stands still, as a cycle and as a schedule."""

from __future__ import annotations

from schedopt.refresh.cycle import Cycle
from schedopt.refresh.problem import Packing
from schedopt.schedule import Schedule


def cycle_of(packing: Packing) -> Cycle:
    """The cycle in which every step has the frame's own times."""
    problem = packing.problem
    steps = (problem.frame.start,) * problem.interval
    return Cycle(problem.frame, problem.wrap, steps, packing.start)


def schedule_of(packing: Packing, refreshes: int = 2) -> Schedule:
    """The schedule of several refreshes and of all steps that their work reaches."""
    return cycle_of(packing).unrolled(refreshes)
