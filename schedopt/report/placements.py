"""The placements of an instance side by side, at equal memory."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from schedopt.instance import Instance, Objective
from schedopt.report.documents import solution_document
from schedopt.report.memory import device_peaks, peak_and_limit, tightest
from schedopt.report.quantities import (
    BUBBLE_FORMULA,
    number_text,
    share_text,
    time_text,
)
from schedopt.schedule import Schedule
from schedopt.solve.placements import PlacementSearch, PlacementTrial


def placements_table(search: PlacementSearch) -> Table:
    """One row per trial, the best first; the notes say what the columns are."""
    objective = search.best.objective
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.show_edge = False
    table.add_column("placement", no_wrap=True)
    titles = (
        "stages per device",
        objective.value.replace("-", " "),
        "lower bound",
        "gap",
        "bubble",
        "peak/limit",
    )
    for title in titles:
        table.add_column(title, justify="right")
    table.add_column("status")
    for trial in _best_first(search):
        table.add_row(*_cells(trial, search))
    return table


def placements_notes(search: PlacementSearch) -> list[str]:
    """The lines under the table: units, what holds for all, what was not tried."""
    own, best = search.trials[0], search.best
    units = best.graph.units
    measure = _measure_name(best.objective)
    notes = [
        f"Times in {units.time}, memory in {units.memory}. Bubble ratio ="
        f" {BUBBLE_FORMULA}, with T = {measure}. Peak memory is that of the device"
        f" closest to its limit. The instance's own placement is {own.name}."
    ]
    if best.value is not None and search.lower_bound:
        bound = time_text(search.lower_bound, units)
        notes.append(
            f"No schedule in a placement of the table has a {best.objective.value}"
            f" below {bound}: gap {share_text(search.gap)}."
        )
    notes += [
        f"{trial.name}: {trial.solution.reason}"
        for trial in search.trials
        if trial.solution is not None and trial.solution.reason
    ]
    notes += [f"{name}: not tried: {why}" for name, why in search.not_tried]
    return notes


def placements_document(search: PlacementSearch) -> dict[str, Any]:
    """The comparison: rows as in the table."""
    return {
        "lower_bound": search.best.graph.units.time_of(search.lower_bound),
        "gap": search.gap,
        "rows": [_row(trial, search) for trial in _best_first(search)],
        "not_tried": [
            {"placement": name, "reason": why} for name, why in search.not_tried
        ],
    }


def _best_first(search: PlacementSearch) -> list[PlacementTrial]:
    """By value; then those without one."""

    def rank(trial: PlacementTrial) -> tuple[bool, int]:
        value = None if trial.solution is None else trial.solution.value
        return value is None, value or 0

    return sorted(search.trials, key=rank)


def _cells(trial: PlacementTrial, search: PlacementSearch) -> list[str]:
    solution, units = trial.solution, search.best.graph.units
    bound = number_text(units.time_of(trial.lower_bound)) if trial.lower_bound else "-"
    value = bubble = peak = "-"
    if solution is not None and solution.schedule is not None:
        schedule = solution.schedule
        assert solution.value is not None
        value = number_text(units.time_of(solution.value))
        bubble = share_text(_bubble(schedule, solution.objective))
        peak = peak_and_limit(tightest(device_peaks(schedule)), units)
    return [
        trial.name,
        _counts_text(trial.instance),
        value,
        bound,
        "-" if solution is None else share_text(solution.gap),
        bubble,
        peak,
        _status(trial, search),
    ]


def _row(trial: PlacementTrial, search: PlacementSearch) -> dict[str, Any]:
    solution = trial.solution
    return {
        "placement": trial.name,
        "own": trial is search.trials[0],
        "stages_per_device": list(_counts(trial.instance)),
        "status": _status(trial, search),
        "lower_bound": search.best.graph.units.time_of(trial.lower_bound),
        "solution": None if solution is None else solution_document(solution),
    }


def _status(trial: PlacementTrial, search: PlacementSearch) -> str:
    """The status, or why there is none."""
    if trial.solution is not None:
        return trial.solution.status.value
    best = search.best.value
    if best is not None and trial.lower_bound >= best:
        return "not solved, its bound excludes it"
    if search.best.interrupted:
        return "not solved, interrupted"
    return "not solved, time was up"


def _counts(instance: Instance) -> tuple[int, ...]:
    devices = range(len(instance.devices))
    return tuple(len(instance.stages_of(device)) for device in devices)


def _counts_text(instance: Instance) -> str:
    counts = _counts(instance)
    least, most = min(counts), max(counts)
    return str(least) if least == most else f"{least} to {most}"


def _measure_name(objective: Objective) -> str:
    return "device span" if objective is Objective.DEVICE_SPAN else "makespan"


def _bubble(schedule: Schedule, objective: Objective) -> float:
    by_span = objective is Objective.DEVICE_SPAN
    return schedule.bubble_ratio(schedule.device_span if by_span else schedule.makespan)
