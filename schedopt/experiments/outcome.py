"""What a run found, and how it is told as fields of a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schedopt.experiments.measures import Measured
from schedopt.experiments.record import RunStatus
from schedopt.instance import Instance, Objective
from schedopt.opgraph import OpGraph
from schedopt.schedule import Schedule
from schedopt.solve.solution import TraceEntry
from schedopt.steady import Periodic


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a method found; times in ticks of ``graph``.

    Attributes
    ----------
    status : RunStatus
        As the record says it.
    objective : Objective
        What ``value`` and ``lower_bound`` measure.
    problem : Instance
        The instance that was scheduled: as written, or in the baseline's form.
    form : str
        Its form, as text.
    value : int or None
        None, with a schedule: the objective is no measure of a schedule by itself.
    member : str
        What made the schedule, or the cap of a baseline.
    measures : mapping or None
        What the method tells beside all this, by the names of ``MEASURES``, in the
        instance's units.
    """

    status: RunStatus
    objective: Objective
    problem: Instance
    form: str
    graph: OpGraph | None = None
    schedule: Schedule | None = None
    value: int | None = None
    lower_bound: int | None = None
    member: str = ""
    trace: tuple[TraceEntry, ...] = ()
    reason: str = ""
    periodic: Periodic | None = None
    measures: Mapping[str, Measured] | None = None


def record_fields(outcome: Outcome) -> dict[str, Any]:
    """An outcome as fields of a record, in the instance's units."""
    fields: dict[str, Any] = {
        "status": outcome.status.value,
        "form": outcome.form,
        "objective": outcome.objective.value,
        "member": outcome.member,
        "reason": outcome.reason,
        "trace": [],
        "measures": None if outcome.measures is None else dict(outcome.measures),
    }
    graph, schedule = outcome.graph, outcome.schedule
    if graph is None:
        return fields
    units = graph.units

    def time(ticks: int | None) -> int | float | None:
        return None if ticks is None else units.time_of(ticks)

    value, bound = outcome.value, outcome.lower_bound
    fields |= {
        "value": time(value),
        "lower_bound": time(bound),
        "gap": _gap(value, bound),
        "trace": [
            [entry.seconds, time(entry.value), time(entry.lower_bound), entry.member]
            for entry in outcome.trace
        ],
    }
    if schedule is not None:
        fields |= {
            "makespan": time(schedule.makespan),
            "device_span": time(schedule.device_span),
            "peak_memory": [units.memory_of(peak) for peak in schedule.peak_memory],
        }
    return fields


def _gap(value: int | None, bound: int | None) -> float | None:
    if value is None or bound is None:
        return None
    return (value - bound) / value if value else 0.0
