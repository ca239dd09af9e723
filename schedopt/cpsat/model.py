"""Builds the CP-SAT model of a scope, runs it, and reads the schedule off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ortools.sat.python import cp_model

from schedopt.cpsat.rules import (
    OBJECTIVES,
    PROBLEM,
    REDUNDANT,
    SYMMETRY,
    Rule,
    fit_in_memory,
    fit_in_memory_by_levels,
    levels_apply,
)
from schedopt.cpsat.variables import Scope, Variables
from schedopt.instance import Objective
from schedopt.ops import Op

Starts = Mapping[Op, int]
"""Ticks at which present ops start."""


class Outcome(StrEnum):
    """How a run of the solver ended."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long and in which way to search.

    Attributes
    ----------
    time_limit_s : float
        Wall time, seconds.
    workers : int
        Threads of CP-SAT.
    deterministic_time : float or None
        Replaces the wall clock where results must repeat.
    by_levels : bool
        State memory as a reservoir where that is possible.
    settings : mapping
        Further solver parameters by name.
    on_spent : callable or None
        Told the deterministic time that each run took, seconds.
    """

    time_limit_s: float
    workers: int = 1
    seed: int = 0
    deterministic_time: float | None = None
    by_levels: bool = False
    memory_limit_mib: int = 6000
    settings: Mapping[str, int | float | bool] = field(default_factory=dict)
    on_spent: Callable[[float], None] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a run found, in the ticks of its scope.

    ``lower_bound`` is proven within the scope's limits: ``upper_bound + 1`` says that
    nothing lies between them.
    """

    outcome: Outcome
    start: Starts | None
    lower_bound: int


ALL_RULES = PROBLEM + REDUNDANT + SYMMETRY


def build_model(
    scope: Scope, objective: Objective, rules: tuple[Rule, ...] = ALL_RULES
) -> tuple[cp_model.CpModel, Variables]:
    """The model of a scope: its variables, the rules, and the objective to minimise."""
    model = cp_model.CpModel()
    x = Variables(model, scope)
    for rule in (*rules, OBJECTIVES[objective]):
        rule(model, x)
    model.minimize(x.objective)
    return model, x


def run(
    scope: Scope,
    objective: Objective,
    effort: Effort,
    *,
    hint: Starts | None = None,
    rules: tuple[Rule, ...] | None = None,
    on_schedule: Callable[[Starts], None] | None = None,
    on_bound: Callable[[int], None] | None = None,
) -> Result:
    """Minimise the objective over a scope; report schedules and bounds as found.

    Without ``rules`` all of them hold.
    """
    rules = ALL_RULES if rules is None else rules
    if effort.by_levels and levels_apply(scope.graph):
        rules = tuple(
            fit_in_memory_by_levels if rule is fit_in_memory else rule for rule in rules
        )
    model, x = build_model(scope, objective, rules)
    if hint is not None:
        x.hint(hint, scope.upper_bound)
    solver = solver_of(effort)
    if on_bound is not None:
        solver.best_bound_callback = lambda bound: on_bound(round(bound))
    status = solver.solve(model, _Stream(x, on_schedule) if on_schedule else None)
    if effort.on_spent is not None:
        effort.on_spent(solver.response_proto.deterministic_time)
    if status == cp_model.INFEASIBLE:
        return Result(Outcome.INFEASIBLE, None, scope.upper_bound + 1)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        # The bound of a run without a solution is not to be relied on.
        return Result(Outcome.UNKNOWN, None, scope.lower_bound)
    proven = max(scope.lower_bound, round(solver.best_objective_bound))
    outcome = Outcome.OPTIMAL if status == cp_model.OPTIMAL else Outcome.FEASIBLE
    return Result(outcome, _starts(x, solver.value), proven)


def solver_of(effort: Effort) -> cp_model.CpSolver:
    """A solver with the effort's limits and settings."""
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    parameters.max_time_in_seconds = effort.time_limit_s
    if effort.deterministic_time is not None:
        parameters.max_deterministic_time = effort.deterministic_time
    parameters.num_workers = effort.workers
    parameters.random_seed = effort.seed
    parameters.catch_sigint_signal = False
    parameters.max_memory_in_mb = effort.memory_limit_mib
    for name, value in effort.settings.items():
        setattr(parameters, name, value)
    return solver


def _starts(x: Variables, value: Callable[[cp_model.IntVar], int]) -> Starts:
    """The starts of the present ops."""
    data = x.scope.graph.data
    return {
        op: value(var.start)
        for op, var in x.op.items()
        if (name := data[op].literal) is None or value(x.literal[name])
    }


class _Stream(cp_model.CpSolverSolutionCallback):
    """Hands every schedule on as it is found."""

    def __init__(self, x: Variables, report: Callable[[Starts], None]) -> None:
        super().__init__()
        self._x = x
        self._report = report

    def on_solution_callback(self) -> None:
        """Called by the solver."""
        self._report(_starts(self._x, self.value))
