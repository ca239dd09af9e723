"""Longer steps: a frame with idle time added, and plain K-FAC as a cycle.

With longer steps more second-order work fits into each, so that fewer of them are
needed from one refresh to the next. The step time of a cycle is its length divided by
its steps; those of ``stretched`` are equal, in ``exposed_cycles`` the first is longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from schedopt.refresh.cycle import Cycle
from schedopt.refresh.exposed import exposed_of
from schedopt.refresh.frame import END_OF_STEP, Frame


def stretched(frame: Frame, ticks: int) -> Frame:
    """The frame with so much more time in each step.

    Where all devices end a step together, that time comes before they do. Elsewhere it
    comes at the end of the step, in the same gap as the time before it.
    """
    start = frame.start
    if frame.ends_together:
        start = {
            op: time + ticks if op.kind in END_OF_STEP else time
            for op, time in frame.start.items()
        }
    return replace(
        frame,
        start=start,
        period=frame.period + ticks,
        pipeline_end=frame.pipeline_end + ticks,
    )


def exposed_cycles(frame: Frame, intervals: Iterable[int]) -> Iterator[Cycle]:
    """Plain K-FAC in the first step of every cycle; the other steps are the frame's.

    A cycle's frame is stretched by each step's share of what the first takes longer,
    rounded up to ticks.
    """
    exposed = exposed_of(frame)
    times = exposed.schedule.start
    first = {op: times[op] for op in frame.start}
    longer = exposed.refreshing - frame.period
    if frame.ends_together:
        ends = [op for op in frame.start if op.kind in END_OF_STEP]
        longer = max([0, *(first[op] - frame.start[op] for op in ends)])
        first = dict(stretched(frame, longer).start)
    longer = max(longer, 0)
    work = {op: time for op, time in times.items() if op not in frame.start}
    for interval in intervals:
        share = -(-longer // interval)
        steps = [first]
        for step in range(1, interval):
            late = max(0, longer - step * share)
            steps.append({op: time + late for op, time in frame.start.items()})
        yield Cycle(stretched(frame, share), False, tuple(steps), work)
