"""Orders from files: a schedule file, or one row of ops per device.

A row is what ``torch.distributed.pipelining`` reads as CSV: row r holds the ops of
device r, separated by commas or blanks; empty cells are idle and passed over. Where the
rows also list torch's transfers (its ``compute_comms`` form), those are checked as
torch's runtime would meet them, and left out: an instance says what transfers cost.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from schedopt.build import derive, form_of
from schedopt.errors import FormatError, OrderError
from schedopt.export.checking import faults
from schedopt.export.torch_tokens import Token
from schedopt.formats import Limits, load_schedule, parse_stream
from schedopt.formats.complaints import shortened
from schedopt.formats.schedule_model import OpFields
from schedopt.importers.files import read_text
from schedopt.instance import Backward, Instance, Number, Placement, place
from schedopt.opgraph import OpGraph, Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.report.quantities import count_text
from schedopt.schedule import Order
from schedopt.simulate import dispatch

Rows = tuple[tuple[Op, ...], ...]

_OVERLAP = re.compile(r"\((?P<forward>[^;()]+);(?P<backward>[^;()]+)\)OVERLAP_F_B")
_RUNTIME_ONLY = re.compile(r"\d+(RECV_F|RECV_B|UNSHARD|RESHARD|REDUCE_GRAD)\d*")
_DOCUMENTS = (".json", ".yaml", ".yml")


_KINDS_OF_WHOLE = {OpKind.BACKWARD, OpKind.OVERLAP}
_KINDS_OF_SPLIT = {OpKind.BACKWARD_INPUT, OpKind.BACKWARD_WEIGHT}


def in_form_of_order(path: Path, instance: Instance, limits: Limits) -> Instance:
    """The instance with the placement and the backward that the order in a file has.

    Only stages as they are: where the order is of other stages or devices, or two-way,
    the placement stays, and ``load_order`` says what does not fit.

    Raises
    ------
    FormatError
        If the file is neither a schedule nor rows of ops.
    NotApplicableError
        If the instance lacks a duration that the order's backward needs.
    """
    rows = _rows_of(path, limits)
    kinds = {op.kind for row in rows for op in row}
    backward = instance.backward
    if backward is not Backward.CHOOSE and kinds & (_KINDS_OF_WHOLE | _KINDS_OF_SPLIT):
        backward = Backward.CHOOSE
        if not kinds & _KINDS_OF_SPLIT:
            backward = Backward.WHOLE
        elif not kinds & _KINDS_OF_WHOLE:
            backward = Backward.SPLIT
    instance = derive(instance, replace(form_of(instance), backward=backward))
    homes: dict[int, int] = {
        op.stage: device for device, row in enumerate(rows) for op in row
    }
    stages, devices = len(instance.stages), len(instance.devices)
    if (
        instance.placement is Placement.BIDIRECTIONAL
        or len(rows) != devices
        or set(homes) != set(range(stages))
    ):
        return instance
    device_of_stage = tuple(homes[stage] for stage in range(stages))
    if device_of_stage == instance.device_of_stage:
        return instance
    for word in (Placement.LINEAR, Placement.LOOPED, Placement.V):
        if device_of_stage == place(word, stages, devices):
            return replace(instance, placement=word, device_of_stage=device_of_stage)
    return replace(
        instance, placement=Placement.EXPLICIT, device_of_stage=device_of_stage
    )


def _rows_of(path: Path, limits: Limits) -> Rows:
    """The compute ops of each device, from either kind of file."""
    text = _order_text(path, limits)
    if text is not None:
        return _rows(text, path)
    file = load_schedule(path, limits)
    rows: dict[int, list[Op]] = {}
    for row in file.ops:
        if row.named.kind.is_compute:
            rows.setdefault(row.device, []).append(row.named)
    return tuple(tuple(rows.get(d, ())) for d in range(max(rows, default=-1) + 1))


def _order_text(path: Path, limits: Limits) -> str | None:
    """The text of rows; None where the file is a schedule."""
    if path.suffix.lower() in _DOCUMENTS:
        return None
    text = read_text(path, limits)
    return None if text.lstrip().startswith("{") else text


def load_order(path: Path, graph: OpGraph, limits: Limits) -> Order:
    """The order in a file, for the ops of ``graph``.

    Raises
    ------
    FormatError
        If the file is neither a schedule nor rows of ops.
    OrderError
        If the ops are not those of the graph, or wait for each other.
    """
    text = _order_text(path, limits)
    if text is None:
        file = load_schedule(path, limits)
        position = {op: number for number, op in enumerate(graph.ops)}

        def place(row: OpFields) -> tuple[Number, Number, int]:
            # Ops of no duration that start together follow each other as in the graph.
            return row.start, row.end, position.get(row.named, 0)

        return _order_of(
            [
                (row.named, [parse_stream(s, row.device) for s in row.streams])
                for row in sorted(file.ops, key=place)
            ],
            tuple((Op.parse(one), Op.parse(two)) for one, two in file.memory_edges),
        )
    rows = _rows(text, path)
    if len(rows) != len(graph.devices):
        msg = (
            f"{path}: has {count_text(len(rows), 'row')}, but the instance has"
            f" {count_text(len(graph.devices), 'device')}; give one row of ops per"
            " device"
        )
        raise FormatError(msg)
    sequences = {
        Stream(StreamKind.COMPUTE, device): row
        for device, row in enumerate(rows)
        if row
    }
    order = dispatch(graph, sequences)
    _check_complete(order, sequences)
    return order


def _order_of(
    rows: list[tuple[Op, list[Stream]]], memory_edges: tuple[tuple[Op, Op], ...]
) -> Order:
    sequences: dict[Stream, list[Op]] = {}
    for op, streams in rows:
        for stream in streams:
            sequences.setdefault(stream, []).append(op)
    return Order({s: tuple(ops) for s, ops in sequences.items()}, memory_edges)


def _rows(text: str, path: Path) -> Rows:
    lines = text.rstrip().splitlines()
    cells = [line.replace(",", " ").replace('"', " ").split() for line in lines]
    if any(_RUNTIME_ONLY.fullmatch(cell) for row in cells for cell in row):
        return _without_transfers(cells, path)
    return tuple(_row(row, number, path) for number, row in enumerate(cells, start=1))


def _row(cells: list[str], number: int, path: Path) -> tuple[Op, ...]:
    ops = []
    for cell in cells:
        try:
            ops.append(_op(cell))
        except FormatError:
            msg = (
                f"{path}: row {number}: {shortened(cell)} is not an op known here;"
                " expected one row per device of ops such as 0F0,0I0,0W0, or a schedule"
                " file"
            )
            raise FormatError(msg) from None
    return tuple(ops)


def _without_transfers(cells: list[list[str]], path: Path) -> Rows:
    """The compute ops of rows that list torch's transfers, if nothing is wrong."""
    rows: list[tuple[Token, ...]] = []
    for number, row in enumerate(cells, start=1):
        tokens = []
        for cell in row:
            try:
                tokens.append(Token.parse(cell))
            except FormatError as error:
                msg = f"{path}: row {number}: {shortened(cell)} {error}"
                raise FormatError(msg) from None
        rows.append(tuple(tokens))
    found = faults(rows, lists_transfers=True)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        msg = f"{path}: torch would not execute these rows: {found[0]}{more}"
        raise FormatError(msg)
    return tuple(
        tuple(
            Op.parse(str(token))
            for token in row
            if token.microbatch is not None and token.kind.value in _COMPUTE
        )
        for row in rows
    )


_COMPUTE = ("F", "B", "I", "W")


def _op(cell: str) -> Op:
    joint = _OVERLAP.fullmatch(cell)
    if joint is None:
        return Op.parse(cell)
    forward, backward = Op.parse(joint["forward"]), Op.parse(joint["backward"])
    return forward._replace(kind=OpKind.OVERLAP, part=str(backward))


def _check_complete(order: Order, given: dict[Stream, tuple[Op, ...]]) -> None:
    """Dispatch adds the transfers; a compute op has to be in the file."""
    for stream, ops in order.sequences.items():
        if stream.kind is not StreamKind.COMPUTE:
            continue
        here = set(given.get(stream, ()))
        for op in ops:
            if op.kind.is_compute and op not in here:
                msg = f"{op} is missing; put it into the row of device {stream.device}"
                raise OrderError(msg)
