"""What a packing is worth: age, memory, how full, how tight.

Everything is of the steady state, in which every ``interval`` steps are like the ones
before. Shares of time are exact fractions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from schedopt.opgraph import OpGraph, Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.refresh.frame import END_OF_STEP
from schedopt.refresh.problem import Packing
from schedopt.refresh.tolerance import tolerance_of
from schedopt.refresh.unrolling import schedule_of
from schedopt.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMeasures:
    """A packing on one device.

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
    """A packing on all devices.

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


def measures_of(packing: Packing) -> Measures:
    """Everything that is known of a valid packing."""
    problem = packing.problem
    schedule = schedule_of(packing)
    devices = range(len(problem.frame.graph.devices))
    measured = tuple(_of_device(packing, schedule, device) for device in devices)
    idle = sum(one.idle for one in measured)
    work = sum(one.work for one in measured)
    return Measures(
        interval=problem.interval,
        period=problem.frame.period,
        wrap=problem.wrap,
        first_use=_largest(one.first_use for one in measured),
        largest_age=_largest(one.largest_age for one in measured),
        peak_memory=max(one.peak_memory for one in measured),
        fill=_fill(work, idle, problem.interval),
        pipeline_share=_mean([one.pipeline_share for one in measured]),
        compute_share=_mean([one.compute_share for one in measured]),
        busy_share=_mean([one.busy_share for one in measured]),
        tolerance=tolerance_of(packing, schedule),
        devices=measured,
    )


def first_uses(packing: Packing) -> dict[Op, int]:
    """For each inversion the first step whose preconditioning uses its inverse."""
    frame = packing.problem.frame
    found = {}
    for op, duration in _inversions(packing):
        use = frame.start[Op(OpKind.PRECONDITION, op.stage, op.microbatch)]
        missing = packing.start[op] + duration - use
        found[op] = max(0, -(-missing // frame.period))
    return found


def _inversions(packing: Packing) -> Iterator[tuple[Op, int]]:
    """The inversions of a packing, each with its duration."""
    for group in packing.problem.classes:
        for layer in group.layers:
            for one in group.inverting:
                op = group.inversion_op(layer, one.copy)
                if op in packing.start:
                    yield op, one.duration


def _of_device(packing: Packing, schedule: Schedule, device: int) -> DeviceMeasures:
    problem = packing.problem
    frame, interval = problem.frame, problem.interval
    data = schedule.graph.data
    first_use = _largest(
        use for op, use in first_uses(packing).items() if data[op].device == device
    )
    work = sum(
        data[op].duration
        for op in packing.start
        if op.kind.is_compute and data[op].device == device
    )
    pipeline = sum(
        data[op].duration
        for op in frame.start
        if op.kind.is_compute
        and op.kind not in END_OF_STEP
        and data[op].device == device
    )
    cycle = interval * frame.period
    busy = _busy(packing, schedule.graph, device)
    return DeviceMeasures(
        device=device,
        first_use=first_use,
        largest_age=None if first_use is None else first_use + interval - 1,
        peak_memory=schedule.peak_memory[device],
        work=work,
        idle=frame.idle[device],
        fill=_fill(work, frame.idle[device], interval),
        pipeline_share=Fraction(pipeline, frame.period),
        compute_share=Fraction(pipeline * interval + work, cycle),
        busy_share=Fraction(busy, cycle),
    )


def _busy(packing: Packing, graph: OpGraph, device: int) -> int:
    """How long a device's compute or collective stream is held in a cycle, ticks."""
    frame, interval = packing.problem.frame, packing.problem.interval
    cycle = interval * frame.period
    kinds = (StreamKind.COMPUTE, StreamKind.COLLECTIVE)
    streams = {Stream(kind, device) for kind in kinds}
    starts = [
        *packing.start.items(),
        *(
            (op, time + step * frame.period)
            for step in range(interval)
            for op, time in frame.start.items()
        ),
    ]
    spans = []
    for op, time in starts:
        if streams.intersection(graph.data[op].streams):
            begin = time % cycle
            end = begin + graph.data[op].duration
            spans += [(begin, min(end, cycle)), (0, max(end - cycle, 0))]
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
