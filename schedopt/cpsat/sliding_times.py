"""Start variables of a frame's ops in every step of a cycle, and the spaces they leave.

The ops of a stream keep a given order. So the earliest and latest starts of each op are
longest paths over the cycle; a space is what lies between neighbours of a device, and
its length is a difference of two variables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ortools.sat.python import cp_model

from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.refresh.frame import END_OF_STEP, Frame

Sequences = Mapping[Stream, Sequence[Op]]
"""The order of a step's ops on each stream."""

Steps = Sequence[Mapping[Op, int]]
"""For each step of a cycle the starts of its ops, ticks from the step's start."""


class Wait(NamedTuple):
    """``after`` starts at the earliest ``ticks`` after the start of ``before``.

    ``after`` is of the next step if ``is_next``.
    """

    before: Op
    after: Op
    ticks: int
    is_next: bool


class Space(NamedTuple):
    """What lies between an op of a device and the next one.

    ``step`` and ``position`` are those of the op before it, counted from the cycle's
    start and along the device's order. ``begin`` is the earliest that it can begin and
    ``end`` the latest that it can end, coarse ticks from the cycle's start.
    """

    device: int
    step: int
    position: int
    begin: int
    end: int

    @property
    def longest(self) -> int:
        """How long it can be at most, coarse ticks."""
        return self.end - self.begin


def sequences_of(frame: Frame) -> Sequences:
    """The order that the frame's own times imply."""
    place = {op: number for number, op in enumerate(frame.graph.ops)}
    found = {}
    for stream, ops in frame.graph.streams.items():
        present = [op for op in ops if op in frame.start]
        if present:
            key = {op: (frame.start[op], frame.end(op), place[op]) for op in present}
            found[stream] = tuple(sorted(present, key=key.__getitem__))
    return found


class Windows:
    """Earliest and latest starts of a step's ops, ticks from its start.

    They hold for every step of a cycle whose steps keep ``sequences``. Where all
    devices end a step together, the ops that end it stay where the frame has them.
    """

    def __init__(self, frame: Frame, sequences: Sequences) -> None:
        self.frame = frame
        self.sequences = sequences
        self.waits = _waits(frame, sequences)
        data = frame.graph.data
        self.earliest = dict.fromkeys(frame.start, 0)
        last = 2 * frame.period
        self.latest = {
            op: (last if op.kind in END_OF_STEP else frame.pipeline_end)
            - data[op].duration
            for op in frame.start
        }
        if frame.ends_together:
            fixed = {op: t for op, t in frame.start.items() if op.kind in END_OF_STEP}
            self.earliest |= fixed
            self.latest |= fixed
        self._tighten()

    @property
    def are_empty(self) -> bool:
        """Whether no times keep the order within the step's length."""
        return any(self.earliest[op] > time for op, time in self.latest.items())

    def longest_space(self, device: int) -> int:
        """The longest that any space of a device can be, ticks."""
        order = self.sequences.get(Stream(StreamKind.COMPUTE, device), ())
        data = self.frame.graph.data
        longest = [
            self.latest[after]
            + (self.frame.period if number + 1 == len(order) else 0)
            - self.earliest[op]
            - data[op].duration
            for number, (op, after) in enumerate(
                zip(order, [*order[1:], *order[:1]], strict=True)
            )
        ]
        return max(longest, default=self.frame.period)

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
    ``twin`` maps ops to those that start with them. ``steps`` fixes all starts.
    """

    def __init__(
        self,
        model: cp_model.CpModel,
        windows: Windows,
        interval: int,
        scale: int,
        *,
        twin: Mapping[Op, Op],
        steps: Steps | None = None,
    ) -> None:
        self.model = model
        self.windows = windows
        self.frame = windows.frame
        self.interval = interval
        self.scale = scale
        self.steps = steps
        self._start: dict[tuple[Op, int], cp_model.IntVar] = {}
        for step in range(interval):
            for op in self.frame.start:
                same = (min(op, twin.get(op, op)), step)
                if same not in self._start:
                    self._start[same] = self._variable(same[0], step)
                self._start[op, step] = self._start[same]
        if steps is None:
            self._add_waits()

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
        for step in range(steps):
            for position, op in enumerate(order):
                after, step_after = self._after(device, step, position)
                earliest, _ = self._window(op, step)
                _, latest = self._window(after, step_after)
                yield Space(
                    device,
                    step,
                    position,
                    (earliest + data[op].duration) // self.scale + step * self.period,
                    latest // self.scale + step_after * self.period,
                )

    def length(self, space: Space) -> cp_model.LinearExpr:
        """How long a space is, coarse ticks."""
        before = self.order(space.device)[space.position]
        after, step_after = self._after(space.device, space.step, space.position)
        duration = self.frame.graph.data[before].duration // self.scale
        late = (step_after - space.step) * self.period
        end = self.start(after, step_after) + late
        return end - self.start(before, space.step) - duration

    def _after(self, device: int, step: int, position: int) -> tuple[Op, int]:
        """The op that ends a space, and its step."""
        order = self.order(device)
        if position + 1 == len(order):
            return order[0], step + 1
        return order[position + 1], step

    def _window(self, op: Op, step: int) -> tuple[int, int]:
        if self.steps is not None:
            time = self.steps[step % self.interval][op]
            return time, time
        return self.windows.earliest[op], self.windows.latest[op]

    def _variable(self, op: Op, step: int) -> cp_model.IntVar:
        earliest, latest = (time // self.scale for time in self._window(op, step))
        var = self.model.new_int_var(earliest, latest, f"{op} {step}")
        self.model.add_hint(var, self.frame.start[op] // self.scale)
        return var

    def _add_waits(self) -> None:
        seen = set()
        for before, after, ticks, is_next in self.windows.waits:
            for step in range(self.interval):
                one, other = self.start(before, step), self.start(after, step + is_next)
                least = ticks // self.scale - (self.period if is_next else 0)
                key = (one.index, other.index, least)
                if key not in seen:
                    seen.add(key)
                    self.model.add(other - one >= least)


def _waits(frame: Frame, sequences: Sequences) -> list[Wait]:
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
