"""Packing a refresh while the order of the pipeline's ops may change as well.

All steps of the cycle have the same order. Orders are tried from the frame's own on, by
how many swaps of neighbours they are away from it. An order whose steps are no longer
than without second-order work is first asked whether the spaces of every device can
hold its items at all (``loads_fit``), which takes a second or so; only then is its
packing looked for. Where two devices mirror each other, so do their swaps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from schedopt.cpsat.model import Effort, Outcome
from schedopt.cpsat.sliding import (
    Sliding,
    SlidingResult,
    loads_fit,
    pack_sliding,
)
from schedopt.cpsat.sliding_counts import mirror_of
from schedopt.cpsat.sliding_times import Sequences, Windows, sequences_of
from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op
from schedopt.refresh.frame import END_OF_STEP, Frame

_LOADS_S = 10.0  # per order
_SHARE_OF_PACKING = 0.5  # of what is left, for an order whose loads fit


@dataclass(frozen=True, slots=True)
class ReorderingResult:
    """What a run found, and how many swaps from the frame's order it is.

    ``tried`` counts the orders whose loads were looked at, ``fitting`` those whose
    spaces can hold every device's items; where none of few does, that is a hint.
    """

    outcome: Outcome
    found: SlidingResult
    sequences: Sequences
    swaps: int
    tried: int
    fitting: int


def pack_reordered(
    task: Sliding, effort: Effort, *, least_swaps: int = 0
) -> ReorderingResult:
    """Pack the work of all devices, in the first order for which that is found.

    Orders with less than ``least_swaps`` are left out, as those of another run.
    """
    end = time.monotonic() + effort.time_limit_s
    tried = fitting = 0
    for sequences, swaps in _orders(task.frame):
        left = end - time.monotonic()
        if left <= 0:
            break
        if swaps < least_swaps:
            continue
        one = replace(task, sequences=sequences if swaps else None)
        tried += 1
        if not loads_fit(one, replace(effort, time_limit_s=min(_LOADS_S, left))):
            continue
        fitting += 1
        seconds = _SHARE_OF_PACKING * (end - time.monotonic())
        found = pack_sliding(one, replace(effort, time_limit_s=max(seconds, 0.1)))
        if found.packing is not None:
            return ReorderingResult(
                found.outcome, found, sequences, swaps, tried, fitting
            )
    nothing = SlidingResult(Outcome.UNKNOWN)
    own = sequences_of(task.frame)
    return ReorderingResult(Outcome.UNKNOWN, nothing, own, 0, tried, fitting)


def neighbours_of(frame: Frame, sequences: Sequences) -> Iterator[Sequences]:
    """Every order that is one swap away and makes no step longer."""
    twin = mirror_of(frame)
    devices = len(frame.instance.devices)
    for device in range(devices // 2 if twin else devices):
        order = sequences.get(Stream(StreamKind.COMPUTE, device), ())
        for position in range(len(order) - 1):
            pair = order[position], order[position + 1]
            if any(op.kind in END_OF_STEP for op in pair):
                continue
            other = _swapped(frame, sequences, *pair)
            if twin:
                other = _swapped(frame, other, *(twin[op] for op in pair))
            if not Windows(frame, other).are_empty:
                yield other


def _orders(frame: Frame) -> Iterator[tuple[Sequences, int]]:
    """Orders by the number of swaps, each once."""
    known: set[tuple[tuple[Stream, tuple[Op, ...]], ...]] = set()
    here: list[Sequences] = [sequences_of(frame)]
    swaps = 0
    while here:
        after: list[Sequences] = []
        for sequences in here:
            key = tuple((stream, tuple(ops)) for stream, ops in sequences.items())
            if key in known:
                continue
            known.add(key)
            yield sequences, swaps
            after += neighbours_of(frame, sequences)
        here = after
        swaps += 1


def _swapped(frame: Frame, sequences: Sequences, one: Op, other: Op) -> Sequences:
    """The same orders, but two ops have changed places on all streams of both."""
    places = {one: other, other: one}
    shared = set(frame.graph.data[one].streams) & set(frame.graph.data[other].streams)
    return {
        stream: tuple(places.get(op, op) for op in ops) if stream in shared else ops
        for stream, ops in sequences.items()
    }
