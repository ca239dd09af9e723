"""What packings are worth: by hand on a tiny pipeline, and consistently everywhere."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from math import inf

import pytest

from schedopt.instance import (
    Communication,
    Kfac,
    KfacModule,
    StageCost,
    StepBarrier,
)
from schedopt.opgraph import Stream
from schedopt.ops import Op, OpKind
from schedopt.refresh.frame import Frame
from schedopt.refresh.greedy import greedy_of
from schedopt.refresh.greedy_packing import packing_of
from schedopt.refresh.measures import Measures, measures_of
from schedopt.refresh.problem import Packing, problem_of
from schedopt.refresh.tolerance import _circle, _Wait, tolerance_of
from schedopt.schedule import Schedule
from schedopt.verify import violations
from tests.kfac_instances import training
from tests.refresh_trainings import frame_under, published_frame, random_frame

MODULE = KfacModule(
    name="x",
    curvature_a=2,
    curvature_b=3,
    inversion_a=5,
    inversion_b=7,
    saved_input=1,
    saved_gradient=2,
    factor_a=1,
    factor_b=1,
)


def tiny(barrier: StepBarrier = StepBarrier.DEVICE, inversion_b: int = 7) -> Frame:
    """Two devices, one microbatch: F 4, B 6, preconditioning 2; a step takes 22.

    Device 0 runs F from 0, B from 14, preconditions from 20 and is idle from 4 to 14.
    Device 1 runs F from 4, B from 8, preconditions from 14 and is idle from 16 to 26;
    if both precondition together, from 20, and it is idle from 14 to 20 and 22 to 26.
    """
    module = replace(MODULE, inversion_b=inversion_b)
    stage = StageCost(
        forward=4, backward=6, activation=8, precondition=2, modules=(module,)
    )
    instance = training(
        2,
        1,
        stage=stage,
        kfac=Kfac(step_barrier=barrier),
        communication=Communication(),
    )
    return frame_under("gpipe", instance)


def measured(packing: Packing) -> Measures:
    return measures_of(packing.cycle)


def packed(interval: int, frame: Frame | None = None, **start: int) -> Packing:
    """A packing of the tiny training, by ``A0`` (curvature A on device 0), ``IB1``."""
    kinds = {
        "A": (OpKind.CURVATURE_A, "x"),
        "B": (OpKind.CURVATURE_B, "x"),
        "IA": (OpKind.INVERSION, "x.A"),
        "IB": (OpKind.INVERSION, "x.B"),
    }
    starts = {}
    for name, time in start.items():
        kind, part = kinds[name[:-1]]
        starts[Op(kind, int(name[-1]), 0, 0, part)] = time
    packing = Packing(
        problem_of(frame or tiny(), interval, wrap=False), starts, "by hand"
    )
    schedule = packing.cycle.schedule
    assert violations(schedule.graph, schedule.start) == ()
    return packing


SPREAD = {
    # Device 0: 4-6, 6-11 | 26-29 | 48-55; device 1: 16-18, 18-21 | 38-43 | 60-67.
    "A0": 4,
    "IA0": 6,
    "B0": 26,
    "IB0": 48,
    "A1": 16,
    "B1": 18,
    "IA1": 38,
    "IB1": 60,
}


# -- by hand ---------------------------------------------------------------------------


def test_an_inverse_counts_from_the_first_preconditioning_after_its_end() -> None:
    packing = packed(3, **SPREAD)
    uses = {str(op): step for op, step in packing.cycle.first_uses.items()}
    # Device 0 preconditions at 20, 42, 64; device 1 at 14, 36, 58, 80.
    assert uses == {
        "0INVERSION0:x.A": 0,
        "0INVERSION0:x.B": 2,
        "1INVERSION0:x.A": 2,
        "1INVERSION0:x.B": 3,
    }
    measures = measured(packing)
    assert [one.first_use for one in measures.devices] == [2, 3]
    # The inverse of step 0's data is used until two steps after its first use.
    assert [one.largest_age for one in measures.devices] == [4, 5]
    assert (measures.first_use, measures.largest_age) == (3, 5)


def test_an_inverse_that_ends_when_preconditioning_begins_is_used() -> None:
    frame = tiny(StepBarrier.EVERYONE, inversion_b=6)
    # Device 1 preconditions at 20, 42, 64; its inversions end at 42 and 64.
    exact = {"A1": 14, "B1": 16, "IA1": 37, "IB1": 58}
    uses = packed(4, frame, **SPREAD | exact).cycle.first_uses
    assert [uses[Op(OpKind.INVERSION, 1, 0, 0, part)] for part in ("x.A", "x.B")] == [
        1,
        2,
    ]


def test_shares_of_time() -> None:
    measures = measured(packed(3, **SPREAD))
    assert (measures.interval, measures.period, measures.wrap) == (3, 22, False)
    for one in (*measures.devices, measures):
        assert one.fill == Fraction(17, 3 * 10)
        assert one.pipeline_share == Fraction(10, 22)
        assert one.compute_share == Fraction(3 * 10 + 17, 3 * 22)
        assert one.busy_share == Fraction(3 * (10 + 2) + 17, 3 * 22)
    for one in measures.devices:
        assert (one.work, one.idle) == (17, 10)


def test_peak_memory_holds_gradients_until_their_curvature() -> None:
    early = {"A0": 4, "IA0": 6, "B0": 26, "IB0": 29}
    # Static: two factors and their inverses, 4. An activation is 8, from F to B's end
    # or curvature A's; output gradients are 2, from B to the end of curvature B.
    assert measured(packed(3, **SPREAD)).devices[0].peak_memory == 4 + 8 + 2
    assert measured(packed(3, **SPREAD | early)).devices[0].peak_memory == 14
    # Where curvature A waits for a later step, its input meets a whole activation.
    late = {"A0": 48, "IA0": 50, "B0": 55, "IB0": 70}
    assert measured(packed(4, **SPREAD | late)).devices[0].peak_memory == 15


def test_tolerance_is_that_of_the_fullest_gap() -> None:
    # The longest loads of 10 ticks: 2 + 5 and 7 on device 0, 7 on device 1.
    assert measured(packed(3, **SPREAD)).tolerance == Fraction(10, 7) - 1
    full = SPREAD | {"IB0": 29}  # behind B's share: 3 + 7
    assert measured(packed(3, **full)).tolerance == 0


def test_tolerance_counts_all_of_a_gap_and_slack_before_an_op() -> None:
    # Device 1: 2 + 3 + 5 fill the gap from 16.
    measures = measured(packed(3, **SPREAD | {"IA1": 21}))
    assert measures.tolerance == 0
    # At the end of the gap to 48, it can begin 5 earlier.
    slack = measured(packed(3, **SPREAD | {"IA1": 43}))
    assert slack.tolerance == Fraction(10, 7) - 1


def test_a_circle_of_waits_is_found() -> None:
    a, b, c = (Op(OpKind.INVERSION, stage, 0) for stage in range(3))
    ab, ba, bc = _Wait(a, b, 0), _Wait(b, a, -9), _Wait(b, c, 0)
    assert _circle({b: ab, c: bc}) == []
    assert set(_circle({c: bc, b: ab, a: ba})) == {ab, ba}


def test_without_inversions_there_is_no_age_and_without_work_no_tolerance() -> None:
    frame = tiny()
    stages = tuple(replace(stage, modules=()) for stage in frame.instance.stages)
    bare = replace(frame, instance=replace(frame.instance, stages=stages))
    measures = measured(Packing(problem_of(bare, 2, wrap=False), {}, "nothing"))
    assert measures.largest_age is None
    assert measures.tolerance is None
    assert measures.fill == 0


# -- published rows --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "interval", "ages"),
    [
        (("base", "1f1b", 4, 3), 4, [6, 6, 5, 5]),
        (("base", "chimera", 4, 3), 7, [12, 12, 12, 12]),
        (("large", "chimera", 8, 1), 8, [11, 14, 11, 10, 10, 11, 14, 11]),
    ],
)
def test_published_rows(
    row: tuple[str, str, int, int], interval: int, ages: list[int]
) -> None:
    frame = published_frame(*row)
    packing = packing_of(greedy_of(frame)).packing
    assert packing is not None
    measures = measured(packing)
    assert measures.interval == interval
    assert [one.largest_age for one in measures.devices] == ages
    # N (F + B) / (T_pipe + T_prec), and T_kfac / T_bubble over the interval.
    stage = frame.instance.stages[0]
    work = frame.instance.microbatches * (stage.forward + (stage.backward or 0))
    time = frame.pipeline_end / 1e6 + stage.precondition
    assert float(measures.pipeline_share) == pytest.approx(work / time)
    assert frame.period == frame.pipeline_end + round(1e6 * stage.precondition)
    assert measures.fill == Fraction(
        measures.devices[0].work,
        interval * (frame.pipeline_end - round(1e6 * work)),
    )


# -- everywhere ------------------------------------------------------------------------


def test_measures_agree_with_each_other_and_with_what_happens() -> None:
    seen = 0
    for seed in range(20):
        packing = packing_of(greedy_of(random_frame(random.Random(seed)))).packing
        if packing is None:
            continue
        seen += 1
        measures = measured(packing)
        schedule = packing.cycle.schedule
        period, interval = measures.period, measures.interval
        for one in measures.devices:
            assert one.peak_memory == schedule.peak_memory[one.device]
            assert one.pipeline_share <= one.compute_share <= one.busy_share <= 1
            assert one.fill is None or 0 <= one.fill <= 1
            share = Fraction(one.work, period * interval)
            assert one.compute_share == one.pipeline_share + share
            if one.first_use is not None:
                assert one.largest_age == one.first_use + interval - 1
        assert measures.tolerance is not None
        assert measures.tolerance == tolerance_of(packing.cycle)
        assert_tolerance(packing, measures.tolerance)
    assert seen >= 8


def assert_tolerance(packing: Packing, tolerance: Fraction) -> None:
    """Time six refreshes in a row with longer work: it fits, and a bit more does not.

    Every op starts as early as its gap, its precedences and the op before it let it.
    """
    assert tolerance >= 0
    assert fits(packing, 1 + tolerance)
    assert not fits(packing, (1 + tolerance) * Fraction(1001, 1000) + Fraction(1, 1000))


def fits(packing: Packing, factor: Fraction) -> bool:
    schedule = packing.cycle.unrolled(6)
    ours = {op for op in schedule.start if op._replace(step=0) in packing.start}
    assert len(ours) == 6 * len(packing.start)
    end = {op: Fraction(schedule.end(op)) for op in schedule.start if op not in ours}
    last: dict[Stream, Fraction] = {}
    busy = frame_on_streams(schedule, ours)
    for op in sorted(ours, key=lambda op: (schedule.start[op], schedule.end(op))):
        data = schedule.graph.data[op]
        around = [span for stream in data.streams for span in busy[stream]]
        start, over = schedule.start[op], schedule.end(op)
        begin = max((e for _, e in around if e <= start), default=0)
        until = min((s for s, _ in around if s >= over), default=inf)  # the last gap
        time = max(
            [
                Fraction(begin),
                *(
                    end[before] + lag
                    for before, lag in schedule.graph.predecessors(op)
                    if before in end
                ),
                *(last[stream] for stream in data.streams if stream in last),
            ]
        )
        end[op] = time + factor * data.duration
        if end[op] > until:
            return False
        for stream in data.streams:
            last[stream] = end[op]
    return True


def frame_on_streams(
    schedule: Schedule, ours: set[Op]
) -> dict[Stream, list[tuple[int, int]]]:
    """When ops of the frame hold each stream."""
    return {
        stream: [
            (schedule.start[op], schedule.end(op))
            for op in ops
            if op in schedule.start and op not in ours
        ]
        for stream, ops in schedule.graph.streams.items()
    }
