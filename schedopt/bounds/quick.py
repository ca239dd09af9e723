"""The bounds that take milliseconds, by name and objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from schedopt.bounds.memory import memory_paths
from schedopt.bounds.one_machine import jackson, jobs_on, load
from schedopt.bounds.relaxed import without_choices
from schedopt.bounds.spans import device_load_bound, device_memory_bound
from schedopt.instance import Objective
from schedopt.opgraph import OpGraph, StreamKind
from schedopt.paths import critical_path, paths
from schedopt.steady import memory_throughput, stream_load

Bound = Callable[[OpGraph], int]


def load_bound(graph: OpGraph) -> int:
    """The most loaded stream: least head, all its work, least tail."""
    found = paths(graph)
    return max(
        (load(jobs_on(graph, stream, found)) for stream in graph.streams), default=0
    )


def one_machine_bound(graph: OpGraph) -> int:
    """Jackson's preemptive schedule of each stream, with heads and tails from paths."""
    found = paths(graph)
    return max(
        (jackson(jobs_on(graph, stream, found)) for stream in graph.streams), default=0
    )


def memory_bound(graph: OpGraph) -> int:
    """Jackson's bound with heads and tails that know the memory limits.

    It contains the idle time that memory forces: with k microbatches in flight a device
    waits for the first of them to come back before it can start the next.
    """
    found = memory_paths(graph)
    if found is None:
        return 0
    return max(
        (jackson(jobs_on(graph, stream, found)) for stream in graph.streams), default=0
    )


def relaxed_bound(graph: OpGraph) -> int:
    """The best of these bounds on the relaxation of a graph with choices."""
    relaxed = without_choices(graph) if graph.choices else None
    return (
        0 if relaxed is None else max(one_machine_bound(relaxed), memory_bound(relaxed))
    )


def relaxed_span_bound(graph: OpGraph) -> int:
    """The device-span bounds on the relaxation of a graph with choices."""
    relaxed = without_choices(graph) if graph.choices else None
    if relaxed is None:
        return 0
    return max(device_load_bound(relaxed), device_memory_bound(relaxed))


def relaxed_period_bound(graph: OpGraph) -> int:
    """The bounds on the period on the relaxation of a graph with choices."""
    relaxed = without_choices(graph) if graph.choices else None
    if relaxed is None:
        return 0
    return max(stream_load(relaxed), memory_throughput(relaxed))


def memory_device_bounds(graph: OpGraph) -> dict[int, int]:
    """Jackson's bound of each device's compute stream, with the best heads known."""
    found = memory_paths(graph) or paths(graph)
    return {
        stream.device: jackson(jobs_on(graph, stream, found))
        for stream in graph.streams
        if stream.kind is StreamKind.COMPUTE
    }


QUICK_BOUNDS: Mapping[Objective, Mapping[str, Bound]] = {
    Objective.MAKESPAN: {
        "critical path": critical_path,
        "load": load_bound,
        "one machine": one_machine_bound,
        "one machine with memory": memory_bound,
        "relaxed choices": relaxed_bound,
    },
    Objective.DEVICE_SPAN: {
        "device load": device_load_bound,
        "device alone with memory": device_memory_bound,
        "relaxed choices": relaxed_span_bound,
    },
    Objective.PERIOD: {
        "stream load": stream_load,
        "memory throughput": memory_throughput,
        "relaxed choices": relaxed_period_bound,
    },
}


LOAD_BOUNDS: Mapping[Objective, Mapping[str, Bound]] = {
    Objective.MAKESPAN: {"critical path": critical_path, "load": load_bound},
    Objective.DEVICE_SPAN: {"device load": device_load_bound},
}
"""Those that take little time on large graphs, too."""


def quick_bounds(graph: OpGraph, objective: Objective) -> dict[str, int]:
    """Every quick bound of the objective by name, ticks."""
    return {name: bound(graph) for name, bound in QUICK_BOUNDS[objective].items()}
