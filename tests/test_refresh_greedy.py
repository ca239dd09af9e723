"""PipeFisher's greedy rule, its packings, and plain K-FAC beside it."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import pytest

from schedopt.instance import FactorBarrier, Inversion, StepBarrier
from schedopt.ops import Op, OpKind
from schedopt.refresh.exposed import exposed_of
from schedopt.refresh.frame import Frame, Gap
from schedopt.refresh.greedy import (
    MARGIN,
    Greedy,
    Refresh,
    Work,
    greedy_of,
    refresh_device,
    works_of,
)
from schedopt.refresh.greedy_packing import packing_of
from schedopt.verify import violations
from tests.refresh_trainings import published_frame, random_frame

SEEDS = range(45)


class Row(NamedTuple):
    """What re-implementing the rule on ideal timings gave, before this project.

    ``time`` in ms to a decimal, shares in percent to a decimal; ``usage`` is the least
    and the greatest of any device.
    """

    model: str
    schedule: str
    devices: int
    blocks: int
    time: float
    base: float
    intervals: tuple[int, ...]
    usage: tuple[float, float]


ROWS = (
    Row("base", "gpipe", 4, 3, 550.2, 57.1, (3, 3, 3, 3), (88.7, 88.7)),
    Row("base", "1f1b", 4, 3, 550.2, 57.1, (4, 4, 3, 3), (80.8, 88.7)),
    Row("base", "chimera", 4, 3, 413.1, 76.1, (7, 7, 7, 7), (94.1, 94.1)),
    Row("large", "gpipe", 8, 3, 1937.4, 53.3, (2,) * 8, (90.1, 90.1)),
    Row("large", "1f1b", 8, 3, 1937.4, 53.3, (2, 3, *(2,) * 6), (77.8, 90.1)),
    Row("large", "chimera", 8, 3, 1518.4, 68.0, (4, 4, 3, 3, 3, 3, 4, 4), (91.5, 99.3)),
    Row("large", "chimera", 8, 1, 506.1, 68.0, (5, 8, 5, 4, 4, 5, 8, 5), (79.8, 91.5)),
)


def frame_of_row(row: Row) -> Frame:
    return published_frame(row.model, row.schedule, row.devices, row.blocks)


@cache
def greedy_of_row(row: Row) -> Greedy:
    return greedy_of(frame_of_row(row))


def percent(share: Fraction) -> float:
    return round(float(100 * share), 1)


# -- the published rows ----------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.model}-{row.schedule}")
def test_the_table_is_reproduced(row: Row) -> None:
    greedy = greedy_of_row(row)
    frame = greedy.frame
    assert round(frame.pipeline_end / 1e6, 1) == row.time
    assert {
        percent(Fraction(one.busy, frame.pipeline_end)) for one in greedy.devices
    } == {row.base}
    assert tuple(one.interval for one in greedy.devices) == row.intervals
    usage = [percent(greedy.usage(device)) for device in range(row.devices)]
    assert (min(usage), max(usage)) == row.usage
    assert greedy.interval == max(row.intervals)
    assert not any(one.serial for one in greedy.devices)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.model}-{row.schedule}")
def test_every_row_is_a_packing_within_its_interval(row: Row) -> None:
    conversion = packing_of(greedy_of_row(row))
    assert conversion.packing is not None, conversion.why_not
    problem = conversion.packing.problem
    assert (problem.interval, problem.wrap) == (max(row.intervals), False)
    schedule = conversion.packing.cycle.schedule
    assert violations(schedule.graph, schedule.start) == ()


def test_the_margin_and_the_barrier_cost_little() -> None:
    def intervals(row: Row, margin: Fraction, barrier: FactorBarrier) -> list[int]:
        greedy = greedy_of(frame_of_row(row), margin, barrier)
        return [one.interval for one in greedy.devices]

    device, factor = FactorBarrier.DEVICE, FactorBarrier.FACTOR
    assert intervals(ROWS[1], Fraction(0), device) == [3, 4, 3, 3]
    assert intervals(ROWS[2], Fraction(0), device) == [6, 7, 7, 6]
    for row in (ROWS[5], ROWS[6]):
        assert intervals(row, Fraction(0), device) == list(row.intervals)
    # Without the barrier small inversions run in step 0, and two large ones find room
    # in step 1: one device of all saves a step. The longest interval stays.
    assert intervals(ROWS[1], MARGIN, factor) == [3, 4, 3, 3]
    for row in (*ROWS[:1], *ROWS[2:]):
        assert intervals(row, MARGIN, factor) == list(row.intervals)


def test_all_work_is_placed_once_and_is_what_was_profiled() -> None:
    """Per device N T_curv + T_inv of three blocks, from the profile itself."""
    for row, microsecond in (
        (ROWS[2], 4 * 25547 + 71670),
        (ROWS[5], 8 * 43500 + 126700),
    ):
        greedy = greedy_of_row(row)
        for one, works in zip(greedy.devices, works_of(greedy.frame), strict=True):
            placed = Counter(placed.work for placed in one.placed)
            assert placed == Counter(works)
            assert one.work == pytest.approx(3 * 1000 * microsecond, abs=3 * 36)


# -- the rule on a device --------------------------------------------------------------


def share(side: str, microbatch: int, duration: int, release: int = 0) -> Work:
    kind = OpKind.CURVATURE_A if side == "A" else OpKind.CURVATURE_B
    return Work(Op(kind, 0, microbatch, 0, "x"), "x", side, duration, release)


def inversion(side: str, duration: int, layer: str = "x") -> Work:
    op = Op(OpKind.INVERSION, 0, 0, 0, f"{layer}.{side}")
    return Work(op, layer, side, duration, 0)


def run(
    works: list[Work],
    *gaps: tuple[int, int],
    margin: Fraction = Fraction(0),
    barrier: FactorBarrier = FactorBarrier.DEVICE,
    least: int = 1,
) -> Refresh:
    return refresh_device(works, [Gap(0, *gap) for gap in gaps], margin, barrier, least)


def where(refresh: Refresh) -> list[tuple[str, int, int]]:
    return [(str(one.work.op), one.step, one.start) for one in refresh.placed]


def test_a_work_must_end_before_the_gap_does_by_the_margin() -> None:
    work = share("A", 0, 100)
    assert run([work], (0, 105), margin=MARGIN) == Refresh(2, (), (work,))
    assert where(run([work], (0, 106), margin=MARGIN)) == [("0CURVATURE_A0:x", 0, 0)]
    assert run([work], (0, 100)).serial == (work,)
    assert run([work], (0, 101)).steps == 1


def test_shorter_work_overtakes_what_does_not_fit() -> None:
    works = [share("A", 0, 8), share("A", 1, 3)]
    assert where(run(works, (0, 6), (10, 20))) == [
        ("0CURVATURE_A1:x", 0, 0),
        ("0CURVATURE_A0:x", 0, 10),
    ]


def test_data_must_be_there_when_the_gap_begins() -> None:
    works = [share("A", 0, 2, release=3)]
    assert where(run(works, (0, 10), (20, 23))) == [("0CURVATURE_A0:x", 0, 20)]
    assert where(run(works, (0, 10))) == [("0CURVATURE_A0:x", 1, 0)]


def test_a_barrier_opens_within_a_gap_and_is_of_one_side() -> None:
    works = [share("A", 0, 2), share("B", 0, 9), inversion("A", 3), inversion("B", 1)]
    # B's share fits nowhere in the first gap, so its inversion waits; A's does not.
    assert where(run(works, (0, 8), (20, 40))) == [
        ("0CURVATURE_A0:x", 0, 0),
        ("0INVERSION0:x.A", 0, 2),
        ("0CURVATURE_B0:x", 0, 20),
        ("0INVERSION0:x.B", 0, 29),
    ]


def test_barriers_of_factors_wait_for_their_own_factor() -> None:
    late = share("A", 0, 9)
    other = Work(Op(OpKind.CURVATURE_A, 0, 0, 0, "y"), "y", "A", 2, 0)
    works = [late, other, inversion("A", 1), inversion("A", 3, "y")]
    gaps = ((0, 8), (20, 40))
    factor = where(run(works, *gaps, barrier=FactorBarrier.FACTOR))
    assert factor[1] == ("0INVERSION0:y.A", 0, 2)
    assert where(run(works, *gaps))[1] == ("0CURVATURE_A0:x", 0, 20)


def test_what_is_left_wraps_into_holes_or_takes_another_step() -> None:
    # 4 + 4 of 10 are taken in step 0; the last share was not there, and fits in a hole.
    works = [share("A", 0, 4), share("A", 1, 4), share("A", 2, 1, release=5)]
    wrapped = run(works, (0, 10))
    assert (wrapped.steps, where(wrapped)[-1]) == (1, ("0CURVATURE_A2:x", 1, 8))
    # At two steps or more it has a step of its own.
    second = run(works, (0, 10), least=2)
    assert (second.steps, where(second)[-1]) == (2, ("0CURVATURE_A2:x", 1, 0))
    # Two of them do not both fit in the hole: then none wraps.
    more = [*works, share("A", 3, 1, release=5)]
    assert [step for _, step, _ in where(run(more, (0, 10)))] == [0, 0, 1, 1]
    assert run(more, (0, 10)).steps == 2


def test_serial_work_is_counted_after_a_step_that_took_nothing() -> None:
    works = [share("A", 0, 2), inversion("A", 9), inversion("A", 1, "y")]
    refresh = run(works, (0, 5))
    assert refresh.serial == (works[1],)
    assert refresh.steps == 2
    assert [step for _, step, _ in where(refresh)] == [0, 0]


# -- packings --------------------------------------------------------------------------


def test_a_packing_of_the_rule_breaks_no_rule() -> None:
    kinds: Counter[tuple[str, bool]] = Counter()
    for seed in SEEDS:
        frame = random_frame(random.Random(seed))
        conversion = packing_of(greedy_of(frame))
        packing = conversion.packing
        assert (packing is None) == bool(conversion.why_not)
        if packing is None:
            continue
        schedule = packing.cycle.unrolled(3)
        assert violations(schedule.graph, schedule.start) == ()
        kinds[frame.instance.placement.value, packing.problem.wrap] += 1
    placements = ("linear", "looped", "v", "bidirectional")
    assert {kind for kind, _ in kinds} == set(placements)
    assert sum(count for (_, wrap), count in kinds.items() if wrap) >= 5
    assert sum(kinds.values()) >= len(SEEDS) // 3


@pytest.mark.parametrize("inversion", Inversion)
@pytest.mark.parametrize("barrier", StepBarrier)
def test_it_packs_in_every_setting(inversion: Inversion, barrier: StepBarrier) -> None:
    """Where a device preconditions early, its last gap of a step comes after that."""
    frame = published_frame(
        "base", "chimera", 4, 3, inversion=inversion, step_barrier=barrier
    )
    conversion = packing_of(greedy_of(frame))
    assert conversion.packing is not None, conversion.why_not
    assert conversion.packing.problem.interval == (
        7 if inversion is Inversion.HALVED else 9
    )


def test_no_packing_says_why() -> None:
    frame = published_frame("base", "1f1b", 4, 1)
    greedy = greedy_of(frame)
    assert [len(one.serial) for one in greedy.devices] == [0, 2, 2, 0]
    conversion = packing_of(greedy)
    assert conversion.packing is None
    assert conversion.why_not == "1INVERSION0:ffn2.A fits into no gap of device 1"


# -- plain K-FAC -----------------------------------------------------------------------


def test_exposed_work_adds_to_the_step() -> None:
    """T_pipe + N T_curv + T_inv + T_prec, since a last device has all of it to do."""
    for row in (ROWS[1], ROWS[2], ROWS[6]):
        frame = frame_of_row(row)
        exposed = exposed_of(frame)
        work = max(one.work for one in greedy_of_row(row).devices)
        assert exposed.other == frame.period
        assert exposed.refreshing == frame.period + work
        assert exposed.mean(work) == frame.period + 1
        assert exposed.mean(1) == exposed.refreshing


def test_an_exposed_refresh_breaks_no_rule_and_leaves_the_pipeline_alone() -> None:
    for seed in SEEDS:
        frame = random_frame(random.Random(seed))
        exposed = exposed_of(frame)
        schedule = exposed.schedule
        assert violations(schedule.graph, schedule.start) == ()
        data = schedule.graph.data
        for op, start in schedule.start.items():
            if op.kind in (OpKind.INVERSION, OpKind.CURVATURE_A, OpKind.CURVATURE_B):
                device = data[op].device
                assert start >= max(
                    frame.end(other)
                    for other in frame.start
                    if frame.graph.data[other].device == device
                    and other.kind in (OpKind.FORWARD, OpKind.BACKWARD)
                )
