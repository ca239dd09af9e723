"""The solver against the oracle on every seeded small instance.

The instances cover every placement, communication mode and form of backward, with and
without recomputation, overlap, transfer buffers, unequal microbatches and tight memory.
"""

from __future__ import annotations

from collections import Counter

import pytest

from schedopt.bounds import quick_bounds
from schedopt.build import build_graph
from schedopt.cpsat import (
    PROBLEM,
    Effort,
    Scope,
    project_bound,
    prove,
    run,
    solve_graph,
)
from schedopt.cpsat.model import ALL_RULES
from schedopt.cpsat.rules import Rule
from schedopt.instance import (
    FINITE_OBJECTIVES,
    Backward,
    CommunicationMode,
    Objective,
    Placement,
)
from schedopt.opgraph import OpGraph
from schedopt.paths import paths
from schedopt.schedule import Schedule
from schedopt.simulate import simulate, with_memory_edges
from schedopt.solve import SolveParameters, Status, solve
from schedopt.verify import violations
from tests.exact_search import best_makespan
from tests.small_instances import (
    INSTANCES,
    LARGEST,
    KnownOptimum,
    device_span_of,
    graph_hash,
    op_count,
    optima,
    small_instance,
)

CHUNK = 36
EFFORT = Effort(time_limit_s=60)  # CP-SAT needs a hundredth of it
in_chunks = pytest.mark.parametrize("first", range(0, INSTANCES, CHUNK))


def chunk(first: int) -> list[tuple[int, OpGraph, KnownOptimum]]:
    return [
        (seed, build_graph(small_instance(seed)), optima()[seed])
        for seed in range(first, first + CHUNK)
    ]


def test_the_small_instances_cover_every_feature() -> None:
    instances = [small_instance(seed) for seed in range(INSTANCES)]
    assert len(optima()) == INSTANCES >= 300
    assert max(map(op_count, instances)) == LARGEST
    combinations = Counter(
        (i.placement, i.communication.mode, i.backward) for i in instances
    )
    assert set(combinations) == {
        (placement, mode, backward)
        for placement in Placement
        for mode in CommunicationMode
        for backward in Backward
    }
    tight = [i for i in instances if i.devices[0].memory_limit is not None]
    features = {
        "tight memory": len(tight),
        "recompute": sum(bool(i.recompute) for i in instances),
        "overlap": sum(i.stages[0].overlap is not None for i in instances),
        "transfer buffers": sum(i.communication.transfer_buffers for i in tight),
        "unequal microbatches": sum(
            len(set(i.microbatch_scale)) > 1 for i in instances
        ),
        "links": sum(bool(i.communication.links) for i in instances),
        "speeds": sum(len({d.speed for d in i.devices}) > 1 for i in instances),
        "device span": sum(known.device_span is not None for known in optima()),
        "large": sum(op_count(i) >= 20 for i in instances),
    }
    assert min(features.values()) >= 20, features


def test_memory_binds_in_many_small_instances() -> None:
    """A looser limit would be a weak test of the memory rule."""
    binding = 0
    for seed in range(INSTANCES):
        graph = build_graph(small_instance(seed))
        if graph.devices[0].limit is None:
            continue
        free = OpGraph(
            graph.digraph,
            graph.buffers,
            graph.choices,
            tuple(device._replace(limit=None) for device in graph.devices),
            graph.units,
        )
        best = best_makespan(free)
        assert best is not None
        known = optima()[seed].makespan
        binding += known is None or known > best.value
        if binding == 60:
            return
    pytest.fail(f"{binding} of {INSTANCES} are limited by memory")


@in_chunks
def test_the_stored_optima_are_those_of_the_oracle(first: int) -> None:
    """After a change of the builder: ``python -m tests.exact_search --write``.

    The schedules that attain them keep the rules, and replay in their order.
    """
    for seed, graph, known in chunk(first):
        assert graph_hash(graph) == known.graph_hash, seed
        assert device_span_of(graph) == known.device_span, seed
        best = best_makespan(graph)
        if best is None:
            assert known.makespan is None, seed
            continue
        assert best.value == known.makespan, seed
        assert not violations(graph, best.start), seed
        schedule = Schedule(graph, best.start)
        assert schedule.makespan == known.makespan
        replay = simulate(graph, with_memory_edges(schedule))
        assert replay.makespan == known.makespan, seed


@in_chunks
def test_cpsat_proves_the_oracles_makespan(first: int) -> None:
    for seed, graph, known in chunk(first):
        found = solve_graph(graph, Objective.MAKESPAN, EFFORT)
        if found.schedule is None:
            assert known.makespan is None, seed
            continue
        assert not violations(graph, found.schedule.start), seed
        assert found.schedule.makespan == found.lower_bound == known.makespan, seed


@in_chunks
def test_cpsat_proves_the_oracles_device_span(first: int) -> None:
    for seed, graph, known in chunk(first):
        if known.device_span is None:
            continue
        found = solve_graph(graph, Objective.DEVICE_SPAN, EFFORT)
        assert found.schedule is not None
        assert not violations(graph, found.schedule.start), seed
        assert found.schedule.device_span == found.lower_bound == known.device_span, (
            seed
        )


@in_chunks
def test_no_bound_exceeds_the_optimum(first: int) -> None:
    for seed, graph, known in chunk(first):
        for objective, value in (
            (Objective.MAKESPAN, known.makespan),
            (Objective.DEVICE_SPAN, known.device_span),
        ):
            if value is None:
                continue
            for name, bound in quick_bounds(graph, objective).items():
                assert bound <= value, (seed, objective, name)


@pytest.mark.parametrize("objective", FINITE_OBJECTIVES)
def test_no_bound_of_a_part_exceeds_the_optimum(objective: Objective) -> None:
    """Bounds from single devices, and refusals of a value above the optimum."""
    for seed in range(0, INSTANCES, 5):
        graph, known = build_graph(small_instance(seed)), optima()[seed]
        value = {
            Objective.MAKESPAN: known.makespan,
            Objective.DEVICE_SPAN: known.device_span,
        }[objective]
        if value is None:
            continue
        for device in range(len(graph.devices)):
            bound = project_bound(
                graph,
                frozenset({device}),
                objective,
                EFFORT,
                lower_bound=0,
                upper_bound=2 * value,
            )
            assert bound <= value, (seed, device)
        assert prove(graph, objective, EFFORT, value, 0) == value, seed
        assert prove(graph, objective, EFFORT, value + 5, 0) <= value, seed


@pytest.mark.parametrize("rule", PROBLEM, ids=lambda rule: rule.__name__)
def test_the_oracle_objects_to_a_model_without_a_rule(
    rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tuple(other for other in ALL_RULES if other is not rule)
    monkeypatch.setattr("schedopt.cpsat.model.ALL_RULES", kept)
    for seed in range(0, INSTANCES, 9):
        graph, known = build_graph(small_instance(seed)), optima()[seed]
        serial = sum(data.duration for data in graph.data.values())
        horizon = serial + sum(edge.lag for edge in graph.edges)
        found = paths(graph)
        scope = Scope(
            graph=graph,
            head=found.head,
            tail=found.tail,
            horizon=horizon,
            lower_bound=0,
            upper_bound=horizon,
        )
        result = run(scope, Objective.MAKESPAN, EFFORT)
        value = None if result.start is None else result.lower_bound
        if value != known.makespan:
            return
    pytest.fail("every optimum is the same without this rule")


@pytest.mark.parametrize("seed", range(7, INSTANCES, 30))
def test_solving_ends_optimal_with_the_oracles_value(seed: int) -> None:
    known = optima()[seed]
    solution = solve(
        small_instance(seed), SolveParameters(time_limit_s=60.0, workers=1)
    )
    assert solution.value == known.makespan
    expected = Status.INFEASIBLE if known.makespan is None else Status.OPTIMAL
    assert solution.status is expected, solution.reason
    if solution.schedule is not None:
        assert solution.lower_bound == known.makespan
        assert not violations(solution.graph, solution.schedule.start)
