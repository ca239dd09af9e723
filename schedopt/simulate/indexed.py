"""An op graph by small integers, so that replays are loops over lists.

Ops are numbered in canonical order. The numbered form is made once per op graph and
kept for as long as the graph lives, because a search replays thousands of orders of one
graph.
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

from schedopt.opgraph import OpGraph, Stream
from schedopt.ops import Op


class IndexedGraph(NamedTuple):
    """The op graph's lists, by op number (streams by stream number).

    Attributes
    ----------
    ops, number
        Op numbers to ops and back.
    durations : list of int
        Ticks.
    successors : list of lists of (op number, lag)
        The ops that wait for each op.
    predecessor_counts : list of int
        How many ops each op waits for, absent alternatives included.
    streams, stream_number
        Stream numbers to streams and back.
    streams_of : list of tuples of stream numbers
        The streams that each op holds.
    literals : list of str or None
        The literal of each op.
    """

    ops: tuple[Op, ...]
    number: dict[Op, int]
    durations: list[int]
    successors: list[list[tuple[int, int]]]
    predecessor_counts: list[int]
    streams: tuple[Stream, ...]
    stream_number: dict[Stream, int]
    streams_of: list[tuple[int, ...]]
    literals: list[str | None]


_known: WeakKeyDictionary[OpGraph, IndexedGraph] = WeakKeyDictionary()


def indexed(graph: OpGraph) -> IndexedGraph:
    """The numbered form of ``graph``."""
    found = _known.get(graph)
    if found is None:
        found = _known[graph] = _index(graph)
    return found


def _index(graph: OpGraph) -> IndexedGraph:
    number = {op: index for index, op in enumerate(graph.ops)}
    successors: list[list[tuple[int, int]]] = []
    predecessor_counts = [0] * len(number)
    for before in graph.ops:
        found = [(number[op], lag) for op, lag in graph.successors(before)]
        for after, _ in found:
            predecessor_counts[after] += 1
        successors.append(found)
    stream_number = {stream: index for index, stream in enumerate(graph.streams)}
    data = graph.data.values()
    return IndexedGraph(
        graph.ops,
        number,
        [item.duration for item in data],
        successors,
        predecessor_counts,
        tuple(stream_number),
        stream_number,
        [tuple(stream_number[stream] for stream in item.streams) for item in data],
        [item.literal for item in data],
    )
