"""When the data of a factor's curvature is complete, at the earliest.

Its shares wait for some ops of the frame. All of these and what they wait for, whatever
the order, take a device no less than: the earliest that one of them can start, then all
their durations on the device, then the way from one of them to the end of what the
shares wait for. Where these are all ops of the pipeline, its own bound counts as well.
"""

from __future__ import annotations

import networkx as nx

from schedopt.ops import Op
from schedopt.refresh.frame import END_OF_STEP, Frame
from schedopt.refresh.moving_bounds import heads_of
from schedopt.refresh.problem import FactorClass


class DataTimes:
    """Bounds on the last end of what the shares of a factor wait for.

    ``pipeline`` is one on the end of the whole pipeline, ticks from its start.
    """

    def __init__(self, frame: Frame, pipeline: int) -> None:
        self._frame = frame
        self._pipeline = pipeline
        self._graph = frame.with_refresh
        self._heads = heads_of(frame)
        self._known: dict[frozenset[Op], int] = {}

    def of(self, group: FactorClass) -> int:
        """The bound for factors of a class, ticks from the step's start."""
        data = frozenset(
            before
            for share in group.shares
            for before, _ in self._graph.predecessors(
                group.share_op(group.layers[0], share.microbatch)
            )
            if before in self._frame.start
        )
        if data not in self._known:
            self._known[data] = self._least(data)
        return self._known[data]

    def _least(self, data: frozenset[Op]) -> int:
        graph = self._frame.graph
        needed = set(data)
        for op in data:
            needed |= nx.ancestors(graph.digraph, op)
        needed &= self._frame.start.keys()
        tails = self._tails(needed)
        least = max(self._heads[op] + graph.data[op].duration for op in data)
        for device in range(len(graph.devices)):
            mine = [
                op
                for op in needed
                if op.kind.is_compute and graph.data[op].device == device
            ]
            if mine:
                load = sum(graph.data[op].duration for op in mine)
                first = min(self._heads[op] for op in mine)
                least = max(least, first + load + min(tails[op] for op in mine))
        pipeline = {op for op in self._frame.start if op.kind not in END_OF_STEP}
        return max(least, self._pipeline) if needed >= pipeline else least

    def _tails(self, needed: set[Op]) -> dict[Op, int]:
        """The longest way from each op's end to the end of what shares wait for."""
        graph = self._frame.graph
        tails: dict[Op, int] = {}
        for op in reversed(list(nx.topological_sort(graph.digraph.subgraph(needed)))):
            if op in needed:
                tails[op] = max(
                    (
                        lag + graph.data[after].duration + tails[after]
                        for after, lag in graph.successors(op)
                        if after in tails
                    ),
                    default=0,
                )
        return tails
