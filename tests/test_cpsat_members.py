"""Projections, rounding, proofs and solving: nothing is claimed that does not hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schedopt.build import build_graph
from schedopt.cpsat import (
    Effort,
    Outcome,
    Scope,
    exact_scale,
    project_bound,
    prove,
    run,
    solve_graph,
)
from schedopt.cpsat.coarse import coarsened
from schedopt.cpsat.ends import device_windows
from schedopt.cpsat.projection import project
from schedopt.instance import (
    FINITE_OBJECTIVES,
    Backward,
    Communication,
    CommunicationMode,
    Device,
    Instance,
    Link,
    Objective,
    Placement,
    StageCost,
)
from schedopt.opgraph import Edge, OpGraph, Stream, StreamKind
from schedopt.ops import Op
from schedopt.schedule import Schedule
from schedopt.simulate import best_times, with_memory_edges
from schedopt.verify import violations
from tests.exact_search import best_device_span, best_makespan
from tests.small_instances import INSTANCES, optima, small_instance
from tests.strategies import tiny_graph

EFFORT = Effort(time_limit_s=60)  # CP-SAT needs a hundredth of it
FIRST = frozenset({0})


def edges_of(graph: OpGraph | None) -> set[tuple[str, str, int]]:
    assert graph is not None
    return {(str(before), str(after), lag) for before, after, lag in graph.edges}


def pipeline(**changes: object) -> Instance:
    stage = StageCost(forward=2, backward=3, activation=1, output_bytes=1)
    instance = Instance(
        name="pipeline",
        stages=(stage,) * 3,
        devices=tuple(Device(name=f"d{d}", memory_limit=2) for d in range(3)),
        microbatches=2,
        placement=Placement.LINEAR,
        device_of_stage=(0, 1, 2),
        backward=Backward.WHOLE,
        communication=Communication(latency=1),
        memory_unit="B",
        resolution=1,
    )
    return replace(instance, **changes)  # type: ignore[arg-type]  # fields of Instance


def within_a_byte(mode: CommunicationMode) -> Instance:
    """Transfers of 1, whose data is held at both ends."""
    return pipeline(
        communication=Communication(mode=mode, latency=1, transfer_buffers=True)
    )


# -- projection ---------------------------------------------------------------


def test_paths_through_other_devices_become_lags() -> None:
    graph = build_graph(pipeline(microbatches=1))
    middle = project(graph, frozenset({1}))
    assert edges_of(middle) == {("1F0", "1B0", 1 + 2 + 3 + 1)}
    assert edges_of(project(graph, frozenset({0, 2}))) == {
        ("0F0", "2F0", 1 + 2 + 1),
        ("2F0", "2B0", 0),
        ("2B0", "0B0", 1 + 3 + 1),
    }


def test_the_longest_of_several_paths_counts_and_kept_ops_end_it() -> None:
    graph = tiny_graph(
        {"0F0": 1, "1F0": 2, "2F0": 9, "0F1": 1, "0F2": 1},
        [
            ("0F0", "1F0", 1),
            ("0F0", "2F0", 1),
            ("1F0", "2F0", 5),
            ("1F0", "0F1", 20),
            ("2F0", "0F1", 1),
            ("0F0", "0F1", 3),
            ("0F1", "0F2", 0),
        ],
    )
    assert edges_of(project(graph, FIRST)) == {
        ("0F0", "0F1", max(1 + 2 + 20, 1 + 2 + 5 + 9 + 1)),
        ("0F1", "0F2", 0),
    }


def test_transfers_on_links_become_lags_and_their_buffers_are_left_out() -> None:
    part = project(build_graph(within_a_byte(CommunicationMode.LINK)), FIRST)
    assert part is not None
    assert {op.kind.value for op in part.ops} == {"F", "B"}
    assert edges_of(part) >= {("0F0", "0B0", 1 + 2 + 1 + 2 + 3 + 1 + 3 + 1)}
    assert {buffer.name for buffer in part.buffers} == {
        "activation 0.0",
        "activation 0.1",
    }


def test_blocking_transfers_stay_with_both_of_their_devices() -> None:
    part = project(
        build_graph(within_a_byte(CommunicationMode.BLOCKING)), frozenset({1})
    )
    assert part is not None
    kept = {str(op) for op in part.ops if op.microbatch == 0}
    assert kept == {
        "1F0",
        "1B0",
        "0SEND_F0",
        "1SEND_F0",
        "1SEND_B0",
        "2SEND_B0",
    }
    assert ("1SEND_F0", "2SEND_B0", 2 + 3) in edges_of(part)
    assert {buffer.device for buffer in part.buffers} == {1}


def test_graphs_with_choices_are_not_projected() -> None:
    stage = StageCost(forward=2, backward_input=1, backward_weight=1)
    graph = build_graph(pipeline(stages=(stage,) * 3, backward=Backward.CHOOSE))
    assert project(graph, FIRST) is None
    for lower in (0, 7):
        bound = project_bound(
            graph,
            FIRST,
            Objective.MAKESPAN,
            EFFORT,
            lower_bound=lower,
            upper_bound=99,
        )
        assert bound == lower


def projected(graph: OpGraph, device: int, objective: Objective, **limits: int) -> int:
    return project_bound(
        graph,
        frozenset({device}),
        objective,
        EFFORT,
        lower_bound=limits.get("lower", 0),
        upper_bound=limits["upper"],
    )


def test_directions_with_different_heads_are_not_put_in_order() -> None:
    """Odd microbatches reach the middle device 20 earlier, though its delays are equal.

    To have them pass in the order of their numbers would prove 76.
    """
    links = tuple(
        Link(source=a, target=b, latency=c)
        for a, b, c in ((0, 1, 20), (2, 1, 0), (1, 0, 0), (1, 2, 20))
    )
    stages = tuple(StageCost(forward=c, backward=c) for c in (2, 4, 2))
    graph = build_graph(
        pipeline(
            stages=stages,
            placement=Placement.BIDIRECTIONAL,
            communication=Communication(links=links),
        )
    )
    best = best_makespan(graph)
    assert best is not None
    assert best.value == 56
    assert projected(graph, 1, Objective.MAKESPAN, upper=200) == 56


def test_a_known_bound_is_rounded_down_to_the_coarse_scale() -> None:
    """All of device 0 is divisible by 4; device 1 makes the optimum 7."""
    graph = tiny_graph({"0F0": 4, "1F0": 7})
    for lower in (0, 6, 7):
        bound = projected(graph, 0, Objective.MAKESPAN, lower=lower, upper=9)
        assert bound == max(4, lower)


def test_heads_and_tails_keep_their_remainders() -> None:
    """Device 1 works 4 + 4 after 3 and before 2: 13, not 3 and 2 rounded down to 0."""
    graph = tiny_graph(
        {"0F0": 3, "1F0": 4, "1F1": 4, "2F0": 2, "0F1": 3, "2F1": 2},
        [(f"{s}F{j}", f"{s + 1}F{j}", 0) for j in (0, 1) for s in (0, 1)],
    )
    assert projected(graph, 1, Objective.MAKESPAN, upper=99) == 13


def test_a_projection_never_claims_more_than_the_known_value() -> None:
    graph = tiny_graph({"0F0": 4, "1F0": 7})
    assert projected(graph, 0, Objective.MAKESPAN, lower=3, upper=3) == 3
    assert projected(graph, 1, Objective.MAKESPAN, upper=5) == 5  # 7 is above


def test_the_span_of_a_device_counts_its_compute_stream_only() -> None:
    graph = tiny_graph({"0F0": 2, "0F1": 3}, [("0F0", "0F1", 10)])
    digraph = graph.digraph.copy()
    op = Op.parse("0F1")
    digraph.nodes[op]["data"] = graph.data[op]._replace(
        streams=(Stream(StreamKind.COPY, 0),)
    )
    copied = OpGraph(digraph, (), (), graph.devices, graph.units)
    assert projected(graph, 0, Objective.DEVICE_SPAN, upper=99) == 15
    assert projected(copied, 0, Objective.DEVICE_SPAN, upper=99) == 2
    assert device_windows(graph, 0, 15) is not None
    assert device_windows(copied, 0, 15) is None


# -- coarser time -------------------------------------------------------------


def test_the_exact_scale_divides_everything() -> None:
    graph = tiny_graph({"0F0": 6, "0F1": 4}, [("0F0", "0F1", 8)])
    assert exact_scale(graph) == 2
    assert exact_scale(graph, [3]) == 1
    assert exact_scale(tiny_graph({"0F0": 0})) == 1
    assert exact_scale(tiny_graph({})) == 1


def test_coarser_time_rounds_as_asked() -> None:
    graph = tiny_graph({"0F0": 7, "0F1": 4}, [("0F0", "0F1", 1)])
    for round_up, durations, lag in ((True, [2, 1], 1), (False, [1, 1], 0)):
        coarse = coarsened(graph, 4, round_up=round_up)
        assert [data.duration for data in coarse.data.values()] == durations
        assert coarse.edges == (Edge(Op.parse("0F0"), Op.parse("0F1"), lag),)


@pytest.fixture
def short_horizons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is rounded although it is short."""
    monkeypatch.setattr("schedopt.cpsat.members.LARGEST_HORIZON", 5)
    monkeypatch.setattr("schedopt.cpsat.members.ROUNDED_HORIZON", 11)


@pytest.mark.usefixtures("short_horizons")
def test_rounded_time_gives_exact_schedules_and_valid_bounds() -> None:
    """With scales of 5 to 20 ticks, and durations that round down to nothing."""
    differ = 0
    for seed in range(4, INSTANCES, 6):
        graph, known = build_graph(small_instance(seed)), optima()[seed]
        found = solve_graph(graph, Objective.MAKESPAN, EFFORT)
        if known.makespan is None:
            assert found.schedule is None
            continue
        assert found.lower_bound <= known.makespan, seed
        differ += found.lower_bound < known.makespan
        if found.schedule is not None:
            assert not violations(graph, found.schedule.start), seed
            assert found.schedule.makespan >= known.makespan
            again = solve_graph(
                graph, Objective.MAKESPAN, EFFORT, incumbent=found.schedule
            )
            assert again.lower_bound <= known.makespan, seed
        assert prove(graph, Objective.MAKESPAN, EFFORT, known.makespan + 9, 0) <= (
            known.makespan
        ), seed
        if not graph.choices:
            for device in range(len(graph.devices)):
                bound = projected(
                    graph, device, Objective.MAKESPAN, upper=known.makespan + 3
                )
                assert bound <= known.makespan, (seed, device)
    assert differ


@pytest.mark.usefixtures("short_horizons")
def test_rounded_time_gives_valid_device_spans() -> None:
    judged = 0
    for seed in range(0, INSTANCES, 7):
        graph, known = build_graph(small_instance(seed)), optima()[seed]
        if known.device_span is None:
            continue
        found = solve_graph(graph, Objective.DEVICE_SPAN, EFFORT)
        assert found.lower_bound <= known.device_span, seed
        if found.schedule is not None:
            assert not violations(graph, found.schedule.start), seed
            assert found.schedule.device_span >= known.device_span
        judged += 1
    assert judged >= 10


def test_awkward_decimals_are_rounded_and_hold() -> None:
    """In microticks of thirds and sevenths time is far too long to be exact."""
    stages = tuple(
        StageCost(forward=f, backward=b, activation=1)
        for f, b in ((1000 / 3, 2000 / 7), (1000 / 7, 1999 / 3), (123.4567891, 500))
    )
    graph = build_graph(
        pipeline(
            stages=stages,
            microbatches=3,
            resolution=1e-6,
            communication=Communication(latency=1 / 3),
        )
    )
    best = best_makespan(graph)
    assert best is not None
    assert exact_scale(graph) == 1
    assert best.value > 10**9
    found = solve_graph(graph, Objective.MAKESPAN, EFFORT)
    assert found.schedule is not None
    assert not violations(graph, found.schedule.start)
    assert found.schedule.makespan == best.value
    assert best.value * 0.999 < found.lower_bound <= best.value


# -- proofs -------------------------------------------------------------------


def test_a_span_below_the_makespan_leaves_the_ops_room() -> None:
    """The devices work one after the other: no span is above 4, the last end is 11."""
    graph = tiny_graph(
        {"0F0": 4, "1F0": 3, "2F0": 4}, [("0F0", "1F0", 0), ("1F0", "2F0", 0)]
    )
    best = best_device_span(graph)
    assert best is not None
    assert best.value == 4
    for upper in (4, 5, 10):
        assert prove(graph, Objective.DEVICE_SPAN, EFFORT, upper, 0) == 4


def test_proofs_of_spans_hold_on_every_placement() -> None:
    judged = 0
    for seed in range(0, INSTANCES, 7):
        known = optima()[seed].device_span
        if known is None:
            continue
        graph = build_graph(small_instance(seed))
        assert prove(graph, Objective.DEVICE_SPAN, EFFORT, known, 0) == known, seed
        assert prove(graph, Objective.DEVICE_SPAN, EFFORT, known + 1, 0) == known, seed
        judged += 1
    assert judged >= 10


def test_bounds_that_meet_need_no_solver() -> None:
    graph = tiny_graph({"0F0": 4})
    assert prove(graph, Objective.MAKESPAN, EFFORT, 4, 4) == 4
    assert prove(graph, Objective.MAKESPAN, EFFORT, 0, 0) == 0


# -- solving ------------------------------------------------------------------


@pytest.mark.parametrize("objective", FINITE_OBJECTIVES)
def test_a_bad_incumbent_is_improved_to_the_optimum(objective: Objective) -> None:
    """Schedules and bounds come as they are found; the incumbent starts late."""
    graph = build_graph(pipeline())
    start, time = {}, 100
    for j in range(2):
        for name in (f"0F{j}", f"1F{j}", f"2F{j}", f"2B{j}", f"1B{j}", f"0B{j}"):
            start[Op.parse(name)] = time
            time += graph.data[Op.parse(name)].duration + 1
    worst = Schedule(graph, start)
    assert not violations(graph, worst.start)
    schedules: list[Schedule] = []
    bounds: list[int] = []
    found = solve_graph(
        graph,
        objective,
        EFFORT,
        incumbent=worst,
        on_schedule=schedules.append,
        on_bound=bounds.append,
    )
    best = {
        Objective.MAKESPAN: best_makespan,
        Objective.DEVICE_SPAN: best_device_span,
    }[objective](graph)
    assert best is not None
    assert found.schedule is not None
    assert found.schedule.value(objective) == found.lower_bound == best.value
    values = [schedule.value(objective) for schedule in schedules]
    assert values == sorted(set(values), reverse=True)
    assert values[-1] == best.value
    assert max(bounds, default=0) <= best.value


def test_an_optimal_incumbent_is_proven() -> None:
    graph = build_graph(pipeline())
    best = best_makespan(graph)
    assert best is not None
    order = with_memory_edges(Schedule(graph, best.start))
    incumbent = best_times(graph, order, Objective.MAKESPAN)
    found = solve_graph(graph, Objective.MAKESPAN, EFFORT, incumbent=incumbent)
    assert found.lower_bound == best.value


@pytest.mark.parametrize("by_levels", [False, True])
def test_an_infeasible_problem_yields_no_schedule(by_levels: bool) -> None:
    effort = replace(EFFORT, by_levels=by_levels)
    for limit, static in ((1, 0), (2, 3)):
        graph = tiny_graph(
            {"0F0": 1, "0B0": 1},
            [("0F0", "0B0", 0)],
            [(2, "0F0", ("0B0",))],
            limits=(limit, None, None),
            static=static,
        )
        found = solve_graph(graph, Objective.MAKESPAN, effort, lower_bound=1)
        assert found.schedule is None
        assert found.lower_bound == 1


def test_a_schedule_that_holds_a_buffer_for_no_time_is_passed_over() -> None:
    """The transfer and what uses it take no time, and their buffer never fits.

    The model may hold it for no time at all, but no order can promise that.
    """
    graph = tiny_graph(
        {"0F0": 2, "0SEND_F0": 0, "1F0": 0},
        [("0F0", "0SEND_F0", 0), ("0SEND_F0", "1F0", 0)],
        [(5, "0SEND_F0", ("1F0",))],
        devices={"0SEND_F0": (0, 1)},
        limits=(4, None, None),
    )
    offered: list[Schedule] = []
    found = solve_graph(graph, Objective.MAKESPAN, EFFORT, on_schedule=offered.append)
    assert found.schedule is None
    assert offered == []
    assert found.lower_bound <= 2
    momentary = Schedule(
        graph, {Op.parse("0F0"): 0, Op.parse("0SEND_F0"): 2, Op.parse("1F0"): 2}
    )
    assert not violations(graph, momentary.start)
    again = solve_graph(graph, Objective.MAKESPAN, EFFORT, incumbent=momentary)
    assert again.schedule is None
    assert again.lower_bound <= 2


def test_a_replay_that_does_not_fit_is_passed_over() -> None:
    """0F0 holds memory until 0B0, which waits for 1F0; at once if 0F0 starts late.

    A replay starts 0F0 at 0, when 0F1 holds all the memory.
    """
    graph = tiny_graph(
        {"0F1": 2, "0F0": 0, "0B0": 0, "1F0": 5, "0B1": 1},
        [("0F1", "0B1", 0), ("1F0", "0B0", 0), ("0F0", "0B0", 0), ("0B0", "0B1", 0)],
        [(4, "0F1", ("0B1",)), (1, "0F0", ("0B0",))],
        limits=(4, None, None),
    )
    best = best_makespan(graph)
    assert best is not None
    found = solve_graph(graph, Objective.MAKESPAN, EFFORT)
    if found.schedule is not None:
        assert not violations(graph, found.schedule.start)
    assert found.lower_bound <= best.value


# -- results ------------------------------------------------------------------


def scope_between(graph: OpGraph, lower: int, upper: int) -> Scope:
    return Scope(
        graph=graph,
        head=dict.fromkeys(graph.ops, 0),
        tail=dict.fromkeys(graph.ops, 0),
        horizon=upper,
        lower_bound=lower,
        upper_bound=upper,
    )


def test_results_say_what_was_proven() -> None:
    graph = tiny_graph({"0F0": 3, "0F1": 4})
    result = run(scope_between(graph, 0, 20), Objective.MAKESPAN, EFFORT)
    assert (result.outcome, result.lower_bound) == (Outcome.OPTIMAL, 7)
    assert result.start is not None
    assert Schedule(graph, result.start).makespan == 7
    result = run(scope_between(graph, 0, 6), Objective.MAKESPAN, EFFORT)
    assert (result.outcome, result.start) == (Outcome.INFEASIBLE, None)
    assert result.lower_bound == 7
    result = run(scope_between(graph, 9, 20), Objective.MAKESPAN, EFFORT)
    assert (result.outcome, result.lower_bound) == (Outcome.OPTIMAL, 9)


def test_nothing_is_proven_without_time() -> None:
    graph = build_graph(pipeline(microbatches=6))
    effort = Effort(time_limit_s=0.0)
    result = run(scope_between(graph, 3, 500), Objective.MAKESPAN, effort)
    assert result.outcome is Outcome.UNKNOWN
    assert (result.start, result.lower_bound) == (None, 3)
    found = solve_graph(graph, Objective.MAKESPAN, effort, lower_bound=3)
    assert (found.schedule, found.lower_bound) == (None, 3)
