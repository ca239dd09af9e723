"""Lower bounds on the step time at a refresh interval: how short steps cannot be.

The step time T of a cycle of k steps is its length divided by k; steps need not be
equally long. The bounds hold at any times and in any order of the pipeline, for the
instance's placement, if every device runs a step's ops before the next step's. On a
device let busy be what a step's ops take without a refresh and work what a refresh
takes. Where all devices end a step together, let e be how long after the pipeline a
device ends it: the same in every frame, as long as collectives take no time; else what
its ops take that end a step.

* ``pipeline``: where all devices end a step together, the one that starts a step first
  cannot start the next one before the pipeline and its own end: T >= makespan + least
  e. Elsewhere what ends a step for one copy of a stage may run while the device still
  has backwards of another one; but it follows the copy's own last backward: T >= device
  span + the least of what ends a step for a copy. The span of the stage 0's device, so
  only where that is the longest in every step, however steps differ.
* ``fluid``: a device does k steps' ops and one refresh in a cycle, which it has for
  itself: k T >= k busy + work.
* ``strict``, where all devices end a step together, right after the pipeline, and no
  work crosses the cycle's end. Let h be the longest path to an op of the device. From h
  to the end of the last step's last op the device runs everything of the cycle. That
  end is e after the pipeline's, and the pipeline's is at least the least e before the
  cycle's: k busy + work <= k T - least e + e - h.
* ``data``, in the same setting. The shares of some factors wait for ops of the frame;
  let r be what the last end of these is not below (``DataTimes``). After it the device
  runs each factor's last share, if it has them all, and its inversion, which are rest;
  what ends step 0; and the other steps: r + rest + end + (k - 1) busy <= k T - least e
  + e.

Where collectives take time, or some device ends a step before others and may work in
the time that is left, the last two are left out. Inversions that either of two
devices may run count for both together in ``fluid`` and ``strict``, whose inequalities
are then added up, and not at all in ``data``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from schedopt.instance import Backward, CommunicationMode, Placement
from schedopt.ops import OpKind
from schedopt.refresh.bounds import FLUID, STRICT
from schedopt.refresh.data_times import DataTimes
from schedopt.refresh.frame import END_OF_STEP, Frame
from schedopt.refresh.moving_bounds import busy_of, groups_of, heads_of, ops_of
from schedopt.refresh.problem import problem_of

PIPELINE = "pipeline"
DATA = "data"

_COLLECTIVES = (OpKind.REDUCE_GRAD, OpKind.GATHER_GRAD)


class StepBound(NamedTuple):
    """No step time at some interval is below so many ticks."""

    name: str
    ticks: int


class StepBounds:
    """The bounds of a training at all intervals.

    ``pipeline`` is a lower bound on the pipeline's makespan where all devices end a
    step together, else on its longest device span, ticks. Of the frame only what is
    common to all frames of its instance matters.
    """

    def __init__(self, frame: Frame, pipeline: int, *, wrap: bool) -> None:
        devices = range(len(frame.instance.devices))
        data = frame.graph.data
        is_timed = any(
            op.kind in _COLLECTIVES and data[op].duration for op in frame.start
        )
        self._ends = [_end_of_step(frame, d, is_timed=is_timed) for d in devices]
        self._least_end = min(self._ends)
        after = self._least_end if frame.ends_together else _least_end_of_copies(frame)
        self._pipeline = after + (pipeline if _spans_every_step(frame) else 0)
        self._busy = [busy_of(frame, device) for device in devices]
        heads = heads_of(frame)
        self._heads = [
            min((heads[op] for op in ops_of(frame, d)), default=0) for d in devices
        ]
        self._groups = tuple(groups_of(problem_of(frame, 1, wrap=wrap)))
        self._after = _after_data(frame, DataTimes(frame, pipeline))
        together = frame.ends_together and frame.ends_at_once
        self._is_strict = not wrap and together and not is_timed

    def at(self, interval: int) -> StepBound:
        """The strongest at an interval."""
        return max(self._all(interval), key=lambda bound: bound.ticks)

    def least_interval(self, period: int) -> int | None:
        """The least interval whose bound is no more than a step's time; None: none."""
        if self._pipeline > period or any(
            sum(period - self._busy[d] for d in devices) <= 0 < work
            for devices, work in self._groups
        ):
            return None
        interval = 1
        while self.at(interval).ticks > period:
            interval += 1
        return interval

    def _all(self, interval: int) -> Iterator[StepBound]:
        yield StepBound(PIPELINE, self._pipeline)
        for devices, work in self._groups:
            needed = work + interval * sum(self._busy[d] for d in devices)
            shared = interval * len(devices)
            yield StepBound(FLUID, -(-needed // shared))
            if self._is_strict:
                needed += sum(
                    self._heads[d] + self._least_end - self._ends[d] for d in devices
                )
                yield StepBound(STRICT, -(-needed // shared))
        for device, least in self._after if self._is_strict else ():
            needed = least + (interval - 1) * self._busy[device]
            needed += self._least_end - self._ends[device]
            yield StepBound(DATA, -(-needed // interval))


def _spans_every_step(frame: Frame) -> bool:
    """Whether what bounds the longest device span bounds that of one device.

    Steps may differ in which device's span is the longest. Where microbatches begin and
    end at stage 0 it is always that stage's device, unless weights come after.
    """
    instance = frame.instance
    return frame.ends_together or (
        instance.placement is not Placement.BIDIRECTIONAL
        and instance.backward is Backward.WHOLE
        and instance.communication.mode is not CommunicationMode.BLOCKING
    )


def _after_data(frame: Frame, times: DataTimes) -> list[tuple[int, int]]:
    """Devices, and by when at the earliest they have run what follows some data, ticks.

    Each with what ends step 0, but without other steps.
    """
    rest: dict[int, list[tuple[int, int]]] = {}
    for group in problem_of(frame, 1).classes:
        if not group.all_copies and len(group.inverting) > 1:
            continue
        for one in group.inverting:
            takes = one.duration
            if all(share.device == one.device for share in group.shares):
                takes += min(share.duration for share in group.shares)
            found = times.of(group), takes * len(group.layers)
            rest.setdefault(one.device, []).append(found)
    least = []
    for device, items in rest.items():
        end = sum(
            frame.graph.data[op].duration
            for op in ops_of(frame, device)
            if op.kind in END_OF_STEP
        )
        for time, _ in items:
            after = sum(takes for other, takes in items if other >= time)
            least.append((device, time + end + after))
    return least


def _end_of_step(frame: Frame, device: int, *, is_timed: bool) -> int:
    """What ends a step on a device, ticks; with timed collectives the least that may.

    Only where all devices end a step together.
    """
    ops = [op for op in ops_of(frame, device) if op.kind in END_OF_STEP]
    if is_timed:
        return sum(frame.graph.data[op].duration for op in ops)
    return max(map(frame.end, ops), default=frame.pipeline_end) - frame.pipeline_end


def _least_end_of_copies(frame: Frame) -> int:
    """The least that ends a step for one copy of a stage on its device, ticks."""
    takes: dict[tuple[int, int], int] = {}
    for op in frame.start:
        if op.kind in END_OF_STEP and op.kind.is_compute:
            copy = op.stage, op.microbatch
            takes[copy] = takes.get(copy, 0) + frame.graph.data[op].duration
    return min(takes.values(), default=0)
