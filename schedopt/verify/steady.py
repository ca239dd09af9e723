"""The rules of a periodic schedule; the tuple STEADY_RULES is the specification.

It gives the starts of the ops of microbatches 0 to K - 1 and a cycle of T ticks: op o
of microbatch i + n K starts n T after that of microbatch i, for every n, negative ones
too. Its rules are those of a schedule of all these ops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from schedopt.opgraph import OpGraph, Stream
from schedopt.ops import Op
from schedopt.verify.timing import Timing, is_integer
from schedopt.verify.violation import Rule, Violation


@dataclass(frozen=True, eq=False)
class Cycle:
    """Starts of one cycle's ops and its length, to be judged; ticks."""

    timing: Timing
    length: int

    @cached_property
    def microbatches(self) -> int:
        """How many microbatches a cycle has."""
        return len({op.microbatch for op in self.timing.start})


def steady_violations(
    graph: OpGraph, starts: Mapping[Op, int], cycle: int
) -> tuple[Violation, ...]:
    """Every way in which a periodic schedule breaks a rule of ``graph``; best none.

    A cycle that is no positive integer, or ops that are not those of microbatches 0 to
    K - 1 repeated, end the check: nothing else has a meaning then.
    """
    if not is_integer(cycle) or cycle <= 0:
        detail = f"the cycle is {cycle!r}, which is no positive whole number of ticks"
        return (Violation(Rule.CYCLE, (), detail),)
    judged = Cycle(Timing(graph, starts), cycle)
    wrong = tuple(ops_are_of_one_cycle(judged)) or tuple(ops_repeat(judged))
    return wrong or tuple(found for rule in STEADY_RULES for found in rule(judged))


def ops_are_of_one_cycle(cycle: Cycle) -> Iterator[Violation]:
    """Every op of microbatches 0 to K - 1 has a start, no other op has; no choices."""
    graph, starts = cycle.timing.graph, cycle.timing.starts
    if graph.choices:
        yield Violation(Rule.CYCLE, (), "ops of choices do not repeat every cycle")
        return
    for op, start in starts.items():
        if op not in graph.data:
            yield Violation(Rule.KNOWN, (op,), f"{op} is not an op of this instance")
        elif not is_integer(start):
            detail = f"{op} starts at {start!r}, which is no whole number of ticks"
            yield Violation(Rule.TIME, (op,), detail)
    for op in graph.data:
        if op.microbatch < cycle.microbatches and op not in starts:
            yield Violation(Rule.PRESENT, (op,), f"{op} is missing")
    for op in starts:
        if op.microbatch >= cycle.microbatches or op.step:
            detail = f"{op} is not of the first {cycle.microbatches} microbatches"
            yield Violation(Rule.CYCLE, (op,), detail)


def ops_repeat(cycle: Cycle) -> Iterator[Violation]:
    """Every microbatch of the instance is one of the cycle's over again.

    The same ops, streams, durations, precedences and buffers, none of which joins two
    microbatches.
    """
    graph = cycle.timing.graph
    parts: dict[int, set[object]] = {}
    for op, data in graph.data.items():
        if op.step:
            yield Violation(Rule.CYCLE, (op,), f"{op} is of another training step")
            return
        said = (_name(op), data.duration, data.device, frozenset(data.streams))
        parts.setdefault(op.microbatch, set()).add(said)
    joined: list[tuple[tuple[Op, ...], object]] = [
        ((before, after), ("edge", _name(before), _name(after), lag))
        for before, after, lag in graph.edges
    ]
    counts: dict[object, int] = {}
    for buffer in graph.buffers:
        ops = (buffer.maker, *buffer.users)
        names = (_name(buffer.maker), frozenset(map(_name, buffer.users)))
        said_of_it = ("buffer", buffer.device, buffer.size, *names)
        key = buffer.maker.microbatch, said_of_it
        counts[key] = counts.get(key, 0) + 1  # buffers may be alike
        joined.append((ops, (*said_of_it, counts[key])))
    for ops, what in joined:
        if len({op.microbatch for op in ops}) > 1:
            detail = f"{ops[0]} and {ops[1]} are of different microbatches"
            yield Violation(Rule.CYCLE, ops, detail)
            return
        parts[ops[0].microbatch].add(what)
    for microbatch, said_here in parts.items():
        if said_here != parts[microbatch % cycle.microbatches]:
            detail = (
                f"microbatch {microbatch} is unlike microbatch"
                f" {microbatch % cycle.microbatches}, as which it would run"
            )
            yield Violation(Rule.CYCLE, (), detail)


def cycles_wait_for_what_they_need(cycle: Cycle) -> Iterator[Violation]:
    """An op starts no earlier than the end of each predecessor plus the lag."""
    timing = cycle.timing
    for before, after, lag in timing.graph.edges:
        if before not in timing.end:
            continue
        needed = timing.end[before] + lag
        if timing.start[after] < needed:
            detail = (
                f"{after} starts at {timing.time(timing.start[after])}, but must wait"
                f" for {before} until {timing.time(needed)}"
            )
            yield Violation(Rule.PRECEDENCE, (before, after), detail)


def cycles_share_streams(cycle: Cycle) -> Iterator[Violation]:
    """On a stream, starts modulo the cycle, no op runs into the next, or into itself.

    The last op of a cycle may run on into the next cycle as far as its first op.
    """
    timing, length = cycle.timing, cycle.length
    for stream, ops in _on_stream(timing).items():
        phases = sorted(
            ((timing.start[op] % length, timing.graph.data[op].duration, op))
            for op in ops
        )
        again = [(phase + length, time, op) for phase, time, op in phases]
        last_end, last = -1, phases[0][2]
        for phase, duration, op in [*phases, *again]:
            if phase < last_end:
                detail = (
                    f"{op} starts at {timing.time(phase)} of the cycle on {stream},"
                    f" where {last} runs until {timing.time(last_end)}"
                )
                yield Violation(Rule.STREAM, (last, op), detail)
                break
            if phase + duration > last_end:
                last_end, last = phase + duration, op


def cycles_fit_in_memory(cycle: Cycle) -> Iterator[Violation]:
    """No device's level is ever above its limit; levels rise at starts of makers only.

    Of a buffer alive from a to b in the first cycle, those of all cycles that are alive
    at t are as many as there are n with a + n T <= t < b + n T.
    """
    timing, length = cycle.timing, cycle.length
    for number, device in enumerate(timing.graph.devices):
        if device.limit is None:
            continue
        alive = [
            (timing.start[buffer.maker], max(ends), buffer.size)
            for buffer in timing.buffers_of.get(number, ())
            if buffer.maker in timing.start
            and (ends := [timing.end[op] for op in buffer.users or (buffer.maker,)])
        ]
        levels = [
            (
                device.static
                + sum(
                    size * ((time - opened) // length - (time - closed) // length)
                    for opened, closed, size in alive
                    if closed > opened
                ),
                time % length,
            )
            for time, _, _ in alive
        ]
        level, time = max(levels, default=(device.static, 0))
        if level > device.limit:
            detail = (
                f"device {device.name} holds {timing.size(level)} at"
                f" {timing.time(time)} of the cycle, limit {timing.size(device.limit)}"
            )
            yield Violation(Rule.MEMORY, (), detail)


STEADY_RULES: tuple[Callable[[Cycle], Iterator[Violation]], ...] = (
    cycles_wait_for_what_they_need,
    cycles_share_streams,
    cycles_fit_in_memory,
)


def _name(op: Op) -> tuple[object, ...]:
    """What an op is called within its microbatch."""
    return op.kind, op.stage, op.part


def _on_stream(timing: Timing) -> dict[Stream, list[Op]]:
    found: dict[Stream, list[Op]] = {}
    for op in timing.start:
        for stream in timing.graph.data[op].streams:
            found.setdefault(stream, []).append(op)
    return found
