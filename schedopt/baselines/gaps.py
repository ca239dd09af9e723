"""Capped forms: a published schedule some of whose microbatches are left out.

This is ours, not the publications'. Where a schedule does not fit, imagine it run with
more microbatches, *slots*, than there are, and give the microbatches to some of the
slots: one slot after the other is taken if every device still stays within its own
limit, and left empty if not. What is left keeps the published order, so it can be
executed, and never exceeds a limit; it is the published form where every slot can be
taken. In 1F1B, say, where a device holds P microbatches but has room for 3P/4, every
fourth slot or so stays empty, and the pipeline runs at three quarters of its speed.

(Cutting the warm-up of every device to what fits instead makes neighbouring devices
hold equally many; each then waits for the next in every microbatch, and k such devices
run at 1/k of the speed.)

With two directions even slots run down and odd ones up; they are taken in turn as long
as both have microbatches left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from schedopt.baselines.base import Words
from schedopt.instance import Instance, Placement
from schedopt.opgraph import OpGraph
from schedopt.ops import Op, OpKind

_MOST_OPS = 1_000_000  # in words with slots; beyond, a pattern of slots is repeated


class _Held(NamedTuple):
    """Memory that one slot holds on a device between two places of its word."""

    device: int
    first: int
    last: int
    size: int


class _Template(NamedTuple):
    """A buffer as every microbatch of a direction has it."""

    device: int
    size: int
    users: tuple[tuple[OpKind, int], ...]


_Key = tuple[OpKind, int, int]  # kind, stage, direction


class Room(NamedTuple):
    """What may be on each device at once; None: anything.

    Attributes
    ----------
    sizes : list of int or None
        The sizes of buffers, grains; what transfers hold is not counted.
    counts : list of int or None
        The number of microbatches between their first and their last op there.
    """

    sizes: list[int | None]
    counts: list[int | None]


def words_with_gaps(
    words_of: Callable[[Instance], Words],
    instance: Instance,
    graph: OpGraph,
    room: Room,
) -> Words | None:
    """The words in which as early slots as possible are taken.

    ``words_of`` makes complete words (with R) for an instance of the same form;
    ``graph`` is that of ``instance``. None if nothing fits.
    """
    memory = _Memory(instance, graph)
    devices, count = len(instance.devices), instance.microbatches
    directions = _directions(instance)
    slots = _filled(count, devices)
    most, since = 0, slots  # how many were ever taken, and with how many slots first
    while True:
        # Durations of single microbatches say nothing about slots.
        longer = replace(instance, microbatches=slots, microbatch_scale=())
        words = words_of(longer)
        taken = _taken(memory.held_by_slot(words, slots), instance, room)
        if len(taken) == count:
            return _renamed(words, _names(taken, instance))
        of_all = len({slot % directions for slot in taken}) == directions
        if not taken or (not of_all and slots > 4 * devices):
            return None
        if len(taken) > most:
            most, since = len(taken), slots
        # More slots do not help words that take no more of four times as many.
        stuck = slots > 4 * (since + devices)
        ops_per_slot = sum(map(len, words)) // slots
        slots = _filled(max(slots + 1, count * slots // len(taken)), devices)
        if stuck or slots * ops_per_slot > _MOST_OPS:
            return _repeated(words, taken, instance) if of_all else None


def held_by_device(words: Words) -> list[int]:
    """The most microbatches that each device is between first and last op of."""
    found = []
    for word in words:
        last = {op.microbatch: index for index, op in enumerate(word)}
        held: set[int] = set()
        most = 0
        for index, op in enumerate(word):
            held.add(op.microbatch)
            most = max(most, len(held))
            if last[op.microbatch] == index:
                held.remove(op.microbatch)
        found.append(most)
    return found


def _filled(slots: int, devices: int) -> int:
    """A multiple of the devices, as some schedules need."""
    return -(-slots // devices) * devices


def _directions(instance: Instance) -> int:
    two_way = instance.placement is Placement.BIDIRECTIONAL
    return 2 if two_way and instance.microbatches > 1 else 1


class _Memory:
    """What slots hold, from the buffers of the first microbatch of each direction."""

    def __init__(self, instance: Instance, graph: OpGraph) -> None:
        self.directions = _directions(instance)
        self.lasting: dict[_Key, bool] = {}
        self.templates: dict[_Key, list[_Template]] = {}
        for op, data in graph.data.items():
            if op.microbatch < self.directions and not op.step:
                self.lasting[op.kind, op.stage, op.microbatch] = data.duration > 0
        for buffer in graph.buffers:
            maker = buffer.maker
            if maker.step or maker.microbatch >= self.directions or not buffer.size:
                continue
            users = tuple(
                (user.kind, user.stage)
                for user in buffer.users
                if user.microbatch == maker.microbatch
            )
            self.templates.setdefault(
                (maker.kind, maker.stage, maker.microbatch), []
            ).append(_Template(buffer.device, buffer.size, users))

    def held_by_slot(self, words: Words, slots: int) -> list[list[_Held]]:
        """What each slot holds; devices from ``len(words)`` on count microbatches.

        Places count the ops that last: during the others nothing is held for any time.
        """
        found: list[list[_Held]] = [[] for _ in range(slots)]
        for device, word in enumerate(words):
            before = list(accumulate(map(self._lasts, word), initial=0))
            index_of = {op: index for index, op in enumerate(word)}
            span: dict[int, tuple[int, int]] = {}
            for index, op in enumerate(word):
                first, _ = span.get(op.microbatch, (index, index))
                span[op.microbatch] = (first, index + 1)
                for template in self.templates.get(self._key(op), ()):
                    if template.device != device:
                        continue
                    ends = [
                        index_of.get(op._replace(kind=kind, stage=stage), index)
                        for kind, stage in template.users
                    ]
                    last = before[max([index, *ends]) + 1]
                    found[op.microbatch].append(
                        _Held(device, before[index], last, template.size)
                    )
            for slot, (first, last) in span.items():
                count = _Held(len(words) + device, before[first], before[last], 1)
                found[slot].append(count)
        return [[h for h in held if h.first < h.last] for held in found]

    def _key(self, op: Op) -> _Key:
        return op.kind, op.stage, op.microbatch % self.directions

    def _lasts(self, op: Op) -> bool:
        return self.lasting[self._key(op)]


def _taken(
    held_by_slot: Sequence[list[_Held]], instance: Instance, room: Room
) -> list[int]:
    """The slots that are taken, first come first served."""
    directions = _directions(instance)
    wanted = _wanted(instance)
    # The only microbatch of a two-way pipeline runs down, and odd slots run up.
    runs_down = instance.placement is Placement.BIDIRECTIONAL and directions == 1
    limits = [*room.sizes, *room.counts]
    places = [1] * len(limits)
    for held in held_by_slot:
        for device, _, last, _ in held:
            places[device] = max(places[device], last)
    levels = [np.zeros(count, dtype=np.int64) for count in places]
    counts = [0] * directions
    taken = []
    for slot, held in enumerate(held_by_slot):
        way, other = slot % directions, (slot + 1) % directions
        ahead = counts[way] > counts[other] and counts[other] < wanted[other]
        if counts[way] == wanted[way] or ahead or (runs_down and slot % 2):
            continue
        limited = [(h, limit) for h in held if (limit := limits[h.device]) is not None]
        for (device, first, last, size), _ in limited:
            levels[device][first:last] += size
        if all(
            levels[device][first:last].max() <= limit
            for (device, first, last, _), limit in limited
        ):
            counts[way] += 1
            taken.append(slot)
            continue
        for (device, first, last, size), _ in limited:
            levels[device][first:last] -= size
    return taken


def _wanted(instance: Instance) -> list[int]:
    """How many microbatches there are in each direction."""
    directions = _directions(instance)
    return [
        len(range(way, instance.microbatches, directions)) for way in range(directions)
    ]


def _names(taken: Sequence[int], instance: Instance) -> dict[int, int]:
    """Slots to microbatches, in order in each direction."""
    directions = _directions(instance)
    following = list(range(directions))
    names = {}
    for slot in taken:
        way = slot % directions
        if following[way] < instance.microbatches:
            names[slot] = following[way]
            following[way] += directions
    return names


def _renamed(words: Words, names: dict[int, int]) -> Words:
    """The ops of the slots that have a name."""
    return tuple(
        tuple(
            op._replace(microbatch=names[op.microbatch])
            for op in word
            if op.microbatch in names
        )
        for word in words
    )


def _repeated(words: Words, taken: Sequence[int], instance: Instance) -> Words:
    """The taken slots again and again, each time after all ops of the time before."""
    directions = _directions(instance)
    counts = [
        sum(slot % directions == way for slot in taken) for way in range(directions)
    ]
    times = max(
        -(-wanted // count)
        for wanted, count in zip(_wanted(instance), counts, strict=True)
    )
    slots = taken[-1] + 1
    slots += slots % directions  # so that directions keep their slots
    every = [slot + again * slots for again in range(times) for slot in taken]
    names = _names(every, instance)
    chosen = set(taken)
    pattern = [[op for op in word if op.microbatch in chosen] for word in words]
    return tuple(
        tuple(
            op._replace(microbatch=names[op.microbatch + again * slots])
            for again in range(times)
            for op in word
            if op.microbatch + again * slots in names
        )
        for word in pattern
    )
