"""Numbers, sizes and shares as text; memory lines; forms that are an instance's own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schedopt.baselines import BASELINES, run_baseline
from schedopt.build import Form, derive
from schedopt.formats import instance_from_document
from schedopt.instance import Backward, Instance, Kfac, Placement, StepBarrier
from schedopt.opgraph import Units
from schedopt.report.comparison import comparison_notes, comparison_of, is_of_form
from schedopt.report.memory import device_peaks, over_limit_text, peak_lines, tightest
from schedopt.report.quantities import (
    BUBBLE_FORMULA,
    count_text,
    number_text,
    share_text,
    time_text,
)
from schedopt.report.summary import instance_lines, schedule_lines
from tests.cli_helpers import TINY
from tests.kfac_instances import training


def tiny(**fields: object) -> Instance:
    return instance_from_document({**TINY, **fields}, "a test")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234567, "1234567"),
        (0.5, "0.5"),
        (1.23456, "1.235"),
        (2.0, "2"),
        (0.0012345, "0.00123"),
        (-0.25, "-0.25"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "-"),
        (0.0, "0.00 %"),
        (1e-9, "<0.01 %"),
        (0.065432, "6.54 %"),
        (1.0, "100.00 %"),
    ],
)
def test_a_share_that_is_not_0_never_reads_as_0(share: float | None, text: str) -> None:
    assert share_text(share) == text


def test_times_have_their_unit() -> None:
    units = Units("ms", "GiB", 1000, 1000)
    assert time_text(1500, units) == "1.5 ms"
    assert time_text(None, units) == "-"


def test_counts_have_the_right_word() -> None:
    assert count_text(1, "device") == "1 device"
    assert count_text(0, "device") == "0 devices"
    assert count_text(2, "microbatch", "microbatches") == "2 microbatches"


def test_equal_neighbours_share_a_memory_line() -> None:
    # GPipe holds the four whole activations everywhere.
    schedule = run_baseline(BASELINES["gpipe"], tiny()).schedule
    assert peak_lines(schedule) == ("device 0 to device 1: 40 of 40 MiB (100 %)",)
    schedule = run_baseline(BASELINES["zb-h1"], tiny()).schedule
    assert peak_lines(schedule) == (
        "device 0: 20 of 40 MiB (50 %)",
        "device 1: 15 of 40 MiB (38 %)",
    )


def test_many_different_devices_are_listed_densely() -> None:
    stages = {**TINY["stages"], "count": 10}
    instance = tiny(devices=10, stages=stages, microbatches=20, memory_limit=100)
    lines = peak_lines(run_baseline(BASELINES["zb-h1"], instance).schedule)
    assert lines[0] == "tightest device 0: 100 of 100 MiB (100 %)"
    # Device 0 holds ten whole activations before the first gradient arrives.
    listed = " ".join(lines[2:]).split()
    assert len(listed) == 10
    assert listed[0] == "100/100"
    assert len(lines) == 4


def test_the_tightest_device_is_closest_to_its_own_limit() -> None:
    devices = [{"memory_limit": 100}, {"memory_limit": 16}]
    instance = tiny(devices=devices)
    schedule = run_baseline(BASELINES["zb-h1"], instance).schedule
    assert tightest(device_peaks(schedule)).device == 1


def test_over_limit_text_names_the_worst_device() -> None:
    instance = tiny(devices=[{"memory_limit": 35}, {"memory_limit": 25}])
    schedule = run_baseline(BASELINES["gpipe"], instance).schedule
    text = over_limit_text(schedule)
    assert "device 1 needs 40 of 25 MiB" in text
    assert "(and 1 more)" in text
    assert over_limit_text(run_baseline(BASELINES["zb-h1"], tiny()).schedule) == ""


def test_without_a_limit_memory_is_shown_as_it_is() -> None:
    instance = tiny(memory_limit=None)
    schedule = run_baseline(BASELINES["gpipe"], instance).schedule
    assert peak_lines(schedule) == ("device 0 to device 1: 40 MiB (no limit)",)


def test_an_instance_that_leaves_the_choice_owns_both_backwards() -> None:
    choose = tiny(backward="choose")
    for backward in (Backward.SPLIT, Backward.WHOLE):
        derived = derive(choose, Form(Placement.LINEAR, 1, backward))
        assert is_of_form(derived, choose)
        assert not is_of_form(choose, derived)


def test_other_cuts_and_placements_are_other_forms() -> None:
    instance = tiny()
    assert is_of_form(instance, instance)
    for form in (
        Form(Placement.LINEAR, 1, Backward.WHOLE),
        Form(Placement.LOOPED, 2, Backward.SPLIT),
        Form(Placement.BIDIRECTIONAL, 1, Backward.SPLIT),
    ):
        assert not is_of_form(derive(instance, form), instance)


def test_a_placement_with_another_name_is_the_same_form() -> None:
    # With one stage per device, looped is linear.
    looped = replace(tiny(), placement=Placement.LOOPED)
    assert is_of_form(tiny(), looped)


# -- several steps, second-order work -----------------------------------------


def line_of(lines: list[tuple[str, str]], label: str) -> list[str]:
    """The line of a label and those that continue it."""
    at = [name for name, _ in lines].index(label)
    found = [lines[at][1]]
    for name, text in lines[at + 1 :]:
        if name:
            break
        found.append(text)
    return found


def test_a_training_says_its_steps_and_its_second_order_work() -> None:
    kfac = Kfac(interval=2, refreshes=2, step_barrier=StepBarrier.DEVICE, replicas=3)
    lines = instance_lines(training(2, 2, kfac=kfac, steps=4))
    assert line_of(lines, "size") == [
        "2 devices, 2 stages, 2 microbatches, 4 training steps"
    ]
    assert line_of(lines, "K-FAC") == [
        "6 layers, refresh interval 2 steps, 2 refreshes in 4 steps, step barrier"
        " device, factor barrier factor, 3 replicas"
    ]
    two_way = training(2, 2, placement=Placement.BIDIRECTIONAL)
    assert "inversions halved" in line_of(instance_lines(two_way), "K-FAC")[0]
    plain = dict(instance_lines(training(2, 2, kfac=None)))
    assert plain["size"] == "2 devices, 2 stages, 2 microbatches"
    assert "K-FAC" not in plain


def test_bubble_ratios_say_what_counts_as_work() -> None:
    instance = training(2, 2, steps=2, kfac=Kfac(interval=2))
    schedule = run_baseline(BASELINES["1f1b"], instance).schedule
    # F 6 and B 11; curvature 14 and inversion 30 once, preconditioning 8, step 2.
    own, all_work = 2 * 2 * (2 * 17), 2 * (2 * 2 * 17 + 2 * 14 + 30 + 2 * (8 + 2))
    assert (schedule.pipeline_work, schedule.work) == (own, all_work)
    span = schedule.makespan
    busy, only = line_of(schedule_lines(schedule), "bubble ratio")
    assert f"{100 * (1 - all_work / 2 / span):.2f} % for T = makespan" in busy
    assert busy.endswith(", work: second-order work and optimizer's steps too")
    assert f"{100 * (1 - own / 2 / span):.2f} % for T = makespan" in only
    assert only.endswith(", work: the pipeline's own only")


def test_the_ratio_is_one_where_all_work_is_the_pipelines() -> None:
    schedule = run_baseline(BASELINES["1f1b"], training(2, 2, kfac=None)).schedule
    (line,) = line_of(schedule_lines(schedule), "bubble ratio")
    assert line.endswith(f"({BUBBLE_FORMULA})")
    steps = training(2, 2, kfac=None, steps=2)
    schedule = run_baseline(BASELINES["1f1b"], steps).schedule
    with_steps, _ = line_of(schedule_lines(schedule), "bubble ratio")
    assert with_steps.endswith(", work: optimizer's steps too")


def test_a_comparison_says_that_second_order_work_counts() -> None:
    said = "Second-order work counts as work in the bubble ratios."
    for kfac, is_said in ((Kfac(), True), (None, False)):
        instance = training(2, 2, kfac=kfac)
        runs = (run_baseline(BASELINES["1f1b"], instance),)
        notes = comparison_notes(comparison_of(instance, runs, (), ()))
        assert (said in notes) is is_said
