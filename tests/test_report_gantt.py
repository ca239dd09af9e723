"""The text chart: to scale, within its width, idle time visible."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedopt.baselines import BASELINES, run_baseline
from schedopt.build import build_graph
from schedopt.formats import instance_from_document
from schedopt.instance import Kfac, Placement
from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.report.gantt_text import blocks, gantt_fits, gantt_text
from schedopt.report.labels import shade
from schedopt.schedule import Schedule
from tests.cli_helpers import TINY
from tests.kfac_instances import training


def zb_h1(**fields: object) -> Schedule:
    instance = instance_from_document({**TINY, **fields}, "a test")
    return run_baseline(BASELINES["zb-h1"], instance).schedule


def rows(schedule: Schedule, width: int) -> list[str]:
    lines = gantt_text(schedule, width).plain.splitlines()
    return [line.removeprefix(f"device {d} ") for d, line in enumerate(lines[:2])]


def test_one_column_per_microsecond_draws_every_op_in_its_length() -> None:
    first, second = rows(zb_h1(), 9 + 114)
    # Device 0: 20 busy, idle until the first gradient arrives at 31.
    assert first.startswith("F0--------F1--------...........I0-------W0---")
    # Device 1: the first activation arrives at 11.
    assert second.startswith("...........F0--------I0-------")
    assert len(first) == len(second) == 114


def test_busy_columns_are_busy_time() -> None:
    for row in rows(zb_h1(), 9 + 114):
        assert len(row) - row.count(".") == 96


@given(st.integers(20, 300))
def test_every_row_has_the_same_width_and_fits(width: int) -> None:
    lines = gantt_text(zb_h1(), width).plain.splitlines()
    assert {len(line) for line in lines[:3]} == {width}


@given(st.integers(10, 400))
def test_blocks_cover_every_column_once(columns: int) -> None:
    schedule = zb_h1()
    for ops in schedule.order.sequences.values():
        found = list(blocks(schedule, ops, columns))
        assert found[0].first == 0
        assert found[-1].last == columns
        for one, next_one in pairwise(found):
            assert one.last == next_one.first
        # Each edge is within half a column of its time.
        for block in found:
            if block.op is not None:
                left = schedule.start[block.op] / schedule.makespan * columns
                assert abs(block.first - left) <= 0.5
                right = schedule.end(block.op) / schedule.makespan * columns
                assert abs(block.last - right) <= 0.5


def test_stages_are_named_where_a_device_holds_several() -> None:
    schedule = zb_h1()
    assert not re.search(r"\d[FIW]\d", gantt_text(schedule, 123).plain)
    instance = instance_from_document(TINY, "a test")
    looped = run_baseline(BASELINES["interleaved-1f1b"], instance).schedule
    assert "0F0--" in gantt_text(looped, 200).plain
    assert "2F0--" in gantt_text(looped, 200).plain


def test_a_chart_fits_if_every_op_can_have_two_columns() -> None:
    assert gantt_fits(zb_h1(), 9 + 24)
    assert not gantt_fits(zb_h1(), 9 + 23)
    assert gantt_fits(zb_h1(microbatches=8), 9 + 48)


def test_colours_follow_the_kind() -> None:
    text = gantt_text(zb_h1(), 123)
    backgrounds = {
        text.plain[span.start]: str(span.style).split(" on ")[1]
        for span in text.spans
        if " on " in str(span.style) and span.end - span.start > 4
    }
    assert len({backgrounds[kind] for kind in "FIW"}) == 3


@pytest.mark.parametrize("shift", [0, 1_000_000])
def test_a_schedule_that_starts_later_looks_the_same(shift: int) -> None:
    schedule = zb_h1()
    start = {op: time + shift for op, time in schedule.start.items()}
    moved = Schedule(schedule.graph, start)
    assert gantt_text(moved, 100).plain == gantt_text(schedule, 100).plain


def test_an_op_of_no_duration_leaves_no_trace() -> None:
    stages = {"count": 1, "forward": 0, "backward": 5}
    fields = {"devices": 1, "microbatches": 1, "stages": stages, "backward": "whole"}
    graph = build_graph(instance_from_document({**TINY, **fields}, "a test"))
    schedule = Schedule(graph, {Op.parse("0F0"): 0, Op.parse("0B0"): 0})
    assert (
        gantt_text(schedule, 30).plain.splitlines()[0]
        == "device 0 B0-------------------"
    )


# -- several steps, second-order work -----------------------------------------


def trained(name: str = "1f1b", **changes: object) -> Schedule:
    changes = {"kfac": Kfac(interval=2, refreshes=1), "steps": 2} | changes
    instance = training(**changes)  # type: ignore[arg-type]  # any of its arguments
    return run_baseline(BASELINES[name], instance).schedule


def test_a_later_step_is_named_or_only_the_letter_is_left() -> None:
    schedule = trained(kfac=None)
    text = gantt_text(schedule, 9 + schedule.makespan).plain
    row = text.splitlines()[0].removeprefix("device 0 ")
    for op in schedule.order.sequences[Stream(StreamKind.COMPUTE, 0)]:
        shown = row[schedule.start[op] : schedule.end(op)]
        letter = "t" if op.kind is OpKind.STEP else op.kind.value
        number = "" if op.kind is OpKind.STEP else str(op.microbatch)
        full = f"{op.step}@{letter}{number}" if op.step else f"{letter}{number}"
        expected = full if len(full) <= len(shown) else letter
        assert shown == expected.ljust(len(shown), "-")
    assert "1@F0" in row
    assert "Blocks: step@ (but for step 0), kind, microbatch. " in text
    # A column for 2 s: no room for a step and a microbatch. Nothing looks like step 0.
    narrow = gantt_text(schedule, 9 + schedule.makespan // 2).plain.splitlines()[0]
    assert narrow.count("F0") == narrow.count("F1") == 1


def test_an_inversion_is_named_by_layer_and_side() -> None:
    schedule = trained()
    wide = gantt_text(schedule, 9 + 2 * schedule.makespan).plain
    assert "v:o.B-" in wide  # 9 s in 18 columns
    assert "v:qk.0.A" not in wide  # 3 s in 6 columns
    assert not re.search(r"v\d|p\d|t\d", wide)  # never a copy's number
    assert "a1:o" in wide
    assert "microbatch, layer, side of its factor" in wide


def test_copies_of_a_stage_are_told_by_the_stage() -> None:
    schedule = trained("chimera", microbatches=2, placement=Placement.BIDIRECTIONAL)
    wide = gantt_text(schedule, 9 + 3 * schedule.makespan).plain
    for device, row in enumerate(wide.splitlines()[:2]):
        for stage in (0, 1):  # each copy inverts half, in both devices' rows
            assert f"{stage}v:o.B" in row, device
            assert f"{stage}p" in row


@given(st.integers(20, 300))
def test_any_width_holds_the_rows_and_the_legend(width: int) -> None:
    lines = gantt_text(trained(), width).plain.splitlines()
    assert {len(line) for line in lines[:3]} == {width}
    entries = " ".join(lines[3:])
    for words in ("curvature of inputs", "inversion", "preconditioning", "optimizer"):
        assert words in entries
    longest = len("b curvature of output gradients")
    assert max(map(len, lines[3:-1])) <= max(width, longest)


def test_neighbours_of_one_kind_differ_in_shade() -> None:
    schedule = trained()
    ops = schedule.order.sequences[Stream(StreamKind.COMPUTE, 0)]
    drawn = list(enumerate(ops))
    for (i, one), (j, other) in pairwise(drawn):
        if one.kind is other.kind is OpKind.INVERSION:
            assert shade(one, i) != shade(other, j)
