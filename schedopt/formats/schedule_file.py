"""Schedules to and from files and documents."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

from schedopt.errors import FormatError, InstanceError
from schedopt.formats.complaints import Complaint, line, show
from schedopt.formats.instance_file import (
    DEFAULT_LIMITS,
    instance_complaints,
    instance_document,
    instance_sha256,
    require_schema,
)
from schedopt.formats.limits import Limits
from schedopt.formats.model import checked
from schedopt.formats.reading import read_document
from schedopt.formats.schedule_model import SCHEDULE_SCHEMA, ScheduleFile
from schedopt.formats.schedule_rules import row_complaints, rule_complaints
from schedopt.formats.streams import parse_stream, stream_text
from schedopt.formats.writing import document_text, write_text_atomically
from schedopt.instance import Instance, Number
from schedopt.opgraph import OpGraph, Stream
from schedopt.ops import Op
from schedopt.schedule import Schedule


class TracePoint(Protocol):
    """A moment at which the value or the bound improved; times in ticks."""

    @property
    def seconds(self) -> float: ...  # noqa: D102 (explained by the class)
    @property
    def value(self) -> int | None: ...  # noqa: D102 (likewise)
    @property
    def lower_bound(self) -> int | None: ...  # noqa: D102 (likewise)
    @property
    def member(self) -> str: ...  # noqa: D102 (likewise)


class Cycle(Protocol):
    """A periodic schedule: one cycle's starts, ticks; see ``schedopt.steady``."""

    @property
    def cycle(self) -> int: ...  # noqa: D102 (explained by the class)
    @property
    def period(self) -> int: ...  # noqa: D102 (likewise)
    @property
    def starts(self) -> Mapping[Op, int]: ...  # noqa: D102 (likewise)


class TimedOp(NamedTuple):
    """A row of a schedule file with its times in ticks."""

    op: Op
    device: int
    streams: tuple[Stream, ...]
    start: int
    end: int
    alternative: str


def load_schedule(
    path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS
) -> ScheduleFile:
    """Read a schedule from a JSON or YAML file.

    Every row agrees with itself and the embedded instance with its hash; whether the
    schedule keeps the rules of its op graph is for ``schedopt.verify`` to say.

    Raises
    ------
    FormatError
        If the file is not a document of this format.
    InstanceError
        If the embedded instance breaks a rule.
    """
    return schedule_from_document(read_document(path, limits), os.fspath(path), limits)


def schedule_from_document(
    document: object, where: str, limits: Limits = DEFAULT_LIMITS
) -> ScheduleFile:
    """Read a schedule from a document; ``where`` names it in messages.

    Raises
    ------
    FormatError
        If it is not a document of this format.
    InstanceError
        If the embedded instance breaks a rule.
    """
    mapping = require_schema(document, where, SCHEDULE_SCHEMA)
    rows = mapping.get("ops")
    if isinstance(rows, list) and len(rows) > limits.max_ops:
        cap = f"{limits.max_ops:,}"
        rule = f"are more than the {cap} allowed; raise the cap with --max-ops"
        raise FormatError(line(where, [Complaint(("ops",), show(rows), rule)], mapping))
    file, complaints = checked(ScheduleFile, mapping)
    if file is None:
        in_instance = all(found.path[0] == "instance" for found in complaints)
        error = InstanceError if in_instance else FormatError
        raise error(line(where, complaints, mapping))
    broken = [
        found._replace(path=("instance", *found.path))
        for found in instance_complaints(file.embedded, limits)
    ]
    if broken:
        raise InstanceError(line(where, broken, mapping))
    complaints = list(rule_complaints(file)) or list(row_complaints(file))
    if complaints:
        raise FormatError(line(where, complaints, mapping))
    return file


def starts_from(file: ScheduleFile, ticks_per_unit: int) -> tuple[TimedOp, ...]:
    """The rows with their times in ticks, in the order of the file."""
    return tuple(
        TimedOp(
            row.named,
            row.device,
            tuple(parse_stream(text, row.device) for text in row.streams),
            _ticks(row.start, ticks_per_unit),
            _ticks(row.end, ticks_per_unit),
            row.alternative,
        )
        for row in file.ops
    )


def write_schedule_document(
    path: str | os.PathLike[str], document: Mapping[str, Any]
) -> None:
    """Write a schedule document as JSON, whole or not at all.

    Raises
    ------
    FormatError
        If the file cannot be written.
    """
    write_text_atomically(path, document_text(document))


def schedule_document(  # noqa: PLR0913 (one keyword per field of the format)
    instance: Instance,
    schedule: Schedule | None,
    *,
    method: str,
    status: str,
    objective: str,
    value_ticks: int | None,
    lower_bound_ticks: int | None,
    wall_seconds: float | None,
    seed: int | None,
    versions: Mapping[str, str],
    reason: str = "",
    trace: Sequence[TracePoint] = (),
    memory_edges: Iterable[tuple[Op, Op]] = (),
    steady: Cycle | None = None,
    graph: OpGraph | None = None,
) -> dict[str, Any]:
    """The document of a schedule, or of the fact that there is none.

    Parameters
    ----------
    instance
        What was scheduled; embedded whole.
    schedule
        In ticks of the instance's resolution.
    value_ticks, lower_bound_ticks
        Of the objective.
    steady
        The periodic schedule, if the objective is the period.
    graph
        The op graph with its choices, if the schedule's own has them made already; the
        rows' ``alternative`` comes from it.

    Raises
    ------
    FormatError
        If a time needs more digits than a number in a file keeps.
    """
    time = _TimeInUnits(instance)
    gap = None
    if value_ticks is not None and lower_bound_ticks is not None:
        gap = (value_ticks - lower_bound_ticks) / value_ticks if value_ticks else 0.0
    return {
        "schema": SCHEDULE_SCHEMA,
        "instance": {
            "sha256": instance_sha256(instance),
            **instance_document(instance),
        },
        "method": method,
        "status": str(status),
        "objective": str(objective),
        "value": time.optional(value_ticks),
        "lower_bound": time.optional(lower_bound_ticks),
        "gap": gap,
        **_measures(schedule, time),
        "wall_seconds": wall_seconds,
        "seed": seed,
        "versions": dict(versions),
        "reason": reason,
        "trace": [
            {
                "seconds": point.seconds,
                "value": time.optional(point.value),
                "bound": time.optional(point.lower_bound),
                "member": point.member,
            }
            for point in trace
        ],
        "memory_edges": [[str(one), str(other)] for one, other in memory_edges],
        **({} if steady is None else {"steady": _steady(steady, time)}),
        "ops": [] if schedule is None else _rows(schedule, graph, time),
    }


class _TimeInUnits:
    """Turns ticks into the user's unit, exactly."""

    def __init__(self, instance: Instance) -> None:
        self.per_unit = round(1 / Fraction(str(instance.resolution)))
        self.resolution = instance.resolution

    def __call__(self, ticks: int) -> Number:
        whole, rest = divmod(ticks, self.per_unit)
        time = whole if rest == 0 else ticks / self.per_unit
        if _ticks(time, self.per_unit) != ticks:
            msg = (
                f"resolution = {show(self.resolution)}: a time of {ticks} ticks has"
                " more digits than a number in a file keeps; choose a coarser one"
            )
            raise FormatError(msg)
        return time

    def optional(self, ticks: int | None) -> Number | None:
        return None if ticks is None else self(ticks)


# Dividing and multiplying err by half a unit in the 53rd bit each, so that below this
# the product is less than a quarter of a tick off.
_SAFE_TICKS = 2**50


def _ticks(time: Number, per_unit: int) -> int:
    if isinstance(time, int):
        return time * per_unit
    if abs(time * per_unit) < _SAFE_TICKS:
        return round(time * per_unit)
    # The decimal text of a float is the time; its binary value is only near it.
    return round(Fraction(repr(time)) * per_unit)


def _steady(steady: Cycle, time: _TimeInUnits) -> dict[str, Any]:
    return {
        "cycle": time(steady.cycle),
        "microbatches": len({op.microbatch for op in steady.starts}),
        "starts": {str(op): time(start) for op, start in steady.starts.items()},
    }


def _measures(schedule: Schedule | None, time: _TimeInUnits) -> dict[str, Any]:
    if schedule is None:
        return {
            "makespan": None,
            "device_span": None,
            "bubble_ratio": None,
            "peak_memory": [],
        }
    memory_of = schedule.graph.units.memory_of
    return {
        "makespan": time(schedule.makespan),
        "device_span": time(schedule.device_span),
        "bubble_ratio": {
            "makespan": schedule.bubble_ratio(schedule.makespan),
            "device_span": schedule.bubble_ratio(schedule.device_span),
        },
        "peak_memory": [memory_of(grains) for grains in schedule.peak_memory],
    }


def _rows(
    schedule: Schedule, graph: OpGraph | None, time: _TimeInUnits
) -> list[dict[str, Any]]:
    literals = (graph or schedule.graph).data
    order = sorted(
        schedule.start,
        key=lambda op: (schedule.start[op], schedule.graph.data[op].device, str(op)),
    )
    rows = []
    for op in order:
        data = schedule.graph.data[op]
        row: dict[str, Any] = {
            "op": str(op),
            "kind": op.kind.value,
            "stage": op.stage,
            "microbatch": op.microbatch,
            "step": op.step,
            "device": data.device,
            "streams": [stream_text(stream, data.device) for stream in data.streams],
            "start": time(schedule.start[op]),
            "end": time(schedule.end(op)),
        }
        if op.part:
            row["part"] = op.part
        literal = literals[op].literal
        if literal is not None:
            row["alternative"] = literal
        rows.append(row)
    return rows
