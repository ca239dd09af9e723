"""The frame of a refresh: gaps by hand, and frames that keep every rule."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from kfac_instances import MODULES, STAGE, random_training, training

from schedopt.baselines import BASELINES, run_baseline
from schedopt.build import build_graph, derive
from schedopt.errors import NotApplicableError
from schedopt.instance import (
    Communication,
    FactorBarrier,
    Instance,
    Inversion,
    Kfac,
    Placement,
    StageCost,
    StepBarrier,
)
from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.refresh.frame import (
    END_OF_STEP,
    Frame,
    Gap,
    frame_of,
    pipeline_alone,
    step_alone,
)
from schedopt.refresh.problem import Packing, Problem, problem_of
from schedopt.verify import Work, kfac_violations, violations

PLAIN = StageCost(
    forward=2, backward=4, precondition=4, optimizer_step=1, modules=MODULES
)
NO_TRANSFERS = Communication()


def frame(name: str, instance: Instance) -> Frame:
    run = run_baseline(BASELINES[name], pipeline_alone(instance))
    return frame_of(run.schedule, derive(instance, run.form))


def gaps(of: Frame) -> list[list[tuple[int, int]]]:
    return [[(gap.begin, gap.end) for gap in gaps] for gaps in of.gaps]


def gpipe(**kfac: object) -> Instance:
    return training(
        2,
        2,
        stage=PLAIN,
        kfac=Kfac(**kfac),  # type: ignore[arg-type]  # fields of the section
        communication=NO_TRANSFERS,
    )


@pytest.mark.parametrize("barrier", StepBarrier)
def test_gaps_of_gpipe_on_two_devices(barrier: StepBarrier) -> None:
    # F 2, B 4, PRECONDITION 4, STEP 1; the pipeline takes 3 x 6:
    #   device 0  F0 F1 . . . B0 B1 P P t
    #   device 1  . F0 F1 B0 B1
    of = frame("gpipe", gpipe(step_barrier=barrier))
    assert (of.pipeline_end, of.period) == (18, 23)
    assert of.idle == (6, 6)
    assert of.preconditioning(0) == 18
    if barrier is StepBarrier.EVERYONE:
        # Device 1 waits for device 0 before it preconditions.
        assert gaps(of) == [[(4, 10)], [(0, 2), (14, 18)]]
        assert of.preconditioning(1) == 18
    else:
        # Its idle times at a step's end and at the next one's beginning are one gap.
        assert gaps(of) == [[(4, 10)], [(19, 25)]]
        assert of.preconditioning(1) == 14


@pytest.mark.parametrize("barrier", StepBarrier)
def test_gaps_of_chimera_on_four_devices(barrier: StepBarrier) -> None:
    # D F + (2 D - 2) B = 8 + 24; then two stages' PRECONDITION of 2 and STEP of 1.
    instance = training(
        4,
        4,
        stage=PLAIN,
        placement=Placement.BIDIRECTIONAL,
        kfac=Kfac(step_barrier=barrier),
        communication=NO_TRANSFERS,
    )
    of = frame("chimera", instance)
    assert (of.pipeline_end, of.period) == (32, 38)
    outer = [(4, 6), (18, 20), (24, 28)]
    inner = [(10, 12), (34, 40)]  # 28 to 34: preconditioning and STEP
    if barrier is StepBarrier.EVERYONE:
        inner = [(0, 2), (10, 12), (28, 32)]
    assert gaps(of) == [outer, inner, inner, outer]
    assert of.idle == (8, 8, 8, 8)
    first = 32 if barrier is StepBarrier.EVERYONE else 28
    assert [of.preconditioning(device) for device in range(4)] == [32, first, first, 32]


def test_a_collective_is_waited_for_and_leaves_a_gap() -> None:
    # 6 B of gradients, half of them over 1 B/s: REDUCE_GRAD 18-21, PRECONDITION 2,
    # GATHER_GRAD 23-26, STEP.
    instance = training(
        1,
        3,
        stage=replace(PLAIN, gradient_bytes=6),
        kfac=Kfac(replicas=2, bandwidth=1),
    )
    of = frame("gpipe", instance)
    times = {str(op): time for op, time in of.start.items() if op.kind in END_OF_STEP}
    assert times == {
        "0REDUCE_GRAD0": 18,
        "0PRECONDITION0": 21,
        "0GATHER_GRAD0": 23,
        "0STEP0": 26,
    }
    assert (of.period, gaps(of)) == (27, [[(18, 21), (23, 26)]])


def test_collectives_of_two_stages_queue_on_both_devices() -> None:
    instance = training(
        2,
        2,
        stage=replace(PLAIN, modules=()),
        placement=Placement.BIDIRECTIONAL,
        kfac=Kfac(latency=50),
        communication=NO_TRANSFERS,
    )
    of = frame("chimera", instance)
    # Stage 1's gradients are complete at 8, those of stage 0 at 12.
    assert of.start[Op.parse("1REDUCE_GRAD0")] == 8
    assert of.start[Op.parse("0REDUCE_GRAD0")] == 58
    schedule = Packing(problem_of(of, 1, wrap=False), {}, "none").cycle.schedule
    assert violations(schedule.graph, schedule.start) == ()


def test_a_next_step_begins_as_early_as_every_device_allows() -> None:
    # Device 1 has the most work and none of it waits for device 0's second microbatch:
    # without a barrier its span, not the makespan, is the period.
    slow = replace(PLAIN, forward=10, backward=20)
    instance = training(
        2,
        3,
        stage=PLAIN,
        kfac=Kfac(step_barrier=StepBarrier.DEVICE),
        communication=(NO_TRANSFERS),
    )
    instance = replace(instance, stages=(PLAIN, slow))
    of = frame("1f1b", instance)
    span = 3 * 30 + 4 + 1
    last = 2 + 3 * 30 + 4 + 4 + 1  # B of the last microbatch on device 0, and its end
    assert of.period == max(span, last)
    assert [gap for gap in of.gaps[1] if gap.length != of.period - span] == []


def test_steps_alone() -> None:
    instance = training(2, 2, kfac=Kfac(interval=3, refreshes=2, replicas=2), steps=4)
    alone = build_graph(step_alone(instance))
    kinds = {op.kind for op in alone.ops}
    assert kinds == {OpKind.FORWARD, OpKind.BACKWARD, *END_OF_STEP}
    bare = pipeline_alone(instance)
    assert {op.kind for op in build_graph(bare).ops} == {
        OpKind.FORWARD,
        OpKind.BACKWARD,
    }
    assert (bare.steps, bare.kfac) == (1, None)
    # Without a section it is the default one: the same work as in the unrolled graph.
    without = step_alone(replace(instance, kfac=None))
    assert without.kfac == Kfac()


def test_a_device_without_work_is_one_gap() -> None:
    instance = training(2, 2, stages=1, placement=(1,), stage=PLAIN, kfac=Kfac())
    of = frame("gpipe", instance)
    # GPipe's form of it has its only stage on device 0.
    assert of.gaps[1] == (Gap(1, 0, of.period),)
    assert (of.period, of.gaps[0]) == (2 * 6 + 5, ())


@pytest.mark.parametrize("seed", range(24))
def test_every_frame_repeats_without_breaking_a_rule(seed: int) -> None:
    instance = random_training(random.Random(seed))
    stages = tuple(replace(stage, modules=()) for stage in instance.stages)
    instance = replace(instance, kfac=instance.kfac or Kfac(), stages=stages)
    count = 0
    for baseline in BASELINES.values():
        try:
            run = run_baseline(baseline, pipeline_alone(instance))
        except NotApplicableError:
            continue
        if not run.fits:
            continue
        of = frame_of(run.schedule, derive(instance, run.form))
        assert_gaps_are_what_is_left(of)
        empty = Packing(problem_of(of, 2, wrap=False), {}, "none")
        schedule = empty.cycle.schedule
        assert schedule.makespan <= 3 * of.period + max(map(of.end, of.start))
        assert violations(schedule.graph, schedule.start) == ()
        count += 1
    assert count > 0


def assert_gaps_are_what_is_left(of: Frame) -> None:
    for device in range(len(of.graph.devices)):
        stream = Stream(StreamKind.COMPUTE, device)
        busy = sum(
            data.duration
            for data in map(of.graph.data.get, of.start)
            if data and stream in data.streams
        )
        assert busy + of.idle[device] == of.period
        for gap in of.gaps[device]:
            assert gap.length > 0
            assert 0 <= gap.begin < of.period
            for step in (-1, 0, 1):
                for op in of.start:
                    data = of.graph.data[op]
                    begin = of.start[op] + step * of.period
                    if stream in data.streams and data.duration:
                        end = begin + data.duration
                        assert end <= gap.begin or begin >= gap.end


# -- the work of a refresh ----------------------------------------------------


def test_equal_layers_are_one_class() -> None:
    of = frame("gpipe", gpipe())
    problem = problem_of(of, 3, wrap=False)
    assert [(g.stage, g.side, g.layers) for g in problem.classes] == [
        (stage, side, layers)
        for stage in (0, 1)
        for layers in (("qk.0", "qk.1"), ("o",))
        for side in "AB"
    ]
    first = problem.classes[0]
    assert [(s.microbatch, s.device, s.duration) for s in first.shares] == [
        (0, 0, 1),
        (1, 0, 1),
    ]
    assert [share.release for share in first.shares] == [2, 4]  # ends of F
    assert [share.release for share in problem.classes[1].shares] == [14, 18]  # of B
    assert [share.size for share in first.shares] == [1, 1]
    assert [(i.copy, i.device, i.duration) for i in first.inverting] == [(0, 0, 3)]
    assert (first.all_copies, first.sync) == (True, None)
    # 2 x (1 + 1 + 3) + 2 x (2 + 2 + 5) of curvature, 13 + 17 of inversion.
    assert problem.work == (58, 58)
    assert [str(first.share_op("qk.1", 1)), str(first.inversion_op("qk.1", 0))] == [
        "0CURVATURE_A1:qk.1",
        "0INVERSION0:qk.1.A",
    ]


def test_bins_are_gaps_of_every_step() -> None:
    of = frame("gpipe", gpipe())
    bins = problem_of(of, 2, wrap=False).bins
    assert [(b.step, b.gap, b.begin, b.end) for b in bins[1]] == [
        (0, 0, 0, 2),
        (0, 1, 14, 18),
        (1, 0, 23, 25),
        (1, 1, 37, 41),
    ]
    assert [len(b) for b in problem_of(of, 2, wrap=True).bins] == [4, 8]


def test_work_of_one_copy_or_of_both() -> None:
    for inversion in Inversion:
        instance = training(
            2,
            2,
            stage=replace(PLAIN, modules=MODULES[1:]),
            placement=Placement.BIDIRECTIONAL,
            kfac=Kfac(inversion=inversion, latency=1),
        )
        problem = problem_of(frame("chimera", instance), 2, wrap=False)
        # Per device two stages' curvature of a microbatch, 2 x (3 + 5), and halves of
        # 7 and 9 ticks, which round to 4: 2 x (4 + 4).
        expected = 16 + (16 if inversion is Inversion.HALVED else 0)
        assert problem.work == (expected, expected)
        assert {group.sync for group in problem.classes} == {1}
        halved = inversion is Inversion.HALVED
        assert all(group.all_copies is halved for group in problem.classes)


@pytest.mark.parametrize("barrier", FactorBarrier)
@pytest.mark.parametrize("step_barrier", StepBarrier)
@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("placement", [Placement.LINEAR, Placement.BIDIRECTIONAL])
def test_a_packing_as_a_schedule(
    placement: Placement, wrap: bool, step_barrier: StepBarrier, barrier: FactorBarrier
) -> None:
    instance = training(
        2 if placement is Placement.LINEAR else 4,
        4,
        stage=replace(STAGE, forward=40, backward=41),
        placement=placement,
        kfac=Kfac(step_barrier=step_barrier, factor_barrier=barrier),
    )
    name = "1f1b" if placement is Placement.LINEAR else "chimera"
    of = frame(name, instance)
    interval = 12
    problem = problem_of(of, interval, wrap=wrap)
    schedule = Packing(problem, packed(problem), "one by one").cycle.unrolled(3)
    assert violations(schedule.graph, schedule.start) == ()
    data = schedule.graph.data
    works = [Work(op, data[op].device, data[op].duration) for op in schedule.start]
    steps = interval * (4 if wrap else 3)
    kfac = Kfac(
        interval=interval,
        refreshes=3,
        step_barrier=step_barrier,
        factor_barrier=barrier,
    )
    assert kfac_violations(replace(instance, steps=steps, kfac=kfac), works) == ()


def packed(problem: Problem) -> dict[Op, int]:
    """All curvature of all devices first, then reductions, then inversions."""
    start: dict[Op, int] = {}
    after = dict.fromkeys(range(len(problem.bins)), (0, 0))

    def put(op: Op, device: int, duration: int, release: int) -> None:
        index, free = after[device]
        while True:
            place = problem.bins[device][index]
            begin = max(place.begin, free, release)
            if begin + duration <= place.end:
                break
            index, free = index + 1, 0
        after[device] = (index, begin + duration)
        start[op] = begin

    shares = sorted(
        (share.release, layer, group.side, group.stage, share, group)
        for group in problem.classes
        for share in group.shares
        for layer in group.layers
    )
    for release, layer, _, _, share, group in shares:
        op = group.share_op(layer, share.microbatch)
        put(op, share.device, share.duration, release)
    last = max(free for _, free in after.values())
    for group in problem.classes:
        for layer in group.layers:
            if group.sync is not None:
                assert group.sync == 0
                start[group.sync_op(layer)] = last
    for group in problem.classes:
        for layer in group.layers:
            for one in group.inverting:
                op = group.inversion_op(layer, one.copy)
                put(op, one.device, one.duration, last)
    return start
