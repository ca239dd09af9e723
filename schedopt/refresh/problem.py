"""Packing: the second-order work of one refresh into the gaps of a frame.

Times are ticks from the start of the cycle, the step whose data the refresh takes. A
bin is a gap in one of the steps from then on. Without wrapping, all work is done within
the ``interval`` steps of the cycle; with it, work may use the next cycle's bins, and
bins whose steps are equal modulo the interval share their length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from schedopt.instance import FactorBarrier
from schedopt.opgraph import Buffer, DeviceMemory, OpGraph
from schedopt.ops import Op, OpKind
from schedopt.refresh.cycle import Cycle
from schedopt.refresh.frame import Frame, Gap
from schedopt.schedule import Schedule

_SHARES = {OpKind.CURVATURE_A: "A", OpKind.CURVATURE_B: "B"}


class Share(NamedTuple):
    """A microbatch's share of a factor's curvature.

    ``release`` is when its data is there, ticks. ``size`` is what waits for it, grains,
    beyond what the frame holds anyway from ``waits_from`` on.
    """

    microbatch: int
    device: int
    duration: int
    release: int
    size: int
    waits_from: int


class Inverting(NamedTuple):
    """What inverting a factor takes on one copy of the stage."""

    copy: int
    device: int
    duration: int


class FactorClass(NamedTuple):
    """Equal factors of one side of a stage: any of them may stand for another.

    ``inverting`` lists the copies; ``all_copies`` says whether each of them runs (its
    half of) the inversion or one of them alone. ``sync`` is how long a factor's
    reduction over the copies holds their collective streams, ticks; None means that
    there is none.
    """

    stage: int
    side: str
    layers: tuple[str, ...]
    shares: tuple[Share, ...]
    inverting: tuple[Inverting, ...]
    all_copies: bool
    sync: int | None

    def share_op(self, layer: str, microbatch: int) -> Op:
        """The op of a share."""
        kind = OpKind.CURVATURE_A if self.side == "A" else OpKind.CURVATURE_B
        return Op(kind, self.stage, microbatch, 0, layer)

    def inversion_op(self, layer: str, copy: int) -> Op:
        """The op of an inversion on a copy."""
        return Op(OpKind.INVERSION, self.stage, copy, 0, f"{layer}.{self.side}")

    def sync_op(self, layer: str) -> Op:
        """The op of a factor's reduction."""
        return Op(OpKind.SYNC_CURVATURE, self.stage, 0, 0, f"{layer}.{self.side}")


class Bin(NamedTuple):
    """A gap of a device in a step of the cycle, ticks from the cycle's start.

    ``gap`` is its number among the device's gaps of a step.
    """

    device: int
    step: int
    gap: int
    begin: int
    end: int

    @property
    def length(self) -> int:
        """Ticks."""
        return self.end - self.begin


@dataclass(frozen=True)
class Problem:
    """The work of a refresh, and the bins that may hold it.

    Attributes
    ----------
    frame : Frame
        The step that repeats.
    interval : int
        Steps from one refresh to the next.
    wrap : bool
        Whether work may use the next cycle's bins.
    latest : int
        The last step in which an inverse may be used for the first time.
    classes : tuple of FactorClass
    memory : tuple of DeviceMemory
        Of the devices, with factors and inverses in their static memory.
    graph : OpGraph
        That of one step with the refresh.
    """

    frame: Frame
    interval: int
    wrap: bool
    latest: int
    classes: tuple[FactorClass, ...]
    memory: tuple[DeviceMemory, ...]
    graph: OpGraph

    @property
    def device_barrier(self) -> bool:
        """Whether inversions wait for all shares of their side on their device."""
        kfac = self.frame.instance.kfac
        return kfac is not None and kfac.factor_barrier is FactorBarrier.DEVICE

    def kind(self, group: FactorClass) -> object:
        """What classes have in common whose items may be counted together."""
        shares = sorted((one.device, one.duration, one.size) for one in group.shares)
        inverting = sorted((one.device, one.duration) for one in group.inverting)
        waits_for = (group.stage, group.side) if self.device_barrier else None
        copies = (group.all_copies, group.sync, waits_for)
        return tuple(shares), tuple(inverting), copies

    def first_use(self, one: Bin) -> int:
        """The first step whose preconditioning follows what a bin holds."""
        frame = self.frame
        next_one = one.step * frame.period + frame.preconditioning(one.device)
        return one.step if one.end <= next_one else one.step + 1

    @cached_property
    def frame_levels(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each device the times at which its level changes in a step, and to what.

        Without what waits for shares, but with the factors.
        """
        frame = self.frame
        profiles = Schedule(frame.graph, dict(frame.start)).memory_profiles
        return tuple(
            tuple(
                (time, level + memory.static - before.static) for time, level in profile
            )
            for profile, memory, before in zip(
                profiles, self.memory, frame.graph.devices, strict=True
            )
        )

    @cached_property
    def bins(self) -> tuple[tuple[Bin, ...], ...]:
        """For each device its bins by begin; with wrapping those of two cycles.

        Only those after which an inverse is used in time.
        """
        period = self.frame.period
        return tuple(
            tuple(
                one
                for step, number, gap in self._places(gaps)
                if self.first_use(
                    one := Bin(
                        gap.device,
                        step,
                        number,
                        step * period + gap.begin,
                        step * period + gap.end,
                    )
                )
                <= self.latest
            )
            for gaps in self.frame.gaps
        )

    def _places(self, gaps: Sequence[Gap]) -> Iterator[tuple[int, int, Gap]]:
        """A device's gaps with their steps and numbers."""
        steps = 2 * self.interval if self.wrap else self.interval
        for step in range(steps):
            for number, gap in enumerate(gaps):
                yield step, number, gap
        for number, gap in enumerate(gaps):
            if self.frame.follows_step(gap):
                yield steps, number, gap

    @cached_property
    def work(self) -> tuple[int, ...]:
        """Each device's curvature and inversion of a refresh, ticks.

        An inversion that either copy may run counts for neither.
        """
        total = [0] * len(self.frame.graph.devices)
        for group in self.classes:
            for share in group.shares:
                total[share.device] += share.duration * len(group.layers)
            if group.all_copies or len(group.inverting) == 1:
                for one in group.inverting:
                    total[one.device] += one.duration * len(group.layers)
        return tuple(total)


def problem_of(
    frame: Frame, interval: int, *, wrap: bool = False, latest: int | None = None
) -> Problem:
    """The packing of the frame's training at a refresh interval.

    Without ``latest`` an inverse may be used as late as the bins allow.
    """
    graph = frame.with_refresh
    if latest is None:
        latest = 2 * interval if wrap else interval
    classes = tuple(_classes(graph, frame))
    return Problem(frame, interval, wrap, latest, classes, graph.devices, graph)


def at(problem: Problem, interval: int, *, wrap: bool, latest: int) -> Problem:
    """The same work at another interval, with other bins."""
    return replace(problem, interval=interval, wrap=wrap, latest=latest)


def without_memory(problem: Problem) -> Problem:
    """The same work, of which nothing waits in memory: more factors are then equal."""
    layers: dict[FactorClass, tuple[str, ...]] = {}
    for group in problem.classes:
        shares = tuple(share._replace(size=0, waits_from=0) for share in group.shares)
        one = group._replace(layers=(), shares=shares)
        layers[one] = layers.get(one, ()) + group.layers
    classes = tuple(one._replace(layers=names) for one, names in layers.items())
    memory = tuple(device._replace(limit=None) for device in problem.memory)
    return replace(problem, classes=classes, memory=memory)


def _classes(graph: OpGraph, frame: Frame) -> list[FactorClass]:
    saved = {
        user: (buffer.size, _waits_from(buffer, frame))
        for buffer in graph.buffers
        for user in buffer.users
        if user.kind in _SHARES and buffer.maker in frame.start
    }
    shares: dict[tuple[int, str, str], list[Op]] = {}
    inversions: dict[tuple[int, str, str], list[Op]] = {}
    syncs: dict[tuple[int, str, str], int] = {}
    for op, data in graph.data.items():
        if op.kind in _SHARES:
            shares.setdefault((op.stage, _SHARES[op.kind], op.part), []).append(op)
        elif op.kind in (OpKind.INVERSION, OpKind.SYNC_CURVATURE):
            layer, side = op.part.rsplit(".", 1)
            if op.kind is OpKind.INVERSION:
                inversions.setdefault((op.stage, side, layer), []).append(op)
            else:
                syncs[op.stage, side, layer] = data.duration
    layers_of: dict[FactorClass, list[str]] = {}
    for key, ops in shares.items():
        stage, side, layer = key
        one = FactorClass(
            stage,
            side,
            (),
            tuple(
                Share(
                    op.microbatch,
                    graph.data[op].device,
                    graph.data[op].duration,
                    _release(op, graph, frame),
                    *saved.get(op, (0, 0)),
                )
                for op in ops
            ),
            tuple(
                Inverting(op.microbatch, graph.data[op].device, graph.data[op].duration)
                for op in inversions[key]
            ),
            all(graph.data[op].literal is None for op in inversions[key]),
            syncs.get(key),
        )
        layers_of.setdefault(one, []).append(layer)
    return [one._replace(layers=tuple(names)) for one, names in layers_of.items()]


def _release(op: Op, graph: OpGraph, frame: Frame) -> int:
    """When a share's data is there: its makers that the frame has have ended."""
    return max(
        frame.end(before) + lag
        for before, lag in graph.predecessors(op)
        if before in frame.start
    )


def _waits_from(buffer: Buffer, frame: Frame) -> int:
    """When the frame's own ops have no more use for it, else when it is made."""
    ends = [frame.end(user) for user in buffer.users if user in frame.start]
    return max(ends, default=frame.start[buffer.maker])


@dataclass(frozen=True)
class Packing:
    """When each op of a refresh starts, ticks from the cycle's start.

    ``start`` holds curvature, inversion and sync ops of refresh 0; of an inversion that
    either copy may run, one copy's.
    """

    problem: Problem
    start: Mapping[Op, int]
    method: str

    @cached_property
    def cycle(self) -> Cycle:
        """The cycle in which every step has the frame's own times."""
        steps = (self.problem.frame.start,) * self.problem.interval
        return Cycle(self.problem.frame, self.problem.wrap, steps, self.start)
