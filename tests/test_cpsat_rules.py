"""Every rule of the model alone, by hand; complete hints; symmetry loses nothing."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from ortools.sat.python import cp_model

from schedopt.build import build_graph
from schedopt.cpsat import OBJECTIVES, PROBLEM, REDUNDANT, SYMMETRY, Scope, build_model
from schedopt.cpsat.rules import (
    Rule,
    await_predecessors,
    bounded_in_flight,
    fit_in_memory,
    fit_in_memory_by_levels,
    levels_apply,
    microbatches_in_order,
    one_alternative_of_each_choice,
    one_op_at_a_time,
)
from schedopt.instance import FINITE_OBJECTIVES, Objective
from schedopt.opgraph import OpGraph
from schedopt.ops import Op
from schedopt.paths import paths
from schedopt.schedule import Schedule
from schedopt.simulate import best_times, with_memory_edges
from tests.exact_search import best_makespan
from tests.small_instances import INSTANCES, optima, small_instance
from tests.strategies import times, tiny_graph

HORIZON = 30


def scope_of(graph: OpGraph, horizon: int = HORIZON) -> Scope:
    return Scope(
        graph=graph,
        head=dict.fromkeys(graph.ops, 0),
        tail=dict.fromkeys(graph.ops, 0),
        horizon=horizon,
        lower_bound=0,
        upper_bound=horizon,
    )


def allowed(
    rule: Rule,
    graph: OpGraph,
    starts: Mapping[Op, int],
    *,
    true: tuple[str, ...] = (),
) -> bool:
    """Whether the rule alone admits these starts of the present ops."""
    model, x = build_model(scope_of(graph), Objective.MAKESPAN, (rule,))
    for op, start in starts.items():
        model.add(x.op[op].start == start)
    for name, literal in x.literal.items():
        model.add(literal == (name in true))
    return _is_feasible(model)


def _is_feasible(model: cp_model.CpModel) -> bool:
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    assert status in (cp_model.OPTIMAL, cp_model.INFEASIBLE), solver.status_name()
    return status == cp_model.OPTIMAL


TWO_FORMS = tiny_graph(
    {"0F0": 2, "0B0": 4, "0I0": 2, "0W0": 2},
    [("0F0", "0B0", 1), ("0F0", "0I0", 1), ("0I0", "0W0", 0)],
    literals={"0B0": "whole", "0I0": "split", "0W0": "split"},
    choices=[("whole", "split")],
)


def test_exactly_one_literal_of_a_choice_is_true() -> None:
    rule = one_alternative_of_each_choice
    assert allowed(rule, TWO_FORMS, {}, true=("whole",))
    assert allowed(rule, TWO_FORMS, {}, true=("split",))
    assert not allowed(rule, TWO_FORMS, {}, true=())
    assert not allowed(rule, TWO_FORMS, {}, true=("whole", "split"))


def test_a_stream_runs_one_op_at_a_time() -> None:
    graph = tiny_graph({"0F0": 2, "0F1": 3, "1F0": 4})
    rule = one_op_at_a_time
    assert allowed(rule, graph, times(_0F0=0, _0F1=2, _1F0=0))
    assert not allowed(rule, graph, times(_0F0=0, _0F1=1, _1F0=0))
    assert not allowed(rule, graph, times(_0F0=4, _0F1=2, _1F0=0))


def test_an_op_of_no_duration_stands_between_others_and_not_within() -> None:
    graph = tiny_graph({"0F0": 4, "0F1": 0})
    assert allowed(one_op_at_a_time, graph, times(_0F0=0, _0F1=4))
    assert allowed(one_op_at_a_time, graph, times(_0F0=0, _0F1=0))
    assert not allowed(one_op_at_a_time, graph, times(_0F0=0, _0F1=2))


def test_a_transfer_may_hold_two_compute_streams() -> None:
    graph = tiny_graph(
        {"0F0": 2, "1F0": 2, "0SEND_F0": 3},
        devices={"0SEND_F0": (0, 1, 2)},  # all compute streams of these devices
    )
    rule = one_op_at_a_time
    assert allowed(rule, graph, times(_0F0=3, _1F0=3, _0SEND_F0=0))
    assert not allowed(rule, graph, times(_0F0=2, _1F0=3, _0SEND_F0=0))
    assert not allowed(rule, graph, times(_0F0=3, _1F0=1, _0SEND_F0=0))


def test_absent_ops_hold_no_stream() -> None:
    starts = times(_0F0=0, _0B0=1, _0I0=3, _0W0=5)
    assert allowed(one_op_at_a_time, TWO_FORMS, starts, true=("split",))
    assert not allowed(one_op_at_a_time, TWO_FORMS, starts, true=("whole",))


def test_an_op_awaits_its_present_predecessors_and_the_lag() -> None:
    rule = await_predecessors
    early = times(_0F0=0, _0B0=2, _0I0=3, _0W0=5)
    assert allowed(rule, TWO_FORMS, early, true=("split",))
    assert not allowed(rule, TWO_FORMS, early, true=("whole",))
    late = times(_0F0=0, _0B0=3, _0I0=3, _0W0=4)
    assert allowed(rule, TWO_FORMS, late, true=("whole",))
    assert not allowed(rule, TWO_FORMS, late, true=("split",))


def held(limit: int, static: int = 0) -> OpGraph:
    """Two F that hold 2 each until B; 0F1 may start when 0B0 ends."""
    return tiny_graph(
        {"0F0": 1, "0F1": 1, "0B0": 1, "0B1": 1},
        [("0F0", "0B0", 0), ("0F1", "0B1", 0)],
        [(2, "0F0", ("0B0",)), (2, "0F1", ("0B1",))],
        limits=(limit, None, None),
        static=static,
    )


TOGETHER = times(_0F0=0, _0F1=1, _0B0=2, _0B1=3)
IN_TURN = times(_0F0=0, _0B0=1, _0F1=2, _0B1=3)


@pytest.mark.parametrize("rule", [fit_in_memory, fit_in_memory_by_levels])
def test_buffers_alive_together_fit(rule: Rule) -> None:
    assert allowed(rule, held(4), TOGETHER)
    assert allowed(rule, held(6, static=2), TOGETHER)
    assert not allowed(rule, held(5, static=2), TOGETHER)
    assert not allowed(rule, held(3), TOGETHER)
    assert allowed(rule, held(2), IN_TURN)  # freed before what starts then allocates
    assert not allowed(rule, held(1), IN_TURN)


@pytest.mark.parametrize("rule", [fit_in_memory, fit_in_memory_by_levels])
def test_static_memory_alone_can_be_too_much(rule: Rule) -> None:
    without_buffers = tiny_graph({"0F0": 1}, limits=(2, None, None), static=3)
    assert not allowed(rule, without_buffers, times(_0F0=0))
    assert not allowed(rule, held(2, static=3), IN_TURN)
    assert allowed(rule, held(2, static=0), IN_TURN)


@pytest.mark.parametrize("rule", [fit_in_memory, fit_in_memory_by_levels])
def test_a_buffer_held_for_no_time_needs_no_room(rule: Rule) -> None:
    graph = tiny_graph(
        {"0F0": 0, "0B0": 0},
        [("0F0", "0B0", 0)],
        [(5, "0F0", ("0B0",))],
        limits=(4, None, None),
    )
    assert allowed(rule, graph, times(_0F0=3, _0B0=3))
    assert not allowed(rule, graph, times(_0F0=3, _0B0=4))


def test_a_buffer_lives_to_the_last_of_its_present_users() -> None:
    graph = tiny_graph(
        {"0F0": 1, "0B0": 4, "0I0": 2, "0W0": 2, "0F1": 1},
        [],
        [(2, "0F0", ("0B0", "0W0")), (1, "0F1", ("0F1",))],
        literals={"0B0": "whole", "0I0": "split", "0W0": "split"},
        choices=[("whole", "split")],
        limits=(2, None, None),
    )
    starts = times(_0F0=0, _0B0=1, _0I0=1, _0W0=7, _0F1=5)
    assert allowed(fit_in_memory, graph, starts, true=("whole",))
    assert not allowed(fit_in_memory, graph, starts, true=("split",))
    # Without present users a buffer lives to the end of its maker.
    assert allowed(fit_in_memory, graph, times(_0F0=0, _0F1=1), true=())
    assert not allowed(fit_in_memory, graph, times(_0F0=0, _0F1=0), true=())


def test_a_buffer_of_an_absent_maker_needs_no_room() -> None:
    graph = tiny_graph(
        {"0I0": 2, "0W0": 2, "0B0": 3, "0F1": 1},
        [("0I0", "0W0", 0)],
        [(2, "0I0", ("0W0",)), (1, "0F1", ("0F1",))],
        literals={"0B0": "whole", "0I0": "split", "0W0": "split"},
        choices=[("whole", "split")],
        limits=(2, None, None),
    )
    starts = times(_0I0=0, _0W0=2, _0B0=5, _0F1=2)
    assert allowed(fit_in_memory, graph, starts, true=("whole",))
    assert not allowed(fit_in_memory, graph, starts, true=("split",))


def test_levels_need_one_user_and_no_literal() -> None:
    assert levels_apply(held(4))
    several = tiny_graph({"0F0": 1, "0B0": 1}, buffers=[(1, "0F0", ("0F0", "0B0"))])
    assert not levels_apply(several)
    optional = tiny_graph(
        {"0I0": 1, "0W0": 1},
        buffers=[(1, "0I0", ("0W0",))],
        literals={"0I0": "a", "0W0": "a"},
        choices=[("a",)],
    )
    assert not levels_apply(optional)


# -- redundant and symmetry ---------------------------------------------------


def test_equal_microbatches_start_in_order() -> None:
    graph = tiny_graph({"0F0": 2, "0F1": 2})
    rule = microbatches_in_order
    assert allowed(rule, graph, times(_0F0=0, _0F1=2))
    assert not allowed(rule, graph, times(_0F0=2, _0F1=0))
    assert not allowed(rule, graph, times(_0F0=0, _0F1=1))
    unequal = tiny_graph({"0F0": 2, "0F1": 3})
    assert allowed(rule, unequal, times(_0F0=3, _0F1=0))


def test_ops_of_no_duration_may_start_together() -> None:
    graph = tiny_graph({"0F0": 0, "0F1": 0})
    assert allowed(microbatches_in_order, graph, times(_0F0=1, _0F1=1))
    assert not allowed(microbatches_in_order, graph, times(_0F0=1, _0F1=0))


def test_only_present_alternatives_pass_in_order() -> None:
    literals = {f"0{k}{j}": f"{k}{j}" for j in (0, 1) for k in "BI"}
    graph = tiny_graph(
        dict.fromkeys(literals, 2),
        literals=literals,
        choices=[("B0", "I0"), ("B1", "I1")],
    )
    starts = times(_0B0=0, _0I0=4, _0B1=2, _0I1=6)
    assert allowed(microbatches_in_order, graph, starts, true=("B0", "B1"))
    assert allowed(microbatches_in_order, graph, starts, true=("B0", "I1"))
    assert not allowed(microbatches_in_order, graph, starts, true=("I0", "B1"))


def test_heads_and_tails_of_the_scope_keep_microbatches_apart() -> None:
    """Equal in the graph, but the first cannot start before the second has ended."""
    graph = tiny_graph({"0F0": 2, "0F1": 2})
    for head, tail in (((2, 0), (0, 0)), ((0, 0), (0, 2))):
        scope = Scope(
            graph=graph,
            head=dict(zip(graph.ops, head, strict=True)),
            tail=dict(zip(graph.ops, tail, strict=True)),
            horizon=4,
            lower_bound=0,
            upper_bound=4,
        )
        model, _ = build_model(scope, Objective.MAKESPAN)
        assert _is_feasible(model)


def in_flight(limit: int, sizes: tuple[int, ...] = (2, 2, 2)) -> OpGraph:
    count = len(sizes)
    return tiny_graph(
        {f"0{k}{j}": 1 for j in range(count) for k in "FIW"},
        [
            edge
            for j in range(count)
            for edge in ((f"0F{j}", f"0I{j}", 0), (f"0I{j}", f"0W{j}", 0))
        ],
        [
            buffer
            for j, size in enumerate(sizes)
            for buffer in ((size, f"0F{j}", (f"0I{j}",)), (1, f"0F{j}", (f"0W{j}",)))
        ],
        limits=(limit, None, None),
    )


def test_at_most_as_many_as_fit_are_in_flight() -> None:
    """Each holds 3 until I and 1 until W: 7 has room for two of 3 and seven of 1."""
    rule = bounded_in_flight
    early = times(_0F0=0, _0F1=1, _0I0=2, _0F2=3)
    assert allowed(rule, in_flight(7), early)
    assert not allowed(rule, in_flight(7), early | times(_0F2=2))
    assert allowed(rule, in_flight(9), early | times(_0F2=2))
    assert not allowed(rule, in_flight(5), early)  # room for one of 3
    # Room for none of 3: a forward would have to wait for its own backward.
    assert not allowed(rule, in_flight(2), times(_0F0=0, _0I0=1))


def test_what_stays_to_w_limits_too() -> None:
    graph = tiny_graph(
        {f"0{k}{j}": 1 for j in range(2) for k in "FIW"},
        [("0I0", "0W0", 0), ("0I1", "0W1", 0)],
        [(1, "0F0", ("0W0",)), (1, "0F1", ("0W1",))],
        limits=(1, None, None),
    )
    assert allowed(bounded_in_flight, graph, times(_0W0=3, _0F1=4))
    assert not allowed(bounded_in_flight, graph, times(_0W0=3, _0F1=3))


def test_unequal_or_empty_buffers_bound_nothing() -> None:
    starts = times(_0F0=0, _0F1=1, _0F2=2, _0I0=9, _0I1=10, _0I2=11)
    assert not allowed(bounded_in_flight, in_flight(5), starts)
    assert allowed(bounded_in_flight, in_flight(5, (2, 3, 4)), starts)
    empty = tiny_graph(
        {f"0{k}{j}": 1 for j in range(2) for k in "FB"},
        buffers=[(0, "0F0", ("0B0",)), (0, "0F1", ("0B1",))],
        limits=(0, None, None),
    )
    assert allowed(bounded_in_flight, empty, times(_0F0=0, _0F1=1, _0B0=5, _0B1=6))


# -- objectives ---------------------------------------------------------------


def least(graph: OpGraph, objective: Objective, starts: Mapping[Op, int]) -> int:
    model, x = build_model(scope_of(graph), objective, ())
    for op, start in starts.items():
        model.add(x.op[op].start == start)
    solver = cp_model.CpSolver()
    assert solver.solve(model) == cp_model.OPTIMAL
    return round(solver.objective_value)


def test_objectives_measure_what_they_are_called() -> None:
    graph = tiny_graph({"0F0": 2, "0F1": 2, "1F0": 3})
    starts = times(_0F0=1, _0F1=7, _1F0=10)
    assert least(graph, Objective.MAKESPAN, starts) == 13
    assert least(graph, Objective.DEVICE_SPAN, starts) == 8
    assert set(OBJECTIVES) == set(FINITE_OBJECTIVES)


def test_absent_ops_count_in_no_objective() -> None:
    graph = tiny_graph(
        {"0F0": 2, "0B0": 9, "0I0": 1},
        literals={"0B0": "b", "0I0": "i"},
        choices=[("b", "i")],
    )
    for objective in FINITE_OBJECTIVES:
        model, x = build_model(scope_of(graph), objective, PROBLEM)
        model.add(x.op[Op.parse("0B0")].start == 20)
        solver = cp_model.CpSolver()
        assert solver.solve(model) == cp_model.OPTIMAL
        assert solver.objective_value == 3


# -- on the seeded instances --------------------------------------------------


def solved(graph: OpGraph, rules: tuple[Rule, ...]) -> int | None:
    horizon = sum(d.duration for d in graph.data.values())
    horizon += sum(edge.lag for edge in graph.edges)
    found = paths(graph)
    scope = Scope(
        graph=graph,
        head=found.head,
        tail=found.tail,
        horizon=horizon,
        lower_bound=0,
        upper_bound=horizon,
    )
    model, _ = build_model(scope, Objective.MAKESPAN, rules)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return None
    assert status == cp_model.OPTIMAL
    return round(solver.objective_value)


@pytest.mark.parametrize(
    "added",
    [SYMMETRY, REDUNDANT, SYMMETRY + REDUNDANT],
    ids=["symmetry", "redundant", "both"],
)
def test_redundant_and_symmetry_rules_never_change_the_optimum(
    added: tuple[Rule, ...],
) -> None:
    for seed in range(2, INSTANCES, 6):
        graph = build_graph(small_instance(seed))
        assert solved(graph, PROBLEM + added) == optima()[seed].makespan, seed


@pytest.mark.parametrize("rule", PROBLEM, ids=lambda rule: rule.__name__)
def test_every_rule_of_the_problem_decides_some_optimum(rule: Rule) -> None:
    rules = tuple(other for other in PROBLEM if other is not rule)
    assert any(
        solved(build_graph(small_instance(seed)), rules) != optima()[seed].makespan
        for seed in range(3, INSTANCES, 7)
    )


@pytest.mark.parametrize("objective", FINITE_OBJECTIVES)
@pytest.mark.parametrize("rule", [fit_in_memory, fit_in_memory_by_levels])
def test_hints_are_complete(objective: Objective, rule: Rule) -> None:
    """With every variable fixed to its hint the model has the hinted objective.

    The seeded instances bring whole, split and chosen backwards, overlap, buffers of
    several users and transfers that hold buffers.
    """
    judged = 0
    for seed in range(0, INSTANCES, 7):
        graph = build_graph(small_instance(seed))
        if rule is fit_in_memory_by_levels and not levels_apply(graph):
            continue
        best = best_makespan(graph)
        if best is None:
            continue
        order = with_memory_edges(Schedule(graph, best.start))
        schedule = best_times(graph, order, objective)
        value = schedule.value(objective)
        found = paths(graph)
        horizon = max(schedule.end(op) for op in schedule.start)
        scope = Scope(
            graph=graph,
            head=found.head,
            tail=found.tail,
            horizon=horizon,
            lower_bound=0,
            upper_bound=value,
        )
        kept = (
            one_alternative_of_each_choice,
            one_op_at_a_time,
            await_predecessors,
            rule,
        )
        model, x = build_model(scope, objective, kept)
        x.hint(schedule.start, value)
        solver = cp_model.CpSolver()
        solver.parameters.fix_variables_to_their_hinted_value = True
        status = solver.solve(model)
        assert status == cp_model.OPTIMAL, (seed, solver.status_name(status))
        assert solver.objective_value == value
        judged += 1
    assert judged >= 20
