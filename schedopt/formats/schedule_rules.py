"""The rules of a schedule file that concern several fields together."""

from __future__ import annotations

from collections.abc import Iterator

from schedopt.errors import FormatError
from schedopt.formats.complaints import Complaint, Path, show
from schedopt.formats.instance_file import instance_sha256
from schedopt.formats.instance_shape import copy_count, device_count, stage_count
from schedopt.formats.schedule_model import OpFields, ScheduleFile
from schedopt.formats.streams import parse_stream
from schedopt.ops import OpKind

_WITH_SCHEDULE = ("optimal", "feasible")
# The microbatch in the name of these is a copy of the stage (schedopt/ops.py).
_OF_COPIES = frozenset(
    {
        OpKind.SYNC_CURVATURE,
        OpKind.INVERSION,
        OpKind.REDUCE_GRAD,
        OpKind.PRECONDITION,
        OpKind.GATHER_GRAD,
        OpKind.STEP,
    }
)


def rule_complaints(file: ScheduleFile) -> Iterator[Complaint]:
    """Fields of the file that contradict each other."""
    expected = instance_sha256(file.instance)
    if file.embedded.sha256 != expected:
        yield Complaint(
            ("instance", "sha256"),
            show(file.embedded.sha256),
            "is not the hash of the embedded instance, which was changed since;"
            " solve it again",
        )
    if file.status in _WITH_SCHEDULE:
        if not file.ops:
            yield Complaint(("ops",), show([]), f"needs ops: status is {file.status}")
        if file.value is None:
            yield Complaint(
                ("value",), "null", f"must be a number: status is {file.status}"
            )
    else:
        if file.ops:
            yield Complaint(
                ("ops",), show(file.ops), f"must be empty: status is {file.status}"
            )
        if file.value is not None:
            yield Complaint(
                ("value",), show(file.value), f"must be null: status is {file.status}"
            )
    yield from _value_complaints(file)
    devices = device_count(file.embedded)
    if file.peak_memory and len(file.peak_memory) != devices:
        yield Complaint(
            ("peak_memory",),
            show(file.peak_memory),
            f"must have one size for each of the {devices} devices",
        )


def _value_complaints(file: ScheduleFile) -> Iterator[Complaint]:
    if file.value is None:
        return
    if file.lower_bound is not None and file.lower_bound > file.value:
        yield Complaint(
            ("lower_bound",),
            show(file.lower_bound),
            f"must be at most value, {show(file.value)}",
        )
    elif file.status == "optimal" and file.lower_bound != file.value:
        yield Complaint(
            ("lower_bound",),
            show(file.lower_bound),
            f"must equal value, {show(file.value)}: status is optimal",
        )


def row_complaints(file: ScheduleFile) -> Iterator[Complaint]:
    """Rows that contradict themselves, each other or the instance."""
    sizes = {
        "stage": stage_count(file.embedded),
        "microbatch": file.embedded.microbatches,
        "step": file.embedded.steps,
        "device": device_count(file.embedded),
    }
    of_copies = sizes | {"microbatch": copy_count(file.embedded)}
    seen: dict[str, int] = {}
    for index, row in enumerate(file.ops):
        path: Path = ("ops", index)
        yield from _row_complaints(
            row, path, of_copies if row.kind in _OF_COPIES else sizes
        )
        first = seen.setdefault(row.op, index)
        if first != index:
            yield Complaint(
                (*path, "op"), show(row.op), f"is also ops[{first}]; remove one"
            )
    for index, pair in enumerate(file.memory_edges):
        path = ("memory_edges", index)
        if len(pair) != 2:
            yield Complaint(path, show(pair), "must be a pair of ops")
        for end, op in enumerate(pair):
            if op not in seen:
                yield Complaint(
                    (*path, end), show(op), "is not among ops; name one that is"
                )


def _row_complaints(
    row: OpFields, path: Path, sizes: dict[str, int]
) -> Iterator[Complaint]:
    if row.op != str(row.named):
        yield Complaint(
            (*path, "op"),
            show(row.op),
            "contradicts kind, stage, microbatch, step and part, which make"
            f" {row.named}",
        )
    for name, size in sizes.items():
        value = getattr(row, name)
        if value >= size:
            yield Complaint(
                (*path, name),
                show(value),
                f"there is no such {name}; they are numbered 0 to {size - 1}",
            )
    if row.end < row.start:
        yield Complaint(
            (*path, "end"), show(row.end), f"must be at least start, {show(row.start)}"
        )
    if not row.streams:
        yield Complaint((*path, "streams"), show([]), "must name at least one stream")
    for index, text in enumerate(row.streams):
        try:
            stream = parse_stream(text, row.device)
        except FormatError as error:
            yield Complaint((*path, "streams", index), "", str(error))
            continue
        if max(stream.device, stream.peer or 0) >= sizes["device"]:
            yield Complaint(
                (*path, "streams", index),
                show(text),
                f"there is no such device; the last is {sizes['device'] - 1}",
            )
