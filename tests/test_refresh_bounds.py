"""Bounds on the refresh interval: by hand, on published rows, below every packing."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction

import pytest

from schedopt.instance import (
    Communication,
    FactorBarrier,
    Inversion,
    Kfac,
    KfacModule,
    Placement,
    StageCost,
    StepBarrier,
)
from schedopt.refresh.bounds import (
    FLUID,
    LARGE,
    NAMES,
    STRICT,
    STRICT_LARGE,
    IntervalBound,
    best_bound,
    interval_bounds,
)
from schedopt.refresh.frame import Frame
from schedopt.refresh.greedy import greedy_of
from schedopt.refresh.greedy_packing import packing_of
from tests.kfac_instances import training
from tests.refresh_trainings import frame_under, published_frame, random_frame

EVERYONE, DEVICE = StepBarrier.EVERYONE, StepBarrier.DEVICE
HALVED, WHOLE = Inversion.HALVED, Inversion.WHOLE


def tiny(
    barrier: StepBarrier,
    *,
    inversion_b: int = 7,
    schedule: str = "gpipe",
    **kfac: object,
) -> Frame:
    """Two devices, one microbatch: F 4, B 6; one layer of 2 + 5 and 3 + 7.

    Device 0 is idle from 4 to 14, device 1 from 14 to 20 and from 20 to 24: two gaps
    if all precondition together at 20, one gap if it does so at 14.
    """
    module = KfacModule(
        name="x", curvature_a=2, curvature_b=3, inversion_a=5, inversion_b=inversion_b
    )
    return frame_under(
        schedule,
        training(
            2,
            2 if schedule == "chimera" else 1,
            placement=Placement.BIDIRECTIONAL
            if schedule == "chimera"
            else Placement.LINEAR,
            stage=StageCost(forward=4, backward=6, modules=(module,)),
            kfac=Kfac(step_barrier=barrier, **kfac),
            communication=Communication(),
        ),
    )


def of(bounds: tuple[IntervalBound, ...], name: str, *devices: int) -> IntervalBound:
    (found,) = [
        bound for bound in bounds if (bound.name, bound.devices) == (name, devices)
    ]
    return found


def best(frame: Frame, *, wrap: bool) -> dict[str, int | None]:
    """The best of each name."""
    bounds = interval_bounds(frame, wrap=wrap)
    named = {
        name: best_bound(bound for bound in bounds if bound.name == name)
        for name in NAMES
    }
    return {name: bound.interval for name, bound in named.items() if bound}


# -- by hand ---------------------------------------------------------------------------


def test_fluid_is_work_over_idle_time() -> None:
    for wrap in (False, True):
        bound = of(interval_bounds(tiny(DEVICE), wrap=wrap), FLUID, 0)
        assert (bound.items, bound.first, bound.each) == (17, 10, 10)
        assert (bound.interval, bound.ratio) == (2, Fraction(17, 10))


def test_strict_loses_the_idle_time_before_the_data_is_there() -> None:
    bounds = interval_bounds(tiny(EVERYONE, inversion_b=6), wrap=False)
    # Device 1 has its first data at 8: the gap before its forward is lost in step 0.
    late = of(bounds, STRICT, 1)
    assert (late.release, late.items, late.first, late.each) == (8, 16, 6, 10)
    assert (late.interval, late.ratio) == (2, 2)
    # Device 0 has the data of side B at 20, when no gap of step 0 is left.
    early = of(bounds, STRICT, 0)
    assert (early.release, early.items, early.first, early.each) == (20, 9, 0, 10)
    # One tick more on device 1, and it is a third step.
    more = of(interval_bounds(tiny(EVERYONE), wrap=False), STRICT, 1)
    assert (more.items, more.interval, more.ratio) == (17, 3, Fraction(21, 10))


def test_with_wrapping_only_the_idle_time_of_all_steps_counts() -> None:
    bounds = interval_bounds(tiny(EVERYONE), wrap=True)
    assert {bound.name for bound in bounds} == {FLUID, LARGE}
    assert of(bounds, FLUID, 1).interval == 2


def test_an_inversion_longer_than_every_gap_makes_every_interval_impossible() -> None:
    for wrap in (False, True):
        bounds = interval_bounds(tiny(EVERYONE), wrap=wrap)
        bound = of(bounds, LARGE, 1)
        assert (bound.grain, bound.items, bound.each) == (7, 1, 0)
        assert bound.interval is None
        assert bound.ratio is None
        assert best_bound(bounds) in (bound, of(bounds, LARGE, 1))
        assert of(bounds, LARGE, 0).interval == 2
        # The gaps together are as long as that of the other barrier, where it fits.
        assert best_bound(interval_bounds(tiny(DEVICE), wrap=wrap)).interval == 2
        # A tick less, and one of the two gaps holds it.
        one_less = interval_bounds(tiny(EVERYONE, inversion_b=6), wrap=wrap)
        assert best_bound(one_less).interval is not None


def test_gaps_are_counted_that_can_hold_a_large_item() -> None:
    # 4 and 6 ticks: one item of 5, however long the two are together.
    bound = of(interval_bounds(tiny(EVERYONE, inversion_b=5), wrap=True), LARGE, 1)
    assert (bound.grain, bound.items, bound.each, bound.interval) == (5, 2, 1, 2)
    assert (
        of(interval_bounds(tiny(EVERYONE, inversion_b=5), wrap=True), FLUID, 1).interval
        == 2
    )


def test_an_inversion_that_either_may_run_counts_for_both_together() -> None:
    halved = interval_bounds(tiny(DEVICE, schedule="chimera"), wrap=True)
    assert {bound.devices for bound in halved} == {(0,), (1,)}
    whole = interval_bounds(
        tiny(DEVICE, schedule="chimera", inversion=WHOLE), wrap=True
    )
    assert {bound.devices for bound in whole} == {(0,), (1,), (0, 1)}
    # Two stages of 5 + 7 to invert, and two microbatches of 2 + 3 each for curvature.
    alone, both = of(whole, FLUID, 0), of(whole, FLUID, 0, 1)
    assert alone.items == 2 * (2 + 3)
    assert both.items == 2 * alone.items + 2 * (5 + 7)
    assert both.each == 2 * alone.each
    assert of(halved, FLUID, 0).items == alone.items + 5 + 7


# -- published rows --------------------------------------------------------------------

RATIOS = {
    ("base", "gpipe", 4, 3): 2.21,
    ("base", "1f1b", 4, 3): 2.21,
    ("base", "chimera", 4, 3): 5.28,
    ("large", "gpipe", 8, 3): 1.58,
    ("large", "1f1b", 8, 3): 1.58,
    ("large", "chimera", 8, 3): 2.94,
    ("large", "chimera", 8, 1): 2.94,
}


@pytest.mark.parametrize("row", RATIOS)
def test_the_fluid_bound_is_the_papers_ratio(row: tuple[str, str, int, int]) -> None:
    bounds = interval_bounds(published_frame(*row), wrap=True)
    for device in range(row[2]):
        ratio = of(bounds, FLUID, device).ratio
        assert ratio is not None
        assert round(float(ratio), 2) == RATIOS[row]


@pytest.mark.parametrize(
    ("row", "within", "merged", "wrapped"),
    [
        (("base", "gpipe", 4, 3), 3, 3, 3),
        (("base", "1f1b", 4, 3), 3, 3, 3),
        (("base", "chimera", 4, 3), 6, 6, 6),
        (("large", "gpipe", 8, 3), 2, 2, 2),
        (("large", "1f1b", 8, 3), 2, 2, 2),
        (("large", "chimera", 8, 3), 4, 3, 3),
        (("large", "chimera", 8, 1), 5, 4, 4),
    ],
)
def test_bounds_reach_the_best_intervals_known(
    row: tuple[str, str, int, int], within: int, merged: int, wrapped: int
) -> None:
    """Packings with these intervals were found before; so nothing is left to prove."""
    together = published_frame(*row)
    apart = published_frame(*row, step_barrier=DEVICE)
    assert best_bound(interval_bounds(together, wrap=False)).interval == within
    assert best_bound(interval_bounds(apart, wrap=False)).interval == merged
    assert best_bound(interval_bounds(together, wrap=True)).interval == wrapped


def test_one_block_needs_the_argument_of_large_items() -> None:
    frame = published_frame("large", "chimera", 8, 1)
    assert best(frame, wrap=False) == {FLUID: 3, STRICT: 4, LARGE: 4, STRICT_LARGE: 5}
    assert best(frame, wrap=True) == {FLUID: 3, LARGE: 4}


def test_whole_inversions_of_one_block_fit_in_no_gap() -> None:
    for barrier in StepBarrier:
        frame = published_frame(
            "large", "chimera", 8, 1, inversion=WHOLE, step_barrier=barrier
        )
        for wrap in (False, True):
            bound = best_bound(interval_bounds(frame, wrap=wrap))
            assert bound is not None
            assert bound.interval is None
            # Of a block's two large inversions, 58.8 ms each, neither device has room.
            assert bound.name == LARGE
            assert bound.devices == (0, 7)


# -- below every packing ---------------------------------------------------------------


def test_no_packing_is_below_a_bound() -> None:
    found: Counter[str] = Counter()
    for seed in range(25):
        frame = random_frame(random.Random(seed))
        for margin, barrier in (
            (Fraction(1, 20), FactorBarrier.DEVICE),
            (Fraction(0), FactorBarrier.FACTOR),
        ):
            greedy = greedy_of(frame, margin, barrier)
            packing = packing_of(greedy).packing
            if packing is None:
                continue
            wrapped = best_bound(interval_bounds(frame, wrap=True))
            bound = wrapped
            if not packing.problem.wrap:
                bound = best_bound(interval_bounds(frame, wrap=False))
                assert bound is not None
                assert wrapped is not None
                assert (bound.ratio or 0) >= (wrapped.ratio or 0)
            assert bound is not None
            assert bound.interval is not None
            assert bound.interval <= greedy.interval
            found["reached"] += bound.interval == greedy.interval
            found["packings"] += 1
    assert found["packings"] >= 18
    assert found["reached"] >= found["packings"] // 3  # and bounds are not idle
