"""The variables of the CP-SAT model, keyed by the op graph's own objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ortools.sat.python import cp_model

from schedopt.opgraph import OpGraph
from schedopt.ops import Op

HintOf = Callable[[Mapping[Op, int]], int]
"""From the starts of present ops to the value of an auxiliary variable."""


@dataclass(frozen=True, slots=True)
class OpVar:
    """The variables of one op; ``end`` is ``start + duration``."""

    start: cp_model.IntVar
    duration: int
    end: cp_model.LinearExpr
    interval: cp_model.IntervalVar
    literal: cp_model.BoolVarT | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What the model covers and within which limits; times in the graph's ticks.

    Attributes
    ----------
    graph : OpGraph
        The whole problem, or the part of it on one device (``cpsat.projection``).
    head, tail : mapping
        Earliest start of each op, and what must follow its end.
    horizon : int
        Every op has ended by then.
    lower_bound, upper_bound : int
        The objective lies between them.
    is_in_order : bool
        Whether heads and tails are those of schedules in which equal microbatches pass
        in order; else microbatches must agree in them to be taken for equal.
    """

    graph: OpGraph
    head: Mapping[Op, int]
    tail: Mapping[Op, int]
    horizon: int
    lower_bound: int
    upper_bound: int
    is_in_order: bool = False


class Variables:
    """Creates every variable of the model and remembers what it stands for."""

    def __init__(self, model: cp_model.CpModel, scope: Scope) -> None:
        self.model = model
        self.scope = scope
        graph = scope.graph
        self.literal: dict[str, cp_model.IntVar] = {
            name: model.new_bool_var(name) for name in sorted(graph.literals)
        }
        self.op: dict[Op, OpVar] = {op: self._op_var(op) for op in graph.ops}
        self.objective = model.new_int_var(
            scope.lower_bound, scope.upper_bound, "objective"
        )
        self._hints: list[tuple[cp_model.IntVar, HintOf]] = []

    def present(self, op: Op) -> list[cp_model.IntVar]:
        """The literals that must hold for ``op`` to be present: none or one."""
        name = self.scope.graph.data[op].literal
        return [] if name is None else [self.literal[name]]

    def auxiliary(self, name: str, hint: HintOf) -> cp_model.IntVar:
        """A variable in [0, horizon] whose hint is computed from the ops' starts."""
        variable = self.model.new_int_var(0, self.scope.horizon, name)
        self._hints.append((variable, hint))
        return variable

    def hint(self, start: Mapping[Op, int], objective: int) -> None:
        """Hint every variable, auxiliary ones included, from present ops' starts.

        Absent ops are hinted to their earliest start.
        """
        data = self.scope.graph.data
        true = {data[op].literal for op in start}
        for name, literal in self.literal.items():
            self.model.add_hint(literal, name in true)
        for op, var in self.op.items():
            self.model.add_hint(var.start, start.get(op, self.scope.head[op]))
        for variable, value in self._hints:
            self.model.add_hint(variable, value(start))
        self.model.add_hint(self.objective, objective)

    def _op_var(self, op: Op) -> OpVar:
        data = self.scope.graph.data[op]
        duration = data.duration
        earliest = self.scope.head[op]
        latest = max(earliest, self.scope.horizon - duration)
        start = self.model.new_int_var(earliest, latest, f"start {op}")
        end = start + duration
        if data.literal is None:
            interval = self.model.new_fixed_size_interval_var(start, duration, f"{op}")
            return OpVar(start, duration, end, interval, None)
        literal = self.literal[data.literal]
        interval = self.model.new_optional_fixed_size_interval_var(
            start, duration, literal, f"{op}"
        )
        return OpVar(start, duration, end, interval, literal)
