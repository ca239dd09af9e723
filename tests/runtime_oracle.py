"""The best schedule that a runtime executes, by trying every order of a tiny instance.

It knows nothing of how rules get into op graphs: the instance runs without a runtime
(but for what work costs there, see ``as_torch_runs_it`` and ``with_late_recomputes``),
every sequence of every device is tried, and ``schedopt.export.rules`` says which of
them the runtime would execute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

from schedopt.build import build_graph
from schedopt.errors import OrderError
from schedopt.export.program import Program
from schedopt.export.rules import broken_rules
from schedopt.instance import Backward, Instance
from schedopt.opgraph import Edge, OpGraph, Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.runtimes import FirstStage, Recompute, profile_of
from schedopt.schedule import Order, Schedule
from schedopt.simulate import simulate
from tests.graph_changes import rebuilt

Rows = tuple[tuple[Op, ...], ...]


def best_value(
    instance: Instance, keep: Callable[[Rows], bool] = lambda _: True
) -> int | None:
    """The least makespan in ticks; None if nothing fits. ``instance`` has a runtime."""
    profile = profile_of(instance.runtime)
    free = replace(instance, runtime="")
    if profile.first_stage is FirstStage.ALL_IN_WEIGHT:
        free = as_torch_runs_it(free)
    graph = build_graph(free)
    if profile.recompute is Recompute.IN_WHOLE:
        graph = with_late_recomputes(graph)
    best: int | None = None
    for selected in _selections(graph):
        per_device = [
            list(_sequences(selected, device))
            for device in range(len(instance.devices))
        ]
        for rows in product(*per_device):
            program = Program(free, Schedule(graph, {}), rows)
            if broken_rules(program, profile) or not keep(rows):
                continue
            schedule = _replayed(graph, rows)
            if schedule is not None and (best is None or schedule.makespan < best):
                best = schedule.makespan
    return best


def as_torch_runs_it(instance: Instance) -> Instance:
    """Stage 0 as torch runs a split backward there: I is nothing, W is all of it."""
    first = instance.stages[0]
    if instance.backward is Backward.WHOLE:
        return instance
    first = replace(
        first,
        backward=first.whole_backward,
        backward_input=0,
        backward_weight=first.whole_backward,
        activation_until_input=0,
        input_gradient=0,
    )
    return replace(instance, stages=(first, *instance.stages[1:]))


def with_late_recomputes(graph: OpGraph) -> OpGraph:
    """What begins a backward comes R's duration after the gradient, not only after R.

    A runtime that recomputes inside the backward has the gradient before it begins.
    """

    def late(edge: Edge) -> Edge:
        recompute = edge.after._replace(kind=OpKind.RECOMPUTE)
        entry = edge.after.kind in (OpKind.BACKWARD, OpKind.BACKWARD_INPUT)
        if not entry or recompute not in graph.data or edge.before == recompute:
            return edge
        return edge._replace(lag=edge.lag + graph.data[recompute].duration)

    return rebuilt(graph, edges=map(late, graph.edges))


def _selections(graph: OpGraph) -> Iterator[OpGraph]:
    for literals in product(*(choice.literals for choice in graph.choices)):
        yield graph.select(literals)


def _sequences(graph: OpGraph, device: int) -> Iterator[tuple[Op, ...]]:
    """Every sequence of a device's ops in which none stands before what it needs."""
    ops = graph.streams.get(Stream(StreamKind.COMPUTE, device), ())
    order = (
        OpKind.FORWARD,
        OpKind.RECOMPUTE,
        OpKind.BACKWARD,
        OpKind.BACKWARD_INPUT,
        OpKind.BACKWARD_WEIGHT,
    )
    lines: dict[tuple[int, int], list[Op]] = {}
    for op in sorted(ops, key=lambda op: order.index(op.kind)):
        lines.setdefault((op.stage, op.microbatch), []).append(op)
    yield from _merged([tuple(line) for line in lines.values()])


def _merged(lines: list[tuple[Op, ...]]) -> Iterator[tuple[Op, ...]]:
    if not any(lines):
        yield ()
    for index, line in enumerate(lines):
        if line:
            rest = [*lines[:index], line[1:], *lines[index + 1 :]]
            for tail in _merged(rest):
                yield (line[0], *tail)


def _replayed(graph: OpGraph, rows: Rows) -> Schedule | None:
    sequences = {Stream(StreamKind.COMPUTE, d): row for d, row in enumerate(rows)}
    try:
        schedule = simulate(graph, Order(sequences))
    except OrderError:
        return None
    for device, peak in zip(graph.devices, schedule.peak_memory, strict=True):
        if device.limit is not None and peak > device.limit:
            return None
    return schedule
