"""Periodic schedules by placing one op after the other, with few steps back.

At a given cycle every op goes to its earliest start at which its streams are free in
every cycle, what remains for them still fits into the gaps that it leaves, and the
device's memory is not exceeded by what is placed. So streams are filled without a rest
where the cycle has none. Where an op finds no such start, the one placed before it
takes its next best; after some steps back the method gives up.

For a chain of stages, one per device, with a backward or its two halves, this is the
rule of taking the least time between forward and backward from the last stage down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from schedopt.opgraph import Stream
from schedopt.steady.periodic import Periodic
from schedopt.steady.problem import CycleProblem
from schedopt.steady.shortening import shortened

_MOST_TO_COME = 9
"""Ops still to be placed on a stream up to which their packing is looked at."""

_STEPS_PER_OP = 10
"""Placements per op after which a try ends."""


_MORE_TRIES = 6
"""Cycle lengths that are tried between one that failed and one that was found."""


class _Gap(NamedTuple):
    """A free part of a cycle: from phase ``start``, ``length`` ticks, perhaps over 0.

    Gaps of no length are kept: ops of no duration may stand there. ``_ANYWHERE`` is the
    start of the gap of a stream that has no op yet.
    """

    start: int
    length: int

    def offset(self, phase: int, cycle: int) -> int:
        """How far into the gap a phase is."""
        return 0 if self.start == _ANYWHERE else (phase - self.start) % cycle


_ANYWHERE = -1


class _State(NamedTuple):
    """Before an op is placed: the gaps of its streams, and its starts not tried yet."""

    gaps: tuple[list[_Gap], ...]
    times: Iterator[int]


def placed_directly(problem: CycleProblem, cycle: int) -> Periodic | None:
    """A periodic schedule with this cycle, or None if none was found.

    Ops that nothing waits for (W) are placed right after what they wait for, and if
    that fails, after all others.
    """
    for order in (_in_turn(problem), _ends_last(problem)):
        start = _Placing(problem, cycle, order).run()
        if start is not None:
            first = min(start.values(), default=0)
            starts = tuple(start[n] - first for n in range(len(problem.ops)))
            return Periodic(problem, starts, cycle)
    return None


def direct_schedules(problem: CycleProblem, least: int) -> Iterator[Periodic | None]:
    """Ever shorter periodic schedules, from a cycle of ``least`` ticks on.

    The cycle grows by quarters until one is found, which is then shortened; half the
    way back is tried a few times. After each try something comes, None if it failed.
    """
    count = problem.microbatches
    low = high = max(count, -(-least // count) * count)
    longest = sum(op.duration for op in problem.ops) + sum(e.lag for e in problem.edges)
    best = placed_directly(problem, high)
    yield best
    while best is None and high < longest:
        low, high = high, -(-high * 5 // (4 * count)) * count
        best = placed_directly(problem, high)
        if best is not None:
            best = shortened(best, least)
        yield best
    for _ in range(_MORE_TRIES):
        middle = (low + (0 if best is None else best.cycle)) // (2 * count) * count
        if best is None or middle <= low:
            return
        found = placed_directly(problem, middle)
        if found is None:
            low = middle
        else:
            best = shortened(found, least)
        yield None if found is None else best


def _in_turn(problem: CycleProblem) -> list[int]:
    """A topological order in which what nothing waits for comes as early as it can."""
    waited = {before for before, _, _ in problem.edges}
    ends: dict[int, list[int]] = {}
    for number in range(len(problem.ops)):
        if number not in waited:
            last = max((n for n, _ in problem.predecessors[number]), default=number)
            ends.setdefault(last, []).append(number)
    order = []
    for number in range(len(problem.ops)):
        if number in waited:
            order.append(number)
        order += ends.get(number, [])
    return order


def _ends_last(problem: CycleProblem) -> list[int]:
    """A topological order in which what nothing waits for comes last."""
    waited = {before for before, _, _ in problem.edges}
    return sorted(range(len(problem.ops)), key=lambda number: number not in waited)


class _Placing:
    """One try: an order of the ops, and what is placed so far."""

    def __init__(self, problem: CycleProblem, cycle: int, order: list[int]) -> None:
        self._problem = problem
        self._cycle = cycle
        self._order = order
        self._start: dict[int, int] = {}
        self._free = {stream: [_Gap(_ANYWHERE, cycle)] for stream in problem.streams}
        self._rest: dict[Stream, list[int]] = {
            stream: sorted(problem.ops[n].duration for n in numbers)
            for stream, numbers in problem.streams.items()
        }
        self._devices_of: dict[int, set[int]] = {}
        for device, buffers in problem.limited_buffers.items():
            for buffer in buffers:
                for number in (buffer.maker, *buffer.users):
                    self._devices_of.setdefault(number, set()).add(device)

    def run(self) -> dict[int, int] | None:
        """Starts by number; None when no more is tried."""
        steps = _STEPS_PER_OP * len(self._order)
        stack: list[_State] = []
        while len(stack) <= len(self._order):
            if len(stack) == len(self._order):
                return self._start
            if steps == 0:
                return None
            state = self._open(self._order[len(stack)])
            stack.append(state)
            while not self._place_next(self._order[len(stack) - 1], stack[-1]):
                self._close(self._order[len(stack) - 1], stack.pop())
                if not stack:
                    return None
                self._take_back(self._order[len(stack) - 1], stack[-1])
            steps -= 1
        return None

    def _open(self, number: int) -> _State:
        op = self._problem.ops[number]
        for stream in op.streams:
            self._rest[stream].remove(op.duration)
        gaps = tuple(self._free[stream] for stream in op.streams)
        return _State(gaps, self._times(number))

    def _close(self, number: int, state: _State) -> None:
        op = self._problem.ops[number]
        for stream in op.streams:
            self._rest[stream].append(op.duration)
            self._rest[stream].sort()

    def _place_next(self, number: int, state: _State) -> bool:
        """Place the op at its next start that memory allows; False if there is none."""
        op = self._problem.ops[number]
        for time in state.times:
            self._start[number] = time
            if self._fits(number):
                for stream, gaps in zip(op.streams, state.gaps, strict=True):
                    self._free[stream] = _without(
                        gaps, time % self._cycle, op.duration, self._cycle
                    )
                return True
        self._start.pop(number, None)
        return False

    def _take_back(self, number: int, state: _State) -> None:
        del self._start[number]
        for stream, gaps in zip(
            self._problem.ops[number].streams, state.gaps, strict=True
        ):
            self._free[stream] = gaps

    def _times(self, number: int) -> Iterator[int]:
        """Starts from the earliest on that its streams and their rest allow."""
        op, cycle = self._problem.ops[number], self._cycle
        ready = max(
            (
                self._start[before] + needed
                for before, needed in self._problem.predecessors[number]
            ),
            default=0,
        )
        streams = [
            (list(self._free[stream]), tuple(self._rest[stream]))
            for stream in op.streams
        ]
        for time in sorted(_candidates(ready, op.duration, streams, cycle)):
            if all(
                _leaves_room(gaps, time % cycle, op.duration, rest, cycle)
                for gaps, rest in streams
            ):
                yield time

    def _fits(self, number: int) -> bool:
        """Whether what is placed of the op's devices' buffers is within their rooms."""
        start, cycle, ops = self._start, self._cycle, self._problem.ops
        for device in self._devices_of.get(number, ()):
            room = self._problem.rooms[device]
            alive = [
                (
                    start[buffer.maker],
                    max(
                        (
                            start[u] + ops[u].duration
                            for u in buffer.users
                            if u in start
                        ),
                        default=start[buffer.maker] + ops[buffer.maker].duration,
                    ),
                    buffer.size,
                )
                for buffer in self._problem.limited_buffers[device]
                if buffer.maker in start
            ]
            for time in {opened for opened, _, _ in alive}:
                level = sum(
                    size * ((time - opened) // cycle - (time - closed) // cycle)
                    for opened, closed, size in alive
                )
                if room is not None and level > room:
                    return False
        return True


def _candidates(
    ready: int,
    duration: int,
    streams: Sequence[tuple[list[_Gap], tuple[int, ...]]],
    cycle: int,
) -> set[int]:
    """At once, and wherever whole ops of the rest fit between op and end of a gap."""
    found = {ready}
    for gaps, rest in streams:
        sums = _sums(rest[:_MOST_TO_COME])
        for gap in gaps:
            most = gap.length - duration
            for ticks in sums:
                if ticks <= most and gap.start != _ANYWHERE:
                    found.add(ready + (gap.start + ticks - ready) % cycle)
                    found.add(ready + (gap.start + most - ticks - ready) % cycle)
    return found


@lru_cache(maxsize=1024)
def _sums(rest: tuple[int, ...]) -> tuple[int, ...]:
    found = {0}
    for duration in rest:
        found |= {ticks + duration for ticks in found}
    return tuple(sorted(found))


def _leaves_room(
    gaps: list[_Gap], phase: int, duration: int, rest: tuple[int, ...], cycle: int
) -> bool:
    """Whether the op is in a gap, and the rest fits into what is then left."""
    if not any(gap.offset(phase, cycle) + duration <= gap.length for gap in gaps):
        return False
    left = sorted(gap.length for gap in _without(gaps, phase, duration, cycle))
    if len(rest) > _MOST_TO_COME:
        return sum(rest) <= sum(left)
    return _pack(tuple(left), rest[::-1])


@lru_cache(maxsize=2**16)
def _pack(gaps: tuple[int, ...], ops: tuple[int, ...]) -> bool:
    """Whether ops of these durations, longest first, fit into gaps of these lengths."""
    if not ops:
        return True
    for index, length in enumerate(gaps):
        if length >= ops[0] and (index == 0 or length != gaps[index - 1]):
            left = [*gaps[:index], length - ops[0], *gaps[index + 1 :]]
            if _pack(tuple(sorted(left)), ops[1:]):
                return True
    return False


def _without(gaps: list[_Gap], phase: int, duration: int, cycle: int) -> list[_Gap]:
    """The gaps when an op stands in the first of them that has room for it."""
    end = (phase + duration) % cycle
    for index, gap in enumerate(gaps):
        before = gap.offset(phase, cycle)
        after = gap.length - before - duration
        if after >= 0:
            parts = [_Gap(gap.start, before), _Gap(end, after)]
            if gap.start == _ANYWHERE:
                del parts[0]
            return [*gaps[:index], *parts, *gaps[index + 1 :]]
    return gaps
