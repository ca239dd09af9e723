"""The op graph: ops, precedences, streams, buffers and choices, all in integers.

This is the problem that the solver, the verifier, the simulator and the exporters
know; builders make it from an instance (``schedopt.build``). Its rules:

1. A stream runs one op at a time; an op that needs several streams holds them together.
2. An op starts no earlier than each present predecessor's end plus that edge's lag.
3. On each device the sizes of the buffers alive at any moment plus the static memory
   stay within the limit. A buffer is alive from the start of its maker to the last end
   of its present users, half-open: what ends at t is freed before what starts at t is
   allocated. A buffer is present if its maker is.
4. Of each choice exactly one literal is true; an op with a literal is present if and
   only if its literal is true. A literal may stand in several choices, and several ops
   may share one literal.

Times are ticks (``Units.ticks_per_unit`` of them in the user's time unit); sizes are
grains (``Units.grains_per_unit`` of them in the user's memory unit).

The graph over a selection of alternatives is acyclic, but for one exception: with
overlap alternatives two joint ops may wait for each other. Such a selection has no
schedule (docs/problem.md has an example).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

import networkx as nx

from schedopt.ops import Op


class StreamKind(StrEnum):
    """The kinds of serial resources."""

    COMPUTE = "compute"
    P2P = "p2p"
    COLLECTIVE = "collective"
    COPY = "copy"


class Stream(NamedTuple):
    """A serial resource of a device, or of the directed link from it to ``peer``."""

    kind: StreamKind
    device: int
    peer: int | None = None

    def __str__(self) -> str:
        peer = "" if self.peer is None else f">{self.peer}"
        return f"{self.kind.value}@{self.device}{peer}"


class OpData(NamedTuple):
    """What an op needs.

    Attributes
    ----------
    duration : int
        Ticks for which the op holds its streams.
    device : int
        The device that the op belongs to (a transfer: the sender).
    streams : tuple of Stream
        All streams that it holds together.
    literal : str or None
        The literal that decides its presence; None if it is always present.
    """

    duration: int
    device: int
    streams: tuple[Stream, ...]
    literal: str | None = None


class Edge(NamedTuple):
    """``after`` starts no earlier than the end of ``before`` plus ``lag`` ticks."""

    before: Op
    after: Op
    lag: int


class Buffer(NamedTuple):
    """``size`` grains on a device, from ``maker``'s start to the last user's end."""

    name: str
    device: int
    size: int
    maker: Op
    users: tuple[Op, ...]


class Choice(NamedTuple):
    """Exactly one of ``literals`` is true."""

    name: str
    literals: tuple[str, ...]


class DeviceMemory(NamedTuple):
    """A device's name, its memory limit (None: unlimited) and static memory, grains."""

    name: str
    limit: int | None
    static: int


class Units(NamedTuple):
    """How ticks and grains read in the user's units."""

    time: str
    memory: str
    ticks_per_unit: int
    grains_per_unit: int

    def time_of(self, ticks: int) -> int | float:
        """Ticks in the user's time unit; an int where that is exact."""
        return _in_unit(ticks, self.ticks_per_unit)

    def memory_of(self, grains: int) -> int | float:
        """Grains in the user's memory unit; an int where that is exact."""
        return _in_unit(grains, self.grains_per_unit)


def _in_unit(value: int, per_unit: int) -> int | float:
    quotient, remainder = divmod(value, per_unit)
    return quotient if remainder == 0 else value / per_unit


@dataclass(frozen=True, eq=False)
class OpGraph:
    """A scheduling problem; see the module's docstring for its rules.

    Attributes
    ----------
    digraph : networkx.DiGraph
        Nodes are ops with attribute ``data`` (OpData); edges have attribute ``lag``.
        Node order is the canonical order of ops.
    buffers, choices, devices, units
        See their classes; ``devices`` is indexed by device number.
    """

    digraph: nx.DiGraph[Op]
    buffers: tuple[Buffer, ...]
    choices: tuple[Choice, ...]
    devices: tuple[DeviceMemory, ...]
    units: Units

    @cached_property
    def data(self) -> Mapping[Op, OpData]:
        """What each op needs, in canonical order."""
        return {op: attributes["data"] for op, attributes in self.digraph.nodes.items()}

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """All ops, alternatives included, in canonical order."""
        return tuple(self.data)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All precedences."""
        return tuple(
            Edge(before, after, lag)
            for before, successors in self._successors.items()
            for after, lag in successors
        )

    @cached_property
    def streams(self) -> Mapping[Stream, tuple[Op, ...]]:
        """The ops that may run on each stream, in canonical order."""
        found: dict[Stream, list[Op]] = {}
        for op, data in self.data.items():
            for stream in data.streams:
                found.setdefault(stream, []).append(op)
        return {stream: tuple(found[stream]) for stream in sorted(found, key=str)}

    @cached_property
    def microbatches(self) -> Mapping[tuple[int, int], tuple[Op, ...]]:
        """The ops of each (step, microbatch), in canonical order."""
        found: dict[tuple[int, int], list[Op]] = {}
        for op in self.data:
            found.setdefault((op.step, op.microbatch), []).append(op)
        return {key: tuple(ops) for key, ops in found.items()}

    @cached_property
    def literals(self) -> frozenset[str]:
        """All literals of all choices."""
        return frozenset(name for choice in self.choices for name in choice.literals)

    def predecessors(self, op: Op) -> tuple[tuple[Op, int], ...]:
        """The ops that ``op`` waits for, each with the edge's lag."""
        return self._predecessors[op]

    def successors(self, op: Op) -> tuple[tuple[Op, int], ...]:
        """The ops that wait for ``op``, each with the edge's lag."""
        return self._successors[op]

    # Views of networkx are slow to walk; with 100,000 ops that is seconds.

    @cached_property
    def _successors(self) -> Mapping[Op, tuple[tuple[Op, int], ...]]:
        return {
            op: tuple((after, edge["lag"]) for after, edge in edges.items())
            for op, edges in self.digraph.adjacency()
        }

    @cached_property
    def _predecessors(self) -> Mapping[Op, tuple[tuple[Op, int], ...]]:
        found: dict[Op, list[tuple[Op, int]]] = {op: [] for op in self.data}
        for before, after, lag in self.edges:
            found[after].append((before, lag))
        return {op: tuple(edges) for op, edges in found.items()}

    def select(self, true_literals: Iterable[str]) -> OpGraph:
        """The graph in which every choice is made: without absent ops and choices."""
        chosen = frozenset(true_literals)
        present = {
            op
            for op, data in self.data.items()
            if data.literal is None or data.literal in chosen
        }
        digraph: nx.DiGraph[Op] = nx.DiGraph()
        digraph.add_nodes_from(
            (op, {"data": data._replace(literal=None)})
            for op, data in self.data.items()
            if op in present
        )
        digraph.add_edges_from(
            (before, after, {"lag": lag})
            for before, after, lag in self.edges
            if before in present and after in present
        )
        buffers = tuple(
            buffer._replace(users=tuple(u for u in buffer.users if u in present))
            for buffer in self.buffers
            if buffer.maker in present
        )
        return OpGraph(digraph, buffers, (), self.devices, self.units)
