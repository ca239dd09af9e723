"""A packing for which the pipeline's ops move: every step of the cycle has its times.

In the setting ``sliding`` the ops of a device keep their order and may start at other
times in every step of the cycle; in ``reordered`` their order may be another one, too.
No step is longer than without second-order work: steps begin at multiples of the
frame's period, and the pipeline's ops of each lie within its ``pipeline_end``. The ops
that end a step follow as early, or as late, as their own precedences allow. The cycle
repeats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from schedopt.build import build_graph
from schedopt.ops import Op, OpKind
from schedopt.refresh.frame import END_OF_STEP, Frame
from schedopt.refresh.problem import refresh_graph, with_interval
from schedopt.schedule import Schedule
from schedopt.verify import violations


@dataclass(frozen=True)
class MovingPacking:
    """When each op of a cycle starts.

    Attributes
    ----------
    frame : Frame
        The step that would repeat if nothing moved; it gives period and pipeline end.
    wrap : bool
        Whether work may run in the next cycle's gaps.
    steps : tuple of mapping
        For each step of the cycle the starts of the frame's ops, ticks from the start
        of that step.
    start : mapping
        The starts of the refresh's ops, ticks from the cycle's start; of an inversion
        that either copy may run, one copy's.
    """

    frame: Frame
    wrap: bool
    steps: tuple[Mapping[Op, int], ...]
    start: Mapping[Op, int]

    @property
    def interval(self) -> int:
        """Steps from one refresh to the next."""
        return len(self.steps)

    @cached_property
    def schedule(self) -> Schedule:
        """Two refreshes and all steps that their work reaches.

        They show everything that one refresh may do to the next, since work never
        reaches past the next cycle.
        """
        frame, interval, refreshes = self.frame, self.interval, 2
        cycles = refreshes + 1 if self.wrap else refreshes
        instance = with_interval(
            frame.instance,
            interval=interval,
            refreshes=refreshes,
            steps=interval * cycles,
        )
        start = {
            op._replace(step=step): time + step * frame.period
            for step in range(instance.steps)
            for op, time in self.steps[step % interval].items()
        }
        for refresh in range(refreshes):
            step = refresh * interval
            for op, time in self.start.items():
                start[op._replace(step=step)] = time + step * frame.period
        return Schedule(build_graph(instance), start)

    @property
    def first_use(self) -> int | None:
        """The step whose preconditioning is the first to use the last inverse to come.

        Counted from the step of the data; None without inversions. An inverse of it is
        in use until ``first_use`` + ``interval`` - 1.
        """
        return max(self._first_uses(), default=None)

    def _first_uses(self) -> Iterator[int]:
        data = refresh_graph(self.frame.instance).data
        for op, time in self.start.items():
            if op.kind is OpKind.INVERSION:
                use = Op(OpKind.PRECONDITION, op.stage, op.microbatch)
                step = 0
                while self._time(use, step) < time + data[op].duration:
                    step += 1
                yield step

    def _time(self, op: Op, step: int) -> int:
        return self.steps[step % self.interval][op] + step * self.frame.period


def faults_of(packing: MovingPacking) -> tuple[str, ...]:
    """Every way in which a packing breaks a rule or makes a step longer; best none."""
    schedule = packing.schedule
    found = [each.detail for each in violations(schedule.graph, schedule.start)]
    frame = packing.frame
    for step, start in enumerate(packing.steps):
        for op, time in start.items():
            end = time + frame.graph.data[op].duration
            is_pipeline = op.kind not in END_OF_STEP
            if time < 0 or (is_pipeline and end > frame.pipeline_end):
                found.append(f"{op} of step {step} runs from {time} to {end} ticks")
    if not packing.wrap:
        found += _crossings(packing)
    return tuple(found)


def _crossings(packing: MovingPacking) -> Iterator[str]:
    """Work that runs after its device has begun the next cycle."""
    frame = packing.frame
    data = refresh_graph(frame.instance).data
    cycle = packing.interval * frame.period
    for op, time in packing.start.items():
        first = min(
            (
                start
                for other, start in packing.steps[0].items()
                if other.kind.is_compute
                and frame.graph.data[other].device == data[op].device
            ),
            default=0,
        )
        if time + data[op].duration > cycle + first:
            yield f"{op} ends after the cycle, at {time + data[op].duration} ticks"
