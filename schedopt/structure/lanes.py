"""A pipeline as lanes: stages in a row that equal microbatches pass."""

from __future__ import annotations

from dataclasses import dataclass

from schedopt.opgraph import OpGraph, Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.structure.fifo import ENTRY_KINDS, Microbatch, equal_microbatches


@dataclass(frozen=True, slots=True)
class LaneStage:
    """A stage as the microbatches of a lane see it; times in ticks, sizes in grains.

    Attributes
    ----------
    forward, backward, weight : int
        Durations of F, of B or I, and of W (0 where the backward is whole).
    lag_forward, lag_backward : int
        Lag into F from the previous stage's F, and into the backward from the next
        stage's.
    held, freed : int
        What F allocates, and how much of it the end of B or I frees.
    gradient : int
        What I allocates until the end of W.
    """

    stage: int
    device: int
    forward: int
    backward: int
    weight: int
    lag_forward: int
    lag_backward: int
    held: int
    freed: int
    gradient: int


@dataclass(frozen=True, slots=True)
class Lane:
    """Equal microbatches and the stages that they pass, in order."""

    microbatches: tuple[Microbatch, ...]
    stages: tuple[LaneStage, ...]
    split: bool


def lanes_of(graph: OpGraph) -> tuple[Lane, ...]:
    """The graph as lanes of F, B or F, I, W with lags between stages; or nothing.

    The view exists if there are no choices, every op holds the compute stream of its
    stage's device and no other, every microbatch runs F down a chain of stages and B
    (or I, followed by W) up again, and each buffer is made by F or I and used by one op
    of its own stage and microbatch.
    """
    if graph.choices or any(not _plain(graph, op) for op in graph.ops):
        return ()
    groups = equal_microbatches(graph)
    if sum(map(len, groups)) != len(graph.microbatches):
        return ()
    lanes = [_lane(graph, group) for group in groups]
    return tuple(lane for lane in lanes if lane is not None) if all(lanes) else ()


_LANE_KINDS = ENTRY_KINDS | {OpKind.FORWARD, OpKind.BACKWARD_WEIGHT}


def _plain(graph: OpGraph, op: Op) -> bool:
    data = graph.data[op]
    compute = Stream(StreamKind.COMPUTE, data.device)
    return op.kind in _LANE_KINDS and data.streams == (compute,) and not op.part


def _lane(graph: OpGraph, group: tuple[Microbatch, ...]) -> Lane | None:
    """One lane, read off its first microbatch; None if it is no plain pipeline."""
    ops = {(op.kind, op.stage): op for op in graph.microbatches[group[0]]}
    count = sum(kind is OpKind.FORWARD for kind, _ in ops)
    split = (OpKind.BACKWARD_INPUT, 0) in ops
    entry = OpKind.BACKWARD_INPUT if split else OpKind.BACKWARD
    kinds = (OpKind.FORWARD, entry) + ((OpKind.BACKWARD_WEIGHT,) if split else ())
    if set(ops) != {(kind, stage) for kind in kinds for stage in range(count)}:
        return None
    if len({(stage, graph.data[op].device) for (_, stage), op in ops.items()}) > count:
        return None  # a stage on several devices
    expected: dict[tuple[Op, Op], str] = {}
    for stage in range(count):
        forward, backward = ops[OpKind.FORWARD, stage], ops[entry, stage]
        if stage + 1 < count:
            expected[forward, ops[OpKind.FORWARD, stage + 1]] = "forward"
            expected[ops[entry, stage + 1], backward] = "backward"
        if split:
            expected[backward, ops[OpKind.BACKWARD_WEIGHT, stage]] = "weight"
    expected[ops[OpKind.FORWARD, count - 1], ops[entry, count - 1]] = "turn"
    found = {
        (op, after): lag for op in ops.values() for after, lag in graph.successors(op)
    }
    if set(found) != set(expected):
        return None
    if any(
        found[pair] for pair, what in expected.items() if what in ("turn", "weight")
    ):
        return None
    memory = _lane_memory(graph, group[0])
    if memory is None:
        return None

    def duration(kind: OpKind, stage: int) -> int:
        return graph.data[ops[kind, stage]].duration

    def lag(kind: OpKind, source: int, target: int) -> int:
        return found.get((ops[kind, source], ops[kind, target]), 0)

    stages = tuple(
        LaneStage(
            stage=stage,
            device=graph.data[ops[OpKind.FORWARD, stage]].device,
            forward=duration(OpKind.FORWARD, stage),
            backward=duration(entry, stage),
            weight=duration(OpKind.BACKWARD_WEIGHT, stage) if split else 0,
            lag_forward=lag(OpKind.FORWARD, stage - 1, stage) if stage else 0,
            lag_backward=lag(entry, stage + 1, stage) if stage + 1 < count else 0,
            held=memory.get((stage, "held"), 0),
            freed=memory.get((stage, "freed"), 0),
            gradient=memory.get((stage, "gradient"), 0),
        )
        for stage in range(count)
    )
    return Lane(group, stages, split)


def _lane_memory(
    graph: OpGraph, microbatch: Microbatch
) -> dict[tuple[int, str], int] | None:
    """What F holds, what the backward frees, what I holds, by stage."""
    sizes: dict[tuple[int, str], int] = {}
    for buffer in graph.buffers:
        if (buffer.maker.step, buffer.maker.microbatch) != microbatch:
            continue
        if len(buffer.users) != 1 or buffer.users[0].stage != buffer.maker.stage:
            return None
        stage, user = buffer.maker.stage, buffer.users[0]
        if buffer.device != graph.data[buffer.maker].device:
            return None
        if buffer.maker.kind is OpKind.FORWARD:
            sizes[stage, "held"] = sizes.get((stage, "held"), 0) + buffer.size
            if user.kind in ENTRY_KINDS:
                sizes[stage, "freed"] = sizes.get((stage, "freed"), 0) + buffer.size
            elif user.kind is not OpKind.BACKWARD_WEIGHT:
                return None
        elif (
            buffer.maker.kind is OpKind.BACKWARD_INPUT
            and user.kind is OpKind.BACKWARD_WEIGHT
        ):
            sizes[stage, "gradient"] = sizes.get((stage, "gradient"), 0) + buffer.size
        else:
            return None
    return sizes
