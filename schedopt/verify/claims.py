"""What a schedule file claims of its schedule, computed again; CLAIMS lists it all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import isclose

from schedopt.formats import ScheduleFile
from schedopt.instance import Number, Objective
from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op
from schedopt.verify.memory import peak_on
from schedopt.verify.quantities import exact, in_unit, ticks_of
from schedopt.verify.steady import steady_violations
from schedopt.verify.timing import Timing
from schedopt.verify.violation import Rule, Violation

_RATIO_TOLERANCE = 1e-9  # ratios are floats; times and sizes are compared exactly


@dataclass(frozen=True, eq=False)
class Claims:
    """A file, and what its rows say of it; measures in the user's units."""

    file: ScheduleFile
    timing: Timing

    @cached_property
    def makespan_ticks(self) -> int:
        """Last end of all ops minus first start."""
        last = max(self.timing.end.values(), default=self.timing.first)
        return last - self.timing.first

    @cached_property
    def device_span_ticks(self) -> int:
        """The longest last end minus first start on one compute stream."""
        longest = 0
        for device in range(len(self.timing.graph.devices)):
            ops = self.timing.on_stream.get(Stream(StreamKind.COMPUTE, device), [])
            if ops:
                first = min(self.timing.start[op] for op in ops)
                last = max(self.timing.end[op] for op in ops)
                longest = max(longest, last - first)
        return longest

    def bubble_ratio(self, span: int) -> float:
        """1 - work / (devices x span), where only compute ops are work."""
        if span == 0:
            return 0.0
        data = self.timing.graph.data
        work = sum(data[op].duration for op in self.timing.start if op.kind.is_compute)
        return 1 - work / (len(self.timing.graph.devices) * span)

    def time(self, ticks: int) -> Number:
        """Ticks as the file gives them."""
        return in_unit(ticks, self.timing.graph.units.ticks_per_unit)

    def size(self, grains: int) -> Number:
        """Grains as the file gives them."""
        return in_unit(grains, self.timing.graph.units.grains_per_unit)


def claims_violations(file: ScheduleFile, timing: Timing) -> tuple[Violation, ...]:
    """Every claim of ``file`` that is not so, given the times of its rows."""
    claims = Claims(file, timing)
    return tuple(found for claim in CLAIMS for found in claim(claims))


def status_agrees(claims: Claims) -> Iterator[Violation]:
    """With a schedule optimal or feasible; without one infeasible or unknown."""
    file = claims.file
    if file.status in ("optimal", "feasible"):
        if not file.ops:
            yield _wrong(Rule.STATUS, f"status is {file.status}, but there are no ops")
        return
    claimed = {
        "ops": file.ops,
        "memory_edges": file.memory_edges,
        "value": file.value,
        "gap": file.gap,
        "makespan": file.makespan,
        "device_span": file.device_span,
        "bubble_ratio": file.bubble_ratio,
        "peak_memory": file.peak_memory,
        "steady": file.steady,
    }
    for name, value in claimed.items():
        if value is not None and value != []:
            detail = f"status is {file.status}, but {name} is given"
            yield _wrong(Rule.STATUS, detail)


def optimal_is_proven(claims: Claims) -> Iterator[Violation]:
    """Status is optimal if and only if the value equals the lower bound."""
    file = claims.file
    if file.value is None:
        return
    proven = file.lower_bound is not None and (
        exact(file.value) == exact(file.lower_bound)
    )
    if proven != (file.status == "optimal"):
        detail = (
            f"status is {file.status}, but value is {file.value} and lower_bound"
            f" {file.lower_bound}"
        )
        yield _wrong(Rule.STATUS, detail)


def makespan_is_right(claims: Claims) -> Iterator[Violation]:
    """The makespan is the last end of all ops minus the first start."""
    if claims.file.ops:
        right = claims.time(claims.makespan_ticks)
        yield from _differs(Rule.MAKESPAN, "makespan", claims.file.makespan, right)


def device_span_is_right(claims: Claims) -> Iterator[Violation]:
    """The device span is the longest of a device's own last end minus first start."""
    if claims.file.ops:
        right = claims.time(claims.device_span_ticks)
        claimed = claims.file.device_span
        yield from _differs(Rule.DEVICE_SPAN, "device_span", claimed, right)


def bubble_ratios_are_right(claims: Claims) -> Iterator[Violation]:
    """The bubble ratios are 1 - work / (devices x T) for both measures T."""
    if not claims.file.ops:
        return
    claimed = claims.file.bubble_ratio
    if claimed is None:
        yield _wrong(Rule.BUBBLE_RATIO, "bubble_ratio is missing")
        return
    for name, ratio, span in (
        ("makespan", claimed.makespan, claims.makespan_ticks),
        ("device_span", claimed.device_span, claims.device_span_ticks),
    ):
        right = claims.bubble_ratio(span)
        if not isclose(ratio, right, rel_tol=0, abs_tol=_RATIO_TOLERANCE):
            detail = f"bubble_ratio.{name} is {ratio}, should be {right}"
            yield _wrong(Rule.BUBBLE_RATIO, detail)


def peak_memory_is_right(claims: Claims) -> Iterator[Violation]:
    """The peak memory of each device is its highest level."""
    if not claims.file.ops:
        return
    devices = claims.timing.graph.devices
    claimed = claims.file.peak_memory
    if len(claimed) != len(devices):
        detail = f"peak_memory has {len(claimed)} sizes for {len(devices)} devices"
        yield _wrong(Rule.PEAK_MEMORY, detail)
        return
    for device, size in enumerate(claimed):
        right = claims.size(peak_on(claims.timing, device))
        name = f"peak_memory[{device}]"
        yield from _differs(Rule.PEAK_MEMORY, name, size, right)


def value_is_the_objectives(claims: Claims) -> Iterator[Violation]:
    """The value is what the objective says, computed from the ops."""
    file = claims.file
    if not file.ops:
        return
    match file.objective:
        case Objective.MAKESPAN:
            ticks = claims.makespan_ticks
        case Objective.DEVICE_SPAN:
            ticks = claims.device_span_ticks
        case Objective.PERIOD:
            yield from _value_is_the_period(claims)
            return
        case Objective.REFRESH:
            detail = "objective is refresh, which no schedule file has a value of"
            yield Violation(Rule.VALUE, (), detail)
            return
    yield from _differs(Rule.VALUE, "value", file.value, claims.time(ticks))


def steady_state_is_right(claims: Claims) -> Iterator[Violation]:
    """Where there is a periodic schedule, it keeps the rules of its op graph."""
    steady = claims.file.steady
    if steady is None:
        return
    graph = claims.timing.graph
    known = {str(op): op for op in graph.ops}
    starts: dict[Op, int] = {}
    for name, start in steady.starts.items():
        ticks = ticks_of(start, graph.units.ticks_per_unit)
        if name not in known or ticks is None:
            detail = f"steady.starts[{name}] is no start of an op of this instance"
            yield _wrong(Rule.CYCLE, detail)
            return
        starts[known[name]] = ticks
    cycle = ticks_of(steady.cycle, graph.units.ticks_per_unit)
    if cycle is None:
        detail = f"steady.cycle is {steady.cycle}, which is no whole number of ticks"
        yield _wrong(Rule.CYCLE, detail)
        return
    count = len({op.microbatch for op in starts})
    if count != steady.microbatches:
        detail = f"steady.microbatches is {steady.microbatches}, should be {count}"
        yield _wrong(Rule.CYCLE, detail)
    for found in steady_violations(graph, starts, cycle):
        yield found._replace(detail=f"in the steady state, {found.detail}")


def _value_is_the_period(claims: Claims) -> Iterator[Violation]:
    """The cycle's length over its microbatches."""
    steady, value = claims.file.steady, claims.file.value
    if steady is None:
        yield _wrong(Rule.VALUE, "steady is missing, of which value is the period")
    elif value is None or exact(value) * steady.microbatches != exact(steady.cycle):
        detail = f"value is {value}, should be {steady.cycle} / {steady.microbatches}"
        yield _wrong(Rule.VALUE, detail)


def bound_is_at_most_the_value(claims: Claims) -> Iterator[Violation]:
    """No schedule is better than the lower bound, so this one is not."""
    file = claims.file
    if file.value is None or file.lower_bound is None:
        return
    if exact(file.lower_bound) > exact(file.value):
        detail = f"lower_bound {file.lower_bound} is above value {file.value}"
        yield _wrong(Rule.LOWER_BOUND, detail)


def gap_is_right(claims: Claims) -> Iterator[Violation]:
    """The gap is (value - lower_bound) / value, and null where one is not known."""
    file = claims.file
    right = None
    if file.value is not None and file.lower_bound is not None:
        value, bound = exact(file.value), exact(file.lower_bound)
        right = float((value - bound) / value) if value else 0.0
    if file.gap is None or right is None:
        agrees = file.gap is right
    else:
        agrees = isclose(file.gap, right, rel_tol=0, abs_tol=_RATIO_TOLERANCE)
    if not agrees:
        yield _wrong(Rule.GAP, f"gap is {file.gap}, should be {right}")


def memory_edges_are_kept(claims: Claims) -> Iterator[Violation]:
    """The waiting op of each memory edge starts no earlier than the other's end."""
    timing = claims.timing
    named = {row.op: row.named for row in claims.file.ops}
    for pair in claims.file.memory_edges:
        ops = [named.get(text) for text in pair]
        if len(ops) != 2 or None in ops or any(op not in timing.start for op in ops):
            detail = f"memory edge {pair} is not a pair of ops of this schedule"
            yield _wrong(Rule.MEMORY_EDGE, detail)
            continue
        releasing, waiting = (op for op in ops if op is not None)
        if timing.start[waiting] < timing.end[releasing]:
            detail = (
                f"{waiting} starts at {timing.time(timing.start[waiting])}, but waits"
                f" for the memory that {releasing} frees at"
                f" {timing.time(timing.end[releasing])}"
            )
            yield _wrong(Rule.MEMORY_EDGE, detail, (releasing, waiting))


CLAIMS: tuple[Callable[[Claims], Iterator[Violation]], ...] = (
    status_agrees,
    optimal_is_proven,
    makespan_is_right,
    device_span_is_right,
    bubble_ratios_are_right,
    peak_memory_is_right,
    value_is_the_objectives,
    steady_state_is_right,
    bound_is_at_most_the_value,
    gap_is_right,
    memory_edges_are_kept,
)


def _differs(
    rule: Rule, name: str, claimed: Number | None, right: Number
) -> Iterator[Violation]:
    if claimed is None or exact(claimed) != exact(right):
        shown = "missing" if claimed is None else claimed
        yield _wrong(rule, f"{name} is {shown}, should be {right}")


def _wrong(rule: Rule, detail: str, ops: tuple[Op, ...] = ()) -> Violation:
    return Violation(rule, ops, detail)
