"""Whether memory levels follow from orders alone."""

from __future__ import annotations

from collections.abc import Iterable

from schedopt.opgraph import OpGraph, Stream
from schedopt.ops import Op


def memory_follows_order(graph: OpGraph) -> bool:
    """Whether each device's memory depends on the order of one stream alone.

    So it is if the makers and users of its buffers all hold one stream in common.
    """
    shared: dict[int, frozenset[Stream]] = {}
    for buffer in graph.buffers:
        for op in _ends(buffer.maker, buffer.users):
            streams = frozenset(graph.data[op].streams)
            shared[buffer.device] = shared.get(buffer.device, streams) & streams
    return all(shared.values())


def _ends(maker: Op, users: Iterable[Op]) -> Iterable[Op]:
    yield maker
    yield from users
