"""What a runtime's rules cost: the best schedule under them and without them.

Both instances are solved, the free one first. Where every schedule under the rules can
be turned into a free one of no greater value, the free bound holds under the rules too,
and the value under the rules is also one of the free instance; ``is_restriction`` says
when that is proven. Where it is not (the costs differ), each number stands for itself,
and the price may be negative.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from schedopt.build import build_graph, in_microbatch_order, ops_as_built
from schedopt.errors import OrderError
from schedopt.instance import Backward, Instance, Objective
from schedopt.opgraph import OpGraph, Stream
from schedopt.ops import Op, OpKind
from schedopt.runtimes import FirstStage, profile_of
from schedopt.schedule import Schedule
from schedopt.simulate import best_times, dispatch
from schedopt.solve.incumbent import Progress
from schedopt.solve.period import require_steady_state
from schedopt.solve.solution import Hint, Solution, SolveParameters, TraceEntry
from schedopt.solve.solving import solve
from schedopt.verify import runtime_violations, violations

_LEAST_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimePrice:
    """An instance with and without the rules of a runtime; times in ticks.

    Attributes
    ----------
    solution : Solution
        Under the rules; its times are those of both runs.
    free : Solution
        Without them.
    is_restriction : bool
        Whether every schedule under the rules is, op by op, a free one of no greater
        value (``is_restriction``).
    """

    solution: Solution
    free: Solution
    is_restriction: bool

    @property
    def runtime(self) -> str:
        """The runtime's name."""
        return self.solution.instance.runtime

    @property
    def free_value(self) -> int | None:
        """The best value known for the free instance."""
        own, other = self.free.value, self.solution.value
        if self.is_restriction and other is not None:
            return other if own is None else min(own, other)
        return own

    @property
    def price(self) -> Fraction | None:
        """(value under the rules - free value) / free value; None without both."""
        value, free = self.solution.value, self.free_value
        if value is None or not free:
            return None
        return Fraction(value - free, free)

    @property
    def most(self) -> Fraction | None:
        """No price of optimal schedules is above this: value / free bound - 1."""
        value, bound = self.solution.value, self.free.lower_bound
        if value is None or bound <= 0:
            return None
        return Fraction(value - bound, bound)


def solve_with_price(
    free: Instance,
    ruled: Instance,
    parameters: SolveParameters | None = None,
    progress: Progress | None = None,
) -> RuntimePrice:
    """Solve an instance without and with the rules of a runtime.

    The free one gets half of the time, the other one the rest; neither needs all of it
    once it is proven. Ctrl-C while the free one is solved leaves hardly any time for
    the other.

    Parameters
    ----------
    free, ruled : Instance
        The same instance; ``ruled.runtime`` names the runtime.

    Raises
    ------
    NotApplicableError
        If the objective is the period and one of them has none.
    """
    parameters = parameters or SolveParameters()
    began = time.monotonic()
    graph = build_graph(ruled)
    if (parameters.objective or ruled.objective) is Objective.PERIOD:
        require_steady_state(ruled, graph)  # before half of the time is spent
    half = replace(parameters, time_limit_s=parameters.time_limit_s / 2)
    without = solve(free, half, _through(progress, _as_free))
    left = parameters.time_limit_s / 2
    if not parameters.reproducible:
        left = parameters.time_limit_s - (time.monotonic() - began)
    if without.interrupted:
        left = _LEAST_S
    hint, restricts = _hint(without, ruled, graph)
    offset = time.monotonic() - began

    def later(entry: TraceEntry) -> TraceEntry:
        return replace(entry, seconds=offset + entry.seconds)

    solution = solve(
        ruled,
        replace(parameters, time_limit_s=max(left, _LEAST_S)),
        _through(progress, later),
        hint=hint,
    )
    solution = replace(
        solution,
        parameters=parameters,
        wall_seconds=time.monotonic() - began,
        trace=tuple(map(later, solution.trace)),
        interrupted=solution.interrupted or without.interrupted,
    )
    return RuntimePrice(solution=solution, free=without, is_restriction=restricts)


def _as_free(entry: TraceEntry) -> TraceEntry:
    return replace(entry, member=f"without the rules: {entry.member}")


def _through(
    progress: Progress | None, change: Callable[[TraceEntry], TraceEntry]
) -> Progress | None:
    """Report entries changed."""
    if progress is None:
        return None
    return lambda entry: progress(change(entry))


def is_restriction(
    free: Instance, free_graph: OpGraph, ruled: Instance, ruled_graph: OpGraph
) -> bool:
    """Whether a schedule under the rules gives a free one of no greater value.

    Op by op: an op that both graphs have keeps its start; what is one op under the
    rules is run as its parts, one directly after the other, within the same interval
    (R and B; I and W; R, I and W). So streams stay free of conflict, and no end is
    later if the parts take no longer together. A precedence from I to the stage before
    holds, since I ends no later than the op it is a part of; on stage 0 nothing but W
    waits for I. Memory: a part frees what it frees no later than the one op, and makes
    what it makes no earlier. Only the gradient that I makes would be held in addition,
    and buffers of transfers could be freed later where I moves into W's interval; so
    without those it is a restriction, and else nothing is claimed.
    """
    profile = profile_of(ruled.runtime)
    torn = free.backward is Backward.SPLIT and ruled.backward is Backward.WHOLE
    moved = (
        profile.first_stage is FirstStage.ALL_IN_WEIGHT
        and ruled.backward is not Backward.WHOLE
    )
    same = free.backward in (ruled.backward, Backward.CHOOSE) or torn
    if not same or free.communication != ruled.communication:
        return False
    stages = range(len(free.stages)) if torn else ([0] if moved else [])
    if any(free.stages[stage].input_gradient for stage in stages):
        return False
    if moved and free.communication.transfer_buffers:
        return False
    kind = OpKind.BACKWARD if torn else OpKind.BACKWARD_WEIGHT
    return all(
        _ticks(free_graph, op) <= ruled_graph.data[op].duration
        for stage in stages
        for op in (Op(kind, stage, j) for j in range(free.microbatches))
        if op in ruled_graph.data
    )


def _ticks(graph: OpGraph, op: Op) -> int:
    """How long the parts of a whole backward take together, R included."""
    kinds = (OpKind.RECOMPUTE, OpKind.BACKWARD_INPUT, OpKind.BACKWARD_WEIGHT)
    parts = [op._replace(kind=kind) for kind in kinds]
    return sum(graph.data[part].duration for part in parts if part in graph.data)


def _hint(free: Solution, ruled: Instance, graph: OpGraph) -> tuple[Hint, bool]:
    """What the free solution says of the instance under the rules."""
    restricts = is_restriction(free.instance, free.graph, ruled, graph)
    restricts = restricts and free.objective is not Objective.PERIOD
    return (
        Hint(
            method=f"{free.method or 'bounds'} without the rules",
            schedule=_under_rules(free, ruled, graph),
            lower_bound=free.lower_bound if restricts else 0,
        ),
        restricts,
    )


def _under_rules(free: Solution, ruled: Instance, graph: OpGraph) -> Schedule | None:
    """The free schedule's order under the rules; None where it breaks one."""
    if free.schedule is None or free.periodic is not None:
        return None
    sequences: dict[Stream, tuple[Op, ...]] = {}
    ordered = in_microbatch_order(ruled, Schedule(free.graph, free.schedule.start))
    for stream, ops in ordered.order.sequences.items():
        computed = [op for op in ops if op.kind.is_compute]
        if ruled.backward is Backward.WHOLE:
            computed = list(_as_whole(computed))
        if computed:
            sequences[stream] = tuple(ops_as_built(ruled, computed))
    try:
        order = dispatch(graph, sequences)
        schedule = best_times(graph, order, free.objective)
    except OrderError:
        return None
    schedule = in_microbatch_order(ruled, schedule)
    broken = violations(graph, schedule.start) or runtime_violations(
        ruled.runtime, schedule.start
    )
    return None if broken else schedule


def _as_whole(ops: list[Op]) -> list[Op]:
    """A split order with B in the place of every I."""
    return [
        op._replace(kind=OpKind.BACKWARD) if op.kind is OpKind.BACKWARD_INPUT else op
        for op in ops
        if op.kind is not OpKind.BACKWARD_WEIGHT
    ]
