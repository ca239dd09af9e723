"""The frames of a training: the steps into which a refresh may be packed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from schedopt.baselines import BASELINES, run_baseline
from schedopt.build import build_graph, form_of
from schedopt.errors import NotApplicableError
from schedopt.instance import Instance
from schedopt.refresh.frame import Frame, frame_of, pipeline_alone
from schedopt.schedule import Schedule


@dataclass(frozen=True, slots=True)
class NamedFrame:
    """A frame, and which schedule it repeats."""

    name: str
    frame: Frame


def frames_of(instance: Instance) -> tuple[NamedFrame, ...]:
    """The frames of the hand-made schedules in the instance's form, shortest first.

    Those that need another placement, another form of backward or more memory are left
    out; equal ones stand once, under the first name.
    """
    frames = sorted(_frames(instance), key=lambda named: named.frame.period)
    different: list[NamedFrame] = []
    for named in frames:
        if all(named.frame.start != other.frame.start for other in different):
            different.append(named)
    return tuple(different)


def shortest_frames(instance: Instance) -> tuple[NamedFrame, ...]:
    """Of ``frames_of`` those with the shortest step; there may be none."""
    frames = frames_of(instance)
    return tuple(f for f in frames if f.frame.period == frames[0].frame.period)


def frame_named(name: str, instance: Instance) -> NamedFrame:
    """The frame of one hand-made schedule.

    Raises
    ------
    NotApplicableError
        If there is no such schedule for the instance as it is written.
    """
    baseline = BASELINES[name]
    plain = pipeline_alone(instance)
    run = run_baseline(baseline, plain)
    if run.form != form_of(plain):
        msg = (
            f"{name} needs another form ({run.form}); write the instance in it, or"
            " choose another schedule"
        )
        raise NotApplicableError(msg)
    return NamedFrame(name, frame_of(run.schedule, instance))


def frame_around(schedule: Schedule, name: str, instance: Instance) -> NamedFrame:
    """The frame of any schedule of the pipeline alone, such as a solved one.

    Raises
    ------
    NotApplicableError
        If the schedule is of another pipeline.
    """
    frame = frame_of(schedule, instance)
    missing = set(schedule.start) - set(frame.graph.data)
    if missing:
        msg = f"{name} schedules another pipeline: it has {min(missing)}"
        raise NotApplicableError(msg)
    return NamedFrame(name, frame)


@dataclass(frozen=True, slots=True)
class TimeToTarget:
    """How long two optimizers train until they reach the same target.

    Steps are the user's: nothing here knows how an optimizer converges. ``first_step``
    is a step of the same pipeline without second-order work, ``second_step`` one that
    preconditions and whose other second-order work is hidden, ticks.
    """

    first_steps: int
    first_step: int
    second_steps: int
    second_step: int

    @property
    def ratio(self) -> float | None:
        """Second-order time over first-order time."""
        first = self.first_steps * self.first_step
        return self.second_steps * self.second_step / first if first else None


def time_to_target(
    named: NamedFrame, first_steps: int, second_steps: int
) -> TimeToTarget:
    """PipeFisher's simulated training time: steps to the target x time per step."""
    frame = named.frame
    stages = tuple(
        replace(stage, modules=(), precondition=0) for stage in frame.instance.stages
    )
    plain = pipeline_alone(frame.instance)
    graph = build_graph(plain)
    start = {op: time for op, time in frame.start.items() if op in graph.data}
    first = frame_of(Schedule(graph, start), replace(frame.instance, stages=stages))
    return TimeToTarget(first_steps, first.period, second_steps, frame.period)


def _frames(instance: Instance) -> Iterator[NamedFrame]:
    for name in BASELINES:
        try:
            yield frame_named(name, instance)
        except NotApplicableError:
            continue
