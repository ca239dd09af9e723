"""Several training steps in the op graph, and what the package does with them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from kfac_instances import STAGE, random_training, training
from strategies import random_order

from schedopt.baselines import BASELINES, run_baseline
from schedopt.bounds import quick_bounds
from schedopt.build import build_graph, least_peaks, numbers_are_free
from schedopt.errors import ExportError, InstanceError, NotApplicableError
from schedopt.export import export, program_of
from schedopt.instance import (
    Backward,
    Instance,
    Kfac,
    Objective,
    Placement,
    StageCost,
)
from schedopt.opgraph import OpGraph
from schedopt.ops import Op, OpKind
from schedopt.simulate import simulate
from schedopt.solve import SolveParameters, Status, solve
from schedopt.solve.starts import one_by_one
from schedopt.structure import class_graph, fifo_classes, lanes_of
from schedopt.verify import Rule, violations
from tests.exact_search import best_makespan

OPTIONS = [
    {"backward": backward, "placement": placement, "stages": stages, "devices": devices}
    for backward in Backward
    for placement, stages, devices in (
        (Placement.LINEAR, 2, 2),
        (Placement.LINEAR, 3, 1),
        (Placement.V, 4, 2),
        (Placement.BIDIRECTIONAL, 2, 2),
        (Placement.BIDIRECTIONAL, 3, 3),
        ((1, 0, 1), 3, 2),
    )
]
OVERLAP = replace(STAGE, overlap=14)


def in_steps(steps: int, **options: Any) -> Instance:
    return training(kfac=None, steps=steps, **options)


def predecessors(graph: OpGraph, op: Op) -> set[Op]:
    return {before for before, _ in graph.predecessors(op)}


def of_kind(graph: OpGraph, *kinds: OpKind) -> list[Op]:
    return [op for op in graph.ops if op.kind in kinds]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_step_is_the_pipelines_work(options: dict[str, Any]) -> None:
    changes = {"recompute": frozenset({1}), "microbatch_scale": (1, 2, 3)}
    one = build_graph(in_steps(1, **options, **changes))
    graph = build_graph(in_steps(3, **options, **changes))
    assert not of_kind(one, OpKind.STEP)
    for step in range(3):
        of_step = {op for op in graph.ops if op.step == step}
        work = {op for op in of_step if op.kind is not OpKind.STEP}
        assert [op._replace(step=0) for op in graph.ops if op in work] == [*one.ops]
        for op in work:
            data, right = graph.data[op], one.data[op._replace(step=0)]
            assert data._replace(literal=None) == right._replace(literal=None)
            name = right.literal
            assert data.literal == (name and (f"{step}@{name}" if step else name))
        inside = {
            (a._replace(step=0), b._replace(step=0), lag)
            for a, b, lag in graph.edges
            if a in work and b in work
        }
        assert inside == {tuple(edge) for edge in one.edges}
        buffers = [b for b in graph.buffers if b.maker.step == step]
        assert all({b.maker, *b.users} <= work for b in buffers)
        assert [
            (b.device, b.size, b.maker._replace(step=0), len(b.users)) for b in buffers
        ] == [(b.device, b.size, b.maker, len(b.users)) for b in one.buffers]
    assert len(graph.choices) == 3 * len(one.choices)
    assert len({choice.name for choice in graph.choices}) == len(graph.choices)
    assert {d.literal for d in graph.data.values()} - {None} == graph.literals


@pytest.mark.parametrize("stage", [STAGE, OVERLAP], ids=["plain", "overlap"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_forwards_wait_for_the_stages_step_and_that_for_its_gradients(
    options: dict[str, Any], stage: StageCost
) -> None:
    if stage.overlap and options["backward"] is Backward.SPLIT:
        stage = STAGE
    instance = in_steps(3, **options, stage=stage)
    graph = build_graph(instance)
    last = (OpKind.BACKWARD, OpKind.BACKWARD_WEIGHT)
    gradients: dict[tuple[int, int], set[Op]] = {}
    for op in of_kind(graph, *last):
        gradients.setdefault((op.step, op.stage), set()).add(op)
    for op in of_kind(graph, OpKind.OVERLAP):
        of_stage = Op.parse(op.part).stage
        gradients.setdefault((op.step, of_stage), set()).add(op)
    steps = of_kind(graph, OpKind.STEP)
    places = {(op.step, op.stage, graph.data[op].device): op for op in steps}
    assert len(places) == len(steps)
    assert sorted(places) == sorted(
        (step, stage, device)
        for step in range(3)
        for stage in range(len(instance.stages))
        for device in instance.copies_of(stage)
    )
    for op in steps:
        assert predecessors(graph, op) == gradients[op.step, op.stage]
        assert graph.data[op].duration == 2
    for op in of_kind(graph, OpKind.FORWARD, OpKind.OVERLAP):
        waits = {b for b in predecessors(graph, op) if b.kind is OpKind.STEP}
        before = places.get((op.step - 1, op.stage, graph.data[op].device))
        assert waits == ({before} if op.step else set())
    crossing = [(a, b) for a, b, _ in graph.edges if a.step != b.step]
    assert all(a.kind is OpKind.STEP and b.step == a.step + 1 for a, b in crossing)


def test_the_optimizers_step_takes_less_on_a_faster_device() -> None:
    graph = build_graph(in_steps(2, speeds=(1, 2)))
    assert [graph.data[op].duration for op in of_kind(graph, OpKind.STEP)] == [2, 1] * 2


def test_steps_one_after_the_other_take_as_long_as_by_hand() -> None:
    # F 6, lag 1, F 6, B 11, lag 1, B 11, STEP 2: 38 for a microbatch on two devices.
    graph = build_graph(in_steps(3, microbatches=1))
    solution = solve(
        in_steps(3, microbatches=1), SolveParameters(time_limit_s=20, workers=1)
    )
    assert quick_bounds(graph, Objective.MAKESPAN)["critical path"] == 3 * 38
    assert solution.status is Status.OPTIMAL
    assert solution.value == 3 * 38
    assert solution.schedule is not None
    assert violations(graph, solution.schedule.start) == ()


def test_a_runtime_has_no_rules_for_steps_or_k_fac() -> None:
    for instance in (in_steps(2), training()):
        with pytest.raises(InstanceError, match="cover one step without K-FAC only"):
            build_graph(replace(instance, runtime="torch-csv"))


@pytest.mark.parametrize("name", sorted(BASELINES))
@pytest.mark.parametrize("kfac", [None, Kfac(refreshes=2)], ids=["steps", "kfac"])
def test_a_baseline_runs_every_step_in_its_order(name: str, kfac: Kfac | None) -> None:
    modules = tuple(replace(module, count=2) for module in STAGE.modules)
    instance = training(2, 4, kfac=kfac, steps=2, stage=replace(STAGE, modules=modules))
    once = run_baseline(BASELINES[name], replace(instance, kfac=None, steps=1))
    run = run_baseline(BASELINES[name], instance)
    assert violations(run.graph, run.schedule.start) == ()
    own = {
        op for op in run.schedule.start if op._replace(step=0) in once.schedule.start
    }
    for stream, ops in once.schedule.order.sequences.items():
        found = [op for op in run.schedule.order.sequences[stream] if op in own]
        assert [op._replace(step=0) for op in found] == [*ops, *ops]
        assert [op.step for op in found] == [0] * len(ops) + [1] * len(ops)


def test_a_capped_baseline_counts_the_memory_of_one_step() -> None:
    limited = {"memory_limit": 60, "backward": Backward.WHOLE, "microbatches": 6}
    once = run_baseline(BASELINES["1f1b"], in_steps(1, devices=4, **limited))
    run = run_baseline(BASELINES["1f1b"], in_steps(2, devices=4, **limited))
    assert once.cap is not None
    assert (run.cap, run.fits) == (once.cap, True)


def test_one_microbatch_of_a_two_way_pipeline_that_fits_nowhere() -> None:
    instance = in_steps(
        1, microbatches=1, placement=Placement.BIDIRECTIONAL, memory_limit=15
    )
    assert not run_baseline(BASELINES["chimera"], instance).fits


@pytest.mark.parametrize("seed", range(40))
def test_orders_and_first_schedules_keep_every_rule(seed: int) -> None:
    rng = random.Random(seed)
    instance = random_training(rng)
    graph = build_graph(instance)
    found = violations(graph, simulate(graph, random_order(graph, rng)).start)
    assert [v for v in found if v.rule is not Rule.MEMORY] == []
    # The limits are at the least peak or above it, and this one holds no more.
    serial = one_by_one(instance, graph)
    assert serial is not None
    assert violations(graph, serial.start) == ()


@pytest.mark.parametrize("seed", range(30))
def test_no_quick_bound_is_above_the_optimum(seed: int) -> None:
    graph = build_graph(random_training(random.Random(seed), max_ops=24))
    best = best_makespan(graph)
    if best is not None:
        bounds = quick_bounds(graph, Objective.MAKESPAN)
        assert max(bounds.values()) <= best.value


@pytest.mark.parametrize("seed", range(200, 208))
def test_the_optimum_is_found_and_proven(seed: int) -> None:
    instance = random_training(random.Random(seed), max_ops=24)
    best = best_makespan(build_graph(instance))
    solution = solve(instance, SolveParameters(time_limit_s=30, workers=1))
    assert best is not None
    assert (solution.status, solution.value) == (Status.OPTIMAL, best.value)
    assert solution.reason == ""


@pytest.mark.parametrize("instance", [in_steps(2), training()], ids=["steps", "kfac"])
def test_views_of_one_step_do_not_apply(instance: Instance) -> None:
    graph = build_graph(instance)
    assert lanes_of(graph) == ()
    assert fifo_classes(graph) == ()
    assert class_graph(graph) is None
    schedule = run_baseline(BASELINES["1f1b"], instance).schedule
    assert not numbers_are_free(instance, schedule)
    with pytest.raises(NotApplicableError, match="give steps: 1 and no kfac"):
        solve(instance, SolveParameters(objective=Objective.PERIOD, time_limit_s=1))


def test_runtimes_formats_refuse_what_they_cannot_express() -> None:
    for instance, word in ((in_steps(2), "steps"), (training(), "kfac")):
        run = run_baseline(BASELINES["1f1b"], instance)
        program = program_of(instance, run.schedule)
        with pytest.raises(ExportError, match=rf"^{word}: "):
            export(program, "torch-csv")
        for name in ("chrome-trace", "json", "csv"):
            assert export(program, name).files


def test_what_the_maker_of_a_buffer_holds_is_needed() -> None:
    # 20 of activation, of which the output gradients are no part: 2 x 2 + 4 more.
    instance = training(1, 1)
    graph = build_graph(instance)
    assert least_peaks(graph) == (graph.devices[0].static + 20 + 8,)
