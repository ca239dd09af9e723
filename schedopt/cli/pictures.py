"""Gantt charts: as text on the terminal, as a file."""

from __future__ import annotations

from pathlib import Path

from schedopt.cli.exits import DONE, REFUSED
from schedopt.cli.output import complain, console, print_rich, print_text
from schedopt.cli.saving import check_writable
from schedopt.export.stored import schedule_in
from schedopt.formats import Limits, load_schedule
from schedopt.report.gantt_text import gantt_fits, gantt_text
from schedopt.schedule import Schedule

WIDEST_PLAIN = 100  # columns of a chart that does not go to a terminal


def print_gantt(schedule: Schedule, *, wanted: bool | None) -> None:
    """Draw the schedule if that is wanted, or (None) if its ops can be told apart."""
    out = console()
    width = out.width if out.is_terminal else WIDEST_PLAIN
    if not schedule.start or wanted is False:
        return
    if wanted or gantt_fits(schedule, width):
        print_text("")
        print_rich(gantt_text(schedule, width))


def plot(path: Path, output: Path, limits: Limits) -> int:
    """Draw a schedule file as a picture."""
    from schedopt.report.picture import save_picture  # noqa: PLC0415 - loads matplotlib

    check_writable(output)
    file = load_schedule(path, limits)
    if not file.ops:
        complain(f"{path}: holds no schedule (status {file.status}); nothing to draw")
        return REFUSED
    schedule = schedule_in(file, str(path))
    save_picture(schedule, f"{file.instance.name} ({file.method})", output)
    return DONE
