"""In which order the portfolio asks its members, where problems are large."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from schedopt.build import build_graph
from schedopt.instance import Objective
from schedopt.solve import plan
from schedopt.solve.incumbent import Incumbent
from schedopt.solve.plan import Plan
from schedopt.solve.solution import SolveParameters
from schedopt.solve.starts import starts
from schedopt.solve.tasks import Task, TaskKind
from tests.test_slabs import pipeline


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Incumbent:
    """What is known of a problem that counts as large: a schedule, and no bound."""
    monkeypatch.setattr(plan, "_SMALL", 50)
    monkeypatch.setattr(plan, "_LARGE", 50)
    instance = pipeline(devices=4, microbatches=6)
    graph = build_graph(instance)
    incumbent = Incumbent(graph, Objective.MAKESPAN)
    schedule = next(starts(instance, graph, Objective.MAKESPAN)).schedule
    incumbent.offer(schedule, "a test")
    return incumbent


def sides_of(incumbent: Incumbent) -> tuple[Plan, Iterator[Task], Iterator[Task]]:
    asked = Plan(incumbent, SolveParameters(workers=2), 1e12)
    proving, searching = asked.sides()
    return asked, proving, searching


def kinds(tasks: Iterator[Task], count: int) -> list[TaskKind]:
    return [next(tasks).kind for _ in range(count)]


def test_hand_made_schedules_come_after_search(large: Incumbent) -> None:
    asked, _, searching = sides_of(large)
    turn = [TaskKind.SEARCH, TaskKind.SLABS, TaskKind.BASELINES]
    assert kinds(searching, 6) == 2 * turn
    for kind in (TaskKind.SEARCH, TaskKind.SLABS):  # they do not end with these
        asked.give_up(kind)
    assert kinds(searching, 3) == 3 * [TaskKind.BASELINES]
    asked.give_up(TaskKind.BASELINES)
    assert list(searching) == []


def test_quick_bounds_come_when_windows_come_to_a_halt(large: Incumbent) -> None:
    _, proving, _ = sides_of(large)
    quick = TaskKind.QUICK_BOUNDS
    for bound in (1, 2, 3):
        assert quick not in kinds(proving, 1)
        large.prove(bound, "a test")
    assert quick in kinds(proving, 3)
    assert quick not in kinds(proving, 20)  # once


def test_quick_bounds_come_at_last(large: Incumbent) -> None:
    """Even if windows never come to a halt in their first turns."""
    _, proving, _ = sides_of(large)
    asked = []
    for bound in range(1, 21):
        asked += kinds(proving, 1)
        large.prove(bound, "a test")
    assert asked.count(TaskKind.QUICK_BOUNDS) == 1
    first = asked.index(TaskKind.QUICK_BOUNDS)
    assert asked[:first].count(TaskKind.WINDOWS) == plan._FIRST_WINDOWS[False]
