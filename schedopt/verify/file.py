"""A schedule file as a whole: its instance, its rows, its times and its claims."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from schedopt.build import build_graph
from schedopt.errors import FormatError
from schedopt.formats import ScheduleFile, instance_sha256, parse_stream
from schedopt.formats.schedule_model import OpFields
from schedopt.opgraph import OpGraph
from schedopt.ops import Op
from schedopt.verify.claims import claims_violations
from schedopt.verify.kfac import Work, kfac_violations
from schedopt.verify.quantities import exact, in_unit, ticks_of
from schedopt.verify.rules import violations
from schedopt.verify.runtime import runtime_violations
from schedopt.verify.timing import Timing
from schedopt.verify.violation import Rule, Violation


def verify_file(file: ScheduleFile) -> tuple[Violation, ...]:
    """Everything that is wrong with a schedule file; best nothing.

    The op graph is built again from the embedded instance, the rows are checked against
    it, their times against every rule, and every claim against the times.
    """
    graph = build_graph(file.instance)
    starts: dict[Op, int] = {}
    found = [*_instance_violations(file), *_row_violations(file, graph, starts)]
    if file.status in ("optimal", "feasible") or file.ops:
        found.extend(violations(graph, starts))
        found.extend(runtime_violations(file.instance.runtime, starts))
        found.extend(kfac_violations(file.instance, _works(file)))
    found.extend(claims_violations(file, Timing(graph, starts)))
    return tuple(found)


def _works(file: ScheduleFile) -> Iterator[Work]:
    """What the rows themselves say of the work done, whatever the op graph says."""
    tick = exact(file.instance.resolution)
    for row in file.ops:
        ticks = round((exact(row.end) - exact(row.start)) / tick)
        yield Work(row.named, row.device, ticks)


def _instance_violations(file: ScheduleFile) -> Iterator[Violation]:
    """The embedded instance has the hash that the file says."""
    right = instance_sha256(file.instance)
    if file.embedded.sha256 != right:
        detail = f"instance.sha256 is {file.embedded.sha256}, should be {right}"
        yield Violation(Rule.INSTANCE, (), detail)


def _row_violations(
    file: ScheduleFile, graph: OpGraph, starts: dict[Op, int]
) -> Iterator[Violation]:
    """Every row says of its op what the op graph says; fills in ``starts``."""
    per_unit = graph.units.ticks_per_unit
    for row in file.ops:
        op = row.named
        if row.op != str(op):
            yield _wrong(op, f"row {row.op}: its fields make {op}")
        if op in starts:
            yield _wrong(op, f"{op} stands in two rows")
            continue
        start = ticks_of(row.start, per_unit)
        if start is None:
            detail = f"{op} starts at {row.start}, which is no whole number of ticks"
            yield Violation(Rule.TIME, (op,), detail)
            start = 0  # keeps one wrong row from looking like a missing op
        starts[op] = start
        if op in graph.data:
            yield from _contradictions(row, op, start, graph)


def _contradictions(
    row: OpFields, op: Op, start: int, graph: OpGraph
) -> Iterator[Violation]:
    """Device, streams, end and alternative of a row against those of its op."""
    data = graph.data[op]
    units = graph.units
    if row.device != data.device:
        yield _wrong(op, f"{op} is on device {row.device}, belongs to {data.device}")
    streams = [_stream_or_text(text, row.device) for text in row.streams]
    held = tuple(streams) == data.streams or (
        sorted(map(str, streams)) == sorted(map(str, data.streams))
    )
    if not held:
        given, right = (" and ".join(map(str, s)) for s in (streams, data.streams))
        yield _wrong(op, f"{op} is on {given}, holds {right}")
    end = in_unit(start + data.duration, units.ticks_per_unit)
    if row.end != end:
        detail = f"{op} ends at {row.end} {units.time}, but start + duration is {end}"
        yield _wrong(op, detail)
    if row.alternative != (data.literal or ""):
        detail = f"{op} is of alternative {data.literal!r}, not {row.alternative!r}"
        yield _wrong(op, detail)


@lru_cache(maxsize=4096)
def _stream_or_text(text: str, device: int) -> object:
    try:
        return parse_stream(text, device)
    except FormatError:
        return text


def _wrong(op: Op, detail: str) -> Violation:
    return Violation(Rule.ROW, (op,), detail)
