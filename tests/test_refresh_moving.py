"""Packings for which the pipeline's ops move: by hand, on published rows, at random."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from schedopt.cpsat.model import Effort, Outcome
from schedopt.cpsat.reordering import neighbours_of, pack_reordered
from schedopt.cpsat.sliding import Sliding, cannot_slide, loads_fit, pack_sliding
from schedopt.cpsat.sliding_counts import mirror_of
from schedopt.cpsat.sliding_times import Sequences, Windows, sequences_of
from schedopt.errors import NotApplicableError
from schedopt.instance import (
    Communication,
    Inversion,
    Kfac,
    KfacModule,
    Placement,
    StageCost,
    StepBarrier,
)
from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op
from schedopt.refresh.bounds import best_bound, interval_bounds
from schedopt.refresh.cycle import Cycle
from schedopt.refresh.frame import END_OF_STEP, Frame
from schedopt.refresh.moving import faults_of
from schedopt.refresh.moving_bounds import bounds_at_any_times
from tests.kfac_instances import training
from tests.refresh_trainings import frame_under, published_frame, random_frame

EVERYONE, DEVICE = StepBarrier.EVERYONE, StepBarrier.DEVICE
ONE_BLOCK = ("large", "chimera", 8, 1)
# Runs end when they have found something, or have proven that there is nothing.
EFFORT = Effort(time_limit_s=900, workers=2)


def two_gaps(inversion_b: int, **kfac: object) -> Frame:
    """GPipe on two devices of different speed, two microbatches; ticks.

    Device 1 runs 1F at 4-8 and 8-12, 1B at 12-20 and 20-28; device 0 runs 0F at 0-4 and
    4-8, 0B at 20-26 and 28-34. So device 0 is idle at 8-20 and 26-28, and at 8-22 if
    its first backward starts two ticks later. Device 1 is idle at 0-4 and 28-34.
    """
    layer = KfacModule(
        name="x", curvature_a=1, curvature_b=1, inversion_a=1, inversion_b=inversion_b
    )
    small = replace(layer, inversion_b=1)
    instance = training(
        2,
        2,
        placement=Placement.LINEAR,
        stage=StageCost(forward=4, backward=6, modules=(layer,)),
        kfac=Kfac(step_barrier=EVERYONE, **kfac),
        communication=Communication(),
    )
    one, other = instance.stages
    stages = (one, replace(other, backward=8, modules=(small,)))
    return frame_under("gpipe", replace(instance, stages=stages))


def swapped(frame: Frame, one: str, other: str) -> Sequences:
    """The order that is one swap of these two (and of their mirrors) away."""
    pair = {Op.parse(one), Op.parse(other)}
    own = sequences_of(frame)
    (found,) = [
        sequences
        for sequences in neighbours_of(frame, own)
        if pair
        in [
            {a, b}
            for stream in own
            for a, b in zip(own[stream], sequences[stream], strict=True)
            if a != b
        ]
    ]
    return found


# -- by hand ---------------------------------------------------------------------------


def test_sliding_joins_two_gaps() -> None:
    frame = two_gaps(14)
    assert [(gap.begin, gap.end) for gap in frame.gaps[0]] == [(8, 20), (26, 28)]
    bound = best_bound(interval_bounds(frame, wrap=True))
    assert bound is not None
    assert bound.interval is None  # where nothing moves, 14 ticks fit in no gap
    packing = found(frame, 3)
    assert faults_of(packing) == ()
    # The last share of B has its data when step 0 has no gap left, and goes into the
    # gap of step 1; so the inversion, which takes a whole gap, is in step 2.
    assert packing.start[Op.parse("0INVERSION0:x.B")] == 2 * frame.period + 8
    assert packing.steps[2][Op.parse("0B0")] == 22
    assert packing.first_use == 2
    assert cannot_slide(Sliding(frame=frame, interval=2), EFFORT)


def test_one_tick_more_fits_at_no_times() -> None:
    frame = two_gaps(15)
    windows = Windows(frame, sequences_of(frame))
    assert windows.longest_space(0) == 14
    for interval in (1, 2, 5):
        for wrap in (False, True):
            task = Sliding(frame=frame, interval=interval, wrap=wrap)
            assert cannot_slide(task, EFFORT)
            assert pack_sliding(task, replace(EFFORT, time_limit_s=2)).packing is None


def test_work_that_needs_a_second_step_has_none_within_one() -> None:
    assert cannot_slide(Sliding(frame=two_gaps(3), interval=1), EFFORT)
    assert not cannot_slide(Sliding(frame=two_gaps(3), interval=2), EFFORT)


def test_an_inverse_is_used_in_time() -> None:
    frame = two_gaps(14)
    assert found(frame, 4, latest=2).first_use == 2
    assert cannot_slide(Sliding(frame=frame, interval=4, latest=1), EFFORT)


def test_an_order_that_makes_a_step_longer_is_infeasible() -> None:
    frame = two_gaps(3)
    own = sequences_of(frame)
    compute = Stream(StreamKind.COMPUTE, 1)
    first, *others = own[compute]
    late = {**own, compute: (*others[:1], first, *others[1:])}
    task = Sliding(frame=frame, interval=2, sequences=late)
    assert pack_sliding(task, EFFORT).outcome is Outcome.INFEASIBLE
    assert cannot_slide(task, EFFORT)
    assert not loads_fit(task, EFFORT)
    assert late not in list(neighbours_of(frame, own))


def test_reductions_that_take_time_are_refused() -> None:
    frame = two_gaps(3, replicas=2, latency=1)
    with pytest.raises(NotApplicableError, match="reductions"):
        pack_sliding(Sliding(frame=frame, interval=3), EFFORT)


# -- what is a fault -------------------------------------------------------------------


def found(frame: Frame, interval: int, **setting: object) -> Cycle:
    result = pack_sliding(Sliding(frame=frame, interval=interval, **setting), EFFORT)
    assert result.packing is not None
    return result.packing


def test_faults_are_found() -> None:
    frame = two_gaps(14)
    packing = found(frame, 3)
    last = Op.parse("0B1")
    late = [dict(step) for step in packing.steps]
    late[0][last] += 1
    (fault, *_) = [
        fault
        for fault in faults_of(replace(packing, steps=tuple(late)))
        if "runs from" in fault
    ]
    assert fault == "0B1 of step 0 runs from 29 to 35 ticks"
    # In the frame's own times the inversion of 14 ticks runs into a backward.
    assert faults_of(replace(packing, steps=(frame.start,) * 3))
    beyond = {op: time + 3 * frame.period for op, time in packing.start.items()}
    assert any(
        "after the cycle" in f for f in faults_of(replace(packing, start=beyond))
    )


# -- published rows --------------------------------------------------------------------


@pytest.mark.parametrize("barrier", list(StepBarrier))
def test_one_block_of_large_cannot_refresh_every_three_steps(
    barrier: StepBarrier,
) -> None:
    """In the published order at any times; counting needs the frozen times for that."""
    frame = published_frame(*ONE_BLOCK, step_barrier=barrier)
    assert cannot_slide(Sliding(frame=frame, interval=3, wrap=True), EFFORT)


@pytest.mark.slow
def test_one_swap_lets_one_block_of_large_refresh_every_three_steps() -> None:
    """Two ops of device 2 change places, and their mirrors on device 5."""
    frame = published_frame(*ONE_BLOCK, step_barrier=DEVICE)
    order = swapped(frame, "5F1", "2F4")
    packing = found(frame, 3, wrap=True, sequences=order)
    assert faults_of(packing) == ()
    assert packing.interval == 3


def test_whole_inversions_of_one_block_need_another_order() -> None:
    """In the published order the large ones fit in no gap of devices 1 and 6."""
    frame = published_frame(*ONE_BLOCK, inversion=Inversion.WHOLE, step_barrier=DEVICE)
    duration = 58_759_420
    for device in (1, 6):
        longest = Windows(frame, sequences_of(frame)).longest_space(device)
        assert longest == 53_906_000 < duration
    assert cannot_slide(Sliding(frame=frame, interval=8, wrap=True), EFFORT)
    order = swapped(frame, "1B0", "6B7")
    assert Windows(frame, order).longest_space(1) > duration


# -- bounds at any times ---------------------------------------------------------------


def test_idle_time_before_the_first_data_is_lost_at_any_times() -> None:
    frame = two_gaps(14)
    within = bounds_at_any_times(frame, wrap=False)
    # Device 1 cannot begin before 4: it has 10 idle ticks in a step, and work of 6.
    of_device_1 = [bound for bound in within if bound.devices == (1,)]
    assert [(b.name, b.items, b.first, b.each) for b in of_device_1] == [
        ("fluid", 6, 10, 10),
        ("strict", 6, 6, 10),
    ]
    fluid = bounds_at_any_times(frame, wrap=True)
    assert {bound.name for bound in fluid} == {"fluid"}


@pytest.mark.parametrize(
    ("row", "strict", "fluid"),
    [
        (("base", "gpipe", 4, 3), 3, 3),
        (("base", "chimera", 4, 3), 6, 6),
        (("large", "1f1b", 8, 3), 2, 2),
        (("large", "chimera", 8, 3), 4, 3),
        (ONE_BLOCK, 4, 3),
    ],
)
def test_bounds_at_any_times_of_published_rows(
    row: tuple[str, str, int, int], strict: int, fluid: int
) -> None:
    together = published_frame(*row)
    apart = published_frame(*row, step_barrier=DEVICE)
    for frame, wrap, interval in (
        (together, False, strict),
        (together, True, fluid),
        (apart, False, fluid),
    ):
        bound = best_bound(bounds_at_any_times(frame, wrap=wrap))
        assert bound is not None
        assert bound.interval == interval


# -- orders ----------------------------------------------------------------------------


def test_swaps_are_of_neighbours_and_mirrored() -> None:
    frame = published_frame(*ONE_BLOCK)
    twin = mirror_of(frame)
    own = sequences_of(frame)
    orders = list(neighbours_of(frame, own))
    assert orders
    for order in orders:
        moved = {
            op
            for stream, ops in own.items()
            for op, other in zip(ops, order[stream], strict=True)
            if op != other
        }
        assert len(moved) == 4
        assert {twin[op] for op in moved} == moved
        assert not any(op.kind in END_OF_STEP for op in moved)
        assert not Windows(frame, order).are_empty


def test_the_published_order_comes_first() -> None:
    frame = two_gaps(14)
    result = pack_reordered(Sliding(frame=frame, interval=3), EFFORT)
    assert result.outcome is Outcome.FEASIBLE
    assert (result.swaps, result.tried, result.fitting) == (0, 1, 1)


# -- at random -------------------------------------------------------------------------


@pytest.mark.slow
def test_packings_keep_every_rule_and_proofs_hold() -> None:
    count: Counter[str] = Counter()
    effort = Effort(time_limit_s=2, workers=1)
    for seed in range(5):
        frame = random_frame(random.Random(seed))
        for wrap in (False, True):
            bound = best_bound(interval_bounds(frame, wrap=wrap))
            least = 1 if bound is None or bound.interval is None else bound.interval
            task = Sliding(frame=frame, interval=least, wrap=wrap)
            try:
                result = pack_sliding(task, effort)
            except NotApplicableError:
                continue
            impossible = cannot_slide(task, effort)
            if result.packing is None:
                count["proven" if impossible else "open"] += 1
                continue
            assert not impossible
            assert faults_of(result.packing) == ()
            count["found"] += 1
    assert count["found"] >= 3
