"""What a cycle is worth: age, memory, how full, how tight.

Everything is of the steady state, in which every ``interval`` steps are like the ones
before. Shares of time are exact fractions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from schedopt.opgraph import Stream, StreamKind
from schedopt.refresh.cycle import Cycle
from schedopt.refresh.frame import END_OF_STEP
from schedopt.refresh.tolerance import tolerance_of


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMeasures:
    """A cycle on one device.

    Attributes
    ----------
    first_use : int or None
        The step, counted from that of the data, whose preconditioning is the first to
        use the last of the device's inverses. An inverse counts from the first
        preconditioning of its stage on its device that starts at or after its end.
    largest_age : int or None
        ``first_use`` + interval - 1: the most steps between the step of the data and
        one that preconditions with an inverse of it. The last step that still does is
        the one before the next refresh's inverse of the same factor is first used,
        which is ``interval`` steps after ``first_use``. (Counting the steps from the
        data's to that one, both included, gives one more.) None without inversions.
    peak_memory : int
        The highest level, static memory included, grains.
    work, idle : int
        Curvature and inversion of a refresh, and the time of a step that neither the
        pipeline nor the end of a step takes, ticks.
    fill : Fraction or None
        (work / idle) / interval: 1 means that no idle time is left. None without any.
    pipeline_share : Fraction
        The pipeline's own compute time over the step's time, such as
        N (F + B) / (T_pipe + T_prec). Second-order work cannot raise it.
    compute_share : Fraction
        The same and second-order work: the part of a cycle in which the device runs the
        pipeline's ops, curvature or inversions.
    busy_share : Fraction
        The part of a cycle in which the device's compute or collective stream is held:
        preconditioning, optimizer's steps and collectives count too. PipeFisher's
        figures count in this way (within one step, not a cycle).
    """

    device: int
    first_use: int | None
    largest_age: int | None
    peak_memory: int
    work: int
    idle: int
    fill: Fraction | None
    pipeline_share: Fraction
    compute_share: Fraction
    busy_share: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """A cycle on all devices.

    Ages and memory are the largest of any device, shares the means of all.

    Attributes
    ----------
    interval, period : int
        Steps from one refresh to the next, and ticks from one step to the next.
    wrap : bool
        Whether work may run in the next cycle's gaps.
    tolerance : Fraction or None
        By how much all durations of second-order work may grow, see ``tolerance_of``;
        None if there is none.
    """

    interval: int
    period: int
    wrap: bool
    first_use: int | None
    largest_age: int | None
    peak_memory: int
    fill: Fraction | None
    pipeline_share: Fraction
    compute_share: Fraction
    busy_share: Fraction
    tolerance: Fraction | None
    devices: tuple[DeviceMeasures, ...]


def measures_of(cycle: Cycle) -> Measures:
    """Everything that is known of a valid cycle."""
    devices = range(len(cycle.frame.graph.devices))
    measured = tuple(_of_device(cycle, device) for device in devices)
    idle = sum(one.idle for one in measured)
    work = sum(one.work for one in measured)
    return Measures(
        interval=cycle.interval,
        period=cycle.frame.period,
        wrap=cycle.wrap,
        first_use=cycle.first_use,
        largest_age=cycle.largest_age,
        peak_memory=max(one.peak_memory for one in measured),
        fill=_fill(work, idle, cycle.interval),
        pipeline_share=_mean([one.pipeline_share for one in measured]),
        compute_share=_mean([one.compute_share for one in measured]),
        busy_share=_mean([one.busy_share for one in measured]),
        tolerance=tolerance_of(cycle),
        devices=measured,
    )


def _of_device(cycle: Cycle, device: int) -> DeviceMeasures:
    frame, interval = cycle.frame, cycle.interval
    data = cycle.schedule.graph.data
    first_use = _largest(
        use for op, use in cycle.first_uses.items() if data[op].device == device
    )
    work = sum(
        data[op].duration
        for op in cycle.start
        if op.kind.is_compute and data[op].device == device
    )
    pipeline = sum(
        data[op].duration
        for op in frame.start
        if op.kind.is_compute
        and op.kind not in END_OF_STEP
        and data[op].device == device
    )
    return DeviceMeasures(
        device=device,
        first_use=first_use,
        largest_age=None if first_use is None else first_use + interval - 1,
        peak_memory=cycle.schedule.peak_memory[device],
        work=work,
        idle=frame.idle[device],
        fill=_fill(work, frame.idle[device], interval),
        pipeline_share=Fraction(pipeline, frame.period),
        compute_share=Fraction(pipeline * interval + work, cycle.length),
        busy_share=Fraction(_busy(cycle, device), cycle.length),
    )


def _busy(cycle: Cycle, device: int) -> int:
    """How long a device's compute or collective stream is held in a cycle, ticks."""
    data = cycle.schedule.graph.data
    kinds = (StreamKind.COMPUTE, StreamKind.COLLECTIVE)
    streams = {Stream(kind, device) for kind in kinds}
    starts = [
        *cycle.start.items(),
        *(
            (op, time + step * cycle.frame.period)
            for step, times in enumerate(cycle.steps)
            for op, time in times.items()
        ),
    ]
    spans = []
    for op, time in starts:
        if streams.intersection(data[op].streams):
            begin = time % cycle.length
            end = begin + data[op].duration
            spans += [(begin, min(end, cycle.length)), (0, max(end - cycle.length, 0))]
    busy = last = 0
    for begin, end in sorted(spans):
        busy += max(0, end - max(begin, last))
        last = max(last, end)
    return busy


def _fill(work: int, idle: int, interval: int) -> Fraction | None:
    return Fraction(work, idle * interval) if idle else None


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _mean(shares: Sequence[Fraction]) -> Fraction:
    return sum(shares, Fraction(0)) / len(shares)
