"""The pipeline builder: forwards, backwards, recomputation, overlap and transfers.

Every unit of work of a microbatch at a stage is a *role*: its forward, or the part of
its backward that passes the gradient on. A role is played by one of several alternative
ops (an op of its own, or a joint ``OVERLAP_F_B`` op), and precedences run from every
alternative of a role to every alternative of the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import networkx as nx

from schedopt.build.quantities import (
    grains,
    memory_units_of_bytes,
    ticks,
    transfer_time,
    units_of,
)
from schedopt.instance import Backward, CommunicationMode, Instance, Number, exact
from schedopt.opgraph import (
    Buffer,
    Choice,
    DeviceMemory,
    OpData,
    OpGraph,
    Stream,
    StreamKind,
)
from schedopt.ops import Op, OpKind

Role = list[Op]


def build_graph(instance: Instance) -> OpGraph:
    """The op graph of one training step of the instance's pipeline."""
    return _Pipeline(instance).graph()


def activation_name(stage: int, microbatch: int) -> str:
    """What the buffer is called that holds a stage's activation to its last op."""
    return f"activation {stage}.{microbatch}"


class _Pipeline:
    """Collects ops, edges, buffers and choices of one instance."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.units = units_of(instance)
        self.digraph: nx.DiGraph[Op] = nx.DiGraph()
        self.buffers: list[Buffer] = []
        self.options: dict[str, list[str]] = {}
        self._duration = cache(self._duration_uncached)
        self._transfer_ticks = cache(self._transfer_ticks_uncached)
        self._grains = cache(lambda size: grains(size, self.units))

    def graph(self) -> OpGraph:
        """Build everything, microbatch by microbatch."""
        instance = self.instance
        microbatches = range(instance.microbatches)
        stages = range(len(instance.stages))
        forwards = {(s, j): self._forward(s, j) for j in microbatches for s in stages}
        backwards = {(s, j): self._backward(s, j) for j in microbatches for s in stages}
        self._overlaps(forwards, backwards)
        for j in microbatches:
            for s in stages:
                self._work_of_stage(s, j, forwards[s, j], backwards[s, j])
            for s in stages[:-1]:
                self._transfer(
                    OpKind.SEND_FORWARD,
                    (s, s + 1),
                    j,
                    forwards[s, j],
                    forwards[s + 1, j],
                )
            for s in reversed(stages[1:]):
                self._transfer(
                    OpKind.SEND_BACKWARD,
                    (s, s - 1),
                    j,
                    backwards[s, j],
                    backwards[s - 1, j],
                )
        choices = tuple(
            Choice(name, tuple(literals)) for name, literals in self.options.items()
        )
        return OpGraph(
            self.digraph, tuple(self.buffers), choices, self._devices(), self.units
        )

    # -- ops ------------------------------------------------------------------

    def _forward(self, stage: int, microbatch: int) -> Role:
        literal = None
        if self._may_overlap(stage):
            literal = f"{stage}F{microbatch}:alone"
            self._option(f"forward {stage}.{microbatch}", literal)
        return [self._add(OpKind.FORWARD, stage, microbatch, literal)]

    def _backward(self, stage: int, microbatch: int) -> Role:
        """Add R, B, I and W as the instance asks; the role that passes the gradient."""
        if stage in self.instance.recompute:
            self._add(OpKind.RECOMPUTE, stage, microbatch, None)
        match self.instance.backward:
            case Backward.WHOLE:
                literal = None
                if self._may_overlap(stage):
                    literal = f"{stage}B{microbatch}:whole"
                    self._option(f"backward {stage}.{microbatch}", literal)
                return [self._add(OpKind.BACKWARD, stage, microbatch, literal)]
            case Backward.SPLIT:
                return [self._split(stage, microbatch, None)]
            case Backward.CHOOSE:
                whole, split = (
                    f"{stage}B{microbatch}:{way}" for way in ("whole", "split")
                )
                self._option(f"backward {stage}.{microbatch}", whole)
                self._option(f"backward {stage}.{microbatch}", split)
                return [
                    self._add(OpKind.BACKWARD, stage, microbatch, whole),
                    self._split(stage, microbatch, split),
                ]

    def _split(self, stage: int, microbatch: int, literal: str | None) -> Op:
        first = self._add(OpKind.BACKWARD_INPUT, stage, microbatch, literal)
        second = self._add(OpKind.BACKWARD_WEIGHT, stage, microbatch, literal)
        self._edge(first, second)
        return first

    def _overlaps(
        self,
        forwards: dict[tuple[int, int], Role],
        backwards: dict[tuple[int, int], Role],
    ) -> None:
        """Add an op for every forward and whole backward that may run as one.

        At one stage only an earlier microbatch's backward may join: microbatches pass a
        stage in order.
        """
        if not any(map(self._may_overlap, range(len(self.instance.stages)))):
            return
        for (s, j), forward in forwards.items():
            for (t, k), backward in backwards.items():
                if not self._pairs(s, j, t, k):
                    continue
                literal = f"{s}F{j}+{t}B{k}:overlap"
                self._option(f"forward {s}.{j}", literal)
                self._option(f"backward {t}.{k}", literal)
                op = self._add(OpKind.OVERLAP, s, j, literal, f"{t}B{k}")
                forward.append(op)
                backward.append(op)

    def _pairs(self, s: int, j: int, t: int, k: int) -> bool:
        device_of = self.instance.device_of
        return (
            self._may_overlap(s)
            and self._may_overlap(t)
            and device_of(s, j) == device_of(t, k)
            and (k < j if s == t else k != j)
        )

    def _may_overlap(self, stage: int) -> bool:
        return self.instance.stages[stage].overlap is not None

    def _add(
        self,
        kind: OpKind,
        stage: int,
        microbatch: int,
        literal: str | None,
        part: str = "",
    ) -> Op:
        op = Op(kind, stage, microbatch, 0, part)
        device = self.instance.device_of(stage, microbatch)
        scale: Number = 1
        if self.instance.microbatch_scale:
            scale = self.instance.microbatch_scale[microbatch]
        data = OpData(
            self._duration(kind, stage, device, scale, part),
            device,
            (Stream(StreamKind.COMPUTE, device),),
            literal,
        )
        self.digraph.add_node(op, data=data)
        return op

    def _recompute_op(self, stage: int, microbatch: int) -> Op:
        return Op(OpKind.RECOMPUTE, stage, microbatch)

    # -- precedences and buffers ----------------------------------------------

    def _work_of_stage(
        self, stage: int, microbatch: int, forward: Role, backward: Role
    ) -> None:
        """The precedences within a stage, and the buffers that its work holds."""
        first = forward
        if stage in self.instance.recompute:
            recompute = self._recompute_op(stage, microbatch)
            self._edges(forward, [recompute])
            first = [recompute]
        if stage in self.instance.recompute or stage == len(self.instance.stages) - 1:
            self._edges(first, backward)
        weight = Op(OpKind.BACKWARD_WEIGHT, stage, microbatch)
        last = [weight if op.kind is OpKind.BACKWARD_INPUT else op for op in backward]
        cost = self.instance.stages[stage]
        device = self.instance.device_of(stage, microbatch)
        name = f"{stage}.{microbatch}"
        if first is not forward:
            self._buffer(
                f"checkpoint {name}", device, self._checkpoint(stage), forward, first
            )
        until_input = (
            cost.activation_until_input
            if self.instance.backward is not Backward.WHOLE
            else 0
        )
        kept = self._grains(cost.activation) - self._grains(until_input)
        self._buffer(activation_name(stage, microbatch), device, kept, first, last)
        self._buffer(
            f"activation until input {name}",
            device,
            self._grains(until_input),
            first,
            backward,
        )
        gradient_makers = [op for op in backward if op.kind is OpKind.BACKWARD_INPUT]
        self._buffer(
            f"input gradient {name}",
            device,
            self._grains(cost.input_gradient),
            gradient_makers,
            [weight],
        )

    def _checkpoint(self, stage: int) -> int:
        """What a recomputed stage keeps of a microbatch, grains."""
        given = self.instance.stages[stage].checkpoint
        if given is not None:
            return self._grains(given)
        if stage == 0:
            return 0
        count = self.instance.stages[stage - 1].output_bytes
        return grains(memory_units_of_bytes(count, self.units), self.units)

    def _transfer(
        self,
        kind: OpKind,
        stages: tuple[int, int],
        microbatch: int,
        before: Role,
        after: Role,
    ) -> None:
        """Pass data from a role at ``stages[0]`` to a role at ``stages[1]``."""
        source, target = (self.instance.device_of(s, microbatch) for s in stages)
        if source == target:
            self._edges(before, after)
            return
        communication = self.instance.communication
        duration = self._transfer_ticks(source, target, min(stages))
        if communication.mode is CommunicationMode.LAG:
            self._edges(before, after, duration)
            return
        if communication.mode is CommunicationMode.LINK:
            streams: tuple[Stream, ...] = (Stream(StreamKind.P2P, source, target),)
        else:
            streams = tuple(Stream(StreamKind.COMPUTE, d) for d in (source, target))
        send = Op(kind, stages[0], microbatch)
        self.digraph.add_node(send, data=OpData(duration, source, streams))
        self._edges(before, [send])
        self._edges([send], after)
        if communication.transfer_buffers:
            size = grains(
                memory_units_of_bytes(
                    self.instance.stages[min(stages)].output_bytes, self.units
                ),
                self.units,
            )
            self._buffer(f"outgoing {send}", source, size, before, [send])
            self._buffer(f"incoming {send}", target, size, [send], after)

    def _buffer(
        self, name: str, device: int, size: int, makers: Role, users: Role
    ) -> None:
        """One buffer per alternative maker; nothing where nothing is held."""
        if size == 0:
            return
        for maker in makers:
            self.buffers.append(Buffer(name, device, size, maker, tuple(users)))

    def _edges(self, before: Role, after: Role, lag: int = 0) -> None:
        for one in before:
            for other in after:
                if one != other:
                    self._edge(one, other, lag)

    def _edge(self, before: Op, after: Op, lag: int = 0) -> None:
        self.digraph.add_edge(before, after, lag=lag)

    def _option(self, choice: str, literal: str) -> None:
        self.options.setdefault(choice, []).append(literal)

    # -- integers -------------------------------------------------------------

    def _duration_uncached(
        self, kind: OpKind, stage: int, device: int, scale: Number, part: str
    ) -> int:
        cost = self.instance.stages[stage]
        value: Number | None
        match kind:
            case OpKind.FORWARD:
                value = cost.forward
            case OpKind.BACKWARD:
                value = cost.whole_backward
            case OpKind.BACKWARD_INPUT:
                value = cost.backward_input
            case OpKind.BACKWARD_WEIGHT:
                value = cost.backward_weight
            case OpKind.RECOMPUTE:
                value = cost.forward if cost.recompute is None else cost.recompute
            case OpKind.OVERLAP:
                value, scale = self._overlap_cost(stage, scale, part)
            case _:
                value = None
        if value is None:
            msg = f"stage {stage} has no duration for {kind.value}"
            raise ValueError(msg)
        speed = self.instance.devices[device].speed
        return ticks(exact(value) * exact(scale) / exact(speed), self.units)

    def _overlap_cost(
        self, stage: int, scale: Number, part: str
    ) -> tuple[Number, Number]:
        """The longer of both stages' overlap durations, and the larger scale."""
        backward = Op.parse(part)
        durations = [
            value
            for value in (
                self.instance.stages[stage].overlap,
                self.instance.stages[backward.stage].overlap,
            )
            if value is not None
        ]
        scales = self.instance.microbatch_scale
        other = scales[backward.microbatch] if scales else 1
        return max(durations), max(scale, other)

    def _transfer_ticks_uncached(self, source: int, target: int, stage: int) -> int:
        return ticks(
            transfer_time(
                self.instance.communication,
                source,
                target,
                self.instance.stages[stage].output_bytes,
                self.units.time,
            ),
            self.units,
        )

    def _devices(self) -> tuple[DeviceMemory, ...]:
        return tuple(self._device_memory())

    def _device_memory(self) -> Iterator[DeviceMemory]:
        for index, device in enumerate(self.instance.devices):
            stages = self.instance.stages_of(index)
            static = self._grains(device.static_memory) + sum(
                self._grains(self.instance.stages[s].static_memory) for s in stages
            )
            limit = device.memory_limit
            yield DeviceMemory(
                device.name, None if limit is None else self._grains(limit), static
            )
