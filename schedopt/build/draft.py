"""An op graph that is being built: several builders add to it, one after another."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import networkx as nx

from schedopt.build.quantities import ticks
from schedopt.opgraph import (
    Buffer,
    Choice,
    DeviceMemory,
    OpData,
    OpGraph,
    Stream,
    StreamKind,
    Units,
)
from schedopt.ops import Op


class Draft:
    """Ops, precedences, buffers and choices so far."""

    def __init__(self, devices: tuple[DeviceMemory, ...], units: Units) -> None:
        self.digraph: nx.DiGraph[Op] = nx.DiGraph()
        self.buffers: list[Buffer] = []
        self.choices: list[Choice] = []
        self.devices = devices
        self.units = units

    def add(self, op: Op, data: OpData) -> Op:
        """A new op."""
        self.digraph.add_node(op, data=data)
        return op

    def compute(
        self, op: Op, duration: Fraction, device: int, literal: str | None = None
    ) -> Op:
        """A new op of a duration in time units on a device's compute stream."""
        streams = (Stream(StreamKind.COMPUTE, device),)
        length = ticks(duration, self.units)
        return self.add(op, OpData(length, device, streams, literal))

    def edges(self, before: Iterable[Op], after: Iterable[Op], lag: int = 0) -> None:
        """Every op of ``after`` waits for every op of ``before``."""
        later = tuple(after)
        self.digraph.add_edges_from(
            (one, other, {"lag": lag}) for one in before for other in later
        )

    def data(self, op: Op) -> OpData:
        """What an op that has been added needs."""
        data: OpData = self.digraph.nodes[op]["data"]
        return data

    def graph(self) -> OpGraph:
        """What has been built."""
        return OpGraph(
            self.digraph,
            tuple(self.buffers),
            tuple(self.choices),
            self.devices,
            self.units,
        )
