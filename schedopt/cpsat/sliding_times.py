"""Start variables of a frame's ops in every step of a cycle, and the gaps they leave.

The ops of a stream keep a given order. So the earliest and latest starts of each op are
longest paths over the cycle, the gaps of a device are those between neighbours, and
their lengths are differences of two variables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from ortools.sat.python import cp_model

from schedopt.instance import StepBarrier
from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.refresh.frame import END_OF_STEP, Frame

Sequences = Mapping[Stream, Sequence[Op]]
"""The order of a step's ops on each stream."""


class Wait(NamedTuple):
    """``after`` starts at the earliest ``ticks`` after the start of ``before``.

    ``after`` is of the next step if ``is_next``.
    """

    before: Op
    after: Op
    ticks: int
    is_next: bool


class Space(NamedTuple):
    """The idle time of a device after one of its ops, up to the next one.

    ``step`` and ``position`` are those of the op before it, counted from the cycle's
    start and along the device's order. ``begin`` is the earliest that it can begin and
    ``end`` the latest that it can end, coarse ticks from the cycle's start.
    """

    device: int
    step: int
    position: int
    begin: int
    end: int


def sequences_of(frame: Frame) -> Sequences:
    """The order that the frame's own times imply."""
    place = {op: number for number, op in enumerate(frame.graph.ops)}
    found = {}
    for stream, ops in frame.graph.streams.items():
        present = [op for op in ops if op in frame.start]
        if present:
            found[stream] = tuple(
                sorted(
                    present, key=lambda op: (frame.start[op], frame.end(op), place[op])
                )
            )
    return found


def waits_of(frame: Frame, sequences: Sequences) -> list[Wait]:
    """Precedences, orders, and that forwards wait for the optimizer's step before."""
    data, start = frame.graph.data, frame.start
    found = [
        Wait(before, after, data[before].duration + lag, False)
        for before, after, lag in frame.graph.edges
        if before in start and after in start
    ]
    for ops in sequences.values():
        for number, op in enumerate(ops):
            is_last = number + 1 == len(ops)
            after = ops[0] if is_last else ops[number + 1]
            found.append(Wait(op, after, data[op].duration, is_last))
    steps = {(op.stage, data[op].device): op for op in start if op.kind is OpKind.STEP}
    for op in start:
        if op.kind in (OpKind.FORWARD, OpKind.OVERLAP):
            step = steps[op.stage, data[op].device]
            found.append(Wait(step, op, data[step].duration, True))
    return found


class Windows:
    """Earliest and latest starts of a step's ops, ticks from its start.

    They hold for every step of a cycle whose steps keep ``sequences``. Where all
    devices end a step together, the ops that end it stay where the frame has them.
    """

    def __init__(self, frame: Frame, sequences: Sequences) -> None:
        self.frame = frame
        self.sequences = sequences
        self.waits = waits_of(frame, sequences)
        data = frame.graph.data
        self.earliest = dict.fromkeys(frame.start, 0)
        last = 2 * frame.period
        self.latest = {
            op: (last if op.kind in END_OF_STEP else frame.pipeline_end)
            - data[op].duration
            for op in frame.start
        }
        kfac = frame.instance.kfac
        if kfac is None or kfac.step_barrier is StepBarrier.EVERYONE:
            fixed = {op: t for op, t in frame.start.items() if op.kind in END_OF_STEP}
            self.earliest |= fixed
            self.latest |= fixed
        self._tighten()

    @property
    def are_empty(self) -> bool:
        """Whether no times keep the order within the step's length."""
        return any(self.earliest[op] > time for op, time in self.latest.items())

    def _tighten(self) -> None:
        changed = True
        while changed and not self.are_empty:
            changed = False
            for before, after, ticks, is_next in self.waits:
                shift = self.frame.period if is_next else 0
                time = self.earliest[before] + ticks - shift
                if time > self.earliest[after]:
                    self.earliest[after] = time
                    changed = True
                time = self.latest[after] + shift - ticks
                if time < self.latest[before]:
                    self.latest[before] = time
                    changed = True


class Times:
    """The start variables of a cycle, in coarse ticks from the start of their steps.

    ``scale`` is how many ticks are a coarse one; it divides all times of the frame.
    ``twin`` maps ops to those that start with them.
    """

    def __init__(
        self,
        model: cp_model.CpModel,
        windows: Windows,
        interval: int,
        scale: int,
        twin: Mapping[Op, Op],
    ) -> None:
        self.windows = windows
        self.frame = windows.frame
        self.interval = interval
        self.scale = scale
        self._start: dict[tuple[Op, int], cp_model.IntVar] = {}
        for step in range(interval):
            for op in self.frame.start:
                same = twin.get(op, op)
                key = (same, step)
                if key in self._start:
                    self._start[op, step] = self._start[key]
                    continue
                lower, upper = windows.earliest[op], windows.latest[op]
                if op != same:
                    lower = max(lower, windows.earliest[same])
                    upper = min(upper, windows.latest[same])
                var = model.new_int_var(lower // scale, upper // scale, f"{op} {step}")
                model.add_hint(var, self.frame.start[op] // scale)
                self._start[op, step] = self._start[key] = var
        seen = set()
        for before, after, ticks, is_next in windows.waits:
            for step in range(interval):
                one = self.start(before, step)
                other = self.start(after, step + is_next)
                shift = self.period if is_next else 0
                key_of_wait = (one.index, other.index, ticks, shift)
                if key_of_wait not in seen:
                    seen.add(key_of_wait)
                    model.add(other - one >= ticks // scale - shift)

    @property
    def period(self) -> int:
        """From one step's start to the next, coarse ticks."""
        return self.frame.period // self.scale

    def start(self, op: Op, step: int) -> cp_model.IntVar:
        """The variable of an op in a step of any cycle."""
        return self._start[op, step % self.interval]

    def order(self, device: int) -> Sequence[Op]:
        """The ops of a device's compute stream in a step."""
        stream = Stream(StreamKind.COMPUTE, device)
        return self.windows.sequences.get(stream, ())

    def spaces(self, device: int, steps: int) -> Iterator[Space]:
        """Every space of a device that begins in so many steps, in order."""
        order = self.order(device)
        data = self.frame.graph.data
        earliest, latest = self.windows.earliest, self.windows.latest
        for step in range(steps):
            begin = step * self.frame.period
            for position, op in enumerate(order):
                is_last = position + 1 == len(order)
                after = order[0] if is_last else order[position + 1]
                late = begin + self.frame.period if is_last else begin
                yield Space(
                    device,
                    step,
                    position,
                    (begin + earliest[op] + data[op].duration) // self.scale,
                    (late + latest[after]) // self.scale,
                )

    def length(self, space: Space) -> cp_model.LinearExpr:
        """How long a space is, coarse ticks."""
        order = self.order(space.device)
        before = order[space.position]
        is_last = space.position + 1 == len(order)
        after = order[0] if is_last else order[space.position + 1]
        duration = self.frame.graph.data[before].duration // self.scale
        end = self.start(after, space.step + is_last) + (self.period if is_last else 0)
        return end - self.start(before, space.step) - duration

    @cached_property
    def is_exact(self) -> bool:
        """Whether the scale divides everything."""
        data = self.frame.graph.data
        times = [self.frame.period, self.frame.pipeline_end]
        times += [data[op].duration for op in self.frame.start]
        return not any(time % self.scale for time in times)
