"""What a run can do: solve, replay a hand-made schedule, or pack a refresh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from schedopt.errors import NotApplicableError
from schedopt.experiments.outcome import Outcome
from schedopt.experiments.record import RunStatus
from schedopt.experiments.spec_model import REFRESH, RefreshFields
from schedopt.instance import FINITE_OBJECTIVES, Instance, Objective
from schedopt.schedule import Schedule
from schedopt.solve.solution import Solution, SolveParameters

DEFAULT_REGISTRY = "schedopt.experiments.methods:registry"
ALL_BASELINES = "baselines"
SOLVE = "solve"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to schedule an instance.

    Attributes
    ----------
    name : str
        As in a spec.
    run : callable
        From an instance, parameters and the settings, by name, to an outcome; raises
        NotApplicableError where the method does not exist.
    settings : tuple of str
        Names of the parameters that a spec gives this method alone.
    objective : Objective or None
        What it minimises, if that is not the spec's to choose.
    cheap : bool
        Whether runs are short, so that several may share a process.
    seeded : bool
        Whether the seed and the number of workers matter.
    baseline : bool
        Whether it is a hand-made schedule.
    """

    name: str
    run: Callable[..., Outcome]
    settings: tuple[str, ...] = ()
    objective: Objective | None = None
    cheap: bool = False
    seeded: bool = True
    baseline: bool = False


Registry = Mapping[str, Method]


def registry() -> Registry:
    """The methods that a spec may name."""
    from schedopt.baselines import BASELINES  # noqa: PLC0415 (many modules)

    methods = [
        Method(name=SOLVE, run=_solve),
        Method(
            name=REFRESH,
            run=_refresh,
            settings=tuple(RefreshFields.model_fields),
            objective=Objective.REFRESH,
        ),
    ]
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


def _refresh(
    instance: Instance, parameters: SolveParameters, **settings: Any
) -> Outcome:
    # By name: its modules are many, and only this method needs them.
    refresh = import_module("schedopt.experiments.refreshing").refresh
    return cast("Outcome", refresh(instance, parameters, **settings))


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
