"""What propagation reads of an op graph: classes, ops, edges and streams as arrays.

Ops are numbered class by class (``structure.classes``), in the order in which they
start: the n-th op of class c is ``first_op[c] + n``. A *place* is a class on a stream;
places are numbered stream by stream, and a class that holds several streams has as many
places.

Times are in *beats*: the greatest number of ticks that divides all durations and lags.
Starts and ends that are as early as they can be are whole numbers of beats.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schedopt.opgraph import OpGraph, Stream
from schedopt.ops import Op
from schedopt.structure import ClassEdge, ClassGraph, class_graph

Ints = npt.NDArray[np.int64]

UNLIMITED = 2**62


class Arrays(NamedTuple):
    """The classes, edges and streams of a problem; times in beats.

    Rows that list classes or places end with -1.

    Attributes
    ----------
    first_op : array by class, one entry more
    duration : array by class
    makes : array by class
        1 where its ops make buffers that ``StreamRules`` count, on each stream that
        they hold.
    following, follow_wait : arrays [class, k]
        The n-th op of class ``following[c, k]`` starts no earlier than the n-th of c
        plus ``follow_wait[c, k]`` (duration and lag).
    leading, lead_wait : arrays [class, k]
        The n-th op of class ``leading[c, k]`` ends no later than the n-th of c minus
        ``lead_wait[c, k]``.
    places : array [class, k]
        The places of each class.
    first_place : array by stream
        Its places are ``first_place[s]`` to ``first_place[s + 1] - 1``.
    class_at : array by place
    """

    first_op: Ints
    duration: Ints
    makes: Ints
    following: Ints
    follow_wait: Ints
    leading: Ints
    lead_wait: Ints
    places: Ints
    first_place: Ints
    class_at: Ints


def classes_on(arrays: Arrays, stream: int) -> Ints:
    """The classes on a stream, by place."""
    return arrays.class_at[arrays.first_place[stream] : arrays.first_place[stream + 1]]


class StreamRules(NamedTuple):
    """How the classes on one stream limit each other; classes by place on the stream.

    *Fillers* are classes that nothing waits for. What they do can be counted as work
    that fills gaps, once what each of them waits for has run, instead of as ops; in the
    full rules no class is one (``filled`` makes them).

    Attributes
    ----------
    core : array
        The classes (by place on the stream) whose ops are looked at one by one.
    counts, duration : arrays by core class
        How many ops it has, and how long each takes.
    waits : array [core class, core class]
        1 where the n-th op of the first can start only after the n-th of the second.
    maker, size : arrays by buffer
        The core class that makes it, and its grains.
    first_user, users : arrays
        The core classes that use buffer b, ``users[first_user[b]:first_user[b + 1]]``.
    filler_of : array by buffer
        The filler that frees it; -1 if the users do.
    filler_counts, filler_duration : arrays by filler
    filler_waits : array [filler, core class]
        1 where its n-th op can start only after the n-th of the class.
    room : int
        Grains that the buffers may take together.
    """

    core: Ints
    counts: Ints
    duration: Ints
    waits: Ints
    maker: Ints
    size: Ints
    first_user: Ints
    users: Ints
    filler_of: Ints
    filler_counts: Ints
    filler_duration: Ints
    filler_waits: Ints
    room: int


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """An op graph folded into classes, for loops over arrays.

    Attributes
    ----------
    beat : int
        Ticks.
    ops : tuple of Op
        By op number.
    reached : array [class, class]
        1 where the n-th op of the first waits for the n-th of the second, directly or
        not.
    streams, rules : tuples
        By stream number.
    is_complete : bool
        Whether ``rules`` say everything about memory: then the order on each stream
        tells whether the limits are kept.
    """

    graph: OpGraph
    beat: int
    ops: tuple[Op, ...]
    arrays: Arrays
    reached: Ints
    streams: tuple[Stream, ...]
    rules: tuple[StreamRules, ...]
    is_complete: bool


@lru_cache(maxsize=4)
def problem_of(graph: OpGraph) -> Problem | None:
    """The graph as classes; None where it has no such structure."""
    folded = class_graph(graph)
    if folded is None:
        return None
    streams = tuple(graph.streams)
    number = {stream: index for index, stream in enumerate(streams)}
    on_stream: list[list[int]] = [[] for _ in streams]
    for index, found in enumerate(folded.classes):
        for stream in found.streams:
            on_stream[number[stream]].append(index)
    reached = _reached(folded)
    beat = gcd(
        *(found.duration for found in folded.classes),
        *(edge.lag for edge in folded.edges),
    )
    beat = max(beat, 1)
    rules = tuple(
        _rules(folded, stream, classes, reached, beat)
        for stream, classes in zip(streams, on_stream, strict=True)
    )
    return Problem(
        graph=graph,
        beat=beat,
        ops=tuple(op for found in folded.classes for op in found.ops),
        arrays=_arrays(folded, on_stream, rules, beat),
        reached=reached,
        streams=streams,
        rules=rules,
        is_complete=_are_complete(folded, rules),
    )


def _are_complete(folded: ClassGraph, rules: tuple[StreamRules, ...]) -> bool:
    """Whether all buffers that could exceed a limit are in the rules, users and all."""
    limited = [
        buffer
        for buffer in folded.buffers
        if buffer.size > 0 and folded.graph.devices[buffer.device].limit is not None
    ]
    devices = {buffer.device for buffer in limited}
    known = [
        found
        for found, stream in zip(rules, folded.graph.streams, strict=True)
        if stream.peer is None and stream.device in devices
    ]
    return sum(len(found.maker) for found in known) == len(limited) and sum(
        len(found.users) for found in known
    ) == sum(len(buffer.users) for buffer in limited)


def _arrays(
    folded: ClassGraph,
    on_stream: list[list[int]],
    rules: tuple[StreamRules, ...],
    beat: int,
) -> Arrays:
    duration = [found.duration // beat for found in folded.classes]
    after: list[list[ClassEdge]] = [[] for _ in folded.classes]
    before: list[list[ClassEdge]] = [[] for _ in folded.classes]
    for edge in folded.edges:
        after[edge.before].append(edge)
        before[edge.after].append(edge)
    class_at = [c for classes in on_stream for c in classes]
    # On every stream: that of another would wait for what only this one's memory needs.
    makes = np.bincount(class_at, minlength=len(duration)) > 0
    for classes, found in zip(on_stream, rules, strict=True):
        here = np.array(classes, np.int64)
        makes[np.delete(here, found.maker)] = False
    places: list[list[int]] = [[] for _ in folded.classes]
    for place, c in enumerate(class_at):
        places[c].append(place)
    return Arrays(
        first_op=_offsets([len(found.ops) for found in folded.classes]),
        duration=_array(duration),
        makes=makes.astype(np.int64),
        following=_rows([[e.after for e in edges] for edges in after]),
        follow_wait=_rows(
            [[duration[e.before] + e.lag // beat for e in edges] for edges in after]
        ),
        leading=_rows([[e.before for e in edges] for edges in before]),
        lead_wait=_rows(
            [[duration[e.after] + e.lag // beat for e in edges] for edges in before]
        ),
        places=_rows(places),
        first_place=_offsets([len(classes) for classes in on_stream]),
        class_at=_array(class_at),
    )


def _rules(
    folded: ClassGraph,
    stream: Stream,
    classes: list[int],
    reached: Ints,
    beat: int,
) -> StreamRules:
    """What counts of ops say on one stream.

    Of the buffers of the stream's device those are kept whose makers hold the stream
    and take time, and of their users those that hold the stream: leaving out the rest
    only widens what is possible. (A buffer that is made and freed in one moment counts
    nothing, which counts of ops cannot tell.)
    """
    place = {c: index for index, c in enumerate(classes)}
    buffers = [
        (place[b.maker], b.size, [place[u] for u in b.users if u in place])
        for b in folded.buffers
        if b.device == stream.device
        and stream.peer is None
        and b.maker in place
        and folded.classes[b.maker].duration > 0
        and b.size > 0
    ]
    memory = folded.graph.devices[stream.device]
    room = UNLIMITED if memory.limit is None else memory.limit - memory.static
    return StreamRules(
        core=np.arange(len(classes)),
        counts=_array([len(folded.classes[c].ops) for c in classes]),
        duration=_array([folded.classes[c].duration // beat for c in classes]),
        waits=reached[np.ix_(classes, classes)],
        maker=_array([maker for maker, _, _ in buffers]),
        size=_array([size for _, size, _ in buffers]),
        first_user=_offsets([len(users) for _, _, users in buffers]),
        users=_array([user for _, _, users in buffers for user in users]),
        filler_of=np.full(len(buffers), -1, np.int64),
        filler_counts=_array([]),
        filler_duration=_array([]),
        filler_waits=np.zeros((0, len(classes)), np.int64),
        room=room,
    )


def filled(rules: StreamRules, is_filler: npt.NDArray[np.bool_]) -> StreamRules | None:
    """The rules with some classes as fillers; None if a buffer has other users, too.

    Nothing may wait for a filler.
    """
    users = [
        rules.users[rules.first_user[b] : rules.first_user[b + 1]]
        for b in range(len(rules.maker))
    ]
    if any(len(found) > 1 and is_filler[found].any() for found in users):
        return None
    if is_filler[rules.maker].any() or not is_filler.any():
        return None
    core, fillers = np.flatnonzero(~is_filler), np.flatnonzero(is_filler)
    place = np.cumsum(~is_filler) - 1
    number = np.cumsum(is_filler) - 1
    freed_by = [
        number[found[0]] if len(found) and is_filler[found[0]] else -1
        for found in users
    ]
    kept: list[list[int]] = [
        place[found].tolist() if f < 0 else []
        for f, found in zip(freed_by, users, strict=True)
    ]
    return StreamRules(
        core=core,
        counts=rules.counts[core],
        duration=rules.duration[core],
        waits=rules.waits[np.ix_(core, core)],
        maker=place[rules.maker],
        size=rules.size,
        first_user=_offsets([len(found) for found in kept]),
        users=_array([user for found in kept for user in found]),
        filler_of=_array(freed_by),
        filler_counts=rules.counts[fillers],
        filler_duration=rules.duration[fillers],
        filler_waits=rules.waits[np.ix_(fillers, core)],
        room=rules.room,
    )


def _reached(folded: ClassGraph) -> Ints:
    """See ``Problem.reached``."""
    reached = np.zeros((len(folded.classes), len(folded.classes)), np.int64)
    for before, after, _ in sorted(folded.edges, key=lambda edge: edge.after):
        reached[after] |= reached[before]
        reached[after, before] = 1
    return reached


def _array(values: list[int]) -> Ints:
    return np.array(values, np.int64)


def _rows(lists: list[list[int]]) -> Ints:
    """Lists as rows of one array, each ended by -1."""
    width = max(map(len, lists), default=0) + 1
    return np.array([row + [-1] * (width - len(row)) for row in lists], np.int64)


def _offsets(lengths: list[int]) -> Ints:
    return np.cumsum([0, *lengths]).astype(np.int64)
