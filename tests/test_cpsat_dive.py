"""Dives: CP-SAT asked for a schedule that ends by some time, within known windows."""

from __future__ import annotations

import pytest

from schedopt.bounds import Destructive
from schedopt.build import build_graph
from schedopt.cpsat import Effort, dive
from schedopt.instance import Objective
from schedopt.lattice import Problem, Windows, problem_of
from schedopt.opgraph import OpGraph
from schedopt.solve import worker
from schedopt.solve.tasks import Task, TaskKind
from schedopt.verify import violations
from tests.small_instances import INSTANCES, optima, small_instance

EFFORT = Effort(time_limit_s=60)  # CP-SAT needs a hundredth of it


def cases() -> list[tuple[int, OpGraph, Problem, int]]:
    """Those whose microbatches are equal and that leave nothing to choose."""
    found = []
    for seed in range(INSTANCES):
        graph = build_graph(small_instance(seed))
        problem = None if graph.choices else problem_of(graph)
        makespan = optima()[seed].makespan
        if problem is not None and makespan is not None and makespan > 0:
            found.append((seed, graph, problem, makespan))
    return found


def first_windows(problem: Problem, value: int) -> Windows | None:
    """Windows that have been settled once, if that leaves any."""
    destructive = Destructive(problem, 0, value + problem.beat)
    for _ in destructive.steps():
        windows = destructive.windows_by(value)
        if windows is not None:
            return windows
    return None


def test_a_dive_finds_the_optimum_and_refutes_what_is_shorter() -> None:
    refuted = 0
    assert len(cases()) > 60
    for seed, graph, problem, makespan in cases():
        windows = first_windows(problem, makespan)
        assert windows is not None, seed
        found = dive(graph, windows.windows(), makespan, EFFORT)
        assert found.schedule is not None, seed
        assert found.schedule.makespan == makespan, seed
        assert violations(graph, found.schedule.start) == (), seed
        sooner = first_windows(problem, makespan - problem.beat)
        if sooner is not None:
            end = makespan - problem.beat
            assert dive(graph, sooner.windows(), end, EFFORT).is_refuted, seed
            refuted += 1
    assert refuted > 10


def test_what_the_last_step_proves_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bounds: list[int] = []
    monkeypatch.setattr(
        worker, "_answer", lambda **message: bounds.append(message["bound"])
    )
    told = 0
    for seed, _, problem, makespan in cases():
        bounds.clear()
        task = Task(
            kind=TaskKind.WINDOWS,
            seconds=60,
            seed=0,
            incumbent=None,
            lower_bound=0,
            upper_bound=makespan,
        )
        instance = small_instance(seed)
        assert not worker._Worker(instance, Objective.MAKESPAN, 2**33).do(task)
        destructive = Destructive(problem, 0, makespan)
        for _ in destructive.steps():
            pass
        assert max(bounds, default=0) == destructive.lower_bound, seed
        told += destructive.lower_bound == makespan
    assert told > 30
