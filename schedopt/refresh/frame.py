"""The frame: a step's work at fixed times, repeated, and the gaps that it leaves.

The pipeline's ops of a step stand where a schedule put them. After them come the ops
that end a step (reduction and preconditioning of gradients, the optimizer's step), each
as early as it can. The next step is the same, a period later. A gap is idle time of a
device between two ops of the frame; the last gap of a step may reach into the next one,
where the device waits for nobody.

So with ``step_barrier: everyone`` preconditioning begins on all devices when the
pipeline ends, and the idle times before and after it are two gaps; with ``device`` it
follows a device's own last backward, and they are one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from schedopt.build import build_graph
from schedopt.instance import Instance, Kfac, StepBarrier
from schedopt.opgraph import OpGraph, Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.schedule import Schedule

END_OF_STEP = frozenset(
    {OpKind.REDUCE_GRAD, OpKind.PRECONDITION, OpKind.GATHER_GRAD, OpKind.STEP}
)
"""The kinds of ops that end a step."""


class Gap(NamedTuple):
    """Idle time of a device, ticks from the start of the step in which it begins."""

    device: int
    begin: int
    end: int

    @property
    def length(self) -> int:
        """Ticks."""
        return self.end - self.begin


@dataclass(frozen=True)
class Frame:
    """A step that repeats every ``period`` ticks.

    Attributes
    ----------
    instance : Instance
        The training, with its K-FAC section; its interval does not matter here.
    graph : OpGraph
        That of one step without a refresh.
    start : mapping
        When each of its ops starts, ticks from the step's start.
    period : int
        From a step's start to the next one's, ticks.
    pipeline_end : int
        The last end of the pipeline's own ops: the step's makespan without K-FAC.
    """

    instance: Instance
    graph: OpGraph
    start: Mapping[Op, int]
    period: int
    pipeline_end: int

    def end(self, op: Op) -> int:
        """When an op ends, ticks from the step's start."""
        return self.start[op] + self.graph.data[op].duration

    @cached_property
    def with_refresh(self) -> OpGraph:
        """The op graph of one step with a refresh."""
        return build_graph(
            with_interval(self.instance, interval=1, refreshes=1, steps=1)
        )

    @cached_property
    def gaps(self) -> tuple[tuple[Gap, ...], ...]:
        """For each device its gaps in a step, by begin."""
        return tuple(
            tuple(self._gaps_of(device)) for device in range(len(self.graph.devices))
        )

    @cached_property
    def idle(self) -> tuple[int, ...]:
        """Each device's idle time in a period, ticks."""
        return tuple(sum(gap.length for gap in gaps) for gaps in self.gaps)

    @property
    def ends_together(self) -> bool:
        """Whether all devices precondition when the whole pipeline has ended.

        Elsewhere idle time at a step's end and at the next one's begin is one gap.
        """
        kfac = self.instance.kfac
        return kfac is None or kfac.step_barrier is StepBarrier.EVERYONE

    def follows_step(self, gap: Gap) -> bool:
        """Whether a gap belongs to the step before, too: it begins at its very end."""
        return not self.ends_together and gap.begin == 0

    @property
    def has_gaps_at_its_end(self) -> bool:
        """Whether a gap lies between a device's preconditioning and the step's end."""
        return any(
            gap.end > self.preconditioning(gap.device) or self.follows_step(gap)
            for gaps in self.gaps
            for gap in gaps
        )

    @property
    def ends_at_once(self) -> bool:
        """Whether every device that does anything is busy until the step's very end."""
        last: dict[int, int] = {}
        for op in self.start:
            if op.kind.is_compute:
                device = self.graph.data[op].device
                last[device] = max(last.get(device, 0), self.end(op))
        return all(time == self.period for time in last.values())

    def preconditioning(self, device: int) -> int:
        """When a device first preconditions in a step, ticks from the step's start."""
        return self._preconditioning[device]

    @cached_property
    def _preconditioning(self) -> Mapping[int, int]:
        first: dict[int, int] = {}
        for op, start in self.start.items():
            if op.kind is OpKind.PRECONDITION:
                device = self.graph.data[op].device
                first[device] = min(start, first.get(device, start))
        return first

    def _gaps_of(self, device: int) -> list[Gap]:
        stream = Stream(StreamKind.COMPUTE, device)
        busy = sorted(
            (self.start[op], self.end(op))
            for op, data in self.graph.data.items()
            if op in self.start and stream in data.streams
        )
        if not busy:
            return [Gap(device, 0, self.period)]
        gaps = []
        begin = busy[0][1]
        for start, end in [*busy[1:], (busy[0][0] + self.period, 0)]:
            if start > begin:
                gaps.append(Gap(device, begin, start))
            begin = max(begin, end)
        # One that begins at the very end of a step is the next step's first.
        return sorted(
            Gap(device, gap.begin - self.period, gap.end - self.period)
            if gap.begin >= self.period
            else gap
            for gap in gaps
        )


def with_interval(
    instance: Instance, *, interval: int, refreshes: int, steps: int
) -> Instance:
    """The training with another refresh interval, unrolled for so many steps."""
    kfac = instance.kfac or Kfac()
    return replace(
        instance,
        steps=steps,
        kfac=replace(kfac, interval=interval, refreshes=refreshes),
    )


def step_alone(instance: Instance) -> Instance:
    """One step of the training, preconditioned, but without a refresh."""
    stages = tuple(replace(stage, modules=()) for stage in instance.stages)
    kfac = replace(instance.kfac or Kfac(), interval=1, refreshes=1)
    return replace(instance, stages=stages, steps=1, kfac=kfac)


def pipeline_alone(instance: Instance) -> Instance:
    """One step of the training without second-order work: what baselines schedule."""
    stages = tuple(
        replace(stage, modules=(), precondition=0, optimizer_step=0, gradient_bytes=0)
        for stage in instance.stages
    )
    return replace(instance, stages=stages, steps=1, kfac=None)


def frame_of(schedule: Schedule, instance: Instance) -> Frame:
    """The frame in which a pipeline's schedule (of ``pipeline_alone``) repeats."""
    graph = build_graph(step_alone(instance))
    start = dict(schedule.shifted_to_zero().start)
    pipeline_end = max(schedule.graph.data[op].duration + t for op, t in start.items())
    free: dict[Stream, int] = {}
    for op, time in start.items():
        data = graph.data[op]
        for stream in data.streams:
            free[stream] = max(free.get(stream, 0), time + data.duration)
    waiting = {op for op in graph.data if op.kind in END_OF_STEP}
    while waiting:
        ready = {
            op: max(
                (
                    start[before] + graph.data[before].duration + lag
                    for before, lag in graph.predecessors(op)
                    if before in start
                ),
                default=0,
            )
            for op in waiting
            if not any(before in waiting for before, _ in graph.predecessors(op))
        }
        op = min(ready, key=lambda op: (ready[op], op))
        data = graph.data[op]
        begin = max([ready[op], *(free.get(stream, 0) for stream in data.streams)])
        start[op] = begin
        for stream in data.streams:
            free[stream] = begin + data.duration
        waiting.remove(op)
    return Frame(instance, graph, start, period_of(graph, start), pipeline_end)


def period_of(graph: OpGraph, start: Mapping[Op, int]) -> int:
    """The least time after which the same step can begin again."""
    first: dict[Stream, int] = {}
    last: dict[Stream, int] = {}
    steps: dict[tuple[int, int], int] = {}
    for op, time in start.items():
        data = graph.data[op]
        for stream in data.streams:
            first[stream] = min(first.get(stream, time), time)
            last[stream] = max(last.get(stream, 0), time + data.duration)
        if op.kind is OpKind.STEP:
            steps[op.stage, data.device] = time + data.duration
    least = max((last[stream] - first[stream] for stream in first), default=0)
    for op, time in start.items():
        if op.kind in (OpKind.FORWARD, OpKind.OVERLAP):
            least = max(least, steps[op.stage, graph.data[op].device] - time)
    return least
