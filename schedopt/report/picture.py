"""A schedule as a picture: ops to scale, and each device's memory under its limit.

Colours tell the kinds apart (``schedopt.report.kinds``); where kinds that share one are
drawn together, the legend names them together. What an op is called stands in its block
where it fits, and blocks too narrow for an edge have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from schedopt.errors import FormatError
from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op
from schedopt.report.kinds import COLOURS
from schedopt.report.labels import (
    draws_steps,
    kinds_by_colour,
    legend_of_blocks,
    plain,
    width_of,
)
from schedopt.report.quantities import BUBBLE_FORMULA, number_text, share_text
from schedopt.report.summary import has_other_work
from schedopt.schedule import Schedule

SUFFIXES = (".png", ".svg", ".pdf")
_MOST_LABELS = 1500  # blocks with a text written in them: the widest
_DIGIT_WIDTH = 0.005  # of a character, as a share of the axis
_LEAST_WITH_EDGE = 0.002  # of a block, as a share of the axis
_LINE = "#444444"
_LIMIT = "#d55e00"


def save_picture(schedule: Schedule, title: str, path: Path) -> None:
    """Draw a schedule to a .png, .svg or .pdf file.

    Raises
    ------
    FormatError
        If the suffix is another.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        msg = f"{path}: the suffix must be {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise FormatError(msg)
    # Without a date and with fixed ids the same schedule gives the same file.
    metadata: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with rc_context({"svg.hashsalt": "schedopt"}):
        figure = picture(schedule, title)
        figure.savefig(path, dpi=150, metadata=metadata.get(suffix))


def picture(schedule: Schedule, title: str = "") -> Figure:
    """One row of ops per device and, below each, the level of its memory."""
    devices = len(schedule.graph.devices)
    row = 0.85 if devices <= 16 else 0.45
    figure = Figure(figsize=(12, 1.6 + row * devices), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(
        2 * devices,
        1,
        sharex=True,
        squeeze=False,
        gridspec_kw={"height_ratios": [2, 1.4] * devices},
    )
    labels = _labels(schedule)
    for device in range(devices):
        _draw_ops(grid[2 * device][0], schedule, device, labels)
        _draw_memory(grid[2 * device + 1][0], schedule, device)
    _finish(figure, grid[-1][0], schedule, title)
    return figure


def _labels(schedule: Schedule) -> dict[Op, str]:
    """What is written into blocks: into those that have room, if many the widest."""
    steps = draws_steps(schedule.start)
    room = schedule.makespan * _DIGIT_WIDTH
    found: dict[Op, str] = {}
    for device in range(len(schedule.graph.devices)):
        ops = _ops_of(schedule, device)
        stages = len({op.stage for op in ops}) > 1
        for op in ops:
            width = schedule.graph.data[op].duration
            texts = plain(op, stages=stages, steps=steps)
            label = next((text for text in texts if width > room * width_of(text)), "")
            if label:
                found[op] = label
    widest = sorted(found, key=lambda op: -schedule.graph.data[op].duration)
    return {op: found[op] for op in widest[:_MOST_LABELS]}


def _ops_of(schedule: Schedule, device: int) -> tuple[Op, ...]:
    stream = Stream(StreamKind.COMPUTE, device)
    return schedule.order.sequences.get(stream, ())


def _draw_ops(
    axes: Axes, schedule: Schedule, device: int, labels: Mapping[Op, str]
) -> None:
    origin = min(schedule.start.values(), default=0)
    ops = _ops_of(schedule, device)
    least = schedule.makespan * _LEAST_WITH_EDGE
    for kind in dict.fromkeys(op.kind for op in ops):
        mine = [op for op in ops if op.kind is kind]
        lengths = [schedule.graph.data[op].duration for op in mine]
        axes.broken_barh(
            [_bar(schedule, op, origin) for op in mine],
            (0, 1),
            facecolors=COLOURS[kind][0],
            edgecolor="white",
            linewidth=[0.5 * (length > least) for length in lengths],
        )
    for op in ops:
        if op in labels:
            left, width = _bar(schedule, op, origin)
            middle = left + width / 2
            axes.text(middle, 0.5, labels[op], ha="center", va="center", fontsize=6)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_ylabel(
        schedule.graph.devices[device].name, rotation=0, ha="right", va="center"
    )
    axes.tick_params(bottom=False)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _draw_memory(axes: Axes, schedule: Schedule, device: int) -> None:
    units = schedule.graph.units
    memory = schedule.graph.devices[device]
    steps = schedule.memory_profiles[device]
    origin = min(schedule.start.values(), default=0)
    times = [0.0, *(float(units.time_of(time - origin)) for time, _ in steps)]
    levels = [memory.static, *(level for _, level in steps)]
    sizes = [float(units.memory_of(level)) for level in levels]
    axes.step(times, sizes, where="post", color=_LINE, linewidth=0.8)
    axes.fill_between(times, sizes, step="post", color="#dddddd")
    top = max(sizes)
    ticks = [float(units.memory_of(schedule.peak_memory[device]))]
    if memory.limit is not None:
        limit = float(units.memory_of(memory.limit))
        axes.axhline(limit, color=_LIMIT, linewidth=1, linestyle="--")
        top = max(top, limit)
    axes.set_ylim(0, 1.15 * top or 1)
    axes.set_yticks(ticks, [number_text(tick) for tick in ticks], fontsize=6)
    axes.tick_params(bottom=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _finish(figure: Figure, last: Axes, schedule: Schedule, title: str) -> None:
    units = schedule.graph.units
    last.set_xlim(0, schedule.makespan / units.ticks_per_unit or 1)
    several = any(
        len({op.stage for op in _ops_of(schedule, device)}) > 1
        for device in range(len(schedule.graph.devices))
    )
    texts = legend_of_blocks(schedule.start, stages=several, letters=False)
    last.set_xlabel(f"time, {units.time}; in blocks: {texts}")
    last.tick_params(bottom=True)
    handles: list[Patch | Line2D] = [
        Patch(color=colour, label=words)
        for colour, words in kinds_by_colour(schedule.start).items()
    ]
    handles.append(
        Patch(color="#dddddd", label=f"memory, {units.memory} (peak marked)")
    )
    if any(device.limit is not None for device in schedule.graph.devices):
        limit = Line2D([], [], color=_LIMIT, linestyle="--", label="memory limit")
        handles.append(limit)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    bubble = share_text(schedule.bubble_ratio(schedule.makespan))
    makespan = number_text(units.time_of(schedule.makespan))
    measures = (
        f"makespan T = {makespan} {units.time}, bubble {BUBBLE_FORMULA} = {bubble}"
    )
    if has_other_work(schedule):
        own = schedule.bubble_ratio(schedule.makespan, pipeline_only=True)
        measures += f"; of the pipeline's own work {share_text(own)}"
    figure.suptitle(f"{title}\n{measures}" if title else measures, fontsize=10)


def _bar(schedule: Schedule, op: Op, origin: int) -> tuple[float, float]:
    """Where an op starts and how long it is, in the user's unit."""
    units = schedule.graph.units
    left = units.time_of(schedule.start[op] - origin)
    return float(left), float(units.time_of(schedule.graph.data[op].duration))
