"""A cycle: when each op of the steps from one refresh to the next starts.

It is what every packing comes to, whatever the pipeline's ops may do. Where they stand
still, all steps of the cycle have the frame's own times; where they slide, or change
their order, every step has its own. Steps begin at multiples of the frame's period, and
the cycle repeats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from schedopt.build import build_graph
from schedopt.instance import Instance
from schedopt.ops import Op, OpKind
from schedopt.refresh.frame import Frame, with_interval
from schedopt.schedule import Schedule
from schedopt.verify import Violation, violations


@dataclass(frozen=True)
class Cycle:
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

    @property
    def length(self) -> int:
        """From one refresh to the next, ticks."""
        return self.interval * self.frame.period

    def instance(self, refreshes: int = 2) -> Instance:
        """The training, unrolled for several refreshes and all steps they reach."""
        return with_interval(
            self.frame.instance,
            interval=self.interval,
            refreshes=refreshes,
            steps=self.interval * (refreshes + 1 if self.wrap else refreshes),
        )

    def unrolled(self, refreshes: int = 2) -> Schedule:
        """The schedule of several refreshes and of all steps that their work reaches.

        Two refreshes show everything that one may do to the next, since work never
        reaches past the next cycle.
        """
        period, interval = self.frame.period, self.interval
        instance = self.instance(refreshes)
        start = {
            op._replace(step=step): time + step * period
            for step in range(instance.steps)
            for op, time in self.steps[step % interval].items()
        }
        for refresh in range(refreshes):
            step = refresh * interval
            for op, time in self.start.items():
                start[op._replace(step=step)] = time + step * period
        return Schedule(build_graph(instance), start)

    @cached_property
    def schedule(self) -> Schedule:
        """That of two refreshes."""
        return self.unrolled()

    @cached_property
    def broken(self) -> tuple[Violation, ...]:
        """The rules that the verifier finds broken in it; best none."""
        return violations(self.schedule.graph, self.schedule.start)

    @property
    def peak_memory(self) -> int:
        """The highest level of any device, static memory included, grains."""
        return max(self.schedule.peak_memory)

    @cached_property
    def first_uses(self) -> Mapping[Op, int]:
        """For each inversion the first step whose preconditioning uses its inverse."""
        data = self.frame.with_refresh.data
        found = {}
        for op, time in self.start.items():
            if op.kind is OpKind.INVERSION:
                use = Op(OpKind.PRECONDITION, op.stage, op.microbatch)
                step = 0
                while self._time(use, step) < time + data[op].duration:
                    step += 1
                found[op] = step
        return found

    @property
    def first_use(self) -> int | None:
        """The step whose preconditioning is the first to use the last inverse to come.

        Counted from the step of the data; None without inversions.
        """
        return max(self.first_uses.values(), default=None)

    @property
    def largest_age(self) -> int | None:
        """The most steps from that of the data to one that uses an inverse of it.

        The last inverse to come is in use until ``first_use`` + ``interval`` - 1. None
        without inversions.
        """
        first = self.first_use
        return None if first is None else first + self.interval - 1

    def _time(self, op: Op, step: int) -> int:
        return self.steps[step % self.interval][op] + step * self.frame.period
