"""The same problem with fewer microbatches, on which rules are tried first.

What a rule does to the steady state shows on a few times as many microbatches as can be
under way at once; the rest only costs time.
"""

from __future__ import annotations

import networkx as nx
import numpy as np

from schedopt.lattice import Problem, problem_of
from schedopt.lattice.windows import earliest_and_latest
from schedopt.opgraph import OpGraph
from schedopt.ops import Op

_TIMES_UNDER_WAY = 2.5
"""Microbatches, as a multiple of those that fit into one microbatch's round trip."""


def with_fewer_microbatches(problem: Problem) -> Problem | None:
    """The problem of the first microbatches; None unless that saves half the ops."""
    total = len(problem.graph.microbatches)
    kept = int(_TIMES_UNDER_WAY * _under_way(problem)) + 1
    if 2 * kept > total:
        return None
    shorter = problem_of(_first(problem.graph, kept))
    if shorter is None or _classes(shorter) != _classes(problem):
        return None
    return shorter


def _under_way(problem: Problem) -> float:
    """One microbatch's shortest time from end to end, per microbatch of the load."""
    arrays = problem.arrays
    heads = earliest_and_latest(arrays, 0)[0][arrays.first_op[:-1]]
    per_place = arrays.duration[arrays.class_at]
    load = np.add.reduceat(per_place, arrays.first_place[:-1]).max()
    return float((heads + arrays.duration).max() / max(1, load))


def _first(graph: OpGraph, microbatches: int) -> OpGraph:
    """The op graph of the microbatches with the smallest numbers."""
    kept = set(sorted(graph.microbatches)[:microbatches])
    digraph: nx.DiGraph[Op] = nx.DiGraph()
    digraph.add_nodes_from(
        (op, {"data": data})
        for op, data in graph.data.items()
        if (op.step, op.microbatch) in kept
    )
    digraph.add_edges_from(
        (before, after, {"lag": lag})
        for before, after, lag in graph.edges
        if before in digraph and after in digraph
    )
    buffers = tuple(buffer for buffer in graph.buffers if buffer.maker in digraph)
    return OpGraph(digraph, buffers, (), graph.devices, graph.units)


def _classes(problem: Problem) -> list[tuple[object, ...]]:
    """What tells the classes apart, in their order."""
    first = (problem.ops[op] for op in problem.arrays.first_op[:-1])
    return [(op.kind, op.stage, op.part) for op in first]
