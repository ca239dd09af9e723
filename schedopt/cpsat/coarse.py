"""Coarser time for the solver: the same op graph, counted in longer ticks.

CP-SAT slows down with long horizons. Dividing all durations and lags by their greatest
common divisor changes nothing. Where that is not enough they are rounded: up for
finding schedules (an order found there is replayed exactly), down for bounds (a bound
there, times the scale, holds for the exact costs, since shorter ops and lags never
hurt).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import gcd

import networkx as nx

from schedopt.opgraph import OpGraph
from schedopt.ops import Op

LARGEST_HORIZON = 2_000_000
"""Coarse ticks up to which time stays exact."""

ROUNDED_HORIZON = 500_000
"""Coarse ticks to which longer horizons are rounded."""


def exact_scale(graph: OpGraph, moments: Iterable[int] = ()) -> int:
    """The largest number of ticks that divides all durations, lags and moments."""
    divisor = gcd(*moments)
    for data in graph.data.values():
        divisor = gcd(divisor, data.duration)
    for edge in graph.edges:
        divisor = gcd(divisor, edge.lag)
    return max(divisor, 1)


def scale_within(graph: OpGraph, horizon: int, moments: Iterable[int] = ()) -> int:
    """How many ticks one coarse tick is: exact where the horizon is not too long."""
    scale = exact_scale(graph, moments)
    if horizon // scale > LARGEST_HORIZON:
        return -(-horizon // ROUNDED_HORIZON)
    return scale


def coarsened(graph: OpGraph, scale: int, *, round_up: bool) -> OpGraph:
    """The graph with every duration and lag divided by ``scale``."""

    def divide(ticks: int) -> int:
        return -(-ticks // scale) if round_up else ticks // scale

    digraph: nx.DiGraph[Op] = nx.DiGraph()
    digraph.add_nodes_from(
        (op, {"data": data._replace(duration=divide(data.duration))})
        for op, data in graph.data.items()
    )
    digraph.add_edges_from(
        (before, after, {"lag": divide(lag)}) for before, after, lag in graph.edges
    )
    return OpGraph(digraph, graph.buffers, graph.choices, graph.devices, graph.units)
