"""Windows through the states of streams: what they say, and that it is true."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from schedopt.bounds import destructive as destructive_module
from schedopt.bounds import without_choices
from schedopt.bounds.destructive import CARES, Care, Destructive
from schedopt.build import build_graph
from schedopt.instance import (
    Backward,
    Communication,
    CommunicationMode,
    Device,
    Instance,
    Placement,
    StageCost,
)
from schedopt.lattice import Ints, Problem, Windows, problem_of, windows_by
from schedopt.opgraph import OpGraph, StreamKind
from schedopt.ops import Op
from schedopt.structure import fifo_classes
from tests.exact_search import best_makespan
from tests.small_instances import INSTANCES, optima, small_instance
from tests.strategies import random_instance, random_schedule


def pipeline(
    *,
    stages: int = 2,
    microbatches: int = 3,
    limit: int | None = None,
    costs: tuple[int, int, int] = (2, 3, 1),
    latency: int = 1,
    **changes: object,
) -> OpGraph:
    """Equal stages, one per device; an activation is 2, half of it freed by I."""
    forward, backward, weight = costs
    stage = StageCost(
        forward=forward,
        backward=backward + weight,
        backward_input=backward,
        backward_weight=weight,
        activation=2,
        activation_until_input=1,
    )
    instance = Instance(
        name="pipeline",
        stages=(stage,) * stages,
        devices=tuple(Device(name=f"d{d}", memory_limit=limit) for d in range(stages)),
        microbatches=microbatches,
        placement=Placement.LINEAR,
        device_of_stage=tuple(range(stages)),
        backward=Backward.SPLIT,
        communication=Communication(latency=latency),
        memory_unit="B",
        resolution=1,
    )
    return build_graph(replace(instance, **changes))  # type: ignore[arg-type]  # fields


def windows_of(
    graph: OpGraph,
    end: int,
    *,
    most_full: int | None = None,
    compile_loops: bool = False,
) -> Windows | None:
    problem = problem_of(graph)
    assert problem is not None
    windows = windows_by(
        problem,
        end // problem.beat,
        most_steps=10**6,
        most_full=most_full,
        compile_loops=compile_loops,
    )
    if windows is not None:
        for _ in windows.settle(compile_loops=compile_loops):
            pass
    return windows


def settled(graph: OpGraph, end: int) -> Mapping[Op, tuple[int, int]]:
    windows = windows_of(graph, end)
    assert windows is not None
    assert not windows.is_refuted
    return windows.windows()


def is_refuted(graph: OpGraph, end: int) -> bool:
    windows = windows_of(graph, end)
    return windows is None or windows.is_refuted


def proven(graph: OpGraph, upper_bound: int) -> int:
    """The destructive bound, everything tried."""
    problem = problem_of(graph)
    assert problem is not None
    destructive = Destructive(problem, 0, upper_bound)
    for _ in destructive.steps():
        pass
    return destructive.lower_bound


# -- what windows say ---------------------------------------------------------


def test_one_op_has_the_time_that_is_left() -> None:
    graph = pipeline(stages=1, microbatches=1, costs=(2, 3, 1))
    found = {str(op): window for op, window in settled(graph, 9).items()}
    assert found == {"0F0": (0, 5), "0I0": (2, 8), "0W0": (5, 9)}


def test_memory_for_one_microbatch_leaves_one_path() -> None:
    """F0 I0 W0 F1 I1 W1 take 12; an activation's half outlives I."""
    graph = pipeline(stages=1, microbatches=2, limit=2)
    assert is_refuted(graph, 11)
    found = {str(op): window for op, window in settled(graph, 13).items()}
    assert found == {
        "0F0": (0, 3),
        "0I0": (2, 6),
        "0W0": (5, 7),
        "0F1": (6, 9),
        "0I1": (8, 12),
        "0W1": (11, 13),
    }


def test_memory_for_one_and_a_half_lets_w_wait() -> None:
    """At 3, F1 may start before W0: after I0 half an activation is left.

    W0 still comes before W1, the last op, so that it ends by 11.
    """
    graph = pipeline(stages=1, microbatches=2, limit=3)
    found = {str(op): window for op, window in settled(graph, 12).items()}
    assert found["0F1"] == (5, 8)
    assert found["0W0"] == (5, 11)


def test_what_no_device_sees_alone_is_passed_on() -> None:
    """Device 1 runs F0 I0 F1 I1 at once if W waits; device 0 can hold one microbatch.

    F0 (2), transfer, F and I on device 1 (5), transfer, I0 (3): I0 ends at 12. W0
    (1) must come before F1, which starts at 13; the second round ends at 26.
    """
    graph = pipeline(stages=2, microbatches=2, limit=2)
    assert is_refuted(graph, 25)
    assert settled(graph, 26)[Op.parse("0F1")] == (13, 15)
    best = best_makespan(graph)
    assert best is not None
    assert best.value == 26


def test_times_are_counted_in_beats() -> None:
    graph = pipeline(costs=(20, 30, 10), latency=10)
    problem = problem_of(graph)
    assert problem is not None
    assert problem.beat == 10
    times = {time for window in settled(graph, 400).values() for time in window}
    assert {time % 10 for time in times} == {0}


def test_earlier_ends_start_from_what_is_known() -> None:
    graph = pipeline(microbatches=4, limit=4)
    wide = windows_of(graph, 60)
    assert wide is not None
    narrow = wide.by(45)
    for _ in narrow.settle(compile_loops=False):
        pass
    assert narrow.windows() == settled(graph, 45)
    assert wide.windows() == settled(graph, 60)


def test_thinned_lattices_say_the_same() -> None:
    graph = pipeline(stages=3, microbatches=6, limit=6)
    least = proven(graph, 200)
    wide = windows_of(graph, 200)
    assert wide is not None
    narrow = wide.by(least)
    for _ in narrow.settle(compile_loops=False):
        pass
    before = narrow.steps
    narrow.thin()
    assert narrow.steps < before
    for end in range(least - 4, least + 1):
        again = narrow.by(end)
        for _ in again.settle(compile_loops=False):
            pass
        assert again.is_refuted == is_refuted(graph, end)
        if not again.is_refuted:
            assert again.windows() == settled(graph, end)


def test_settled_windows_settle_to_themselves() -> None:
    """Sweeps redo parts only; a sweep of everything finds nothing more."""
    for seed in range(40):
        graph, upper = feasible(seed, plain=True)
        windows = windows_of(graph, upper)
        if windows is None or windows.is_refuted:
            continue
        again = windows.by(windows.end)
        for _ in again.settle(compile_loops=False):
            pass
        assert again.windows() == windows.windows(), seed


def test_compiled_loops_say_the_same() -> None:
    for seed in range(12):
        graph, upper = feasible(seed)
        plain, fast = (
            windows_of(graph, upper, compile_loops=compiled)
            for compiled in (False, True)
        )
        assert (plain is None) == (fast is None)
        if plain is None or fast is None:
            continue
        assert plain.windows() == fast.windows()
        classes = plain.edges(classes_of(graph), at_end=seed % 2 == 0)
        for windows, compiled in ((plain, False), (fast, True)):
            for _ in windows.shave(classes, 1, compile_loops=compiled):
                pass
        assert plain.is_refuted == fast.is_refuted
        assert plain.windows() == fast.windows()
        assert plain.visits == fast.visits


# -- that it is true ----------------------------------------------------------


@pytest.mark.parametrize(
    ("most_full", "first", "count"), [(None, 0, 150), (0, 1000, 80)]
)
def test_schedules_in_order_lie_within_their_windows(
    most_full: int | None, first: int, count: int
) -> None:
    """Random schedules, their equal microbatches put in order.

    Without fillers that of seed 1040 shows whether an op that holds two streams waits
    on one for what only the other one's memory needs.
    """
    judged = 0
    for seed in range(first, first + count):
        rng = random.Random(seed)
        graph = relaxed_graph(random_instance(rng, max_ops=40, zeros=seed % 3 == 0))
        if graph is None or problem_of(graph) is None:
            continue
        schedule = random_schedule(graph, rng).shifted_to_zero()
        if not keeps_limits(graph, schedule.peak_memory):
            continue
        judged += 1
        start = in_order(graph, schedule.start)
        end = schedule.makespan
        problem = problem_of(graph)
        assert problem is not None
        if problem.beat > 1 and any(time % problem.beat for time in start.values()):
            continue
        windows = windows_of(graph, end, most_full=most_full)
        assert windows is not None, seed
        assert not windows.is_refuted, seed
        for op, (head, last) in windows.windows().items():
            assert head <= start[op], (seed, op)
            assert start[op] + graph.data[op].duration <= last, (seed, op)
    assert judged >= 0.6 * count


@pytest.mark.parametrize("first", range(0, INSTANCES, 60))
def test_the_bound_never_exceeds_a_stored_optimum(first: int) -> None:
    """And mostly equals it: in eight of ten instances without choices, at least."""
    equal = judged = 0
    for seed in range(first, first + 60):
        best = optima()[seed].makespan
        graph = build_graph(small_instance(seed))
        relaxed = without_choices(graph)
        if best is None or relaxed is None:
            continue
        bound = proven(relaxed, best + seed % 7)
        assert bound <= best, seed
        if not graph.choices:
            judged += 1
            equal += bound == best
    assert equal >= 0.8 * judged


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_the_bound_never_exceeds_the_optimum_of_further_instances(first: int) -> None:
    """Of every placement and mode, most with tight memory, half with zero durations."""
    judged = 0
    for seed in range(first, first + 100):
        rng = random.Random(70_000 + seed)
        instance = random_instance(rng, max_ops=18, zeros=seed % 2 == 0)
        graph = build_graph(instance)
        relaxed = without_choices(graph)
        best = best_makespan(graph)
        if relaxed is None or best is None:
            continue
        judged += 1
        assert proven(relaxed, best.value + seed % 5) <= best.value, seed
    assert judged >= 70


@pytest.mark.parametrize("placement", [Placement.V, Placement.LOOPED, Placement.LINEAR])
def test_the_bound_is_the_optimum_of_small_pipelines(placement: Placement) -> None:
    """Plain pipelines with tight memory: nearly every optimum is proven."""
    equal = judged = 0
    for seed in range(40):
        rng = random.Random(seed)
        instance = random_instance(
            rng,
            max_ops=20,
            placements=(placement,),
            backwards=(Backward.SPLIT, Backward.WHOLE),
            modes=(CommunicationMode.LAG,),
            plain=True,
        )
        graph = build_graph(instance)
        best = best_makespan(graph)
        if best is None:
            continue
        judged += 1
        equal += proven(graph, best.value) == best.value
    assert judged >= 25
    assert equal >= 0.95 * judged


# -- traps --------------------------------------------------------------------


def test_a_buffer_made_and_freed_at_one_moment_counts_nothing() -> None:
    """F and I take no time, so two microbatches never meet in memory for one."""
    graph = pipeline(stages=1, microbatches=2, limit=2, costs=(0, 0, 3))
    best = best_makespan(graph)
    assert best is not None
    assert proven(graph, best.value) <= best.value


def test_transfers_that_hold_memory_are_left_out_of_the_compute_stream() -> None:
    """An incoming buffer is made by the link's transfer, not by the device's ops."""
    communication = Communication(
        mode=CommunicationMode.LINK, latency=1, transfer_buffers=True
    )
    stage = replace_output(pipeline_instance(), 1)
    graph = build_graph(replace(stage, communication=communication))
    problem = problem_of(graph)
    assert problem is not None
    kinds = {stream.kind for stream in problem.streams}
    assert kinds == {StreamKind.COMPUTE, StreamKind.P2P}
    for stream, rules in zip(problem.streams, problem.rules, strict=True):
        if stream.kind is StreamKind.P2P:
            assert len(rules.maker) == 0
    best = best_makespan(graph)
    assert best is not None
    assert proven(graph, best.value) <= best.value


def test_choices_have_no_windows() -> None:
    graph = pipeline(backward=Backward.CHOOSE)
    assert problem_of(graph) is None
    relaxed = without_choices(graph)
    assert relaxed is not None
    assert problem_of(relaxed) is not None


def test_a_stream_whose_lattice_would_be_too_large_has_none() -> None:
    graph = pipeline(microbatches=6)
    problem = problem_of(graph)
    assert problem is not None
    windows = windows_by(problem, 100, most_steps=10, compile_loops=False)
    assert windows is not None
    assert windows.steps == 0
    for _ in windows.settle(compile_loops=False):
        pass
    assert not windows.is_refuted
    assert windows.windows()[Op.parse("1I5")][0] > 0  # edges still count


# -- helpers ------------------------------------------------------------------


def pipeline_instance() -> Instance:
    stage = StageCost(
        forward=2,
        backward_input=3,
        backward_weight=1,
        activation=2,
        activation_until_input=1,
        output_bytes=1,
    )
    return Instance(
        name="pipeline",
        stages=(stage, stage),
        devices=tuple(Device(name=f"d{d}", memory_limit=6) for d in range(2)),
        microbatches=2,
        placement=Placement.LINEAR,
        device_of_stage=(0, 1),
        backward=Backward.SPLIT,
        memory_unit="B",
        resolution=1,
    )


def replace_output(instance: Instance, output_bytes: int) -> Instance:
    stages = tuple(
        replace(stage, output_bytes=output_bytes) for stage in instance.stages
    )
    return replace(instance, stages=stages)


def classes_of(graph: OpGraph) -> Ints:
    problem = problem_of(graph)
    assert problem is not None
    return np.arange(len(problem.arrays.duration))


def relaxed_graph(instance: Instance) -> OpGraph | None:
    return without_choices(build_graph(instance))


def feasible(seed: int, *, plain: bool = False) -> tuple[OpGraph, int]:
    """A graph that has windows, and a time by which some schedule ends."""
    rng = random.Random(seed)
    while True:
        graph = relaxed_graph(random_instance(rng, max_ops=40, plain=plain))
        if graph is None or problem_of(graph) is None:
            continue
        schedule = random_schedule(graph, rng)
        if keeps_limits(graph, schedule.peak_memory):
            return graph, schedule.makespan


def keeps_limits(graph: OpGraph, peaks: tuple[int, ...]) -> bool:
    return all(
        device.limit is None or peak <= device.limit
        for device, peak in zip(graph.devices, peaks, strict=True)
    )


def in_order(graph: OpGraph, start: Mapping[Op, int]) -> dict[Op, int]:
    """The starts, the k-th of each class given to its k-th op."""
    ordered = dict(start)
    for slots in fifo_classes(graph):
        ops = [op for slot in slots for op in slot]
        for op, time in zip(ops, sorted(start[op] for op in ops), strict=True):
            ordered[op] = time
    return ordered


# -- lattices without fillers -------------------------------------------------


@pytest.mark.parametrize("first", [0, 120])
def test_lattices_without_fillers_refute_no_optimum(first: int) -> None:
    """Nor anything later, and most of what is earlier."""
    refuted = judged = 0
    for seed in range(first, first + 60):
        rng = random.Random(90_000 + seed)
        instance = random_instance(
            rng, max_ops=18, zeros=seed % 2 == 0, plain=seed % 3 == 0
        )
        graph = build_graph(instance)
        relaxed = without_choices(graph)
        best = best_makespan(graph)
        problem = None if relaxed is None else problem_of(relaxed)
        if best is None or problem is None:
            continue
        judged += 1
        optimum = -(-best.value // problem.beat)
        for later in (0, 1, 2, 5):
            assert not is_refuted_without_fillers(problem, optimum + later), seed
        refuted += is_refuted_without_fillers(problem, optimum - 1)
    assert judged >= 40
    assert refuted >= 0.6 * judged


def solved(seeds: range) -> Iterator[tuple[OpGraph, int]]:
    """Random small graphs that have windows, and their optimal makespans."""
    for number, seed in enumerate(seeds):
        rng = random.Random(seed)
        graph = build_graph(random_instance(rng, max_ops=18, plain=number % 3 == 0))
        relaxed, best = without_choices(graph), best_makespan(graph)
        if relaxed is not None and best is not None and problem_of(relaxed) is not None:
            yield relaxed, best.value


@pytest.mark.parametrize(
    "care", [care for care in CARES if care.apart or care.patience], ids=str
)
def test_shaving_one_stream_refutes_no_optimum(
    care: Care, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, after nothing but settling; and it proves what settling does not."""
    monkeypatch.setattr(destructive_module, "CARES", (care,))
    raised = judged = 0
    for relaxed, optimum in solved(range(91_000, 91_050)):
        judged += 1
        bound = proven(relaxed, optimum + 1)
        assert bound <= optimum, judged
        monkeypatch.setattr(destructive_module, "CARES", ())
        raised += bound > proven(relaxed, optimum + 1)
        monkeypatch.setattr(destructive_module, "CARES", (care,))
    assert judged >= 30
    assert raised >= 1


def test_bounds_of_many_ops_begin_near_what_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lattices are listed again for later ends until nothing is left to refute."""
    monkeypatch.setattr(destructive_module, "_MANY_OPS", 0)
    listed: list[int] = []

    def listing(problem: Problem, end: int, **limits: Any) -> Windows | None:
        listed.append(end)
        return windows_by(problem, end, **limits)

    monkeypatch.setattr(destructive_module, "windows_by", listing)
    again = proofs = judged = 0
    for relaxed, optimum in solved(range(92_000, 92_040)):
        judged += 1
        listed.clear()
        bound = proven(relaxed, 3 * optimum)
        assert bound <= optimum, judged
        assert listed == sorted(set(listed)), judged
        again += len(listed) > 1
        proofs += bound == optimum
    assert judged >= 25
    assert again >= 0.5 * judged
    assert proofs >= 0.5 * judged


def test_an_impatient_trial_counts_as_possible() -> None:
    """With less patience less is looked at, and no schedule is lost."""
    fewer = 0
    for seed in range(15):
        graph, upper = feasible(seed)
        whole, brief = windows_of(graph, upper), windows_of(graph, upper)
        if whole is None or brief is None or whole.is_refuted:
            continue
        edges = whole.edges(classes_of(graph), at_end=False)
        for _ in whole.shave(edges, 1, compile_loops=False):
            pass
        for _ in brief.shave(edges, 1, patience=1, compile_loops=False):
            pass
        assert not brief.is_refuted, seed
        fewer += brief.visits < whole.visits
    assert fewer >= 3


@pytest.mark.parametrize("tight", range(3))
def test_the_tightest_stream_has_the_least_slack_on_average(tight: int) -> None:
    """On one device memory is short."""
    limits = [2 if device == tight else None for device in range(3)]
    devices = tuple(Device(name=f"d{d}", memory_limit=x) for d, x in enumerate(limits))
    graph = pipeline(stages=3, microbatches=4, devices=devices)
    problem, windows = problem_of(graph), windows_of(graph, 90)
    assert problem is not None
    assert windows is not None
    slack: dict[int, list[int]] = {}
    for op, (start, end) in windows.windows().items():
        data = graph.data[op]
        slack.setdefault(data.device, []).append(end - start - data.duration)
    means = [np.mean(slack[device]) for device in range(3)]
    assert problem.streams[windows.tightest_stream].device == np.argmin(means)


def is_refuted_without_fillers(problem: Problem, end: int) -> bool:
    """By settling and one round of shaving, all lattices without fillers."""
    windows = windows_by(
        problem, end, most_steps=10**6, most_full=0, compile_loops=False
    )
    if windows is None:
        return True
    for _ in windows.settle(compile_loops=False):
        pass
    classes = np.arange(len(problem.arrays.duration))
    for at_end in (False, True):
        if not windows.is_refuted:
            windows.thin()
            edges = windows.edges(classes, at_end=at_end)
            for _ in windows.shave(edges, 1, compile_loops=False):
                pass
    return windows.is_refuted


def test_fillers_free_memory_only_after_their_work() -> None:
    """One op alive at a time: the third F starts after two F, two I and two W.

    F 2, I 3, W 1: by 12 two microbatches have run, and by 16 no third one can end.
    """
    graph = pipeline(stages=1, microbatches=3, limit=2)
    problem = problem_of(graph)
    assert problem is not None
    assert is_refuted_without_fillers(problem, 17)
    assert not is_refuted_without_fillers(problem, 18)
