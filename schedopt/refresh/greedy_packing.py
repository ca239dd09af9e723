"""The greedy refreshes of all devices as one packing, where they make one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from schedopt.opgraph import Stream
from schedopt.ops import Op, OpKind
from schedopt.refresh.frame import Frame, Gap
from schedopt.refresh.greedy import Greedy, gaps_alone, refresh_device, works_of
from schedopt.refresh.problem import Packing, problem_of

METHOD = "PipeFisher's greedy"


class Conversion(NamedTuple):
    """A packing that breaks no rule; without one ``why_not`` says why in one line."""

    packing: Packing | None
    why_not: str = ""


def packing_of(greedy: Greedy) -> Conversion:
    """The packing that the rule makes when all devices refresh at its interval.

    A device that would refresh earlier uses the steps that it has more before it uses
    the next cycle's. Syncs run as soon as they can. The rule packs every device by
    itself, knows no preconditioning and no memory limit; so the packing may break a
    rule: an inversion before the curvature of the other copy, a gap that
    preconditioning takes.
    """
    frame, interval = greedy.frame, greedy.interval
    start: dict[Op, int] = {}
    wrap = False
    for device, works in enumerate(works_of(frame)):
        gaps = gaps_alone(frame, device)
        refresh = refresh_device(
            works, gaps, greedy.margin, greedy.barrier, least=interval
        )
        if refresh.serial:
            why = f"{refresh.serial[0].op} fits into no gap of device {device}"
            return Conversion(None, why)
        if refresh.steps > interval:
            why = f"device {device} fills {refresh.steps} steps, not {interval}"
            return Conversion(None, why)
        shifts = [_shift(frame, gap) for gap in gaps]
        for one in refresh.placed:
            shift = shifts[one.gap]
            if shift is None:
                return Conversion(None, f"device {device} has no such gap in its steps")
            wrap = wrap or one.step >= interval
            if one.work.op.kind is not OpKind.SYNC_CURVATURE:
                start[one.work.op] = one.step * frame.period + one.start + shift
    start.update(_syncs(frame, start, interval))
    problem = problem_of(frame, interval, wrap=wrap)
    packing = Packing(problem, start, METHOD)
    broken = packing.cycle.broken
    return Conversion(None, broken[0].detail) if broken else Conversion(packing)


def _shift(frame: Frame, gap: Gap) -> int | None:
    """How much later a gap of a step seen alone is when steps follow each other.

    Where a device preconditions right after its own last op, its last gap comes after.
    """
    there = [
        (begin, end)
        for one in frame.gaps[gap.device]
        for begin, end in (
            (one.begin - frame.period, one.end - frame.period),
            (one.begin, one.end),
        )
    ]
    if any(begin <= gap.begin and gap.end <= end for begin, end in there):
        return 0
    return min(
        (
            begin - gap.begin
            for begin, end in there
            if begin >= gap.begin and end - begin >= gap.length
        ),
        default=None,
    )


def _syncs(frame: Frame, start: dict[Op, int], interval: int) -> dict[Op, int]:
    """Every sync after what it waits for, as early as its streams are free."""
    graph = frame.with_refresh
    busy: dict[Stream, list[tuple[int, int]]] = {}
    for op, time in frame.start.items():
        for stream in frame.graph.data[op].streams:
            busy.setdefault(stream, []).extend(
                (time + step * frame.period, frame.end(op) + step * frame.period)
                for step in range(2 * interval)
            )
    ready = {
        op: max(
            (
                start[before] + graph.data[before].duration + lag
                for before, lag in graph.predecessors(op)
            ),
            default=0,
        )
        for op in graph.ops
        if op.kind is OpKind.SYNC_CURVATURE
    }
    found = {}
    for op in sorted(ready, key=ready.__getitem__):
        data = graph.data[op]
        taken = [span for stream in data.streams for span in busy.get(stream, ())]
        found[op] = time = _earliest(ready[op], data.duration, taken)
        for stream in data.streams:
            busy.setdefault(stream, []).append((time, time + data.duration))
    return found


def _earliest(ready: int, duration: int, taken: Iterable[tuple[int, int]]) -> int:
    time = ready
    for begin, end in sorted(taken):
        if time + duration <= begin:
            break
        time = max(time, end)
    return time
