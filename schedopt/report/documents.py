"""Finished objects as plain documents: what ``--json`` prints.

Times and sizes are in the instance's units, which every document names. The keys are
stable: a new one may come, none goes or changes its meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from schedopt.baselines import BaselineRun
from schedopt.instance import Instance, Objective
from schedopt.opgraph import OpGraph, Units
from schedopt.report.comparison import Comparison, Row
from schedopt.schedule import Schedule
from schedopt.solve.solution import Solution
from schedopt.steady import Periodic
from schedopt.verify import Violation

Document = dict[str, Any]


class Bound(NamedTuple):
    """A lower bound, and when it was there."""

    name: str
    ticks: int
    seconds: float


def solution_document(solution: Solution) -> Document:
    """What solving found, without the ops: those are in the schedule file."""
    units = solution.graph.units
    reproducible = solution.parameters.reproducible
    best = solution.best_baseline
    return {
        **_head(solution.instance, solution.graph),
        "status": solution.status.value,
        "reason": solution.reason,
        "interrupted": solution.interrupted,
        "objective": solution.objective.value,
        "value": _time(solution.value, units),
        "lower_bound": units.time_of(solution.lower_bound),
        "gap": solution.gap,
        "best_baseline": best and {"name": best[0], "value": units.time_of(best[1])},
        "all_baselines_tried": solution.all_baselines_tried,
        **_measures(solution.schedule, solution.graph),
        "steady": solution.periodic and _steady(solution.periodic),
        "method": solution.method,
        "seed": solution.parameters.seed,
        "wall_seconds": None if reproducible else solution.wall_seconds,
        "trace": None
        if reproducible
        else [
            {
                "seconds": entry.seconds,
                "value": _time(entry.value, units),
                "bound": _time(entry.lower_bound, units),
                "member": entry.member,
            }
            for entry in solution.trace
        ],
    }


def _steady(periodic: Periodic) -> Document:
    """A steady state: one cycle."""
    units = periodic.graph.units
    return {
        "period": units.time_of(periodic.period),
        "cycle": units.time_of(periodic.cycle),
        "microbatches": periodic.problem.microbatches,
        "bubble_ratio": periodic.bubble_ratio,
        "in_flight": list(periodic.in_flight),
        "peak_memory": [units.memory_of(peak) for peak in periodic.peak_memory],
        "starts": {str(op): units.time_of(t) for op, t in periodic.starts.items()},
    }


def baseline_document(run: BaselineRun) -> Document:
    """A hand-made schedule on an instance."""
    return {
        **_head(run.derived, run.graph),
        "baseline": run.baseline.name,
        "reference": run.baseline.reference,
        "form": str(run.form),
        "cap": run.cap,
        "fits": run.fits,
        **_measures(run.schedule, run.graph),
    }


def replay_document(instance: Instance, schedule: Schedule) -> Document:
    """An order as it was replayed."""
    return {
        **_head(instance, schedule.graph),
        **_measures(schedule, schedule.graph),
    }


def comparison_document(comparison: Comparison) -> Document:
    """A comparison: rows as in the table."""
    instance = comparison.instance
    return {
        "instance": instance.name,
        "time_unit": instance.time_unit,
        "memory_unit": instance.memory_unit,
        "rows": [_row(row) for row in comparison.rows],
        "not_applicable": [
            {"schedule": name, "reason": reason}
            for name, reason in comparison.not_applicable
        ],
        "solutions": [solution_document(s) for s in comparison.solutions],
    }


def bounds_document(
    instance: Instance, graph: OpGraph, objective: Objective, bounds: Sequence[Bound]
) -> Document:
    """Each bound by name, and the best."""
    units = graph.units
    return {
        **_head(instance, graph),
        "objective": objective.value,
        "bounds": [
            {
                "name": bound.name,
                "value": units.time_of(bound.ticks),
                "seconds": bound.seconds,
            }
            for bound in bounds
        ],
        "best": units.time_of(max((bound.ticks for bound in bounds), default=0)),
    }


def verdict_document(
    file: str, violations: tuple[Violation, ...], error: str = ""
) -> Document:
    """What the verifier says of a file; ``error`` if it could not be read."""
    return {
        "file": file,
        "ok": not violations and not error,
        "error": error,
        "violations": [
            {
                "rule": violation.rule.value,
                "ops": [str(op) for op in violation.ops],
                "detail": violation.detail,
            }
            for violation in violations
        ],
    }


def _row(row: Row) -> Document:
    return {
        "schedule": row.name,
        "form": row.form,
        "own_form": row.own_form,
        "cap": row.cap,
        "fits": row.fits,
        "gap": row.gap,
        **_measures(row.schedule, row.schedule.graph),
    }


def _head(instance: Instance, graph: OpGraph) -> Document:
    return {
        "instance": instance.name,
        "time_unit": instance.time_unit,
        "memory_unit": instance.memory_unit,
        "devices": len(instance.devices),
        "stages": len(instance.stages),
        "microbatches": instance.microbatches,
        "ops": len(graph.ops),
    }


def _measures(schedule: Schedule | None, graph: OpGraph) -> Document:
    units = graph.units
    limits = [
        None if device.limit is None else units.memory_of(device.limit)
        for device in graph.devices
    ]
    if schedule is None:
        return {
            "makespan": None,
            "device_span": None,
            "bubble_ratio": None,
            "peak_memory": None,
            "memory_limit": limits,
        }
    return {
        "makespan": units.time_of(schedule.makespan),
        "device_span": units.time_of(schedule.device_span),
        "bubble_ratio": {
            "makespan": schedule.bubble_ratio(schedule.makespan),
            "device_span": schedule.bubble_ratio(schedule.device_span),
        },
        "peak_memory": [units.memory_of(peak) for peak in schedule.peak_memory],
        "memory_limit": limits,
    }


def _time(ticks: int | None, units: Units) -> int | float | None:
    return None if ticks is None else units.time_of(ticks)
