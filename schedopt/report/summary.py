"""What a person wants to know of a finished schedule, as labelled lines."""

from __future__ import annotations

from schedopt.baselines import BaselineRun
from schedopt.build import Form, form_of
from schedopt.instance import Instance, Kfac
from schedopt.ops import OpKind
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
    """Name, size, form, and second-order work if there is some."""
    size = [
        count_text(len(instance.devices), "device"),
        count_text(len(instance.stages), "stage"),
        count_text(instance.microbatches, "microbatch", "microbatches"),
    ]
    if instance.steps > 1:
        size.append(count_text(instance.steps, "training step"))
    if ops is not None:
        size.append(count_text(ops, "op"))
    lines = [
        ("instance", instance.name),
        ("size", ", ".join(size)),
        ("form", form_text(form_of(instance))),
    ]
    if instance.kfac is not None:
        lines.append(("K-FAC", _kfac_text(instance, instance.kfac)))
    return lines


def _kfac_text(instance: Instance, kfac: Kfac) -> str:
    """What is inverted, how often, and what waits for what."""
    layers = sum(m.count for stage in instance.stages for m in stage.modules)
    steps = count_text(kfac.interval, "step")
    texts = [
        count_text(layers, "layer"),
        f"refresh interval {steps}",
        f"{count_text(kfac.refreshes, 'refresh', 'refreshes')}"
        f" in {count_text(instance.steps, 'step')}",
        f"step barrier {kfac.step_barrier.value}",
        f"factor barrier {kfac.factor_barrier.value}",
    ]
    if any(len(instance.copies_of(s)) > 1 for s in range(len(instance.stages))):
        texts.append(f"inversions {kfac.inversion.value}")
    if kfac.replicas > 1:
        texts.append(count_text(kfac.replicas, "replica"))
    return ", ".join(texts)


def form_text(form: Form) -> str:
    """A form in words: placement, stages per device, backward."""
    chunks = "" if form.chunks == 1 else f", {form.chunks} stages per device"
    return f"{form.placement.value} placement{chunks}, {form.backward.value} backward"


def schedule_lines(schedule: Schedule) -> list[Line]:
    """Makespan, device span, bubble ratios and peak memory.

    Where more than the pipeline's own work is done there are two bubble ratios: with
    all that computes as work, and with the pipeline's own only.
    """
    units = schedule.graph.units
    peaks = peak_lines(schedule)
    ratio = f"{_bubbles(schedule)} ({BUBBLE_FORMULA})"
    bubbles = [("bubble ratio", ratio)]
    if has_other_work(schedule):
        own = _bubbles(schedule, pipeline_only=True)
        bubbles = [
            ("bubble ratio", f"{ratio}, work: {_busy_words(schedule)} too"),
            ("", f"{own}, work: the pipeline's own only"),
        ]
    return [
        ("makespan", time_text(schedule.makespan, units)),
        ("device span", time_text(schedule.device_span, units)),
        *bubbles,
        *((("" if i else "peak memory"), peak) for i, peak in enumerate(peaks)),
    ]


def has_other_work(schedule: Schedule) -> bool:
    """Whether something but the pipeline's own work computes."""
    return schedule.pipeline_work < schedule.work


def _busy_words(schedule: Schedule) -> str:
    """What computes beside the pipeline's own."""
    kinds = {op.kind for op in schedule.start if op.kind.is_compute}
    others = {kind for kind in kinds if not kind.is_pipeline}
    words = ["second-order work"] if others - {OpKind.STEP} else []
    words += ["optimizer's steps"] if OpKind.STEP in others else []
    return " and ".join(words)


def _bubbles(schedule: Schedule, *, pipeline_only: bool = False) -> str:
    by_makespan, by_span = (
        share_text(schedule.bubble_ratio(span, pipeline_only=pipeline_only))
        for span in (schedule.makespan, schedule.device_span)
    )
    return f"{by_makespan} for T = makespan, {by_span} for T = device span"


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
        tried = solution.all_baselines_tried
        return "none fits" if tried else "none so far (not all were tried)"
    name, value = solution.best_baseline
    if not solution.all_baselines_tried:
        name += " of those tried"
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
