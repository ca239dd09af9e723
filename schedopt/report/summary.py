"""What a person wants to know of a finished schedule, as labelled lines."""

from __future__ import annotations

from schedopt.baselines import BaselineRun
from schedopt.build import Form, form_of
from schedopt.instance import Instance
from schedopt.report.memory import peak_lines
from schedopt.report.quantities import (
    BUBBLE_FORMULA,
    count_text,
    seconds_text,
    share_text,
    time_text,
)
from schedopt.schedule import Schedule
from schedopt.solve.solution import Solution, Status
from schedopt.steady import Periodic

Line = tuple[str, str]
"""A label and its value; a line that continues the one above has an empty label."""

_STATUS_WORDS = {
    Status.OPTIMAL: "optimal (no schedule is better)",
    Status.FEASIBLE: "feasible (a better one may exist)",
    Status.INFEASIBLE: "infeasible (there is no schedule)",
    Status.UNKNOWN: "unknown (no schedule was found in the time given)",
}


def solution_lines(solution: Solution) -> list[Line]:
    """A solution: size, baseline, value, bound, gap, bubbles, memory, status."""
    bound = time_text(solution.lower_bound, solution.graph.units)
    lines = instance_lines(solution.instance, len(solution.graph.ops))
    if solution.periodic is not None:
        lines += periodic_lines(solution.periodic)
    else:
        lines.append(("best hand-made", _best_baseline(solution)))
    if solution.schedule is not None:
        lines += schedule_lines(solution.schedule)
    lines += [
        (
            "lower bound",
            f"{bound} for the {solution.objective.value}",
        ),
        ("gap", share_text(solution.gap)),
        ("status", _status(solution)),
    ]
    if solution.reason:
        lines.append(("note", solution.reason))
    return lines


def baseline_lines(run: BaselineRun) -> list[Line]:
    """A hand-made schedule on an instance."""
    cap = "published form" if run.cap is None else f"capped at {run.cap} in flight"
    return [
        *instance_lines(run.derived, len(run.graph.ops)),
        ("schedule", f"{run.baseline.name}, {cap}"),
        ("reference", run.baseline.reference),
        *schedule_lines(run.schedule),
        ("fits", "yes" if run.fits else "no: a device exceeds its memory limit"),
    ]


def instance_lines(instance: Instance, ops: int | None = None) -> list[Line]:
    """Name, size and form."""
    size = [
        count_text(len(instance.devices), "device"),
        count_text(len(instance.stages), "stage"),
        count_text(instance.microbatches, "microbatch", "microbatches"),
    ]
    if ops is not None:
        size.append(count_text(ops, "op"))
    return [
        ("instance", instance.name),
        ("size", ", ".join(size)),
        ("form", form_text(form_of(instance))),
    ]


def form_text(form: Form) -> str:
    """A form in words: placement, stages per device, backward."""
    chunks = "" if form.chunks == 1 else f", {form.chunks} stages per device"
    return f"{form.placement.value} placement{chunks}, {form.backward.value} backward"


def schedule_lines(schedule: Schedule) -> list[Line]:
    """Makespan, device span, bubble ratios and peak memory."""
    units = schedule.graph.units
    peaks = peak_lines(schedule)
    return [
        ("makespan", time_text(schedule.makespan, units)),
        ("device span", time_text(schedule.device_span, units)),
        (
            "bubble ratio",
            f"{share_text(schedule.bubble_ratio(schedule.makespan))} for T = makespan,"
            f" {share_text(schedule.bubble_ratio(schedule.device_span))} for"
            f" T = device span ({BUBBLE_FORMULA})",
        ),
        *((("" if i else "peak memory"), peak) for i, peak in enumerate(peaks)),
    ]


def periodic_lines(periodic: Periodic) -> list[Line]:
    """A steady state: period, cycle, bubble ratio, what is in flight, peak memory."""
    units = periodic.graph.units
    count = count_text(periodic.problem.microbatches, "microbatch", "microbatches")
    in_flight = ", ".join(map(str, periodic.in_flight))
    last = len(periodic.graph.devices) - 1
    return [
        ("period", f"{time_text(periodic.period, units)} per microbatch"),
        ("cycle", f"{time_text(periodic.cycle, units)} for {count}"),
        (
            "steady bubble",
            f"{share_text(periodic.bubble_ratio)} for T = cycle ({BUBBLE_FORMULA})",
        ),
        ("in flight", f"{in_flight} microbatches on devices 0 to {last}"),
        *(
            (("" if i else "steady memory"), peak)
            for i, peak in enumerate(peak_lines(periodic))
        ),
    ]


def _best_baseline(solution: Solution) -> str:
    if solution.best_baseline is None:
        return "none fits"
    name, value = solution.best_baseline
    text = (
        f"{name}, {solution.objective.value} {time_text(value, solution.graph.units)}"
    )
    if solution.value is None or solution.value >= value:
        return text
    return f"{text} (here {share_text((value - solution.value) / value)} shorter)"


def _status(solution: Solution) -> str:
    text = _STATUS_WORDS[solution.status]
    if solution.interrupted:
        text += ", interrupted"
    if not solution.parameters.reproducible:
        text += f", after {seconds_text(solution.wall_seconds)}"
    if solution.schedule is not None:
        text += f", found by {solution.method}"
    return text
