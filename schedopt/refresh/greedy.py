"""PipeFisher's rule: the work of a refresh into gaps, greedily, every device by itself.

Osawa, Li and Hoefler, "PipeFisher" (MLSys 2023); the rule is that of the authors'
``auto_schedule.py`` (kazukiosawa/pipe-fisher). The pipeline's ops stay where they are.
A device's work is a list: curvature A, curvature B, syncs of A, of B, inversions of A,
of B; within each of these stage by stage, block by block, layer by layer. The device
goes through the gaps of a step seen alone: before its first op, between its ops, and
after its last one until the pipeline ends. In a gap it goes through the list, and again
until nothing more is placed. It places what may start and what fits with a margin:
start + (1 + margin) x duration before the gap's end. Curvature may start in gaps after
its data, syncs when no curvature of their side is left on the device, inversions when
no curvature and no sync is.

While work is left after a step, the device tries to put all of it into what the gaps of
its steps have left, so that it runs in the next cycle; if it does not all fit there,
one more step is added. Work that no step can hold runs serially after the last one. So
every device has an interval of its own; that of all devices is the longest.

What differs from the authors' program:

* It gates the i-th share of every layer by the number of forwards (or backwards) that
  have ended on the device, and where pipelines run both ways counts those of one way.
  Here a share waits for its own microbatch's, which is the same on one-way pipelines.
* It goes through a list from which it removes what it places, and so passes over the
  work after each removed one until its next turn.
* It takes a step that completes no layer for one that took nothing.
* Where inversions are whole, it leaves blocks that do not divide evenly to both owners.
  Here the first half of the blocks (rounded up) is the first copy's, the rest the
  other's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

from schedopt.build.kfac import factors_of
from schedopt.instance import FactorBarrier, Instance
from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.refresh.frame import END_OF_STEP, Frame, Gap
from schedopt.refresh.problem import FactorClass, problem_of

MARGIN = Fraction(1, 20)
"""The authors' margin: a work must fit as if it took 5 % longer."""

_PRIORITY = {
    (OpKind.CURVATURE_A, "A"): 0,
    (OpKind.CURVATURE_B, "B"): 1,
    (OpKind.SYNC_CURVATURE, "A"): 2,
    (OpKind.SYNC_CURVATURE, "B"): 3,
    (OpKind.INVERSION, "A"): 4,
    (OpKind.INVERSION, "B"): 5,
}
_NAMES = {
    OpKind.CURVATURE_A: "curvature",
    OpKind.CURVATURE_B: "curvature",
    OpKind.SYNC_CURVATURE: "sync",
    OpKind.INVERSION: "inversion",
}
_BEFORE = {
    OpKind.SYNC_CURVATURE: ("curvature",),
    OpKind.INVERSION: ("curvature", "sync"),
}


class Work(NamedTuple):
    """A device's part of a refresh, ticks; ``release`` is when its data is there.

    A sync is the part of every device that takes part in it.
    """

    op: Op
    layer: str
    side: str
    duration: int
    release: int

    @property
    def priority(self) -> int:
        """Its kind's place in the list."""
        return _PRIORITY[self.op.kind, self.side]


class Placed(NamedTuple):
    """A work in a step, ticks from the step's start; ``gap`` counts the step's gaps.

    A step from the device's interval on is one of the next cycle.
    """

    work: Work
    step: int
    gap: int
    start: int

    @property
    def end(self) -> int:
        """Ticks from the step's start."""
        return self.start + self.work.duration


@dataclass(frozen=True)
class DeviceRefresh:
    """A device's refresh by the rule.

    Attributes
    ----------
    interval : int
        Its steps; with serial work they include the last one, which held nothing.
    placed : tuple of Placed
        In the order in which the rule placed them.
    serial : tuple of Work
        What fits into no gap.
    busy : int
        What the pipeline's ops hold the device in a step, ticks.
    """

    device: int
    interval: int
    placed: tuple[Placed, ...]
    serial: tuple[Work, ...]
    busy: int

    @property
    def wrapped(self) -> tuple[Placed, ...]:
        """What runs in the next cycle."""
        return tuple(one for one in self.placed if one.step >= self.interval)

    @property
    def work(self) -> int:
        """All that is placed or serial, ticks."""
        placed = sum(one.work.duration for one in self.placed)
        return placed + sum(work.duration for work in self.serial)


@dataclass(frozen=True)
class Greedy:
    """The refresh of every device by the rule, in a frame."""

    frame: Frame
    margin: Fraction
    barrier: FactorBarrier
    devices: tuple[DeviceRefresh, ...]

    @cached_property
    def interval(self) -> int:
        """The interval at which all devices refresh together: the longest."""
        return max(one.interval for one in self.devices)

    def usage(self, device: int) -> Fraction:
        """The authors' usage: all work over the pipeline's time, own interval.

        The pipeline's time ends with its last op: preconditioning is on neither side.
        """
        one = self.devices[device]
        busy = one.busy * one.interval + one.work
        return Fraction(busy, self.frame.pipeline_end * one.interval)


def greedy_of(
    frame: Frame,
    margin: Fraction = MARGIN,
    barrier: FactorBarrier = FactorBarrier.DEVICE,
) -> Greedy:
    """What the rule does in a frame.

    With ``barrier`` factor, syncs and inversions wait for their own factor's work only.
    """
    works = works_of(frame)
    devices = []
    for device, mine in enumerate(works):
        gaps = gaps_alone(frame, device)
        refresh = refresh_device(mine, gaps, margin, barrier)
        busy = frame.pipeline_end - sum(gap.length for gap in gaps)
        devices.append(
            DeviceRefresh(device, refresh.steps, refresh.placed, refresh.serial, busy)
        )
    return Greedy(frame, margin, barrier, tuple(devices))


def gaps_alone(frame: Frame, device: int) -> list[Gap]:
    """A device's gaps in a step seen alone, from 0 to the pipeline's end."""
    stream = Stream(StreamKind.COMPUTE, device)
    busy = sorted(
        (start, frame.end(op))
        for op, start in frame.start.items()
        if op.kind not in END_OF_STEP and stream in frame.graph.data[op].streams
    )
    gaps, begin = [], 0
    for start, end in [*busy, (frame.pipeline_end, frame.pipeline_end)]:
        if start > begin:
            gaps.append(Gap(device, begin, start))
        begin = max(begin, end)
    return gaps


def works_of(frame: Frame) -> list[list[Work]]:
    """For each device the works of a refresh, in the order of the list."""
    instance = frame.instance
    places = _places(instance)
    works: list[list[Work]] = [[] for _ in frame.graph.devices]
    for group in problem_of(frame, 1, wrap=False).classes:
        for layer in group.layers:
            for device, work in _works(group, layer, places[group.stage, layer]):
                works[device].append(work)

    def place_in_list(work: Work) -> tuple[int, int, tuple[int, int], int, int]:
        op = work.op
        place = places[op.stage, work.layer]
        return (
            work.priority,
            op.stage,
            (place.block, place.layer),
            work.release,
            op.microbatch,
        )

    return [sorted(mine, key=place_in_list) for mine in works]


class _Place(NamedTuple):
    """Where a layer stands in its stage: its block of ``blocks``, its place there."""

    block: int
    blocks: int
    layer: int


def _places(instance: Instance) -> dict[tuple[int, str], _Place]:
    """Modules of a count are one layer of each of so many blocks."""
    found = {}
    for stage, cost in enumerate(instance.stages):
        number = {module.name: at for at, module in enumerate(cost.modules)}
        seen: Counter[str] = Counter()
        for factor in factors_of(instance, stage):
            if factor.side == "A":
                module = factor.module
                found[stage, factor.layer] = _Place(
                    seen[module.name], module.count, number[module.name]
                )
                seen[module.name] += 1
    return found


def _works(group: FactorClass, layer: str, place: _Place) -> Iterator[tuple[int, Work]]:
    for share in group.shares:
        op = group.share_op(layer, share.microbatch)
        yield (
            share.device,
            Work(op, layer, group.side, share.duration, share.release),
        )
    copies = group.inverting
    if group.sync is not None:
        for copy in copies:
            op = group.sync_op(layer)
            yield copy.device, Work(op, layer, group.side, group.sync, 0)
    if not group.all_copies:
        copies = (copies[place.block * len(copies) // place.blocks],)
    for copy in copies:
        op = group.inversion_op(layer, copy.copy)
        yield copy.device, Work(op, layer, group.side, copy.duration, 0)


class Refresh(NamedTuple):
    """A device's steps, and what is placed in them or nowhere."""

    steps: int
    placed: tuple[Placed, ...]
    serial: tuple[Work, ...]


class _Hole(NamedTuple):
    """What is left of a gap in a step, ticks from the step's start."""

    step: int
    gap: int
    begin: int
    end: int


def refresh_device(
    works: Sequence[Work],
    gaps: Sequence[Gap],
    margin: Fraction,
    barrier: FactorBarrier,
    least: int = 1,
) -> Refresh:
    """The rule on one device; nothing runs in the next cycle before ``least`` steps."""
    left = _List(works, margin, barrier)
    placed: list[Placed] = []
    holes: list[_Hole] = []
    steps = 0
    while True:
        here = [_Hole(steps, at, g.begin, g.end) for at, g in enumerate(gaps)]
        more = left.fill(here, released=steps > 0)
        placed += more
        holes += _left_of(here, more)
        steps += 1
        if not left.works:
            return Refresh(steps, tuple(placed), ())
        if steps >= least:
            trial = left.copy()
            wrapped = trial.fill(holes, released=True)
            if not trial.works:
                late = [one._replace(step=one.step + steps) for one in wrapped]
                return Refresh(steps, (*placed, *late), ())
        if steps > 1 and not more:
            return Refresh(steps, tuple(placed), tuple(left.works))


def _left_of(holes: Iterable[_Hole], placed: Iterable[Placed]) -> list[_Hole]:
    begin = {(one.step, one.gap): one.end for one in placed}  # the last one stays
    return [
        hole._replace(begin=begin.get((hole.step, hole.gap), hole.begin))
        for hole in holes
    ]


class _List:
    """The works that are left, in order."""

    def __init__(
        self, works: Iterable[Work], margin: Fraction, barrier: FactorBarrier
    ) -> None:
        self.works = dict.fromkeys(works)
        self._margin = margin
        self._barrier = barrier
        self._count = Counter(map(self._group, self.works))

    def copy(self) -> _List:
        """The same works, to try something."""
        return _List(self.works, self._margin, self._barrier)

    def fill(self, holes: Iterable[_Hole], *, released: bool) -> list[Placed]:
        """Put works into one hole after another.

        ``released`` says that all data is there; else it is after its release.
        """
        placed: list[Placed] = []
        for hole in holes:
            time, before = hole.begin, -1
            here = [w for w in self.works if released or w.release <= hole.begin]
            while len(placed) > before:
                before = len(placed)
                left = []
                for work in here:
                    if not self._fits(work, hole.end - time):
                        continue  # nor will it later
                    if self._is_blocked(work):
                        left.append(work)
                        continue
                    placed.append(Placed(work, hole.step, hole.gap, time))
                    time += work.duration
                    del self.works[work]
                    self._count[self._group(work)] -= 1
                here = left
        return placed

    def _fits(self, work: Work, room: int) -> bool:
        needed, parts = (1 + self._margin).as_integer_ratio()
        return needed * work.duration < parts * room

    def _group(self, work: Work) -> tuple[str, ...]:
        """Those that a barrier waits for together."""
        return self._named(_NAMES[work.op.kind], work)

    def _named(self, name: str, work: Work) -> tuple[str, ...]:
        if self._barrier is FactorBarrier.DEVICE:
            return name, work.side
        return name, work.side, str(work.op.stage), work.layer

    def _is_blocked(self, work: Work) -> bool:
        names = _BEFORE.get(work.op.kind, ())
        return any(self._count[self._named(name, work)] for name in names)
