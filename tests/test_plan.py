"""In which order the portfolio asks its members, where problems are large."""

from __future__ import annotations

from collections.abc import Container, Iterator
from itertools import islice

import pytest

from schedopt.build import build_graph
from schedopt.instance import Objective, Placement
from schedopt.solve import plan, solve, solving, worker
from schedopt.solve.incumbent import Incumbent
from schedopt.solve.plan import Plan
from schedopt.solve.solution import SolveParameters
from schedopt.solve.starts import starts
from schedopt.solve.tasks import Task, TaskKind, schedule_from
from tests.test_search import generated_instance
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


def test_hand_made_schedules_come_while_search_finds_poor_ones(
    large: Incumbent,
) -> None:
    asked, _, searching = sides_of(large)
    turn = [TaskKind.SEARCH, TaskKind.SLABS, TaskKind.BASELINES]
    assert kinds(searching, 6) == 2 * turn
    assert large.value is not None
    large.prove(int(large.value * 0.6), "a test")
    assert kinds(searching, 4) == 2 * turn[:2]
    for kind in (TaskKind.SEARCH, TaskKind.SLABS):
        asked.give_up(kind)
    assert list(searching) == []


@pytest.mark.parametrize("bound", [0.1, 0.9])
def test_a_single_worker_makes_all_hand_made_schedules(
    large: Incumbent, bound: float
) -> None:
    """Here for a start, or to compare with."""
    assert large.value is not None
    large.prove(int(large.value * bound), "a test")
    asked = Plan(large, SolveParameters(workers=1), 1e12)
    (tasks,) = asked.sides()
    assert kinds(tasks, 20).count(TaskKind.BASELINES) >= 3
    for kind in TaskKind:
        if kind is not TaskKind.BASELINES:
            asked.give_up(kind)
    *_, last = kinds(tasks, 9)
    assert last is TaskKind.BASELINES
    asked.give_up(TaskKind.BASELINES)
    assert list(tasks) == []


def test_who_has_nothing_left_to_prove_searches(large: Incumbent) -> None:
    """And makes what hand-made schedules the other side has not asked for."""
    asked, proving, searching = sides_of(large)
    assert next(searching).seed == 0
    for kind in TaskKind:
        if kind not in (TaskKind.SEARCH, TaskKind.SLABS, TaskKind.BASELINES):
            asked.give_up(kind)
    tasks = list(islice(proving, 9))
    first = next(n for n, task in enumerate(tasks) if task.kind is TaskKind.SEARCH)
    assert [task.kind for task in tasks[first : first + 3]] == [
        TaskKind.SEARCH,
        TaskKind.SLABS,
        TaskKind.BASELINES,
    ]
    assert {task.seed for task in tasks[first:]} == {1}  # not those of other sides


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


@pytest.mark.parametrize(("seconds", "tried"), [(1e-3, False), (30, True)])
def test_whether_all_hand_made_schedules_were_tried(
    monkeypatch: pytest.MonkeyPatch, seconds: float, tried: bool
) -> None:
    monkeypatch.setattr(plan, "_LARGE", 50)
    monkeypatch.setattr(plan, "_SEARCHING", (TaskKind.BASELINES,))
    monkeypatch.setattr(Plan, "_proofs", lambda _plan, _seed: iter(()))
    monkeypatch.setattr(solving, "LOAD_BOUNDS", {Objective.MAKESPAN: {}})
    instance = pipeline(devices=3, microbatches=6)
    found = solve(instance, SolveParameters(time_limit_s=seconds, workers=1))
    assert found.all_baselines_tried is tried
    assert (found.best_baseline is not None) is tried


@pytest.mark.parametrize(("spacing_s", "offers"), [(0.0, range(3, 99)), (1e9, [2])])
def test_the_best_schedule_of_a_search_is_offered(
    monkeypatch: pytest.MonkeyPatch, spacing_s: float, offers: Container[int]
) -> None:
    """However rarely it offers one meanwhile."""
    values: list[int] = []
    instance = generated_instance(4, 16, Placement.V)
    graph = build_graph(instance)
    monkeypatch.setattr(worker, "_S_PER_OP_OFFERED", spacing_s)
    monkeypatch.setattr(
        worker,
        "_answer",
        lambda **message: values.append(
            schedule_from(graph, message["schedule"]).makespan
        ),
    )
    task = Task(
        kind=TaskKind.SEARCH,
        seconds=2.0,
        seed=0,
        incumbent=None,
        lower_bound=0,
        upper_bound=10**15,
        deterministic=True,
    )
    searching = worker._Worker(instance, Objective.MAKESPAN, 2**33)
    assert searching.do(task)
    assert searching._searcher is not None
    assert values == sorted(values, reverse=True)
    assert values[-1] == searching._searcher.best_makespan
    assert len(values) in offers
