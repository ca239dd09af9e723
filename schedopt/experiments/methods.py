"""What a run can do: solve, or replay a hand-made schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from schedopt.errors import NotApplicableError
from schedopt.experiments.record import RunStatus
from schedopt.instance import FINITE_OBJECTIVES, Instance, Objective
from schedopt.opgraph import OpGraph
from schedopt.schedule import Schedule
from schedopt.solve.solution import Solution, SolveParameters, TraceEntry
from schedopt.steady import Periodic

DEFAULT_REGISTRY = "schedopt.experiments.methods:registry"
ALL_BASELINES = "baselines"
SOLVE = "solve"


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
    member : str
        What made the schedule, or the cap of a baseline.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to schedule an instance.

    Attributes
    ----------
    name : str
        As in a spec.
    run : callable
        From an instance and parameters to an outcome; raises NotApplicableError where
        the method does not exist.
    cheap : bool
        Whether runs are short, so that several may share a process.
    seeded : bool
        Whether the seed and the number of workers matter.
    baseline : bool
        Whether it is a hand-made schedule.
    """

    name: str
    run: Callable[[Instance, SolveParameters], Outcome]
    cheap: bool = False
    seeded: bool = True
    baseline: bool = False


Registry = Mapping[str, Method]


def registry() -> Registry:
    """The methods that a spec may name."""
    from schedopt.baselines import BASELINES  # noqa: PLC0415 (many modules)

    methods = [Method(name=SOLVE, run=_solve)]
    methods += [
        Method(name=name, run=_Baseline(name), cheap=True, seeded=False, baseline=True)
        for name in BASELINES
    ]
    return {method.name: method for method in methods}


def load_registry(name: str) -> Registry:
    """The registry that ``module:function`` makes; the name never comes from a file."""
    module, _, function = name.partition(":")
    make = cast("Callable[[], Registry]", getattr(import_module(module), function))
    return make()


def measures(outcome: Outcome) -> dict[str, Any]:
    """An outcome as fields of a record, in the instance's units."""
    fields: dict[str, Any] = {
        "status": outcome.status.value,
        "form": outcome.form,
        "objective": outcome.objective.value,
        "member": outcome.member,
        "reason": outcome.reason,
        "trace": [],
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


def _solve(instance: Instance, parameters: SolveParameters) -> Outcome:
    from schedopt.build import form_of  # noqa: PLC0415 (many modules)

    solve = cast(
        "Callable[[Instance, SolveParameters], Solution]",
        # By name: the solver's modules are many, and only this method needs them.
        import_module("schedopt.solve").solve,
    )
    solution = solve(instance, parameters)
    return Outcome(
        status=RunStatus(solution.status.value),
        objective=solution.objective,
        problem=instance,
        form=str(form_of(instance)),
        graph=solution.graph,
        schedule=solution.schedule,
        value=solution.value,
        lower_bound=solution.lower_bound,
        member=solution.method,
        trace=solution.trace,
        reason=solution.reason,
        periodic=solution.periodic,
    )


@dataclass(frozen=True, slots=True)
class _Baseline:
    """Replays a hand-made schedule, capped if it must be."""

    name: str

    def __call__(self, instance: Instance, parameters: SolveParameters) -> Outcome:
        from schedopt.baselines import (  # noqa: PLC0415 (many modules)
            BASELINES,
            run_baseline,
        )

        run = run_baseline(BASELINES[self.name], instance)
        objective = parameters.objective or instance.objective
        if objective not in FINITE_OBJECTIVES:
            msg = f"a hand-made schedule of one batch has no {objective.value}"
            raise NotApplicableError(msg)
        if not run.fits:
            raise NotApplicableError(_over(run.schedule))
        schedule = run.schedule
        value = (
            schedule.makespan
            if objective is Objective.MAKESPAN
            else schedule.device_span
        )
        return Outcome(
            status=RunStatus.FEASIBLE,
            objective=objective,
            problem=run.derived,
            form=str(run.form),
            graph=run.graph,
            schedule=schedule,
            value=value,
            member="" if run.cap is None else f"cap {run.cap}",
        )


def _over(schedule: Schedule) -> str:
    """Where a schedule needs most more memory than there is."""
    units = schedule.graph.units
    excess, device = max(
        (peak - device.limit, -index)
        for index, (device, peak) in enumerate(
            zip(schedule.graph.devices, schedule.peak_memory, strict=True)
        )
        if device.limit is not None
    )
    memory = schedule.graph.devices[-device]
    needs = units.memory_of(schedule.peak_memory[-device])
    assert memory.limit is not None
    assert excess > 0
    return (
        f"does not fit: {memory.name} needs {needs} {units.memory},"
        f" its limit is {units.memory_of(memory.limit)}"
    )
