"""The objective refresh: never worse than the greedy, nor better than its bounds."""

from __future__ import annotations

import random

import pytest

from schedopt.refresh.frame import Frame
from schedopt.refresh.greedy import greedy_of
from schedopt.refresh.greedy_packing import packing_of
from schedopt.refresh.measures import measures_of
from schedopt.refresh.settings import Minimise
from schedopt.solve.refresh import solve_refresh
from schedopt.solve.refresh_known import greedy_packings
from schedopt.solve.refresh_solution import RefreshParameters, RefreshSolution
from schedopt.solve.solution import Status
from schedopt.verify import violations
from tests.refresh_trainings import random_frame


def solved(
    frame: Frame, *, seconds: float = 10, **parameters: object
) -> RefreshSolution:
    solution = solve_refresh(
        frame,
        RefreshParameters(time_limit_s=seconds, workers=1, **parameters),
    )
    if solution.cycle is not None:
        schedule = solution.cycle.schedule
        assert violations(schedule.graph, schedule.start) == ()
        measures = measures_of(solution.cycle)
        assert solution.least_interval is not None
        assert solution.least_age is not None
        assert solution.least_interval <= measures.interval
        assert solution.least_age <= (measures.largest_age or 0)
        assert (solution.memory_bound or 0) <= measures.peak_memory
    return solution


# -- the greedy as the start -----------------------------------------------------------


@pytest.mark.parametrize("wrap", [False, True])
def test_without_time_the_result_is_the_greedys(wrap: bool) -> None:
    converted = 0
    for seed in range(12):
        frame = random_frame(random.Random(seed))
        greedy = packing_of(greedy_of(frame)).packing
        starts = list(greedy_packings(frame, wrap=wrap))
        solution = solved(frame, seconds=0, wrap=wrap, minimise=Minimise.INTERVAL)
        if not starts:
            assert solution.status is not Status.FEASIBLE
            continue
        assert solution.cycle is not None
        least = min(packing.problem.interval for packing in starts)
        assert solution.cycle.interval <= least
        if greedy is not None and (wrap or not greedy.problem.wrap):
            converted += 1
            assert least <= greedy.problem.interval
    assert converted >= 4
