"""The front of step time against refresh interval, as people and programs read it."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from schedopt.opgraph import Units
from schedopt.refresh.settings import Freedom
from schedopt.report.quantities import (
    count_text,
    memory_text,
    number_text,
    seconds_text,
    share_text,
    time_text,
)
from schedopt.report.refresh import settings_text
from schedopt.solve.frames import NamedFrame, TimeToTarget, time_to_target
from schedopt.solve.refresh_front import Front, FrontPoint

_EXPOSED = "exposed"

Steps = tuple[int, int]
"""To the target: of a first-order and of this second-order optimizer."""


def front_lines(front: Front) -> list[tuple[str, str]]:
    """What the table is of."""
    frame = front.frame
    units = frame.graph.units
    return [
        ("instance", frame.instance.name),
        (
            "step",
            f"{time_text(front.shortest, units)} with preconditioning, without a"
            " refresh",
        ),
        ("settings", settings_text(frame.instance, front.parameters)),
    ]


def front_table(front: Front, steps: Steps | None) -> Table:
    """One row per point; the notes say what the columns are."""
    units = front.frame.graph.units
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.show_edge = False
    titles = ("interval", "age", "step", "at least", "gap", _EXPOSED, "peak memory")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    if steps is not None:
        table.add_column("to target", justify="right", no_wrap=True)
        table.add_column("second/first", justify="right", no_wrap=True)
    table.add_column("pipeline", no_wrap=True)
    table.add_column("freedom", no_wrap=True)
    for point, exposed in zip(front.points, front.exposed, strict=True):
        cells = [
            str(point.interval),
            "-" if (age := point.packed.cycle.largest_age) is None else str(age),
            _time(point.step_time, units),
            _time(point.bound.ticks, units),
            share_text(point.gap),
            _time(exposed, units),
            memory_text(point.packed.cycle.peak_memory, units),
        ]
        if steps is not None:
            target = _target(point, steps)
            cells += [
                _time(target.second_steps * target.second_step, units),
                share_text(target.ratio),
            ]
        table.add_row(*cells, point.pipeline, _freedom_text(point))
    return table


def front_notes(front: Front, steps: Steps | None) -> list[str]:
    """The lines under the table."""
    units = front.frame.graph.units
    notes = [
        f"Times in {units.time}, memory in {units.memory}. step: a cycle's length"
        " divided by its steps. at least: no steps are shorter at this interval, at any"
        f" times and in any order. {_EXPOSED}: the same for plain K-FAC, whose"
        " second-order work nothing hides, at this interval."
    ]
    if steps is not None:
        first, second = steps
        notes.append(
            f"to target: {count_text(second, 'step')} (as given);"
            f" second/first: to the time of {count_text(first, 'step')} (as given)"
            " without second-order work."
        )
    if front.is_complete:
        notes.append("The last point needs no longer steps than the pipeline.")
    else:
        notes.append(
            "No packing was found that needs no longer steps than the pipeline."
        )
    notes.append(f"Solved in {seconds_text(front.wall_seconds)}.")
    return notes


def point_text(point: FrontPoint, units: Units) -> str:
    """A point in a line, for progress."""
    return (
        f"interval {point.interval}, step {time_text(point.step_time, units)}"
        f" (at least {_time(point.bound.ticks, units)}, gap {share_text(point.gap)}),"
        f" {_freedom_text(point)}"
    )


def front_document(front: Front, steps: Steps | None) -> dict[str, Any]:
    """The front for programs; times and sizes in the instance's units."""
    frame, units = front.frame, front.frame.graph.units
    kfac = frame.instance.kfac
    return {
        "instance": frame.instance.name,
        "time_unit": units.time,
        "memory_unit": units.memory,
        "step_barrier": None if kfac is None else kfac.step_barrier.value,
        "inversion": None if kfac is None else kfac.inversion.value,
        "wrap": front.parameters.wrap,
        "freedom": front.parameters.freedom.value,
        "shortest_step": units.time_of(front.shortest),
        "complete": front.is_complete,
        "interrupted": front.is_interrupted,
        "wall_seconds": front.wall_seconds,
        "points": [
            _point(point, exposed, units, steps)
            for point, exposed in zip(front.points, front.exposed, strict=True)
        ],
    }


def _point(
    point: FrontPoint, exposed: int, units: Units, steps: Steps | None
) -> dict[str, Any]:
    cycle = point.packed.cycle
    document: dict[str, Any] = {
        "interval": point.interval,
        "largest_age": cycle.largest_age,
        "step": units.time_of(point.step_time),
        "step_lower_bound": units.time_of(point.bound.ticks),
        "bound": point.bound.name,
        "gap": point.gap,
        "exposed_step": units.time_of(exposed),
        "peak_memory": units.memory_of(cycle.peak_memory),
        "pipeline": point.pipeline,
        "freedom_needed": point.packed.freedom.value,
        "swaps": point.packed.swaps,
        "exposed": point.is_exposed,
    }
    if steps is not None:
        target = _target(point, steps)
        document["time_to_target"] = {
            "first_order_steps": target.first_steps,
            "first_order_step": units.time_of(target.first_step),
            "second_order_steps": target.second_steps,
            "second_order_step": units.time_of(target.second_step),
            "ratio": target.ratio,
        }
    return document


def _target(point: FrontPoint, steps: Steps) -> TimeToTarget:
    return time_to_target(NamedFrame(point.pipeline, point.packed.cycle.frame), *steps)


def _freedom_text(point: FrontPoint) -> str:
    packed = point.packed
    if point.is_exposed:
        return f"{packed.freedom.value}, {_EXPOSED}"
    if packed.freedom is Freedom.REORDERED:
        return f"{packed.freedom.value}, {count_text(packed.swaps, 'swap')}"
    return packed.freedom.value


def _time(ticks: int, units: Units) -> str:
    return number_text(units.time_of(ticks))
