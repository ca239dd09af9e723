"""Slabs: all that a schedule runs near one moment, solved with the rest as it is."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice

import pytest
from ortools.sat.python import cp_model

from schedopt.build import build_graph
from schedopt.cpsat import Effort, Slabs, build_model, slabs
from schedopt.cpsat.coarse import coarsened, exact_scale
from schedopt.cpsat.replaying import replayed
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


def medium(mode: CommunicationMode) -> Instance:
    """Unequal stages that are short of memory, with transfers that take time."""
    instance = pipeline(devices=3, microbatches=6, memory_limit=24)
    return replace(
        instance,
        stages=tuple(replace(stage, output_bytes=2) for stage in instance.stages),
        communication=replace(instance.communication, mode=mode),
    )


def timeline_of(schedule: Schedule) -> Timeline:
    """In coarse ticks."""
    coarse = coarsened(schedule.graph, exact_scale(schedule.graph), round_up=True)
    replay = replayed(coarse, schedule, Objective.MAKESPAN)
    assert replay is not None
    return Timeline(replay, Links(coarse))


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


@pytest.mark.parametrize("mode", CommunicationMode)
def test_what_stands_solves_every_slab_and_what_is_found_is_gained(
    mode: CommunicationMode,
) -> None:
    schedule = worst_of(medium(mode))
    assert schedule is not None
    timeline = timeline_of(schedule)
    rng = random.Random(0)
    gained = 0
    for _ in range(20):
        begin = rng.randrange(-10, len(schedule.start))
        slab = timeline.between(begin, begin + 15)
        scope, base = timeline.scope(slab)
        same = replace(scope, upper_bound=scope.upper_bound + 1)
        model, x = build_model(same, Objective.MAKESPAN, PROBLEM)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        assert solver.solve(model) == cp_model.OPTIMAL
        found = {op: base + solver.value(x.op[op].start) for op in slab.ops}
        claimed = base + round(solver.objective_value)
        replay = replayed(
            timeline.schedule.graph,
            timeline.with_slab(slab, found),
            Objective.MAKESPAN,
        )
        assert replay is not None
        assert replay.makespan <= max(claimed, timeline.schedule.makespan - 1)
        gained += replay.makespan < timeline.schedule.makespan
        for op in slab.ops:
            model.add(x.op[op].start == timeline.schedule.start[op] - base)
        assert solver.solve(model) == cp_model.OPTIMAL
        assert base + solver.objective_value == timeline.schedule.makespan
    assert gained > 3


@pytest.mark.parametrize("mode", CommunicationMode)
def test_small_slabs_improve_a_schedule_in_the_same_way_every_time(
    mode: CommunicationMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slabs, "_FIRST_OPS", 7)
    schedule = worst_of(medium(mode))
    assert schedule is not None
    runs = []
    for _ in range(2):
        reported: list[int] = []
        one = Slabs(schedule, 1)
        effort = replace(EFFORT, deterministic_time=0.1)
        one.improve(effort, lambda found: reported.append(found.makespan))  # noqa: B023 - called within
        assert reported == sorted(set(reported), reverse=True)
        assert reported[-1] == one.best.makespan < schedule.makespan
        assert violations(schedule.graph, one.best.start) == ()
        runs.append(one.best.start)
    assert runs[0] == runs[1]


def test_another_schedule_is_gone_on_from() -> None:
    instance = medium(CommunicationMode.LAG)
    schedule = worst_of(instance)
    assert schedule is not None
    found = Slabs(schedule, 0)
    found.improve(EFFORT)
    best = found.best
    again = Slabs(schedule, 0)
    again.learn(best)
    again.improve(EFFORT)
    assert again.best.makespan <= best.makespan < schedule.makespan


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
        assert worker._Worker(instance, Objective.MAKESPAN, 2**33).do(task)
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
    parameters = SolveParameters(workers=2)

    def kinds(objective: Objective) -> list[TaskKind]:
        incumbent = Incumbent(
            build_graph(pipeline(devices=3, microbatches=6)), objective
        )
        _, searching = Plan(incumbent, parameters, 1e12).sides()
        return [task.kind for task in islice(searching, 4)]

    search, slab = TaskKind.SEARCH, TaskKind.SLABS
    assert kinds(Objective.MAKESPAN) == [search] * 4
    monkeypatch.setattr(plan, "_SMALL", 50)
    assert kinds(Objective.MAKESPAN) == [search, slab] * 2
    assert kinds(Objective.DEVICE_SPAN) == [search] * 4
    monkeypatch.setattr(plan, "_LARGEST_FOR_SLABS", 53)
    assert slab not in kinds(Objective.MAKESPAN)
