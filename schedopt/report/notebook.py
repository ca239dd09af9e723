"""A solution as Jupyter shows it: its summary, and a chart that is drawn as SVG text.

Nothing but strings is needed, so that showing a solution imports no picture library.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from schedopt.opgraph import Stream, StreamKind
from schedopt.report.kinds import KIND_WORDS
from schedopt.report.labels import (
    draws_steps,
    kinds_by_colour,
    legend_of_blocks,
    plain,
    shade,
    width_of,
)
from schedopt.report.quantities import number_text, time_text
from schedopt.report.summary import solution_lines
from schedopt.schedule import Schedule
from schedopt.solve.solution import Solution

LARGEST_CHART = 5000
"""Ops up to which a chart is drawn; more cannot be told apart."""

_WIDTH = 900.0
_MARGIN = 110.0
_ROW = 22.0
_DIGIT = 6.0  # width of a digit in a block's label
_TEXT = 'font-family="sans-serif" font-size="10" fill="currentColor"'


def solution_html(solution: Solution) -> str:
    """The summary of a solution as a table and, if it is small enough, its chart."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(label)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for label, value in solution_lines(solution)
    )
    table = f"<table>{rows}</table>"
    schedule = solution.schedule
    if schedule is None or not 0 < len(schedule.start) <= LARGEST_CHART:
        return table
    return f"{table}\n{schedule_svg(schedule)}"


def schedule_svg(schedule: Schedule) -> str:
    """One row per device, to scale; pointing at an op shows what it is, and when."""
    devices = schedule.graph.devices
    bottom = _ROW * len(devices)
    legend = list(_legend(schedule, bottom + 1.4 * _ROW))
    height = bottom + (2 + len(legend)) * _ROW
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg"'
        f' viewBox="0 0 {_MARGIN + _WIDTH:g} {height:g}" width="100%">'
    ]
    for device, memory in enumerate(devices):
        middle = _ROW * device + 0.65 * _ROW
        parts.append(
            f'<text x="{_MARGIN - 6:g}" y="{middle:g}" text-anchor="end" {_TEXT}>'
            f"{escape(memory.name)}</text>"
        )
        parts += _blocks(schedule, device)
    end = time_text(schedule.makespan, schedule.graph.units)
    axis = f'y="{bottom + 0.7 * _ROW:g}" {_TEXT}'
    parts.append(f'<text x="{_MARGIN:g}" {axis}>0</text>')
    parts.append(
        f'<text x="{_MARGIN + _WIDTH:g}" text-anchor="end" {axis}>{escape(end)}</text>'
    )
    parts += [*legend, "</svg>"]
    return "\n".join(parts)


def _blocks(schedule: Schedule, device: int) -> Iterator[str]:
    """A rectangle per compute op of a device, and what it is called where that fits."""
    units = schedule.graph.units
    origin = min(schedule.start.values())
    scale = _WIDTH / max(schedule.makespan, 1)
    top = _ROW * device + 2
    ops = schedule.order.sequences.get(Stream(StreamKind.COMPUTE, device), ())
    stages = len({op.stage for op in ops}) > 1
    steps = draws_steps(schedule.start)
    for place, op in enumerate(ops):
        start, end = schedule.start[op] - origin, schedule.end(op) - origin
        left, width = _MARGIN + start * scale, (end - start) * scale
        times = (
            f"{op}: {number_text(units.time_of(start))}"
            f" to {time_text(end, units)}, {KIND_WORDS[op.kind]}"
        )
        yield (
            f'<rect x="{left:.2f}" y="{top:g}" width="{width:.2f}"'
            f' height="{_ROW - 4:g}" fill="{shade(op, place)}">'
            f"<title>{escape(times)}</title></rect>"
        )
        texts = plain(op, stages=stages, steps=steps)
        fitting = (text for text in texts if width > _DIGIT * (width_of(text) + 0.5))
        label = next(fitting, "")
        if label:
            yield (
                f'<text x="{left + width / 2:.2f}" y="{top + 0.55 * _ROW:g}"'
                ' text-anchor="middle" font-family="sans-serif" font-size="10"'
                f' fill="black" pointer-events="none">{escape(label)}</text>'
            )


def _legend(schedule: Schedule, top: float) -> Iterator[str]:
    """A group per line: the colours, as many on a line as fit, and what texts say."""
    line: list[str] = []
    left = _MARGIN
    for colour, words in kinds_by_colour(schedule.start).items():
        width = 34 + _DIGIT * len(words)
        if line and left + width > _MARGIN + _WIDTH:
            yield f"<g>{''.join(line)}</g>"
            line, left, top = [], _MARGIN, top + _ROW
        line.append(
            f'<rect x="{left:g}" y="{top:g}" width="12" height="12" fill="{colour}"/>'
            f'<text x="{left + 18:g}" y="{top + 10:g}" {_TEXT}>{words}</text>'
        )
        left += width
    yield f"<g>{''.join(line)}</g>"
    several = any(
        len({op.stage for op in ops}) > 1
        for stream, ops in schedule.order.sequences.items()
        if stream.kind is StreamKind.COMPUTE
    )
    texts = legend_of_blocks(schedule.start, stages=several, letters=False)
    yield (
        f'<text x="{_MARGIN:g}" y="{top + _ROW + 10:g}" {_TEXT}>in blocks: {texts}'
        "</text>"
    )
