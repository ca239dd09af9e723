"""Trainings in which the models of a refresh and the bounds on it might disagree."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schedopt.cpsat import Effort, Outcome, Sliding, cannot_slide, components, pack
from schedopt.cpsat.packing_counts import Counts
from schedopt.errors import NotApplicableError
from schedopt.instance import (
    Backward,
    Communication,
    CommunicationMode,
    Device,
    Instance,
    Inversion,
    Kfac,
    KfacModule,
    Placement,
    StageCost,
    StepBarrier,
)
from schedopt.ops import Op
from schedopt.refresh.bounds import best_bound, interval_bounds
from schedopt.refresh.moving_bounds import bounds_at_any_times
from schedopt.refresh.problem import Packing, Problem, problem_of, without_memory
from schedopt.refresh.settings import Freedom
from schedopt.refresh.step_bounds import StepBounds
from schedopt.solve.frames import frame_named
from schedopt.solve.refresh import solve_refresh
from schedopt.solve.refresh_front import solve_front
from schedopt.solve.refresh_solution import RefreshParameters
from tests.refresh_trainings import frame_under

EFFORT = Effort(time_limit_s=60, workers=1)  # ends when something is found


def layer(**takes: int) -> KfacModule:
    return KfacModule(name="x", **takes)


def stage(
    forward: int, backward: int, *modules: KfacModule, **more: object
) -> StageCost:
    return StageCost(
        forward=forward, backward=backward, modules=modules, activation=8, **more
    )


def training(*stages: StageCost, **more: object) -> Instance:
    count = len(stages)
    known: dict[str, object] = {
        "placement": Placement.LINEAR,
        "backward": Backward.WHOLE,
        "communication": Communication(latency=0),
        "microbatches": 2,
        "kfac": Kfac(step_barrier=StepBarrier.EVERYONE),
    }
    return Instance(
        name="edge",
        stages=stages,
        devices=tuple(Device(name=f"gpu{d}") for d in range(count)),
        device_of_stage=tuple(range(count)),
        memory_unit="B",
        resolution=1,
        **(known | more),
    )


def packed(problem: Problem) -> dict[Op, int]:
    start: dict[Op, int] = {}
    for devices in components(problem):
        start |= pack(problem, devices, EFFORT).start or {}
    return start


@pytest.mark.parametrize(("share", "inversion"), [(3, 20), (4, 24)])
def test_a_device_that_ends_a_step_early_works_until_the_others_do(
    share: int, inversion: int
) -> None:
    """Device 0 preconditions for 20 ticks, device 1 for 2: its gap is 56 to 80."""
    work = layer(curvature_a=share, curvature_b=1, inversion_a=inversion, inversion_b=1)
    work = replace(work, inversion_b=2 if share == 4 else 1)
    frame = frame_under(
        "gpipe",
        training(stage(6, 12, precondition=20), stage(6, 12, work, precondition=2)),
    )
    assert not frame.ends_at_once
    assert frame.period == 74
    problem = without_memory(problem_of(frame, 1))
    assert Packing(problem, packed(problem), "counts").cycle.broken == ()
    bound = best_bound(bounds_at_any_times(frame, wrap=False))
    assert bound is not None
    assert bound.interval == 1
    assert not cannot_slide(Sliding(frame=frame, interval=1), EFFORT)
    bounds = StepBounds(frame, frame.pipeline_end, wrap=False)
    assert bounds.at(1).ticks <= 74


def test_spaces_that_only_inversions_fit_are_no_proof() -> None:
    """Which of two copies inverts is open; a gap of 6 holds no share of 7 or 8."""
    work = layer(count=3, curvature_a=7, curvature_b=8, inversion_a=2, inversion_b=2)
    one = stage(3, 12, work, precondition=2)
    instance = training(
        one,
        one,
        placement=Placement.BIDIRECTIONAL,
        microbatches=1,
        communication=Communication(latency=3),
        kfac=Kfac(step_barrier=StepBarrier.EVERYONE, inversion=Inversion.WHOLE),
    )
    frame = frame_under("chimera", instance)
    problem = without_memory(problem_of(frame, 3, wrap=True))
    assert len(packed(problem)) > 0
    task = Sliding(frame=frame, interval=3, wrap=True)
    assert not cannot_slide(task, EFFORT)


def test_levels_that_rise_within_a_gap_are_no_proof() -> None:
    """A transfer buffer begins within a gap; what the gap has ended is not counted."""
    work = layer(
        curvature_a=1,
        curvature_b=1,
        inversion_a=1,
        inversion_b=1,
        saved_input=1,
        saved_gradient=10,
    )
    instance = training(
        stage(20, 3, output_bytes=20),
        stage(4, 8, work),
        communication=Communication(
            mode=CommunicationMode.LINK, latency=5, transfer_buffers=True
        ),
        kfac=Kfac(step_barrier=StepBarrier.DEVICE),
    )
    frame = frame_under("1f1b", instance)
    problem = problem_of(frame, 1)
    assert not Counts(problem, (1,)).is_exact
    found = pack(problem, (1,), EFFORT, minimise_memory=True)
    assert found.start is not None
    least = pack(problem, (1,), EFFORT, minimise_memory=True, relaxed=True)
    assert found.peak is not None
    assert (least.peak_bound or 0) < found.peak
    assert found.peak_bound is None
    for limit in range(20, found.peak):
        tight = replace(
            problem,
            memory=tuple(one._replace(limit=limit) for one in problem.memory),
        )
        assert pack(tight, (1,), EFFORT).outcome is Outcome.UNKNOWN


def test_a_gap_that_begins_at_a_steps_very_end_is_there_after_the_last_one() -> None:
    """Under ZB-H1 device 2 ends with the step; then it is idle for 20 ticks."""
    work = layer(curvature_a=1, curvature_b=1, inversion_a=4, inversion_b=1)
    plain = {"backward_input": 10, "backward_weight": 10, "precondition": 1}
    frame = frame_under(
        "zb-h1",
        training(
            stage(10, 20, **plain),
            stage(10, 20, **plain),
            stage(10, 20, work, **plain),
            microbatches=6,
            backward=Backward.SPLIT,
            kfac=Kfac(step_barrier=StepBarrier.DEVICE),
        ),
    )
    (gap,) = frame.gaps[2]
    assert (gap.begin, gap.end) == (0, 20)
    problem = without_memory(problem_of(frame, 1))
    assert [(one.step, one.begin) for one in problem.bins[2]][-1] == (1, frame.period)
    start = packed(problem)
    assert min(start.values()) >= frame.period
    assert Packing(problem, start, "counts").cycle.broken == ()
    bound = best_bound(interval_bounds(frame, wrap=False))
    assert bound is not None
    assert bound.interval == 1


def test_alternative_ops_are_refused_where_the_pipeline_moves() -> None:
    work = layer(curvature_a=3, curvature_b=3, inversion_a=30, inversion_b=30)
    one = stage(10, 20, work, overlap=22, precondition=1)
    instance = training(
        one,
        one,
        placement=Placement.BIDIRECTIONAL,
        communication=Communication(latency=0),
        microbatches=4,
    )
    named = frame_named("chimera", instance)
    parameters = RefreshParameters(freedom=Freedom.SLIDING, time_limit_s=3)
    with pytest.raises(NotApplicableError, match="does not know alternative ops"):
        solve_refresh(named.frame, parameters)
    with pytest.raises(NotApplicableError, match="does not know alternative ops"):
        solve_front([named], RefreshParameters(time_limit_s=3))
