"""A schedule as text: one row per device, to scale.

Each op is a block of columns that opens with its kind, and its microbatch, step or
layer where that fits; idle time is dotted. On a terminal the blocks are coloured by
kind, in two shades that alternate so that neighbours of one kind stay apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rich.style import Style
from rich.text import Text

from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op
from schedopt.report.kinds import COLOURS, KIND_WORDS, LETTERS
from schedopt.report.labels import draws_steps, legend_of_blocks, lettered, shade
from schedopt.report.quantities import number_text
from schedopt.schedule import Schedule

IDLE = "."
FILL = "-"

_IDLE_STYLE = Style(dim=True)
_BETWEEN = "  "
"""Entries of the legend."""


class Block(NamedTuple):
    """Columns of a row, the first and the one after the last; ``op`` None is idle."""

    first: int
    last: int
    op: Op | None

    @property
    def width(self) -> int:
        """How many columns it has."""
        return self.last - self.first


def gantt_fits(schedule: Schedule, width: int) -> bool:
    """Whether the ops can be told apart in ``width`` columns: two for each, or more."""
    rows = _rows(schedule)
    columns = _columns(schedule, width)
    return bool(schedule.start) and all(2 * len(ops) <= columns for ops in rows)


def gantt_text(schedule: Schedule, width: int) -> Text:
    """The rows, a time axis and a legend, within ``width`` columns."""
    columns = _columns(schedule, width)
    names = _names(schedule)
    margin = max(map(len, names)) + 1
    several = _holds_several_stages(schedule)
    steps = draws_steps(schedule.start)
    lines = []
    for name, ops in zip(names, _rows(schedule), strict=True):
        line = Text(name.ljust(margin))
        for place, block in enumerate(blocks(schedule, ops, columns)):
            line.append_text(_drawn(block, place, stages=several, steps=steps))
        lines.append(line)
    lines.append(Text(" " * margin + _axis(schedule, columns)))
    lines.extend(_legend(schedule, columns, several=several))
    return Text("\n").join(lines)


def blocks(schedule: Schedule, ops: Sequence[Op], columns: int) -> Iterator[Block]:
    """The blocks of one row, left to right, covering every column once.

    Times are rounded to the nearest column boundary, so ops that touch stay in touch,
    and an op shorter than half a column may vanish.
    """
    first = min(schedule.start.values())
    span = schedule.makespan
    reached = 0
    for op in ops:
        left = max(_column(schedule.start[op] - first, span, columns), reached)
        right = _column(schedule.end(op) - first, span, columns)
        if right <= left:
            continue
        if left > reached:
            yield Block(reached, left, None)
        yield Block(left, right, op)
        reached = right
    if reached < columns:
        yield Block(reached, columns, None)


def _column(time: int, span: int, columns: int) -> int:
    return (2 * time * columns + span) // (2 * span) if span else 0


def _drawn(block: Block, place: int, *, stages: bool, steps: bool) -> Text:
    op = block.op
    if op is None:
        return Text(IDLE * block.width, style=_IDLE_STYLE)
    labels = lettered(op, stages=stages, steps=steps)
    label = next((text for text in labels if len(text) <= block.width), "")
    style = Style(color="black", bgcolor=shade(op, place))
    return Text(label.ljust(block.width, FILL), style=style)


def _rows(schedule: Schedule) -> list[tuple[Op, ...]]:
    sequences = schedule.order.sequences
    return [
        sequences.get(Stream(StreamKind.COMPUTE, device), ())
        for device in range(len(schedule.graph.devices))
    ]


def _names(schedule: Schedule) -> list[str]:
    return [device.name for device in schedule.graph.devices]


def _columns(schedule: Schedule, width: int) -> int:
    margin = max(map(len, _names(schedule))) + 1
    return max(width - margin, 10)


def _holds_several_stages(schedule: Schedule) -> bool:
    return any(len({op.stage for op in ops}) > 1 for ops in _rows(schedule))


def _axis(schedule: Schedule, columns: int) -> str:
    units = schedule.graph.units
    end = f"{number_text(units.time_of(schedule.makespan))} {units.time}"
    return "0" + end.rjust(columns - 1)


def _legend(schedule: Schedule, columns: int, *, several: bool) -> Iterable[Text]:
    units = schedule.graph.units
    drawn = [op for ops in _rows(schedule) for op in ops]
    kinds = {op.kind for op in drawn}
    entries = [
        Text.assemble(
            (LETTERS[kind], Style(color="black", bgcolor=COLOURS[kind][0])), f" {words}"
        )
        for kind, words in KIND_WORDS.items()
        if kind in kinds
    ]
    entries.append(Text(f"{IDLE} idle", style=_IDLE_STYLE))
    yield from _filled(entries, columns)
    column = schedule.makespan / columns / units.ticks_per_unit
    label = legend_of_blocks(drawn, stages=several, letters=True)
    yield Text(f"Blocks: {label}. One column is {number_text(column)} {units.time}.")


def _filled(entries: Iterable[Text], width: int) -> Iterator[Text]:
    """Lines of entries, as many on each as fit."""
    line = Text()
    for entry in entries:
        if line and len(line) + len(_BETWEEN) + len(entry) > width:
            yield line
            line = Text()
        line.append_text(Text(_BETWEEN) + entry if line else entry)
    yield line
