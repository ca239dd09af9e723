"""Memory of a packing: what waits for its curvature share, on top of the frame's own.

Levels rise where ops of the frame begin, and fall where shares end. So it is enough to
look at the begins; those that fall into a bin (of transfers) come before what the bin
has ended, for certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ortools.sat.python import cp_model

from schedopt.cpsat.packing_counts import NOTHING, Counts, Row
from schedopt.opgraph import Buffer
from schedopt.refresh.problem import Problem


def memory_is_within_limits(counts: Counts) -> None:
    """No device's level is above its limit, nor above the peak."""
    problem = counts.problem
    cycle = problem.interval * problem.frame.period
    for device in counts.devices:
        limit = problem.memory[device].limit
        for time, level in levels(problem, device).items():
            for step in range(problem.interval):
                now = time + step * problem.frame.period
                waiting = _waiting(counts, device, now)
                waiting += _waiting(counts, device, now + cycle)
                counts.model.add(level + waiting <= counts.peak)
                if limit is not None:
                    counts.model.add(level + waiting <= limit)


def levels(problem: Problem, device: int) -> Mapping[int, int]:
    """A device's level, grains, at every time in a step at which it may rise.

    Without what waits for shares; of all steps that overlap there.
    """
    frame = problem.frame
    static = problem.memory[device].static
    spans = []
    times = set()
    for buffer in problem.graph.buffers:
        if buffer.device == device and buffer.maker in frame.start:
            begin = frame.start[buffer.maker]
            times.add(begin)
            spans += [
                (begin + shift, end + shift, buffer.size)
                for end in _ends(buffer, problem)
                for shift in (-frame.period, 0, frame.period)
            ]
    return {
        time: static + sum(size for begin, end, size in spans if begin <= time < end)
        for time in sorted(times)
    }


def _ends(buffer: Buffer, problem: Problem) -> Iterator[int]:
    """When the frame has no more use for it; nothing if only shares use it."""
    frame = problem.frame
    ends = [frame.end(user) for user in buffer.users if user in frame.start]
    if ends:
        yield max(ends)
    elif not buffer.users:
        yield frame.end(buffer.maker)


def _waiting(counts: Counts, device: int, time: int) -> cp_model.LinearExpr:
    """What waits for shares on a device at a time, grains."""
    waiting: cp_model.LinearExpr = NOTHING
    for rows in counts.classes:
        for row in rows.shares:
            if row.device != device or not row.items[0].share.size:
                continue
            waits = [each for each in row.items if each.share.waits_from <= time]
            if counts.relaxed and not row.duration:
                # They may stand anywhere after their release.
                waits = [each for each in waits if each.share.release > time]
            if waits:
                there = sum(each.factors for each in waits) - _done(counts, row, time)
                waiting += row.items[0].share.size * there
    return waiting


def _done(counts: Counts, row: Row, time: int) -> cp_model.LinearExpr:
    """Shares that have ended by a time; relaxed, those that may have."""
    if counts.relaxed:
        return row.in_bins_begun_before(time)
    return row.in_bins_ended_by(time)
