"""Search on folded problems: feasible, repeatable, never worse; alike when compiled."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schedopt.build import build_graph, least_peaks
from schedopt.experiments.generate import Point, document_of
from schedopt.formats import instance_from_document
from schedopt.instance import (
    Backward,
    Communication,
    CommunicationMode,
    Instance,
    Placement,
)
from schedopt.lattice import Ints, Problem, Windows, problem_of, windows_by
from schedopt.opgraph import OpGraph
from schedopt.ops import Op
from schedopt.schedule import Schedule
from schedopt.search import (
    Annealing,
    Climber,
    Grid,
    Searcher,
    anneal,
    climbing,
    searcher,
)
from schedopt.search.anneal import find_path, fits, replay_from, shift
from schedopt.search.arrays import lane_arrays
from schedopt.search.draws import LARGEST, TABLE, draw, exponentials, seeded
from schedopt.search.greedy import NO_CAP, Rule, greedy
from schedopt.search.guided import guided
from schedopt.search.rehearsal import with_fewer_microbatches
from schedopt.search.replaying import DONE, LATE, WAITING, replay
from schedopt.search.tables import (
    OpTables,
    class_tables_of,
    ends_of,
    schedule_of,
    sequences_of,
    tables_of,
)
from schedopt.solve.starts import one_by_one
from schedopt.verify import violations
from tests.strategies import random_instance, random_schedule, tiny_graph

SPLITS = (Backward.WHOLE, Backward.SPLIT)
SHAPES = list(product(Placement, SPLITS))
KINDS = ("link", "blocking", "recompute", "scale", "plain")
NEVER = 2**61


def plain_instances(
    placement: Placement, backward: Backward, count: int
) -> Iterator[tuple[int, Instance, OpGraph]]:
    """Random pipelines with lanes; every second one as tight as can be."""
    for seed in range(count):
        rng = random.Random(f"{placement} {backward} {seed}")
        instance = random_instance(
            rng,
            max_ops=32,
            placements=[placement],
            backwards=[backward],
            modes=[CommunicationMode.LAG],
            zeros=seed % 3 == 0,
            plain=True,
        )
        stages = instance.stages
        if backward is Backward.SPLIT and seed % 4 > 1:
            stages = tuple(replace(s, input_gradient=rng.randint(1, 9)) for s in stages)
            instance = replace(instance, stages=stages)
        graph = build_graph(instance)
        scale = graph.units.grains_per_unit
        spare = rng.choice((0, 0, 5, 10)) if seed % 2 else None
        limits = [None if spare is None else p / scale for p in least_peaks(graph)]
        devices = tuple(
            replace(device, memory_limit=None if limit is None else limit + spare)
            for device, limit in zip(instance.devices, limits, strict=True)
        )
        instance = replace(instance, devices=devices)
        yield seed, instance, build_graph(instance)


def start_of(instance: Instance, graph: OpGraph) -> Schedule:
    start = one_by_one(instance, graph)
    assert start is not None
    return start


def folded(graph: OpGraph) -> tuple[Problem, OpTables]:
    problem = problem_of(graph)
    assert problem is not None
    assert Searcher.applies(problem)
    tables = tables_of(problem)
    assert tables is not None
    return problem, tables


def applicable(
    instances: Iterator[tuple[int, Instance, OpGraph]],
) -> Iterator[tuple[int, Problem, OpTables, Schedule]]:
    """The problems to which search applies, each with a start; most of them are."""
    given = judged = 0
    for seed, instance, graph in instances:
        given += 1
        if Searcher.applies(problem_of(graph)):
            judged += 1
            yield seed, *folded(graph), start_of(instance, graph)
    assert judged >= 0.7 * given


def guiding(problem: Problem, end: int, *, settled: bool = True) -> Windows:
    windows = windows_of(problem, end, settled=settled)
    assert windows.is_whole
    return windows


def windows_of(
    problem: Problem, end: int, *, settled: bool = True, most_full: int | None = None
) -> Windows:
    windows = windows_by(
        problem, end, most_steps=10**6, most_full=most_full, compile_loops=False
    )
    assert windows is not None
    if settled:
        for _ in windows.settle(compile_loops=False):
            pass
    return windows


def drawn_and_climbed(
    climber: Climber, windows: Windows, count: int, *, compile_loops: bool = False
) -> list[Ints | None]:
    """As many random rules, then as many near the best of them; all are of use."""
    return [
        attempt(windows, 10**12, compile_loops=compile_loops)
        for attempt in (climber.draw, climber.climb)
        for _ in range(count)
    ]


def judge(problem: Problem, found: Sequence[Ints | None], seed: object) -> int:
    """How many schedules were found; all of them are feasible."""
    schedules = [schedule_of(problem, ends) for ends in found if ends is not None]
    for schedule in schedules:
        assert violations(problem.graph, schedule.start) == (), seed
    return len(schedules)


# -- all of it ----------------------------------------------------------------


@pytest.mark.parametrize(("placement", "backward"), SHAPES)
def test_all_that_is_found_is_feasible(
    placement: Placement, backward: Backward
) -> None:
    judged = guided_found = 0
    for seed, problem, _, start in applicable(plain_instances(placement, backward, 4)):
        judged += 1
        begun = ends_of(problem, start.start)
        grid = Grid(problem, seed)
        assert grid.applies
        points = list(islice(grid.points(compile_loops=False), 45))
        # Memory alone decides at the first point, so that it does not get stuck.
        assert points[0] is not None
        best = min(int(ends.max()) for ends in points if ends is not None)
        near = [grid.climb(compile_loops=False) for _ in range(15)]
        climber = Climber(problem, seed)
        windows = guiding(problem, best + best // 30)
        rules = drawn_and_climbed(climber, windows, 6)
        effort = Annealing(moves=150, reach=2.0 + seed % 4)
        annealed = anneal(problem, begun, effort, seed=seed, compile_loops=False)
        assert annealed is not None
        assert annealed.max() <= begun.max()
        judge(problem, [*points, *near, annealed], seed)
        guided_found += judge(problem, rules, seed)
    assert guided_found >= 0.5 * 12 * judged


@pytest.mark.parametrize(("placement", "backward"), SHAPES)
def test_compiled_loops_do_the_same(placement: Placement, backward: Backward) -> None:
    compare(plain_instances(placement, backward, 2))


@pytest.mark.parametrize("what", KINDS)
def test_compiled_loops_do_the_same_beyond_lanes(what: str) -> None:
    compare(varied_instances(what, 4))


def compare(instances: Iterator[tuple[int, Instance, OpGraph]]) -> None:
    for seed, problem, _, start in applicable(instances):
        begun = ends_of(problem, start.start)
        windows = guiding(problem, int(begun.max()))
        effort = Annealing(moves=150, reach=4.0)
        plain, fast = (
            [
                *islice(grid.points(compile_loops=compile_loops), 20),
                *(grid.climb(compile_loops=compile_loops) for _ in range(10)),
                *drawn_and_climbed(climber, windows, 5, compile_loops=compile_loops),
                anneal(problem, begun, effort, seed=seed, compile_loops=compile_loops),
            ]
            for compile_loops in (False, True)
            for grid in [Grid(problem, seed)]
            for climber in [Climber(problem, seed)]
        )
        assert plain[-1] is not None
        for one, other in zip(plain, fast, strict=True):
            assert (one is None) == (other is None), seed
            assert one is None or np.array_equal(one, other), seed


@pytest.mark.parametrize("what", KINDS)
def test_long_annealing_stays_feasible(what: str) -> None:
    """Rare moves, too; compiled, since in plain Python they would take minutes."""
    for seed, problem, _, start in applicable(varied_instances(what, 10)):
        begun = ends_of(problem, start.start)
        for hot, reach in ((0.45, 3.0), (2.0, 8.0)):
            effort = Annealing(moves=2000, hot=hot, reach=reach)
            annealed = anneal(problem, begun, effort, seed=seed)
            assert annealed is not None
            assert annealed.max() <= begun.max()
            judge(problem, [annealed], seed)


@pytest.mark.parametrize("what", KINDS)
def test_it_applies_to_more_than_lanes(what: str) -> None:
    """Where it says that it applies, all that is found is valid."""
    judged = found = 0
    for seed, problem, _, start in applicable(varied_instances(what, 8)):
        judged += 1
        begun = ends_of(problem, start.start)
        grid = Grid(problem, seed)
        points = list(islice(grid.points(compile_loops=False), 10))
        assert bool(points) == grid.applies
        annealed = anneal(
            problem, begun, Annealing(moves=250), seed=seed, compile_loops=False
        )
        assert annealed is not None
        assert annealed.max() <= begun.max()
        judge(problem, [begun, *points, annealed], seed)
        end = int(annealed.max()) + seed % 7
        windows = guiding(problem, end, settled=seed % 2 == 0)
        found += judge(
            problem, drawn_and_climbed(Climber(problem, seed), windows, 6), seed
        )
    assert found >= 0.5 * 12 * judged


def varied_instances(what: str, count: int) -> Iterator[tuple[int, Instance, OpGraph]]:
    """Random instances, all but "plain" with one thing that lanes have not.

    Limits are none, or between what one microbatch at a time needs and a little more.
    """
    mode = CommunicationMode.LAG
    if what in ("link", "blocking"):
        mode = CommunicationMode(what)
    for seed in range(count):
        rng = random.Random(f"{what} {seed}")
        instance = random_instance(
            rng,
            max_ops=32,
            backwards=SPLITS,
            modes=[mode],
            zeros=seed % 3 == 0,
            plain=True,
        )
        match what:
            case "blocking":
                communication = replace(instance.communication, transfer_buffers=True)
                instance = replace(instance, communication=communication)
            case "recompute":
                some = frozenset(range(rng.randint(1, len(instance.stages))))
                stages = tuple(replace(s, checkpoint=1) for s in instance.stages)
                instance = replace(instance, stages=stages, recompute=some)
            case "scale":
                scale = [rng.choice((1, 1, 2, 3)) for _ in range(instance.microbatches)]
                instance = replace(instance, microbatch_scale=tuple(scale))
        free = tuple(replace(d, memory_limit=None) for d in instance.devices)
        instance = replace(instance, devices=free)
        graph = build_graph(instance)
        if seed % 4:
            spare = rng.choice((0, 0, 2, 6))
            peaks = start_of(instance, graph).peak_memory
            devices = tuple(
                replace(device, memory_limit=peak + spare)
                for device, peak in zip(free, peaks, strict=True)
            )
            instance = replace(instance, devices=devices)
            graph = build_graph(instance)
        yield seed, instance, graph


# -- the guided greedy --------------------------------------------------------


def rising(problem: Problem, ends: Ints, c: int, other: int) -> int:
    """The most ops of one class that are begun before as many of another end."""
    first = problem.arrays.first_op
    mine, theirs = (problem.ops[first[k] : first[k + 1]] for k in (c, other))
    schedule = schedule_of(problem, ends)
    over = [schedule.end(op) for op in theirs]
    begun = sorted(schedule.start[op] for op in mine)
    return max(n + 1 - sum(end <= time for end in over) for n, time in enumerate(begun))


def test_the_guided_greedy_keeps_caps() -> None:
    kept = tight = 0
    for placement, backward in SHAPES:
        for seed, problem, _, start in applicable(
            plain_instances(placement, backward, 4)
        ):
            begun = ends_of(problem, start.start)
            windows = guiding(problem, int(begun.max()), settled=False)
            climber = Climber(problem, seed)
            opening = np.flatnonzero(climber.closing >= 0)
            for most in (1, 2):
                rule = climber._random()
                rule.cap[opening] = most
                ends, _ = guided(
                    windows,
                    class_tables_of(problem),
                    rule,
                    climber.closing,
                    compile_loops=False,
                )
                if ends is None:
                    continue
                judge(problem, [ends], seed)
                kept += 1
                for c in opening:
                    peak = rising(problem, ends, c, climber.closing[c])
                    assert peak <= most, (seed, c)
                    tight += peak == most
    assert kept >= 40
    assert tight >= 40


@pytest.mark.parametrize("most_full", [None, 0])
@pytest.mark.parametrize("what", KINDS)
def test_rules_are_left_only_if_they_take_too_long(
    what: str, most_full: int | None
) -> None:
    """Within its makespan a rule gives the same schedule, within less none.

    Also in windows that it leaves, and where lattices leave out fillers.
    """
    kept = beyond = filled = early = 0
    for seed, problem, _, start in applicable(varied_instances(what, 6)):
        end = int(ends_of(problem, start.start).max())
        climber = Climber(problem, seed)
        rules = [climber._random() for _ in range(4)]
        for _ in range(2):  # the second time within the end of the best of them
            windows = windows_of(problem, end, most_full=most_full)
            if not windows.is_whole:
                continue
            filled += windows.is_filled
            for rule in rules:
                run = partial(
                    guided,
                    windows,
                    class_tables_of(problem),
                    rule,
                    climber.closing,
                    compile_loops=False,
                )
                ends, ran = run()
                if ends is None:
                    continue
                makespan = int(ends.max())
                beyond += makespan > windows.end
                again, _ = run(within=makespan)
                assert again is not None, seed
                assert np.array_equal(again, ends)
                less, fewer = run(within=makespan - 1)
                assert less is None, seed
                assert fewer <= ran == len(problem.ops)
                kept += 1
                early += fewer < ran
                end = min(end, makespan)
    assert kept >= 8
    assert early
    assert beyond or what not in {"plain", "blocking"}
    assert bool(filled) == (most_full == 0)


def test_only_hot_places_take_what_is_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first keeps the best; others rise now and then, and stay in order."""
    monkeypatch.setattr(climbing, "_HEAT", (0.0, 0.05, 0.05, 0.05))
    instance = generated_instance(4, 12, Placement.V)
    problem = generated(4, 12, Placement.V)
    start = start_of(instance, problem.graph)
    windows = guiding(problem, start.makespan // problem.beat)
    climber = Climber(problem, 0)
    for _ in range(8):
        climber.draw(windows, compile_loops=True)
    best, rises = climber._best[0][0], 0
    for _ in range(200):
        before = [makespan for makespan, _ in climber._best]
        climber.climb(windows, compile_loops=True)
        after = [makespan for makespan, _ in climber._best]
        assert after == sorted(after)
        assert after[0] <= before[0]
        rises += sum(after) > sum(before)
    assert after[0] < best
    assert rises > 3


def test_the_class_that_closes_frees_first_what_the_other_makes() -> None:
    """With an activation that is freed in part by I, and the rest by W."""
    graph = tiny_graph(
        {"0F0": 1, "0I0": 1, "0W0": 1, "0F1": 1, "0I1": 1, "0W1": 1},
        [(f"0{a}{n}", f"0{b}{n}", 0) for a, b in ("FI", "IW") for n in range(2)],
        [
            (size, f"0{maker}{n}", (f"0{user}{n}",))
            for size, maker, user in ((2, "F", "W"), (1, "F", "I"), (0, "I", "W"))
            for n in range(2)
        ],
    )
    problem, _ = folded(graph)
    first = [str(problem.ops[index]) for index in problem.arrays.first_op[:-1]]
    assert first == ["0F0", "0I0", "0W0"]
    assert Climber(problem, 0).closing.tolist() == [1, -1, -1]


def test_the_guided_greedy_waits_for_all_streams_of_an_op() -> None:
    """0B0 holds both devices: it could start at 1, but 1F1 takes device 1 until 5."""
    graph = tiny_graph(
        {"0F0": 1, "0B0": 1, "1F1": 5}, [("0F0", "0B0", 0)], devices={"0B0": (0, 1)}
    )
    problem, tables = folded(graph)
    climber = Climber(problem, 0)
    rule = climber._random()
    rule.liking[tables.op_class[problem.ops.index(Op.parse("1F1"))]] = 1000
    ends, _ = guided(
        guiding(problem, 9),
        class_tables_of(problem),
        rule,
        climber.closing,
        compile_loops=False,
    )
    assert ends is not None
    assert {str(op): end for op, end in zip(problem.ops, ends, strict=True)} == {
        "0F0": 1,
        "1F1": 5,
        "0B0": 6,
    }


# -- pieces of annealing ------------------------------------------------------


def replayed(tables: OpTables, flat: Ints, first: Ints) -> tuple[int, Ints]:
    """All of an order, from nothing."""
    end = np.full(len(tables.duration), -1, np.int64)
    queue = np.zeros(2 * (len(first) - 1), np.int64)
    return replay(tables, flat, first, first[:-1].copy(), end, queue, NEVER), end


def places_of(tables: OpTables, flat: Ints, first: Ints) -> Ints:
    where = np.zeros(tables.streams.shape, np.int64)
    for stream in range(len(first) - 1):
        for index in range(first[stream], first[stream + 1]):
            op = flat[index]
            where[op, list(tables.streams[op]).index(stream)] = index
    return where


def random_orders(count: int) -> Iterator[tuple[str, int, Problem, OpTables, Ints]]:
    """Problems of every kind with the ends of a random schedule."""
    for what in KINDS:
        for seed, problem, tables, _ in applicable(varied_instances(what, count)):
            rng = random.Random(seed)
            begun = random_schedule(problem.graph, rng).shifted_to_zero()
            yield what, seed, problem, tables, ends_of(problem, begun.start)


def test_what_is_replayed_in_part_equals_all_of_it() -> None:
    """Any op is moved anywhere in its class's order; about half of that deadlocks."""
    results = {DONE: 0, WAITING: 0, LATE: 0}
    for what, seed, problem, tables, ends in random_orders(9):
        rng = random.Random(seed)
        flat, first = sequences_of(tables, ends, len(problem.streams))
        where = places_of(tables, flat, first)
        found, end = replayed(tables, flat, first)
        assert found == DONE
        position = np.zeros(len(first) - 1, np.int64)
        queue = np.zeros(2 * len(position), np.int64)
        for _ in range(40):
            stream = rng.choice(np.flatnonzero(np.diff(first) > 0).tolist())
            places = range(first[stream], first[stream + 1])
            origin, target = rng.choice(places), rng.choice(places)
            low, high = min(origin, target), max(origin, target)
            passed = tables.op_class[flat[low : high + 1]].tolist()
            if passed.count(tables.op_class[flat[origin]]) > 1:
                continue
            shift(tables, flat, where, stream, origin, target)
            assert np.array_equal(where, places_of(tables, flat, first))
            expected, whole = replayed(tables, flat, first)
            for latest in (NEVER, int(end.max()) + rng.randint(-2, 9)):
                fresh = np.zeros_like(end)
                found = replay_from(
                    tables,
                    flat,
                    first,
                    position,
                    end,
                    fresh,
                    queue,
                    stream,
                    low,
                    latest,
                )
                results[found] += 1
                if found == LATE:
                    assert expected == WAITING or whole.max() > latest, (what, seed)
                    continue
                assert found == expected, (what, seed)
                if found == DONE:
                    assert np.array_equal(fresh, whole), (what, seed)
                    assert whole.max() <= latest, (what, seed)
            if expected == DONE:
                end = whole
            else:
                shift(tables, flat, where, stream, target, origin)
    assert min(results.values()) >= 50, results


def test_a_path_is_critical() -> None:
    """From the last end back to time 0, every op as soon as the one before allows."""
    lengths = set()
    for what, seed, problem, tables, ends in random_orders(6):
        flat, first = sequences_of(tables, ends, len(problem.streams))
        _, end = replayed(tables, flat, first)
        where = places_of(tables, flat, first)
        path = np.zeros(len(end), np.int64)
        state = seeded(seed)
        for _ in range(5):
            length = find_path(tables, flat, first, where, end, path, state)
            lengths.add(length)
            ops = path[:length][::-1].tolist()
            assert end[ops[-1]] == end.max(), (what, seed)
            spent = tables.duration[ops[0]]
            assert end[ops[0]] == spent
            for before, after in pairwise(ops):
                lags = [
                    tables.lags[after, k]
                    for k, other in enumerate(tables.waits[after])
                    if other == before
                ]
                neighbours = any(
                    flat[place - 1] == before
                    for s, place in zip(
                        tables.streams[after], where[after], strict=True
                    )
                    if s >= 0 and place > first[s]
                )
                begun = end[after] - tables.duration[after]
                joined = [*lags, *([0] if neighbours else [])]
                assert begun - end[before] in joined, (what, seed)
                spent += begun - end[before] + tables.duration[after]
            assert spent == end.max(), (what, seed)
    assert len(lengths) > 10


def test_memory_is_counted_on_the_stream_that_changes() -> None:
    """Any order of one stream, right or wrong, against what the buffers say.

    A transfer that blocks both devices releases on one what it allocates on the other.
    """
    answers = {True: 0, False: 0}
    for what, seed, problem, tables, ends in random_orders(9):
        rng = random.Random(seed)
        flat, first = sequences_of(tables, ends, len(problem.streams))
        streams = list(enumerate(problem.streams))
        for number, stream in (s for s in streams if s[1].peer is None):
            memory = problem.graph.devices[stream.device]
            if memory.limit is None:
                continue
            here = [b for b in problem.graph.buffers if b.device == stream.device]
            begin, stop = int(first[number]), int(first[number + 1])
            for _ in range(20):
                order = flat.copy()
                rng.shuffle(order[begin:stop])
                low = rng.randrange(begin, stop)
                high = rng.randrange(low, stop)
                level, expected = memory.static, True
                for index, op in enumerate(order[begin : high + 1], begin):
                    made = sum(b.size for b in here if b.maker == problem.ops[op])
                    level += made
                    if made > 0 and index >= low:
                        expected &= level <= memory.limit
                    level -= sum(b.size for b in here if problem.ops[op] in b.users)
                room = problem.rules[number].room
                keeps = fits(tables, order, number, begin, low, high, room)
                assert keeps == expected, (what, seed)
                answers[keeps] += 1
    assert min(answers.values()) >= 50, answers


# -- schedules as arrays ------------------------------------------------------


def test_a_schedule_in_order_comes_back() -> None:
    for what in KINDS:
        for seed, instance, graph in varied_instances(what, 10):
            problem = problem_of(graph)
            assert problem is not None
            start = start_of(instance, graph)
            ends = ends_of(problem, start.start)
            assert schedule_of(problem, ends).start == start.start, (what, seed)
            assert ends.max() * problem.beat == start.makespan
            assert np.array_equal(
                ends_of(problem, schedule_of(problem, ends).start), ends
            )


def test_any_schedule_comes_back_in_order_and_feasible() -> None:
    """Equal microbatches that pass each other change places; nothing gets later."""
    changed = 0
    for what in KINDS:
        for seed, problem, _, _ in applicable(varied_instances(what, 10)):
            graph = problem.graph
            begun = random_schedule(graph, random.Random(seed)).shifted_to_zero()
            if violations(graph, begun.start):
                continue  # it takes more memory than one microbatch at a time
            # Times off the beat, as other members may find them.
            begun = Schedule(graph, {op: t + 1 for op, t in begun.start.items()})
            ends = ends_of(problem, begun.start)
            back = schedule_of(problem, ends)
            assert violations(graph, back.start) == (), (what, seed)
            # The first start, 1, may be rounded down and the last end not.
            assert back.makespan <= begun.makespan + 1
            first = problem.arrays.first_op
            for low, high in pairwise(first):
                ops = problem.ops[low:high]
                assert sorted(begun.start[op] // problem.beat for op in ops) == [
                    back.start[op] // problem.beat for op in ops
                ]
                changed += [begun.start[op] for op in ops] != sorted(
                    begun.start[op] for op in ops
                )
    assert changed >= 100


def test_sequences_are_those_of_the_schedule() -> None:
    for what, seed, problem, tables, ends in random_orders(6):
        flat, first = sequences_of(tables, ends, len(problem.streams))
        schedule = schedule_of(problem, ends)
        for number, stream in enumerate(problem.streams):
            ops = [problem.ops[op] for op in flat[first[number] : first[number + 1]]]
            assert set(ops) == set(schedule.order.sequences[stream]), (what, seed)
            times = [(schedule.start[op], schedule.end(op)) for op in ops]
            assert times == sorted(times), (what, seed)
        found, end = replayed(tables, flat, first)
        assert found == DONE, (what, seed)
        assert (end <= ends).all(), (what, seed)


# -- the greedy on lanes ------------------------------------------------------


def test_the_greedy_never_gets_stuck_where_memory_is_least() -> None:
    """A microbatch that has entered can always finish, so the plain rule ends."""
    stuck = []
    for placement, backward in SHAPES:
        for seed, _, graph in plain_instances(placement, backward, 24):
            arrays = lane_arrays(graph)
            assert arrays is not None
            rows = len(arrays.device)
            none = np.zeros(rows, np.int64)
            rule = Rule(np.full(rows, NO_CAP, np.int64), none, none, none)
            if greedy(arrays, rule, compile_loops=False) is None:
                stuck.append((placement.value, backward.value, seed))
    assert stuck == []


# -- random numbers -----------------------------------------------------------


def test_random_numbers_are_uniform() -> None:
    state = seeded(5)
    drawn = np.array([draw(state) for _ in range(40_000)])
    assert drawn.min() >= 1
    assert drawn.max() <= LARGEST
    for classes in (2, 7, 64):
        counts = np.bincount(drawn % classes, minlength=classes)
        expected = len(drawn) / classes
        # Chi-square with that many degrees of freedom: mean, and standard deviation.
        statistic = ((counts - expected) ** 2 / expected).sum()
        freedom = classes - 1
        assert statistic < freedom + 5 * (2 * freedom) ** 0.5
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.03


def test_seeds_give_different_numbers() -> None:
    first = {tuple(draw(state) for _ in range(3)) for state in map(seeded, range(99))}
    assert len(first) == 99
    seeded(2**31 - 1)
    seeded(2**63)


def test_the_table_of_exponentials_has_their_distribution() -> None:
    table = exponentials()
    assert len(table) == TABLE
    assert table.mean() == pytest.approx(1, abs=1e-3)
    for more in (0.1, 0.5, 1, 3):
        assert (table > more).mean() == pytest.approx(np.exp(-more), abs=1e-3)


# -- the searcher -------------------------------------------------------------


@pytest.fixture
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of a searcher so short that a test sees several of them."""
    monkeypatch.setattr(searcher, "_CLIMB_S", (0.04,))
    monkeypatch.setattr(searcher, "_ANNEAL_S", (1e-3,))


def run(problem: Problem, starts: list[Schedule], seed: int, rounds: int) -> Searcher:
    """A searcher after some rounds of annealing; each step is checked."""
    search = Searcher(problem, starts, seed)
    names: list[str] = []
    spent, best = search.spent, search.best_makespan
    for name in search.steps():
        names.append(name)
        # The work on windows is counted when the last piece of it is done.
        assert search.spent >= spent
        assert search.spent > spent or name == "windows"
        if best is not None:
            assert search.best_makespan is not None
            assert search.best_makespan <= best
        spent, best = search.spent, search.best_makespan
        if names.count("annealing") == rounds:
            break
    assert {"windows", "guided", "annealing"} <= set(names)
    assert ("greedy" in names) == Grid(problem, 0).applies
    return search


@pytest.mark.usefixtures("short_rounds")
@pytest.mark.parametrize("what", [*Placement, "link", "blocking", "recompute"])
def test_a_searcher_repeats_itself_and_is_never_worse_than_its_start(
    what: Placement | str,
) -> None:
    instances = (
        plain_instances(what, Backward.SPLIT, 1)
        if isinstance(what, Placement)
        else varied_instances(what, 2)
    )
    for seed, problem, _, start in applicable(instances):
        one, again = (run(problem, [start], seed, 4) for _ in range(2))
        assert one.best is not None
        assert again.best is not None
        assert one.best.start == again.best.start
        assert one.spent == again.spent
        assert one.best.makespan == one.best_makespan
        assert one.best.makespan <= start.makespan
        assert violations(problem.graph, one.best.start) == ()


def test_a_searcher_learns() -> None:
    (_, instance, graph), *_ = plain_instances(Placement.LINEAR, Backward.SPLIT, 1)
    start = start_of(instance, graph)
    problem, _ = folded(graph)
    search = Searcher(problem, [], 0)
    assert search.best is None
    assert search.best_makespan is None
    next(search.steps())
    known = search.best_makespan
    assert known is not None
    assert known < start.makespan
    search.learn(start)
    assert search.best_makespan == known
    begun = Searcher(problem, [start], 0)
    assert begun.best_makespan == start.makespan
    assert search.best is not None
    begun.learn(search.best)
    assert begun.best_makespan == known


@pytest.mark.parametrize("rules_only", [False, True])
def test_a_searcher_without_a_schedule_comes_to_an_end(rules_only: bool) -> None:
    """Work is counted even where there is nothing to improve."""
    for seed, problem, _, _ in applicable(varied_instances("link", 30)):
        search = Searcher(problem, [], seed, rules_only=rules_only)
        if Grid(problem, seed).applies:
            continue
        spent = [search.spent]
        for name in islice(search.steps(), 3):
            assert name == "nothing"
            spent.append(search.spent)
        assert spent == sorted(set(spent))
        assert search.best is None
        return
    pytest.fail("no instance without lanes")


# -- where it does not apply --------------------------------------------------


@pytest.mark.parametrize("what", ["choose", "overlap"])
def test_where_there_are_choices_there_is_no_problem(what: str) -> None:
    instance = random_instance(
        random.Random(3),
        placements=[Placement.LINEAR],
        backwards=[Backward.CHOOSE if what == "choose" else Backward.WHOLE],
        modes=[CommunicationMode.LAG],
        plain=True,
    )
    assert len(instance.devices) > 1
    if what == "overlap":
        stages = tuple(replace(s, overlap=9) for s in instance.stages)
        instance = replace(instance, stages=stages)
    graph = build_graph(instance)
    assert graph.choices
    assert problem_of(graph) is None
    assert not Searcher.applies(problem_of(graph))


@pytest.mark.parametrize(
    "what", ["buffers of links", "makers of no duration", "two users", "no user"]
)
def test_where_orders_do_not_tell_memory_it_does_not_apply(what: str) -> None:
    durations = {"0F0": 2, "0I0": 3, "0W0": 1, "0F1": 2, "0I1": 3, "0W1": 1}
    buffers: list[tuple[int, str, tuple[str, ...]]] = []
    devices: dict[str, tuple[int, ...]] = {}
    for n in range(2):
        match what:
            case "buffers of links":
                durations[f"0SEND_F{n}"] = 1
                devices[f"0SEND_F{n}"] = (0, 1)
                buffers.append((1, f"0F{n}", (f"0SEND_F{n}",)))
            case "makers of no duration":
                durations[f"0F{n}"] = 0
                buffers.append((1, f"0F{n}", (f"0I{n}",)))
            case "two users":
                buffers.append((1, f"0F{n}", (f"0I{n}", f"0W{n}")))
            case "no user":
                # As many users as buffers, but not one each.
                buffers.append((1, f"0F{n}", (f"0I{n}", f"0W{n}")))
                buffers.append((1, f"0I{n}", ()))
    edges = [
        edge
        for n in range(2)
        for edge in ((f"0F{n}", f"0I{n}", 0), (f"0I{n}", f"0W{n}", 0))
    ]
    graph = tiny_graph(
        durations, edges, buffers, devices=devices, limits=(9, None, None)
    )
    problem = problem_of(graph)
    assert problem is not None
    assert tables_of(problem) is None
    assert not Searcher.applies(problem)
    begun = np.cumsum([durations[str(op)] for op in problem.ops])
    assert anneal(problem, begun, Annealing(moves=10), seed=0) is None
    if what != "makers of no duration":  # lanes do not mind
        grid = Grid(problem, 0)
        assert not grid.applies
        assert list(grid.points(compile_loops=False)) == []
        assert grid.climb(compile_loops=False) is None


# -- compiling ----------------------------------------------------------------


def test_a_new_process_does_not_compile_again() -> None:
    program = """
from schedopt.compiled import compiled
from schedopt.search import Annealing, Climber, Grid, anneal
from schedopt.search.anneal import (
    _HELPERS, _anneal, find_path, fits, replay_from, shift
)
from schedopt.search.greedy import _run as greedy
from schedopt.search.guided import _run as guided
from schedopt.search.tables import ends_of
from tests.test_search import SPLITS, Placement, folded, guiding
from tests.test_search import plain_instances, start_of
(_, instance, graph), *_ = plain_instances(Placement.LINEAR, SPLITS[0], 1)
problem, _ = folded(graph)
ends = ends_of(problem, start_of(instance, graph).start)
anneal(problem, ends, Annealing(moves=5), seed=0)
next(Grid(problem, 0).points(compile_loops=True))
windows = guiding(problem, int(ends.max()))
Climber(problem, 0).draw(windows, compile_loops=True)
for loop in (
    compiled(_anneal, *_HELPERS, find_path, shift, fits, replay_from),
    compiled(guided),
    compiled(greedy),
):
    print(len(loop.signatures), sum(loop.stats.cache_hits.values()))
"""
    root = Path(__file__).parent.parent
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            cwd=root,
        ).stdout
        for _ in range(2)
    ]
    assert runs[1].split() == ["1"] * 6


# -- fewer microbatches first -------------------------------------------------


def generated_instance(
    devices: int, microbatches: int, placement: Placement
) -> Instance:
    point = Point(
        "unequal",
        devices,
        microbatches,
        0.75,
        placement,
        1 if placement is Placement.LINEAR else 2,
        Backward.SPLIT,
        6,
        1,
        "equal",
        0,
    )
    return instance_from_document(document_of(point), "a test")


def generated(devices: int, microbatches: int, placement: Placement) -> Problem:
    instance = generated_instance(devices, microbatches, placement)
    return folded(build_graph(instance))[0]


@pytest.mark.parametrize("placement", [Placement.LINEAR, Placement.V])
def test_the_first_microbatches_are_the_same_problem(placement: Placement) -> None:
    whole = generated(4, 40, placement)
    shorter = with_fewer_microbatches(whole)
    assert shorter is not None
    kept = len(shorter.graph.microbatches)
    # A round trip of 2 x 4 passages is as long as about 3.3 microbatches' work.
    assert 8 <= kept <= 12
    assert set(shorter.ops) == {op for op in whole.ops if op.microbatch < kept}
    assert (shorter.arrays.duration == whole.arrays.duration).all()
    assert (shorter.arrays.following == whole.arrays.following).all()
    for op in shorter.ops:
        assert shorter.graph.data[op] == whole.graph.data[op]
    assert shorter.graph.devices == whole.graph.devices
    again = [b for b in whole.graph.buffers if b.maker.microbatch < kept]
    assert list(shorter.graph.buffers) == again


def test_few_microbatches_are_not_made_fewer() -> None:
    assert with_fewer_microbatches(generated(4, 12, Placement.LINEAR)) is None


def test_rules_that_did_well_are_tried_on_all_microbatches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(searcher, "_ANNEAL_UP_TO", 100)
    monkeypatch.setattr(searcher, "_CLIMB_S", (0.01,))
    monkeypatch.setattr(searcher, "_GRID_S", 0.01)
    monkeypatch.setattr(searcher, "_REHEARSAL_S", 0.02)
    problem = generated(6, 60, Placement.V)
    search = Searcher(problem, [], 0)
    adopted: list[int] = []
    adopt = Climber.adopt

    def noted(*arguments: Any, **options: Any) -> Ints | None:
        ends = adopt(*arguments, **options)
        if ends is not None:
            adopted.append(int(ends.max()))
        return ends

    monkeypatch.setattr(Climber, "adopt", noted)
    for name in islice(search.steps(), 400):
        assert name in ("greedy", "windows", "guided")
    assert adopted
    assert search.best is not None
    assert search.best_makespan is not None
    assert search.best_makespan <= min(adopted) * problem.beat
    assert violations(problem.graph, search.best.start) == ()


def test_rules_are_tried_on_fewer_microbatches_where_there_are_no_lanes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is known of all microbatches is where the first of them begin."""
    monkeypatch.setattr(searcher, "_ANNEAL_UP_TO", 100)
    monkeypatch.setattr(searcher, "_CLIMB_S", (0.01,))
    monkeypatch.setattr(searcher, "_GRID_S", 0.01)
    monkeypatch.setattr(searcher, "_REHEARSAL_S", 0.02)
    instance = replace(
        generated_instance(4, 40, Placement.LINEAR),
        communication=Communication(mode=CommunicationMode.LINK, latency=6),
    )
    graph = build_graph(instance)
    problem = folded(graph)[0]
    assert not Grid(problem, 0).applies
    start = start_of(instance, graph)
    search = Searcher(problem, [start], 0)
    names = list(islice(search.steps(), 200))
    assert names.count("guided") > 20
    assert search._rehearsal is not None
    assert search._rehearsal.best is not None
    first = search._rehearsal.best
    assert violations(first.graph, first.start) == ()
    assert search.best is not None
    assert search.best.makespan < start.makespan
