"""``solve --objective refresh --front``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from schedopt.cli.exits import DONE, INTERRUPTED, REFUSED
from schedopt.cli.output import (
    complain,
    console,
    print_json,
    print_lines,
    print_rich,
    print_text,
)
from schedopt.cli.pictures import print_gantt
from schedopt.cli.saving import save_cycle
from schedopt.errors import NotApplicableError
from schedopt.opgraph import Units
from schedopt.report.quantities import seconds_text
from schedopt.report.refresh_front import (
    front_document,
    front_lines,
    front_notes,
    front_table,
    point_text,
)
from schedopt.solve.frames import NamedFrame
from schedopt.solve.interrupts import TERMINATION, hearing_interrupts
from schedopt.solve.refresh_front import Front, FrontPoint, solve_front
from schedopt.solve.refresh_solution import RefreshParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontAsked:
    """What the command line asks of a front.

    ``interval`` names the point that is written and drawn; None is the last one.
    ``may_add_own`` allows a pipeline schedule of schedopt's own.
    """

    interval: int | None
    steps_to_target: tuple[int, int] | None
    may_add_own: bool
    output: Path | None
    as_json: bool
    gantt: bool | None


def print_front(
    path: Path,
    frames: Sequence[NamedFrame],
    parameters: RefreshParameters,
    asked: FrontAsked,
) -> int:
    """Find the front, print it, write the chosen point's schedule."""
    tell = _progress(frames[0].frame.graph.units)
    with hearing_interrupts(*TERMINATION):
        front = solve_front(frames, parameters, tell, may_add_own=asked.may_add_own)
        if asked.as_json:
            print_json(front_document(front, asked.steps_to_target))
        else:
            _print(front, asked.steps_to_target)
        if not front.points:
            complain(f"{path}: no schedule was found that fits; raise --time-limit")
            return INTERRUPTED if front.is_interrupted else REFUSED
        point = _chosen(path, front, asked.interval)
        if not asked.as_json:
            print_gantt(point.packed.cycle.schedule, wanted=asked.gantt)
        if asked.output is not None:
            method = (
                f"refresh in {point.pipeline}, {point.packed.freedom.value},"
                " with longer steps"
            )
            save_cycle(asked.output, point.packed.cycle, method)
    if front.is_interrupted:
        complain("interrupted; the front is of what was found so far")
        return INTERRUPTED
    return DONE


def _print(front: Front, steps: tuple[int, int] | None) -> None:
    print_lines(front_lines(front))
    print_text("")
    print_rich(front_table(front, steps))
    print_text("")
    for note in front_notes(front, steps):
        print_text(note)


def _chosen(path: Path, front: Front, interval: int | None) -> FrontPoint:
    """The point of an interval; without one the last."""
    if interval is None:
        return front.points[-1]
    for point in front.points:
        if point.interval == interval:
            return point
    there = ", ".join(str(point.interval) for point in front.points)
    msg = f"{path}: --interval {interval}: the front has the intervals {there}"
    raise NotApplicableError(msg)


def _progress(units: Units) -> Callable[[FrontPoint], None]:
    """Prints every point that is better than what was known, and when, on stderr."""
    began = time.monotonic()
    out = console(stderr=True)

    def tell(point: FrontPoint) -> None:
        clock = seconds_text(time.monotonic() - began).rjust(8)
        out.print(f"{clock}  {point.pipeline}: {point_text(point, units)}")

    return tell
