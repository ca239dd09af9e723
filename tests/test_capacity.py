"""The least memory that any schedule needs, against schedules that attain it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from schedopt.build import build_graph, least_peaks, shortfalls
from schedopt.cpsat import Effort, Outcome, Scope, run
from schedopt.formats import instance_from_document
from schedopt.instance import Backward, Objective
from schedopt.paths import paths
from schedopt.solve.starts import one_by_one
from tests.strategies import random_instance, serial_schedule


def instance_of(**fields):
    document = {
        "schema": "schedopt/instance/v1",
        "name": "t",
        "microbatches": 2,
        "devices": 1,
        "stages": [{"forward": 1, "backward": 2, "activation": 10}],
        **fields,
    }
    return instance_from_document(document, "t")


def graph_of(**fields):
    return build_graph(instance_of(**fields))


def test_one_stage_needs_one_activation():
    assert least_peaks(graph_of()) == (10_000_000,)


def test_static_memory_counts():
    stage = {"forward": 1, "backward": 2, "activation": 10, "static_memory": 5}
    assert least_peaks(graph_of(stages=[stage])) == (15_000_000,)


def test_both_stages_of_a_device_hold_a_microbatch_at_its_turn():
    stage = {"forward": 1, "backward": 2, "activation": 10}
    graph = graph_of(devices=2, placement="v", stages=[stage] * 4)
    assert least_peaks(graph) == (20_000_000, 20_000_000)


def test_the_input_gradient_comes_on_top_while_the_input_backward_runs():
    stage = {
        "forward": 1,
        "backward_input": 1,
        "backward_weight": 1,
        "activation": 10,
        "activation_until_input": 4,
        "input_gradient": 3,
    }
    assert least_peaks(graph_of(stages=[stage], backward="split")) == (13_000_000,)


def test_a_choice_needs_what_its_cheapest_alternative_needs():
    stage = {
        "forward": 1,
        "backward": 2,
        "backward_input": 1,
        "backward_weight": 1,
        "activation": 10,
        "input_gradient": 3,
    }
    # Whole backward holds the activation only; the split form would add 3.
    assert least_peaks(graph_of(stages=[stage], backward="choose")) == (10_000_000,)


def test_recomputation_holds_checkpoint_and_activation_together():
    stage = {"forward": 1, "backward": 2, "activation": 10, "checkpoint": 2}
    graph = graph_of(stages=[stage], recompute="full")
    assert least_peaks(graph) == (12_000_000,)


def test_another_stage_of_the_device_holds_its_checkpoint_meanwhile():
    stage = {"forward": 1, "backward": 2, "activation": 10, "checkpoint": 2}
    graph = graph_of(stages=[stage] * 2, recompute="full")
    assert least_peaks(graph) == (14_000_000,)


def test_a_shortfall_names_the_device_and_the_least_limit():
    stage = {"forward": 1, "backward": 2, "activation": 10}
    (found,) = shortfalls(graph_of(stages=[stage], memory_limit=9))
    assert (found.device, found.limit, found.least_peak) == (0, 9_000_000, 10_000_000)


def test_what_an_op_without_duration_frees_is_gone_when_what_it_makes_comes():
    stage = {
        "forward": 5,
        "backward_input": 0,
        "backward_weight": 5,
        "activation": 10,
        "activation_until_input": 10,
        "input_gradient": 10,
    }
    graph = graph_of(stages=[stage], backward="split")
    assert least_peaks(graph) == (10_000_000,)
    tight = instance_of(stages=[stage], backward="split", memory_limit=10)
    schedule = one_by_one(tight, build_graph(tight))
    assert schedule is not None
    assert schedule.peak_memory == (10_000_000,)


@pytest.mark.parametrize(
    ("latency", "least"),
    [(0, 0), (1, 14)],  # held for no time; while the gradient is under way
)
def test_a_stage_without_duration_holds_what_waits_for_others(latency, least):
    none = {"forward": 0, "backward": 0, "activation": 14}
    graph = graph_of(
        devices=2,
        stages=[none, {"forward": 0, "backward": 0}],
        communication={"latency": latency},
    )
    assert least_peaks(graph) == (least * 1_000_000, 0)


def with_joint_ops(instance):
    """Forwards and backwards may run as one op that takes no time."""
    stages = tuple(replace(stage, overlap=0) for stage in instance.stages)
    return replace(instance, stages=stages)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_no_schedule_with_durations_of_0_needs_less(seed, joint):
    """Nothing fits in a grain less on any device, as CP-SAT proves."""
    rng = random.Random(seed)
    backwards = [Backward.WHOLE] if joint else list(Backward)
    instance = random_instance(rng, max_ops=10, zeros=True, backwards=backwards)
    graph = build_graph(with_joint_ops(instance) if joint else instance)
    for device, least in enumerate(least_peaks(graph)):
        if least == graph.devices[device].static:
            continue
        devices = [memory._replace(limit=None) for memory in graph.devices]
        devices[device] = devices[device]._replace(limit=least - 1)
        tight = replace(graph, devices=tuple(devices))
        ends = paths(tight)
        horizon = sum(data.duration for data in tight.data.values())
        horizon += sum(edge.lag for edge in tight.edges)
        scope = Scope(
            graph=tight,
            head=ends.head,
            tail=ends.tail,
            horizon=horizon,
            lower_bound=0,
            upper_bound=horizon,
        )
        found = run(scope, Objective.MAKESPAN, Effort(time_limit_s=60))
        assert found.outcome is Outcome.INFEASIBLE


@pytest.mark.parametrize("seed", range(120))
def test_no_schedule_needs_less(seed):
    instance = random_instance(random.Random(seed), max_ops=40)
    graph = build_graph(instance)
    peaks = serial_schedule(graph, random.Random(seed)).peak_memory
    least = least_peaks(graph)
    assert all(a <= b for a, b in zip(least, peaks, strict=True))
