"""The front: longer steps and shorter intervals, against bounds and another model."""

from __future__ import annotations

import json
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from schedopt.errors import NotApplicableError
from schedopt.formats import instance_document, load_schedule
from schedopt.instance import Communication, Kfac, Placement, StageCost, StepBarrier
from schedopt.refresh.frame import END_OF_STEP, Frame
from schedopt.refresh.moving import breaks_memory, faults_of
from schedopt.refresh.moving_bounds import bounds_at_any_times
from schedopt.refresh.settings import Freedom, Minimise
from schedopt.refresh.step_bounds import StepBounds
from schedopt.refresh.stretching import exposed_cycles, stretched
from schedopt.solve.frames import NamedFrame
from schedopt.solve.refresh import solve_refresh
from schedopt.solve.refresh_front import Front, FrontPoint, solve_front
from schedopt.solve.refresh_solution import RefreshParameters
from schedopt.verify import verify_file
from tests.cli_helpers import Run, runner
from tests.kfac_instances import training
from tests.refresh_step_model import shortest_cycle
from tests.refresh_tiny_frames import tiny_frame
from tests.refresh_trainings import frame_under, published_frame, random_frame
from tests.test_refresh_measures import MODULE
from tests.test_refresh_moving import two_gaps

FROZEN, SLIDING, REORDERED = Freedom


def front_of(frame: Frame, freedom: Freedom = FROZEN, seconds: float = 4) -> Front:
    parameters = RefreshParameters(freedom=freedom, time_limit_s=seconds, workers=1)
    front = solve_front([NamedFrame("given", frame)], parameters)
    assert_front(front)
    return front


def assert_front(front: Front) -> None:
    intervals = [point.interval for point in front.points]
    times = [point.step_time for point in front.points]
    assert intervals == sorted(set(intervals))
    assert times == sorted(set(times), reverse=True)
    for point, exposed in zip(front.points, front.exposed, strict=True):
        cycle = point.packed.cycle
        assert faults_of(cycle, may_be_longer=point.is_exposed) == ()
        assert not breaks_memory(cycle)
        assert point.bound.ticks <= point.step_time <= exposed
        assert 0 <= point.gap < 1
        assert point.packed.freedom in front.parameters.freedom.up_to
    assert front.is_complete == (min(times) == front.shortest)


def one_device() -> Frame:
    """F 4, B 6, preconditioning 2; shares of 2 and 3, inversions of 5 and 7; ticks."""
    stage = StageCost(forward=4, backward=6, precondition=2, modules=(MODULE,))
    instance = training(
        1, 1, placement=Placement.LINEAR, stage=stage, communication=Communication()
    )
    return frame_under("gpipe", instance)


# -- by hand ---------------------------------------------------------------------------


def test_without_gaps_all_work_makes_steps_longer() -> None:
    front = front_of(one_device(), seconds=2)
    assert front.shortest == 12
    # 12 + 17 / k, rounded up; plain K-FAC is as good as anything.
    assert [(p.interval, p.step_time) for p in front.points] == [
        (1, 29),
        (2, 21),
        (3, 18),
        (4, 17),
        (5, 16),
    ]
    assert [p.bound.ticks for p in front.points] == [p.step_time for p in front.points]
    assert not front.is_complete


def test_a_longer_step_makes_room_for_an_inversion() -> None:
    """Of 15 ticks, where the gap of device 0 can be 14 ticks long at most."""
    front = front_of(two_gaps(15), SLIDING, 60)
    assert not front.is_complete  # at no interval without longer steps
    best = front.points[-1]
    assert (best.interval, best.step_time, front.shortest) == (2, 35, 34)
    assert best.packed.freedom is SLIDING


def test_the_last_point_is_what_a_refresh_finds_without_longer_steps() -> None:
    frame = two_gaps(14)
    solution = solve_refresh(
        frame,
        RefreshParameters(
            minimise=Minimise.INTERVAL, freedom=SLIDING, time_limit_s=30, workers=1
        ),
    )
    assert solution.cycle is not None
    front = front_of(frame, SLIDING, 60)
    assert front.is_complete
    assert front.points[-1].interval == solution.cycle.interval == 3
    assert front.points[-1].step_time == frame.period


# -- longer steps ----------------------------------------------------------------------


@pytest.mark.parametrize("barrier", list(StepBarrier))
def test_a_stretched_frame_has_as_much_more_idle_time(barrier: StepBarrier) -> None:
    frame = two_gaps(3)
    kfac = Kfac(step_barrier=barrier)
    frame = frame_under("gpipe", replace(frame.instance, kfac=kfac))
    longer = stretched(frame, 7)
    assert longer.period == frame.period + 7
    assert longer.idle == tuple(idle + 7 for idle in frame.idle)
    moved = {op.kind for op, time in longer.start.items() if time != frame.start[op]}
    assert moved == (
        {k for k in END_OF_STEP if any(op.kind is k for op in frame.start)}
        if barrier is StepBarrier.EVERYONE
        else set()
    )


def test_bounds_on_intervals_fall_as_steps_become_longer() -> None:
    for seed in range(6):
        frame = random_frame(random.Random(seed))
        for wrap in (False, True):
            before = None
            for ticks in (0, 1, 5, 20, 80):
                bounds = bounds_at_any_times(stretched(frame, ticks), wrap=wrap)
                intervals = [bound.interval or 10**6 for bound in bounds]
                if before is not None:
                    assert all(
                        now <= then for now, then in zip(intervals, before, strict=True)
                    )
                before = intervals


def test_plain_kfac_is_a_cycle_in_every_setting() -> None:
    for seed in range(8):
        frame = random_frame(random.Random(seed))
        bounds = StepBounds(frame, 0, wrap=False)
        for cycle in exposed_cycles(frame, (1, 2, 3)):
            assert faults_of(cycle, may_be_longer=True) == (), seed
            assert bounds.at(cycle.interval).ticks <= cycle.frame.period, seed


def test_bounds_agree_with_those_on_the_interval() -> None:
    """Where steps are as long as the frame's, and the pipeline's makespan its own."""
    frame = published_frame("base", "1f1b", 4, 3)
    bounds = StepBounds(frame, frame.pipeline_end, wrap=False)
    assert bounds.least_interval(frame.period) == 3
    assert bounds.at(2).name == "strict"
    # 4 x (25.6 + ...): the last device cannot begin before three forwards.
    assert bounds.at(2).ticks == 639_444_000
    assert bounds.at(3).ticks == bounds.at(9).ticks == frame.period


def test_what_follows_the_data_cannot_be_hidden() -> None:
    """Device 0's last backward ends the pipeline, at 34; a share and 14 ticks follow.

    In other steps it is busy for 20 ticks, which are 34 + 15 + 20 for two steps.
    """
    frame = two_gaps(14)
    bounds = StepBounds(frame, 34, wrap=False)
    assert bounds.at(1) == ("data", 34 + 1 + 14)
    assert bounds.at(2) == ("data", 35)
    assert StepBounds(frame, 34, wrap=True).at(1).name == "fluid"
    times = [point.step_time for point in front_of(frame, SLIDING, 60).points]
    assert times == [49, 35, 34]


# -- another model ---------------------------------------------------------------------


def tiny_frames(count: int) -> list[Frame]:
    """One or two devices, reductions in no time."""
    found: list[Frame] = []
    seed = 0
    while len(found) < count:
        frame = tiny_frame(random.Random(seed))
        kfac = frame.instance.kfac
        assert kfac is not None
        seed += 1
        if (
            len(frame.instance.devices) <= 2
            and kfac.replicas == 1
            and frame.instance.microbatches <= 2
            and not any(
                op.kind in END_OF_STEP and not op.kind.is_compute and d.duration
                for op, d in frame.graph.data.items()
            )
        ):
            found.append(frame)
    return found


def test_no_point_beats_the_shortest_cycle_and_no_bound_exceeds_it() -> None:
    optimal = same = 0
    for number, frame in enumerate(tiny_frames(6)):
        try:
            front = front_of(frame, REORDERED, 2)
        except NotApplicableError:
            front = front_of(frame, FROZEN, 2)
        for point in front.points[:2]:
            shortest = shortest_cycle(frame, point.interval, 2)
            length = point.interval * point.step_time
            assert length >= shortest.bound, number
            if shortest.length is not None:
                # A step time is rounded up to ticks.
                assert point.bound.ticks <= -(-shortest.length // point.interval)
                optimal += shortest.length == shortest.bound
                same += length < shortest.bound + point.interval
    assert optimal >= 4
    assert same >= 2


# -- anytime ---------------------------------------------------------------------------


def test_an_interrupt_ends_the_search_and_keeps_what_was_found() -> None:
    told: list[FrontPoint] = []

    def tell(point: FrontPoint) -> None:
        told.append(point)
        signal.raise_signal(signal.SIGINT)

    parameters = RefreshParameters(freedom=SLIDING, time_limit_s=30, workers=1)
    front = solve_front([NamedFrame("given", two_gaps(14))], parameters, tell)
    assert_front(front)
    assert front.is_interrupted
    assert len(told) == 1
    assert told[0] in front.points


def test_without_time_plain_kfac_is_the_front() -> None:
    front = front_of(two_gaps(14), seconds=0)
    assert front.points
    assert all(point.is_exposed for point in front.points)
    assert [p.step_time for p in front.points] == list(front.exposed)


def test_points_keep_memory_limits() -> None:
    instance = two_gaps(14).instance
    stages = tuple(
        replace(
            stage,
            activation=8,
            modules=tuple(replace(m, saved_input=3) for m in stage.modules),
        )
        for stage in instance.stages
    )
    free = front_of(frame_under("gpipe", replace(instance, stages=stages)), SLIDING, 60)
    peak = free.points[-1].packed.cycle.peak_memory
    assert peak > 2 * 8  # shares of two microbatches wait for a gap
    devices = tuple(replace(d, memory_limit=peak - 1) for d in instance.devices)
    limited = replace(instance, stages=stages, devices=devices)
    front = front_of(frame_under("gpipe", limited), SLIDING)
    assert all(p.packed.cycle.peak_memory < peak for p in front.points)


# -- the command line ------------------------------------------------------------------


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.chdir(tmp_path)
    Path("gaps.yaml").write_text(json.dumps(instance_document(two_gaps(14).instance)))
    return runner(capsys)


FRONT = ("solve", "gaps.yaml", "--objective", "refresh", "--front", "--workers", "1")
SLIDES = (*FRONT, "--pipeline", "gpipe", "--freedom", "sliding", "--time-limit", "60")


def test_a_table_of_points_and_the_file_of_one(run: Run) -> None:
    result = run(*SLIDES, "--interval", "1", "-o", "one.json", "--gantt")
    assert result.code == 0
    words = [line.split() for line in result.out.splitlines()]
    assert ["interval", "age", "step", "at", "least"] in [line[:5] for line in words]
    assert any(line[:2] == ["3", "4"] and "sliding" in line for line in words)
    assert "The last point needs no longer steps than the pipeline." in result.out
    assert "gpipe: interval 3, step 34 s" in result.err
    assert "device 0" in result.out
    file = load_schedule("one.json")
    assert verify_file(file) == ()
    assert file.instance.kfac is not None
    assert file.instance.kfac.interval == 1


def test_the_document_has_the_points_and_the_time_to_target(run: Run) -> None:
    result = run(*SLIDES, "--steps-to-target", "100", "40", "--json", "-o", "last.json")
    document = result.json
    assert document["shortest_step"] == 34
    assert document["complete"] is True
    last = document["points"][-1]
    assert (last["interval"], last["step"], last["freedom_needed"]) == (
        3,
        34,
        "sliding",
    )
    for point in document["points"]:
        assert point["step_lower_bound"] <= point["step"] <= point["exposed_step"]
        target = point["time_to_target"]
        assert target["second_order_step"] == point["step"]
        assert target["first_order_step"] == 34
        assert target["ratio"] == pytest.approx(40 * point["step"] / 3400)
    kfac = load_schedule("last.json").instance.kfac
    assert kfac is not None
    assert kfac.interval == 3


def test_what_cannot_be_is_refused_in_one_line(run: Run) -> None:
    ran = run(*SLIDES, "--interval", "9", "-o", "nine.json", "--json")
    assert ran.code == 1
    *_, last = ran.err.splitlines()  # after the lines of progress
    assert last.startswith("schedopt: gaps.yaml: --interval 9: the front has the inter")
    assert not Path("nine.json").exists()
    for options, word in (
        (("--front", "--minimise", "age"), "--front has all intervals"),
        (("--interval", "2"), "--interval needs --front"),
    ):
        wrong = run("solve", "gaps.yaml", "--objective", "refresh", *options)
        assert wrong.code == 2
        assert word in wrong.err
    wrong = run("solve", "gaps.yaml", "--front")
    assert wrong.code == 2
    assert "need --objective refresh" in wrong.err


def test_devices_end_together_unless_the_barrier_says_otherwise() -> None:
    frame = two_gaps(3)
    assert frame.ends_together
    kfac = Kfac(step_barrier=StepBarrier.DEVICE)
    merged = replace(frame, instance=replace(frame.instance, kfac=kfac))
    assert not merged.ends_together
