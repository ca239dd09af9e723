"""A finite schedule from a periodic one: as many cycles as the batch fills.

The starts of the steady state itself are a schedule, since what is not there frees
streams and memory. Their order is replayed, so that every op starts as early as the
order lets it: that shortens the warm-up and the drain, where most ops have nobody to
wait for.
"""

from __future__ import annotations

from schedopt.errors import OrderError
from schedopt.opgraph import OpGraph
from schedopt.schedule import Schedule
from schedopt.simulate import simulate, with_memory_edges
from schedopt.steady.periodic import Periodic


def unrolled(graph: OpGraph, periodic: Periodic) -> Schedule:
    """The schedule of all microbatches of ``graph`` in the order of the steady state.

    ``graph`` is that of the periodic schedule, or differs from it in the number of
    microbatches only.
    """
    repeated = as_repeated(graph, periodic)
    try:
        replayed = simulate(graph, with_memory_edges(repeated))
    except OrderError:
        return repeated  # a buffer held for no time at all: no replay may move it
    fits = all(
        device.limit is None or peak <= device.limit
        for device, peak in zip(graph.devices, replayed.peak_memory, strict=True)
    )
    return replayed if fits else repeated


def as_repeated(graph: OpGraph, periodic: Periodic) -> Schedule:
    """Every microbatch exactly as in the steady state; the first start is 0."""
    count = periodic.problem.microbatches
    starts = periodic.starts
    repeated = {
        op: starts[op._replace(microbatch=op.microbatch % count)]
        + op.microbatch // count * periodic.cycle
        for op in graph.ops
    }
    return Schedule(graph, repeated).shifted_to_zero()
