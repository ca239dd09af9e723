"""The steady state: certificates, bounds, the least period, the batch unrolled."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

import schedopt
from schedopt.bounds import quick_bounds, without_choices
from schedopt.build import least_peaks
from schedopt.cpsat import CycleSearch, Effort, Outcome, search_cycles
from schedopt.cpsat.modulo import schedule_cycle
from schedopt.errors import NotApplicableError
from schedopt.experiments.generate import Point, document_of
from schedopt.instance import Backward, Instance, Objective, Placement
from schedopt.opgraph import OpGraph
from schedopt.ops import Op
from schedopt.solve import Status
from schedopt.steady import (
    CycleProblem,
    Periodic,
    as_repeated,
    cycle_problem,
    direct_schedules,
    memory_throughput,
    pattern_length,
    placed_directly,
    shortened,
    stream_load,
    stretched,
    unrolled,
)
from schedopt.verify import Rule, steady_violations, verify_file, violations
from tests.cli_helpers import Run, runner
from tests.small_instances import INSTANCES, optima, small_instance

EFFORT = Effort(time_limit_s=60)
BRIEF = Effort(time_limit_s=60, deterministic_time=0.5)
PERIOD = schedopt.SolveParameters(objective=Objective.PERIOD, time_limit_s=30)
US = 10**6


def published(
    devices: int,
    memory: float,
    placement: Placement = Placement.LINEAR,
    *,
    microbatches: int = 4,
    backward: Backward = Backward.SPLIT,
) -> Instance:
    """Uniform costs as the studies have them; two stages per device in a V."""
    point = Point(
        generator="uniform",
        devices=devices,
        microbatches=microbatches,
        memory=memory,
        placement=placement,
        stages_per_device=1 if placement is Placement.LINEAR else 2,
        backward=backward,
        latency=6,
        last_stage=1,
        limits="equal",
        seed=None,
    )
    return schedopt.instance_from_document(document_of(point), point.name)


@cache
def two_devices() -> OpGraph:
    """F, I, W of 10, 9, 5 us on each of two devices, latency 1, memory for three."""
    document: dict[str, Any] = {
        "schema": "schedopt/instance/v1",
        "name": "two",
        "microbatches": 4,
        "devices": 2,
        "memory_limit": 30,
        "communication": {"latency": 1},
        "stages": {
            "count": 2,
            "forward": 10,
            "backward_input": 9,
            "backward_weight": 5,
            "activation": 10,
            "activation_until_input": 5,
        },
    }
    return schedopt.build_graph(schedopt.instance_from_document(document, "two"))


def problem_of(graph: OpGraph, microbatches: int = 0) -> CycleProblem:
    problem = cycle_problem(graph, microbatches)
    assert problem is not None
    return problem


def bound_of(graph: OpGraph) -> int:
    return max(stream_load(graph), memory_throughput(graph))


# -- the certificate ------------------------------------------------------------

GOOD = {"0F0": 0, "1F0": 11, "1I0": 21, "1W0": 30, "0I0": 34, "0W0": 43}
"""Of ``two_devices`` at a cycle of 24 us: each device is always busy."""


def starts(changed: dict[str, int]) -> dict[Op, int]:
    return {Op.parse(name): time * US for name, time in {**GOOD, **changed}.items()}


def test_a_cycle_without_idle_time_keeps_every_rule() -> None:
    assert steady_violations(two_devices(), starts({}), 24 * US) == ()


@pytest.mark.parametrize(
    ("changed", "cycle", "rule"),
    [
        ({"1F0": 10}, 48, Rule.PRECEDENCE),  # no time for the transfer
        ({"0I0": 30}, 48, Rule.PRECEDENCE),
        ({}, 23, Rule.STREAM),  # more work than the cycle
        ({"0W0": 44}, 24, Rule.STREAM),  # runs into the next cycle's forward
        ({"0I0": 82, "0W0": 91}, 24, Rule.MEMORY),  # two cycles later: four alive
    ],
)
def test_wrong_starts_are_rejected(
    changed: dict[str, int], cycle: int, rule: Rule
) -> None:
    found = steady_violations(two_devices(), starts(changed), cycle * US)
    assert {violation.rule for violation in found} == {rule}


def test_ops_that_are_no_cycle_are_rejected() -> None:
    graph = two_devices()
    good = starts({})
    without = {op: time for op, time in good.items() if str(op) != "0W0"}
    shifted = {op._replace(microbatch=1): time for op, time in good.items()}
    for wrong in (without, shifted, good | {Op.parse("7F0"): 0}):
        assert steady_violations(graph, wrong, 24 * US) != ()
    for cycle in (0, -24 * US):
        assert steady_violations(graph, good, cycle)[0].rule is Rule.CYCLE


def test_unequal_microbatches_do_not_repeat() -> None:
    instance = published(2, 1.0)
    unequal = replace(instance, microbatch_scale=(1, 1, 1, 2))
    graph = schedopt.build_graph(unequal)
    found = problem_of(schedopt.build_graph(instance))
    periodic = placed_directly(found, 10**9)
    assert periodic is not None
    broken = steady_violations(graph, periodic.starts, periodic.cycle)
    assert {violation.rule for violation in broken} == {Rule.CYCLE}
    assert pattern_length(graph) == 4  # the batch as a whole
    assert pattern_length(schedopt.build_graph(instance)) == 1


def test_two_directions_make_a_pattern_of_two() -> None:
    two_way = replace(
        published(4, 2.0, microbatches=6),
        placement=Placement.BIDIRECTIONAL,
    )
    graph = schedopt.build_graph(two_way)
    assert pattern_length(graph) == 2
    assert cycle_problem(graph, 3) is None
    solution = schedopt.solve(two_way, PERIOD)
    assert solution.periodic is not None
    assert solution.periodic.problem.microbatches == 2
    assert solution.value == solution.lower_bound == 459 * US


# -- the least period -------------------------------------------------------------


def tiny(seed: int) -> OpGraph:
    """Two devices, one or two stages each, durations of one or two ticks."""
    draw = Random(seed)
    placement = ("linear", "v", "looped")[seed % 3]
    stages = 2 if placement == "linear" else 4
    split = placement == "linear" and draw.random() < 0.7
    activations = [draw.randint(1, 3) for _ in range(stages)]
    parts = [
        {
            "forward": draw.randint(1, 2),
            "backward": draw.randint(1, 2),
            "activation": activation,
        }
        | (
            {
                "backward_input": draw.randint(1, 2),
                "backward_weight": draw.randint(1, 2),
                "activation_until_input": draw.randint(0, activation),
            }
            if split
            else {}
        )
        for activation in activations
    ]
    document = {
        "schema": "schedopt/instance/v1",
        "name": f"tiny {seed}",
        "microbatches": 6,
        "devices": 2,
        "placement": placement,
        "backward": "split" if split else "whole",
        "resolution": 1,
        "communication": {"latency": draw.randint(0, 1)},
        "stages": parts,
    }
    least = least_peaks(schedopt.build_graph(_read(document)))
    limit = max(least) + draw.choice((0, 0, 1, 2))
    return schedopt.build_graph(_read(document | {"memory_limit": limit}))


def _read(document: dict[str, Any]) -> Instance:
    return schedopt.instance_from_document(document, "tiny")


def may_fit(problem: CycleProblem, found: dict[Op, int], cycle: int) -> bool:
    """Whether what is placed so far keeps the limits; a buffer ends with its users."""
    ops = problem.ops
    for device, room in enumerate(problem.rooms):
        alive = []
        for buffer in problem.buffers:
            opened = found.get(ops[buffer.maker].op)
            if buffer.device == device and opened is not None:
                users = [ops[n] for n in (buffer.maker, *buffer.users)]
                ends = [found[u.op] + u.duration for u in users if u.op in found]
                alive.append((opened, max(ends), buffer.size))
        for time, _, _ in alive:
            level = sum(
                size * sum(a <= time + n * cycle < b for n in range(-9, 10))
                for a, b, size in alive
            )
            if room is not None and level > room:
                return False
    return True


def exists(problem: CycleProblem, cycle: int) -> bool:
    """Every start of every op up to two cycles after it is ready."""
    graph, ops = problem.graph, problem.ops
    found: dict[Op, int] = {}
    busy: dict[tuple[object, int], int] = {}

    def place(number: int) -> bool:
        if number == len(ops):
            return not steady_violations(graph, found, cycle)
        op = ops[number]
        ready = max(
            (found[ops[b].op] + wait for b, wait in problem.predecessors[number]),
            default=0,
        )
        last = ready + (2 * cycle if number else 1)
        for time in range(ready, last):
            cells = [
                (stream, (time + tick) % cycle)
                for stream in op.streams
                for tick in range(op.duration)
            ]
            if any(busy.get(cell) for cell in cells) or op.duration > cycle:
                continue
            found[op.op] = time
            busy.update(dict.fromkeys(cells, 1))
            if may_fit(problem, found, cycle) and place(number + 1):
                return True
            for cell in cells:
                del busy[cell]
        found.pop(op.op, None)
        return False

    return place(0)


LEAST: dict[int, int] = dict(
    json.loads((Path(__file__).parent / "data" / "least_periods.json").read_text())
)
"""The least cycle of one microbatch by trying all starts (``write_least_periods``)."""


def write_least_periods(seeds: range) -> None:
    """Ask ``exists`` for every seed, from 1 up, and store what it says."""
    rows = []
    for seed in seeds:
        problem = problem_of(tiny(seed))
        cycle = 1
        while not exists(problem, cycle):
            cycle += 1
        rows.append([seed, cycle])
    path = Path(__file__).parent / "data" / "least_periods.json"
    path.write_text(json.dumps(rows) + "\n", encoding="utf-8")


def least_by_cpsat(graph: OpGraph, microbatches: int = 0) -> tuple[Periodic, int]:
    """The shortest cycle and the longest that is refuted."""
    problem = problem_of(graph, microbatches)
    search = CycleSearch(problem, bound_of(graph) * problem.microbatches)
    found: list[Periodic] = []
    search_cycles(search, EFFORT, 10**12, found.append)
    assert search.is_over(found[-1].period)
    return found[-1], search.refuted


@pytest.mark.parametrize("seed", LEAST)
def test_the_least_cycle_is_that_of_trying_all_starts(seed: int) -> None:
    graph = tiny(seed)
    periodic, refuted = least_by_cpsat(graph)
    assert periodic.cycle == LEAST[seed]
    assert refuted == LEAST[seed] - 1
    assert steady_violations(graph, periodic.starts, periodic.cycle) == ()
    assert bound_of(graph) <= periodic.period
    unrolled_keeps_every_rule(graph, periodic)


@pytest.mark.parametrize("seed", [12, 30, 46, 57])
def test_the_stored_least_cycles_are_those_of_the_oracle(seed: int) -> None:
    problem = problem_of(tiny(seed))
    assert exists(problem, LEAST[seed])
    assert not exists(problem, LEAST[seed] - 1)


def unrolled_keeps_every_rule(graph: OpGraph, periodic: Periodic) -> None:
    repeated, replayed = as_repeated(graph, periodic), unrolled(graph, periodic)
    for schedule in (repeated, replayed):
        assert violations(graph, schedule.start) == ()
    assert replayed.makespan <= repeated.makespan
    cycles = -(-len(graph.microbatches) // periodic.problem.microbatches)
    alone = max(periodic.end(n) for n in range(len(periodic.start)))
    assert repeated.makespan <= (cycles - 1) * periodic.cycle + alone


@pytest.mark.parametrize("seed", range(30))
def test_direct_schedules_are_valid_and_not_below_the_least(seed: int) -> None:
    graph = tiny(seed)
    problem = problem_of(graph)
    least = bound_of(graph)
    found = [p for p in direct_schedules(problem, least) if p is not None]
    assert found
    cycles = [periodic.cycle for periodic in found]
    assert cycles == sorted(cycles, reverse=True)
    for periodic in found:
        assert steady_violations(graph, periodic.starts, periodic.cycle) == ()
        assert max(LEAST.get(seed, 0), least) <= periodic.cycle
        unrolled_keeps_every_rule(graph, periodic)


@pytest.mark.parametrize("seed", range(30))
def test_other_cycles_keep_the_decisions(seed: int) -> None:
    """Longer cycles stay valid; shortening them again comes back to the least."""
    graph = tiny(seed)
    found = [p for p in direct_schedules(problem_of(graph), 1) if p is not None]
    least = shortened(found[-1])
    assert steady_violations(graph, least.starts, least.cycle) == ()
    for more in (1, 2, 7, 50):
        longer = stretched(least, least.cycle + more)
        assert steady_violations(graph, longer.starts, longer.cycle) == ()
        assert shortened(longer).cycle == least.cycle


def test_cycles_of_two_microbatches_can_be_shorter() -> None:
    """At three quarters of the memory of 1F1B, on four devices."""
    graph = schedopt.build_graph(published(4, 0.75))
    one, _ = least_by_cpsat(graph)
    problem = problem_of(graph, 2)
    cycle = 2 * one.period - 2 * US
    result = schedule_cycle(problem, cycle, EFFORT)
    assert result.periodic is not None
    two = result.periodic
    assert two.period < one.period
    assert steady_violations(graph, two.starts, two.cycle) == ()
    assert bound_of(graph) <= two.period
    unrolled_keeps_every_rule(graph, two)


def test_no_cycle_is_shorter_than_the_load() -> None:
    graph = two_devices()
    result = schedule_cycle(problem_of(graph), 24 * US - 1, EFFORT)
    assert result.outcome is Outcome.INFEASIBLE


# -- the bounds -------------------------------------------------------------------


def test_the_bounds_are_what_they_are_called() -> None:
    graph = schedopt.build_graph(published(8, 0.5))
    assert stream_load(graph) == (185 + 181 + 93) * US
    # F to I of stage 0 and F to W, 10 MiB each, in 80 MiB of room
    there_and_back = (8 * 185 + 8 * 181 + 14 * 6) * US
    held = 10 * there_and_back + 10 * (there_and_back + 93 * US)
    assert memory_throughput(graph) == -(-held // 80)


def test_sizes_are_rounded_to_what_fits() -> None:
    """Two of 20 do not fit into 30: one at a time, not one and a half."""
    graph = schedopt.build_graph(published(2, 0.75, backward=Backward.WHOLE))
    lifetime = (2 * 185 + 2 * (181 + 93) + 2 * 6) * US
    assert memory_throughput(graph) == lifetime


@pytest.mark.parametrize("part", range(10))
def test_no_bound_is_above_what_the_best_batch_takes(part: int) -> None:
    """n microbatches take at least n times as long: exact optima, all features."""
    compared = 0
    for seed in range(part, INSTANCES, 10):
        graph, best = schedopt.build_graph(small_instance(seed)), optima()[seed]
        relaxed = without_choices(graph) if graph.choices else graph
        length = None if relaxed is None else pattern_length(relaxed)
        count = len(graph.microbatches)
        if best.makespan is None or length is None or count % length:
            continue
        for name, bound in quick_bounds(graph, Objective.PERIOD).items():
            assert (bound - 1) * count < best.makespan, (seed, name)  # rounded up
            compared += bound > 0
    assert compared > 5


@pytest.mark.parametrize("part", [1, 3, 5])  # all features are in each
def test_direct_schedules_and_cpsat_agree_on_all_features(part: int) -> None:
    """Links, blocking transfers, their buffers, two directions, recomputation."""
    compared = 0
    for seed in range(part, INSTANCES, 6):
        graph = schedopt.build_graph(small_instance(seed))
        problem = cycle_problem(graph)
        if problem is None:
            continue
        least = bound_of(graph) * problem.microbatches
        found = [p for p in direct_schedules(problem, least) if p is not None]
        for periodic in found:
            broken = steady_violations(graph, periodic.starts, periodic.cycle)
            assert broken == (), (seed, broken)
            assert least <= periodic.cycle, seed
        if not found:
            continue
        unrolled_keeps_every_rule(graph, found[-1])
        result = schedule_cycle(problem, found[-1].cycle, BRIEF)
        assert result.outcome is not Outcome.INFEASIBLE, seed
        if result.periodic is None:
            continue
        broken = steady_violations(graph, result.periodic.starts, result.periodic.cycle)
        assert broken == (), (seed, broken)
        compared += 1
    assert compared > 5


# -- solving ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "memory", "placement", "load"),
    [
        (4, 1.0, Placement.LINEAR, 459),
        (8, 1.0, Placement.LINEAR, 459),
        (32, 1.0, Placement.LINEAR, 459),
        (4, 1.0, Placement.V, 456),
        (8, 1.0, Placement.V, 456),
        (16, 1.0, Placement.V, 456),
        (16, 0.75, Placement.V, 456),
    ],
)
def test_the_period_is_the_largest_load(
    devices: int, memory: float, placement: Placement, load: int
) -> None:
    solution = schedopt.solve(published(devices, memory, placement), PERIOD)
    assert solution.value == solution.lower_bound == load * US
    assert solution.status is Status.OPTIMAL
    assert solution.periodic is not None
    assert solution.periodic.bubble_ratio == 0
    assert solution.schedule is not None
    limit = memory * devices * 20 * US
    assert max(solution.periodic.peak_memory) <= limit
    assert max(solution.schedule.peak_memory) <= max(solution.periodic.peak_memory)


def test_what_is_in_flight_is_counted() -> None:
    solution = schedopt.solve(published(4, 1.0), PERIOD)
    assert solution.periodic is not None
    assert solution.periodic.in_flight == (4, 3, 2, 1)
    assert [peak // US for peak in solution.periodic.peak_memory] == [80, 60, 40, 20]


def test_workers_improve_what_is_found_directly() -> None:
    """Looped at 0.75: the direct method leaves a gap that CP-SAT narrows or closes."""
    instance = published(4, 0.75)
    quick = replace(PERIOD, time_limit_s=20)
    solution = schedopt.solve(instance, quick)
    problem = problem_of(solution.graph)
    least = solution.lower_bound
    direct = [p for p in direct_schedules(problem, least) if p is not None]
    assert solution.value is not None
    assert solution.lower_bound <= solution.value < direct[-1].period
    assert solution.method.startswith("modulo")


def test_too_little_memory_is_infeasible_and_no_time_is_a_result() -> None:
    short = published(4, 0.2)
    assert schedopt.solve(short, PERIOD).status is Status.INFEASIBLE
    hurried = replace(PERIOD, time_limit_s=1e-3)
    solution = schedopt.solve(published(4, 0.5), hurried)
    assert solution.status in (Status.FEASIBLE, Status.UNKNOWN)


@pytest.mark.parametrize("wrong", ["choices", "scales"])
def test_instances_without_a_steady_state_are_refused(wrong: str) -> None:
    instance = published(2, 1.0, microbatches=12)
    if wrong == "choices":
        instance = replace(instance, backward=Backward.CHOOSE)
    else:
        instance = replace(instance, microbatch_scale=(*[1] * 11, 2))
    with pytest.raises(NotApplicableError, match="has no period"):
        schedopt.solve(instance, PERIOD)


# -- files ------------------------------------------------------------------------


@pytest.fixture
def written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[Path, dict[str, Any]]:
    """A schedule file of the period of a small instance, and its content."""
    run: Run = runner(capsys)
    instance = tmp_path / "instance.json"
    point = published(4, 1.0)
    instance.write_text(json.dumps(schedopt.formats.instance_document(point)))
    file = tmp_path / "schedule.json"
    ran = run(
        "solve", str(instance), "--objective", "period", "-o", str(file), "--no-gantt"
    )
    assert ran.code == 0
    found = (line.split("  ", 1) for line in ran.out.splitlines() if "  " in line)
    lines = {label.strip(): text.strip() for label, text in found}
    assert lines["period"] == "459 us per microbatch"
    assert lines["lower bound"] == "459 us for the period"
    assert lines["in flight"] == "4, 3, 2, 1 microbatches on devices 0 to 3"
    return file, json.loads(file.read_text())


def test_the_file_holds_the_certificate(written: tuple[Path, dict[str, Any]]) -> None:
    file, document = written
    assert verify_file(schedopt.load_schedule(file)) == ()
    assert document["objective"] == "period"
    assert document["value"] == document["steady"]["cycle"] == 459
    assert document["steady"]["microbatches"] == 1
    assert len(document["steady"]["starts"]) == 12
    assert len(document["ops"]) == 48


Change = Callable[[dict[str, Any]], None]


def _set(name: str, value: object) -> Change:
    def change(document: dict[str, Any]) -> None:
        document["steady"][name] = value

    return change


def _delay(document: dict[str, Any]) -> None:
    document["steady"]["starts"]["0F0"] += 1


def _drop(document: dict[str, Any]) -> None:
    del document["steady"]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (_set("cycle", 458), Rule.VALUE),
        (_set("microbatches", 2), Rule.CYCLE),
        (_delay, Rule.PRECEDENCE),
        (_drop, Rule.VALUE),
        (_set("starts", {"0F0": 0}), Rule.PRESENT),
        (_set("starts", {"9F0": 0}), Rule.CYCLE),
    ],
)
def test_wrong_claims_of_a_file_are_found(
    written: tuple[Path, dict[str, Any]], change: Change, rule: Rule
) -> None:
    file, document = written
    change(document)
    file.write_text(json.dumps(document))
    found = verify_file(schedopt.load_schedule(file))
    assert rule in {violation.rule for violation in found}
