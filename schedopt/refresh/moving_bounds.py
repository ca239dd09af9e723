"""Lower bounds on the refresh interval at any times and in any order of the pipeline.

They hold for every packing whose steps begin at multiples of the frame's period and are
no longer than the frame's (``moving``), in whatever order its ops run.

* ``fluid``: in the steady state a device does the work of one refresh per cycle, in
  time that no op of the frame takes; that is the same in every step at any times.
* ``strict``, where all devices end a step at the same moment and nothing wraps. Let h
  be the earliest that an op of the device can start in a step: the longest path to one
  of its ops, over the precedences alone. No data of the refresh is there before h in
  step 0, and all work ends by the start s of the last op that ends a step on the
  device, in the cycle's last step. From h to s the device runs all ops of all steps but
  that last one, since none starts before h and all others end by s. So

      work <= (interval - 1) x period + s - h - (interval x busy - last),

  where busy is what a step's ops take and last the duration of that last op.

An inversion that either of two devices may run counts for both together: then work and
time are their sums.
"""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx

from schedopt.ops import Op
from schedopt.refresh.bounds import FLUID, STRICT, IntervalBound
from schedopt.refresh.frame import END_OF_STEP, Frame
from schedopt.refresh.problem import Problem, problem_of


def bounds_at_any_times(frame: Frame, *, wrap: bool) -> tuple[IntervalBound, ...]:
    """The bounds of each device, then those of devices that share inversions."""
    problem = problem_of(frame, 1, wrap=wrap)
    is_strict = not wrap and frame.ends_together and frame.ends_at_once
    found = []
    for devices, work in groups_of(problem):
        each = sum(frame.period - busy_of(frame, device) for device in devices)
        found.append(_bound(FLUID, devices, work, each, each))
        if is_strict:
            first = sum(_first(frame, device) for device in devices)
            found.append(_bound(STRICT, devices, work, first, each))
    return tuple(found)


def _bound(
    name: str, devices: tuple[int, ...], work: int, first: int, each: int
) -> IntervalBound:
    """The least interval with work <= first + (interval - 1) x each, at least 1."""
    missing = work - first
    interval: int | None = 1
    if missing > 0:
        interval = 1 + -(-missing // each) if each > 0 else None
    return IntervalBound(
        name=name,
        interval=interval,
        devices=devices,
        release=0,
        grain=1,
        items=work,
        first=first,
        each=each,
    )


def groups_of(problem: Problem) -> Iterator[tuple[tuple[int, ...], int]]:
    """Single devices with their own work; those that share some, with all of it."""
    shared: dict[tuple[int, ...], int] = {}
    for group in problem.classes:
        if not group.all_copies and len(group.inverting) > 1:
            devices = tuple(sorted(one.device for one in group.inverting))
            least = min(one.duration for one in group.inverting)
            work = least * len(group.layers)
            shared[devices] = shared.get(devices, 0) + work
    for device, work in enumerate(problem.work):
        yield (device,), work
    for devices, work in sorted(shared.items()):
        yield devices, work + sum(problem.work[device] for device in devices)


def busy_of(frame: Frame, device: int) -> int:
    """What the frame's ops of a step take on a device, ticks."""
    return sum(frame.graph.data[op].duration for op in ops_of(frame, device))


def _first(frame: Frame, device: int) -> int:
    """What a cycle of one step leaves for work; see the module's docstring."""
    ops = ops_of(frame, device)
    if not ops:
        return frame.period
    heads = heads_of(frame)
    last = max(
        (op for op in ops if op.kind in END_OF_STEP),
        key=lambda op: (frame.start[op], frame.end(op), op),
    )
    end = frame.start[last] - min(heads[op] for op in ops)
    return end - busy_of(frame, device) + frame.graph.data[last].duration


def ops_of(frame: Frame, device: int) -> list[Op]:
    """The frame's ops on a device's compute stream."""
    data = frame.graph.data
    return [
        op for op in frame.start if op.kind.is_compute and data[op].device == device
    ]


def heads_of(frame: Frame) -> dict[Op, int]:
    """The longest path to each op's start, over precedences."""
    graph = frame.graph
    heads: dict[Op, int] = {}
    for op in nx.topological_sort(graph.digraph.subgraph(frame.start)):
        heads[op] = max(
            (
                heads[before] + graph.data[before].duration + lag
                for before, lag in graph.predecessors(op)
                if before in heads
            ),
            default=0,
        )
    return heads
