"""Slabs: all that a schedule runs near one moment, solved with the rest as it is."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
from ortools.sat.python import cp_model

from schedopt.build import build_graph
from schedopt.cpsat import Effort, Slabs, build_model, coarse, slabs
from schedopt.cpsat.coarse import coarsened, exact_scale
from schedopt.cpsat.model import Outcome, Result, run
from schedopt.cpsat.replaying import replayed, replayed_with_order
from schedopt.cpsat.rules import PROBLEM
from schedopt.cpsat.slab_scope import Links, Timeline
from schedopt.instance import (
    CommunicationMode,
    Instance,
    Objective,
)
from schedopt.schedule import Schedule
from schedopt.solve import SolveParameters, plan, worker
from schedopt.solve.incumbent import Incumbent
from schedopt.solve.plan import Plan
from schedopt.solve.starts import starts
from schedopt.solve.tasks import Task, TaskKind, schedule_from, starts_of
from schedopt.verify import violations
from tests.small_instances import INSTANCES, optima, small_instance
from tests.solve_helpers import pipeline

EFFORT = Effort(time_limit_s=1e9, deterministic_time=1.0)  # the small need less


def worst_of(instance: Instance) -> Schedule | None:
    """The longest schedule that solving begins with, its choices made."""
    graph = build_graph(instance)
    known = [one.schedule for one in starts(instance, graph, Objective.MAKESPAN)]
    if not known:
        return None
    worst = max(known, key=lambda schedule: schedule.makespan)
    literals = {graph.data[op].literal for op in worst.start}
    chosen = graph.select(name for name in literals if name)
    return Schedule(chosen, worst.start)


SETTINGS = {
    "lag": {"mode": CommunicationMode.LAG},
    "link": {"mode": CommunicationMode.LINK},
    "held": {"mode": CommunicationMode.LINK, "transfer_buffers": True},
    "blocking": {"mode": CommunicationMode.BLOCKING},
}


def medium(setting: str) -> Instance:
    """Unequal stages that are short of memory, with transfers that take time."""
    instance = pipeline(devices=3, microbatches=6, memory_limit=24)
    communication = replace(instance.communication, **SETTINGS[setting])
    stages = tuple(replace(stage, output_bytes=2) for stage in instance.stages)
    return replace(instance, stages=stages, communication=communication)


def timeline_of(schedule: Schedule) -> Timeline:
    """In coarse ticks."""
    graph = coarsened(schedule.graph, exact_scale(schedule.graph), round_up=True)
    found = replayed_with_order(graph, schedule, Objective.MAKESPAN)
    assert found is not None
    return Timeline(*found, Links(graph))


def test_one_slab_of_everything_is_the_whole_problem() -> None:
    improved = 0
    for seed in range(0, INSTANCES, 7):  # all features
        schedule = worst_of(small_instance(seed))
        makespan = optima()[seed].makespan
        if schedule is None or makespan is None:
            continue
        found = Slabs(schedule, seed)
        found.improve(EFFORT)
        assert violations(schedule.graph, found.best.start) == (), seed
        assert makespan <= found.best.makespan <= schedule.makespan, seed
        if not build_graph(small_instance(seed)).choices:
            assert found.best.makespan == makespan, seed
        improved += found.best.makespan < schedule.makespan
    assert improved > 20


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_stands_solves_every_slab_and_what_is_found_is_gained(
    setting: str,
) -> None:
    schedule = worst_of(medium(setting))
    assert schedule is not None
    timeline = timeline_of(schedule)
    rng = random.Random(0)
    gained = 0
    for _ in range(20):
        begin = rng.randrange(-10, len(schedule.start))
        slab = timeline.between(begin, begin + 15)
        scope, base, hint = timeline.problem(slab)
        same = replace(scope, upper_bound=scope.upper_bound + 1)
        model, x = build_model(same, Objective.MAKESPAN, PROBLEM)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        assert solver.solve(model) == cp_model.OPTIMAL
        found = {op: base + solver.value(x.op[op].start) for op in slab.in_time}
        claimed = base + round(solver.objective_value)
        replay = replayed(
            timeline.schedule.graph,
            timeline.with_slab(slab, found),
            Objective.MAKESPAN,
        )
        assert replay is not None
        assert replay.makespan <= claimed
        gained += replay.makespan < timeline.schedule.makespan
        for op, moment in hint.items():
            model.add(x.op[op].start == moment)
        assert solver.solve(model) == cp_model.OPTIMAL
        assert base + solver.objective_value == timeline.schedule.makespan
    assert gained > 3


@pytest.mark.parametrize("setting", SETTINGS)
def test_small_slabs_improve_a_schedule_in_the_same_way_every_time(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slabs, "_FIRST_OPS", 7)
    schedule = worst_of(medium(setting))
    assert schedule is not None
    runs = []
    for _ in range(2):
        reported: list[int] = []
        one = Slabs(schedule, 1)
        effort = replace(EFFORT, deterministic_time=0.06)
        one.improve(effort, lambda found: reported.append(found.makespan))  # noqa: B023 - called within
        assert reported == sorted(set(reported), reverse=True)
        assert reported[-1] == one.best.makespan < schedule.makespan
        assert violations(schedule.graph, one.best.start) == ()
        runs.append(one.best.start)
    assert runs[0] == runs[1]


def test_rounded_ticks_give_exact_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "LARGEST_HORIZON", 100)
    monkeypatch.setattr(coarse, "ROUNDED_HORIZON", 100)
    schedule = worst_of(medium("lag"))
    assert schedule is not None
    found = Slabs(schedule, 0)
    assert not found._is_exact
    found.improve(replace(EFFORT, deterministic_time=0.06))
    assert found.best.makespan < schedule.makespan
    assert violations(schedule.graph, found.best.start) == ()


def test_another_schedule_is_gone_on_from() -> None:
    schedule = worst_of(medium("lag"))
    assert schedule is not None
    found = Slabs(schedule, 0)
    found.improve(replace(EFFORT, deterministic_time=0.06))
    again = Slabs(schedule, 0)
    again.learn(found.best)
    again.improve(replace(EFFORT, deterministic_time=0.0))
    assert again.best is found.best
    assert again.best.makespan < schedule.makespan


def test_nothing_is_solved_after_a_slab_of_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    solved = []
    monkeypatch.setattr(slabs, "run", lambda *a, **k: solved.append(1) or run(*a, **k))
    schedule = worst_of(small_instance(0))
    assert schedule is not None
    found = Slabs(schedule, 0)
    found.improve(EFFORT)
    assert found.is_settled
    assert 1 <= (count := len(solved)) <= 3  # one that begins late has not all ops
    found.improve(EFFORT)
    assert len(solved) == count


def test_slabs_grow_and_shrink_and_one_that_is_cut_short_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule = worst_of(medium("lag"))
    assert schedule is not None
    sizes = []
    for outcome, spent in (
        (Outcome.OPTIMAL, 0.0),
        (Outcome.INFEASIBLE, 0.2),
        (Outcome.UNKNOWN, 0.3),
        (Outcome.FEASIBLE, 0.1),
    ):
        one = Slabs(schedule, 0)
        before = one._size
        effort = replace(EFFORT, deterministic_time=0.35)
        monkeypatch.setattr(slabs, "_PER_OP_S", 0.0)
        monkeypatch.setattr(slabs, "run", partial(_spending, outcome, spent))
        one.improve(effort)
        sizes.append(one._size / before)
    assert sizes[0] > 1
    assert sizes[1] == sizes[3] == 1
    assert sizes[2] < 1


def _spending(
    outcome: Outcome, spent: float, *arguments: object, **_: object
) -> Result:
    """In place of a run: it only takes effort."""
    _, _, effort = arguments
    assert isinstance(effort, Effort)
    assert effort.on_spent is not None
    effort.on_spent(spent)
    return Result(outcome, None, 0)


def test_other_processes_find_the_same() -> None:
    program = """
from tests.test_slabs import *
slabs._FIRST_OPS = 7
found = Slabs(worst_of(medium("held")), 1)
found.improve(replace(EFFORT, deterministic_time=0.06))
print(sorted((str(op), time) for op, time in found.best.start.items()))
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            check=True,
            cwd=Path(__file__).parent.parent,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_a_worker_keeps_the_selection_and_answers_with_all_ops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[list[int | None]] = []
    monkeypatch.setattr(
        worker, "_answer", lambda **message: answers.append(message["schedule"])
    )
    chose = 0
    for seed in range(30, 45):  # a backward is whole or split, by choice
        instance = small_instance(seed)
        graph = build_graph(instance)
        schedule = worst_of(instance)
        makespan = optima()[seed].makespan
        if schedule is None or makespan is None or not graph.choices:
            continue
        answers.clear()
        task = Task(
            kind=TaskKind.SLABS,
            seconds=1.0,
            seed=0,
            incumbent=starts_of(Schedule(graph, schedule.start)),
            lower_bound=0,
            upper_bound=schedule.makespan,
            deterministic=True,
        )
        worker._Worker(instance, Objective.MAKESPAN, 2**33).do(task)
        for starts_found in answers:
            found = schedule_from(graph, starts_found)
            assert found.start.keys() == schedule.start.keys()
            assert violations(graph, found.start) == ()
            assert makespan <= found.makespan < schedule.makespan
            chose += 1
    assert chose > 3
    span = worker._Worker(instance, Objective.DEVICE_SPAN, 2**33)
    assert not span.do(task)


def test_slabs_follow_searches_on_instances_that_are_neither_tiny_nor_huge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    instance = pipeline(devices=3, microbatches=6)
    graph = build_graph(instance)
    parameters = SolveParameters(workers=2)

    def kinds(objective: Objective) -> list[TaskKind]:
        incumbent = Incumbent(graph, objective)
        _, searching = Plan(incumbent, parameters, 1e12).sides()
        assert next(searching).kind is search  # no schedule is known
        schedule = next(starts(instance, graph, objective)).schedule
        incumbent.offer(schedule, "a test")
        return [task.kind for task in islice(searching, 4)]

    search, slab = TaskKind.SEARCH, TaskKind.SLABS
    assert kinds(Objective.MAKESPAN) == [search] * 4
    monkeypatch.setattr(plan, "_SMALL", 50)
    assert kinds(Objective.MAKESPAN) == [slab, search] * 2
    assert kinds(Objective.DEVICE_SPAN) == [search] * 4
    monkeypatch.setattr(plan, "_LARGEST_FOR_SLABS", 53)
    assert slab not in kinds(Objective.MAKESPAN)


def test_slabs_go_on_where_search_does_not_apply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "_SMALL", 50)
    instance = pipeline(devices=3, microbatches=6)
    graph = build_graph(instance)
    incumbent = Incumbent(graph, Objective.MAKESPAN)
    incumbent.offer(
        next(starts(instance, graph, Objective.MAKESPAN)).schedule, "a test"
    )
    asked = Plan(incumbent, SolveParameters(workers=2), 1e12)
    _, searching = asked.sides()
    asked.give_up(TaskKind.SEARCH)
    assert [task.kind for task in islice(searching, 5)] == [TaskKind.SLABS] * 5
    asked.give_up(TaskKind.SLABS)
    assert list(searching) == []


@pytest.mark.parametrize(
    ("microbatches", "first"), [(5, TaskKind.CPSAT), (6, TaskKind.WINDOWS)]
)
def test_what_is_tiny_is_given_to_cpsat_as_a_whole(
    microbatches: int, first: TaskKind
) -> None:
    graph = build_graph(pipeline(devices=4, microbatches=microbatches))
    incumbent = Incumbent(graph, Objective.MAKESPAN)
    proving, _ = Plan(incumbent, SolveParameters(workers=2), 1e12).sides()
    assert next(proving).kind is first
