"""Random small instances and orders, shared by the tests; everything from one rng."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf

import networkx as nx

from schedopt.build import build_graph
from schedopt.instance import (
    Backward,
    Communication,
    CommunicationMode,
    Device,
    Instance,
    Link,
    Number,
    Placement,
    StageCost,
    place,
)
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
from schedopt.ops import Op, OpKind
from schedopt.schedule import Order, Schedule
from schedopt.simulate import simulate, with_memory_edges

PLACEMENTS = tuple(Placement)
BACKWARDS = tuple(Backward)
MODES = tuple(CommunicationMode)
_WEIGHT = OpKind.BACKWARD_WEIGHT
_OF_NO_MICROBATCH = (
    OpKind.SYNC_CURVATURE,
    OpKind.INVERSION,
    OpKind.REDUCE_GRAD,
    OpKind.PRECONDITION,
    OpKind.GATHER_GRAD,
    OpKind.STEP,
)
"""In the order in which they run."""


def random_instance(
    rng: random.Random,
    *,
    max_ops: int = 24,
    placements: Sequence[Placement] = PLACEMENTS,
    backwards: Sequence[Backward] = BACKWARDS,
    modes: Sequence[CommunicationMode] = MODES,
    zeros: bool = False,
    plain: bool = False,
) -> Instance:
    """A valid instance whose op graph has at most ``max_ops`` ops.

    Stages are unequal. Sometimes there are memory limits (from the least peak of one
    microbatch upwards), microbatch_scale, speeds, recompute, overlap, decimals, links
    of their own and transfer buffers; ``plain`` leaves those out but for the limits.
    ``zeros`` allows durations of 0.
    """
    while True:
        instance = _shape(rng, placements, backwards, modes, zeros)
        if not plain:
            instance = _with_extras(rng, instance)
        smallest = 1 if rng.random() < 0.1 else 2
        while instance.microbatches > smallest and _size(instance) > max_ops:
            instance = _cut(instance, instance.microbatches - 1)
        if _size(instance) <= max_ops:
            return _with_limits(rng, instance)


def tiny_graph(
    durations: Mapping[str, int],
    edges: Iterable[tuple[str, str, int]] = (),
    buffers: Iterable[tuple[int, str, tuple[str, ...]]] = (),
    *,
    devices: Mapping[str, tuple[int, ...]] | None = None,
    literals: Mapping[str, str] | None = None,
    choices: Iterable[tuple[str, ...]] = (),
    limits: Sequence[int | None] = (None, None, None),
    static: int = 0,
) -> OpGraph:
    """An op graph written by hand: ops by notation, on the device of their stage.

    Transfers hold the link from the first to the second of their ``devices``; other ops
    with several hold all their compute streams. Buffers are (size, maker, users) on the
    maker's device. One tick is 1 us, one grain 1 MiB.
    """
    digraph: nx.DiGraph[Op] = nx.DiGraph()
    for text, duration in durations.items():
        op = Op.parse(text)
        places = (devices or {}).get(text, (op.stage,))
        streams = tuple(Stream(StreamKind.COMPUTE, place) for place in places)
        if not op.kind.is_compute and len(places) == 2:
            streams = (Stream(StreamKind.P2P, *places),)
        literal = (literals or {}).get(text)
        digraph.add_node(op, data=OpData(duration, places[0], streams, literal))
    for before, after, lag in edges:
        digraph.add_edge(Op.parse(before), Op.parse(after), lag=lag)
    return OpGraph(
        digraph,
        tuple(
            Buffer(
                f"buffer {index}",
                digraph.nodes[Op.parse(maker)]["data"].device,
                size,
                Op.parse(maker),
                tuple(map(Op.parse, users)),
            )
            for index, (size, maker, users) in enumerate(buffers)
        ),
        tuple(Choice(f"choice {i}", names) for i, names in enumerate(choices)),
        tuple(DeviceMemory(f"gpu{i}", limit, static) for i, limit in enumerate(limits)),
        Units("us", "MiB", 1, 1),
    )


def times(**starts: int) -> dict[Op, int]:
    """Starts by notation with a leading underscore: ``times(_0F0=3)``."""
    return {Op.parse(text.lstrip("_")): time for text, time in starts.items()}


def ops(text: str) -> tuple[Op, ...]:
    """Ops by notation, separated by spaces."""
    return tuple(map(Op.parse, text.split()))


def random_order(
    graph: OpGraph, rng: random.Random, *, within_memory: bool = False
) -> Order:
    """A random order that can be executed, of random alternatives.

    With ``within_memory`` its replay stays within every limit, by memory edges where
    they are needed.
    """
    if not within_memory:
        present = _present(graph, random_literals(graph, rng))
        return Order(_project(graph, _random_topological(graph, present, rng)))
    return with_memory_edges(serial_schedule(graph, rng))


def random_schedule(
    graph: OpGraph, rng: random.Random, *, within_memory: bool = True
) -> Schedule:
    """The replay of a random order."""
    return simulate(graph, random_order(graph, rng, within_memory=within_memory))


def serial_schedule(graph: OpGraph, rng: random.Random) -> Schedule:
    """A random schedule within memory that runs one op at a time on all devices."""
    for _ in range(8):
        present = _present(graph, random_literals(graph, rng))
        sequence = list(_serially_within_memory(graph, present, rng))
        if len(sequence) == len(present):
            return _one_op_at_a_time(graph, sequence)
    return _one_op_at_a_time(graph, _one_microbatch_at_a_time(graph))


def _one_op_at_a_time(graph: OpGraph, sequence: Sequence[Op]) -> Schedule:
    start: dict[Op, int] = {}
    time = 0
    for op in sequence:
        ready = [
            start[before] + graph.data[before].duration + lag
            for before, lag in graph.predecessors(op)
            if before in start
        ]
        start[op] = max([time, *ready])
        time = start[op] + graph.data[op].duration
    return Schedule(graph, start)


def random_literals(graph: OpGraph, rng: random.Random) -> frozenset[str]:
    """Random alternatives whose ops do not wait for each other in a circle."""
    for _ in range(20):
        literals = _drawn_literals(graph, rng)
        present = _present(graph, literals)
        if nx.is_directed_acyclic_graph(graph.digraph.subgraph(present)):
            return literals
    return _frugal_literals(graph)


# -- instances ----------------------------------------------------------------


def _shape(
    rng: random.Random,
    placements: Sequence[Placement],
    backwards: Sequence[Backward],
    modes: Sequence[CommunicationMode],
    zeros: bool,
) -> Instance:
    placement = rng.choice(placements)
    devices = rng.randint(1, 3 if placement is Placement.BIDIRECTIONAL else 4)
    extra = rng.choice((0, 0, 1, 2, devices, devices + 1))
    count = devices if placement is Placement.BIDIRECTIONAL else devices + extra
    if placement is Placement.EXPLICIT:
        device_of_stage = tuple(rng.randrange(devices) for _ in range(count))
    else:
        device_of_stage = place(placement, count, devices)
    mode = rng.choice(modes)
    return Instance(
        name="random",
        stages=tuple(_stage(rng, zeros) for _ in range(count)),
        devices=tuple(Device(name=f"gpu{d}") for d in range(devices)),
        microbatches=rng.randint(2, 6),
        placement=placement,
        device_of_stage=device_of_stage,
        backward=rng.choice(backwards),
        communication=Communication(mode=mode, latency=rng.choice((0, 1, 2, 5))),
        memory_unit="B",
        resolution=1,
    )


def _stage(rng: random.Random, zeros: bool) -> StageCost:
    least = 0 if zeros else 1
    activation = rng.choice((0, 2, 4, 5, 7))
    return StageCost(
        forward=rng.randint(least, 9),
        backward=rng.randint(least + 1, 18),
        backward_input=rng.randint(least, 9),
        backward_weight=rng.randint(least, 9),
        activation=activation,
        activation_until_input=rng.choice((0, 0, activation, activation // 2)),
        input_gradient=rng.choice((0, 0, 1, 2)),
        static_memory=rng.choice((0, 3)),
        output_bytes=rng.choice((0, 1, 3)),
    )


def _with_extras(rng: random.Random, instance: Instance) -> Instance:
    changes: dict[str, object] = {}
    stages = instance.stages
    if rng.random() < 0.2:
        changes["microbatch_scale"] = tuple(
            rng.choice((1, 1, 2, 0.5, 1.5)) for _ in range(instance.microbatches)
        )
    if rng.random() < 0.2:
        instance = replace(
            instance,
            devices=tuple(
                replace(d, speed=rng.choice((1, 2, 0.5, 1.25)), static_memory=1)
                for d in instance.devices
            ),
        )
    if rng.random() < 0.2:
        chosen = frozenset(s for s in range(len(stages)) if rng.random() < 0.5)
        changes["recompute"] = chosen
        stages = tuple(
            replace(
                s, checkpoint=rng.choice((None, 1)), recompute=rng.choice((None, 3))
            )
            for s in stages
        )
    if rng.random() < 0.2 and instance.backward is not Backward.SPLIT:
        stages = tuple(
            replace(s, overlap=rng.randint(8, 20)) if rng.random() < 0.7 else s
            for s in stages
        )
    if rng.random() < 0.2:
        changes["resolution"] = 0.001
        stages = tuple(
            replace(
                s,
                forward=s.forward + 0.125,
                backward_input=_sum(s.backward_input, 0.333),
                activation=s.activation + 0.5,
            )
            for s in stages
        )
    changes["communication"] = _communication(rng, instance)
    return replace(instance, stages=stages, **changes)  # type: ignore[arg-type]  # the names are literals above


def _communication(rng: random.Random, instance: Instance) -> Communication:
    communication = instance.communication
    if communication.mode is not CommunicationMode.LAG and rng.random() < 0.6:
        communication = replace(communication, transfer_buffers=True)
    if rng.random() < 0.2 and len(instance.devices) > 1:
        links = (Link(source=0, target=1, latency=rng.choice((0, 3))),)
        communication = replace(communication, links=links)
    if rng.random() < 0.2:
        communication = replace(communication, bandwidth=10**6)
    return communication


def _with_limits(rng: random.Random, instance: Instance) -> Instance:
    """Limits between what one microbatch at a time needs and ample; sometimes none."""
    if rng.random() < 0.2:
        return instance
    graph = build_graph(instance)
    per_unit = graph.units.grains_per_unit
    one_at_a_time = _one_op_at_a_time(graph, _one_microbatch_at_a_time(graph))
    size = max((b.size for b in graph.buffers), default=0)
    devices = tuple(
        replace(
            device,
            memory_limit=(least + int(size * rng.choice((0, 0, 0.5, 1, 2, 4))))
            / per_unit,
        )
        if rng.random() < 0.9
        else device
        for device, least in zip(
            instance.devices, one_at_a_time.peak_memory, strict=True
        )
    )
    return replace(instance, devices=devices)


def _size(instance: Instance) -> int:
    return len(build_graph(instance).ops)


def _cut(instance: Instance, microbatches: int) -> Instance:
    return replace(
        instance,
        microbatches=microbatches,
        microbatch_scale=instance.microbatch_scale[:microbatches],
    )


def _sum(value: Number | None, more: Number) -> Number | None:
    return None if value is None else value + more


# -- orders -------------------------------------------------------------------


def _drawn_literals(graph: OpGraph, rng: random.Random) -> frozenset[str]:
    """One alternative of each choice, drawn in random order, without conflicts."""
    choices_of: dict[str, list[int]] = {}
    for index, choice in enumerate(graph.choices):
        for literal in choice.literals:
            choices_of.setdefault(literal, []).append(index)
    chosen: set[str] = set()
    settled: set[int] = set()
    for index in rng.sample(range(len(graph.choices)), len(graph.choices)):
        if index in settled:
            continue
        literal = rng.choice(
            [
                literal
                for literal in graph.choices[index].literals
                if settled.isdisjoint(choices_of[literal])
            ]
        )
        chosen.add(literal)
        settled.update(choices_of[literal])
    return frozenset(chosen)


def _frugal_literals(graph: OpGraph) -> frozenset[str]:
    """Every op by itself and every backward whole: holds least, and always fits."""
    return frozenset(choice.literals[0] for choice in graph.choices)


def _present(graph: OpGraph, literals: frozenset[str]) -> set[Op]:
    return {
        op
        for op, data in graph.data.items()
        if data.literal is None or data.literal in literals
    }


def _random_topological(
    graph: OpGraph, present: set[Op], rng: random.Random
) -> list[Op]:
    waiting = {
        op: sum(before in present for before, _ in graph.predecessors(op))
        for op in graph.ops
        if op in present
    }
    ready = [op for op, count in waiting.items() if count == 0]
    sequence = []
    while ready:
        op = ready.pop(rng.randrange(len(ready)))
        sequence.append(op)
        for after, _ in graph.successors(op):
            if after in present:
                waiting[after] -= 1
                if waiting[after] == 0:
                    ready.append(after)
    return sequence


def _project(graph: OpGraph, sequence: Sequence[Op]) -> dict[Stream, tuple[Op, ...]]:
    found: dict[Stream, list[Op]] = {}
    for op in sequence:
        for stream in graph.data[op].streams:
            found.setdefault(stream, []).append(op)
    return {stream: tuple(found[stream]) for stream in sorted(found, key=str)}


def _serially_within_memory(
    graph: OpGraph, present: set[Op], rng: random.Random
) -> Iterator[Op]:
    """Random ops one at a time, for as long as one is ready and fits."""
    level = [device.static for device in graph.devices]
    makes: dict[Op, list[Buffer]] = {}
    frees: dict[Op, list[int]] = {}
    buffers = [b for b in graph.buffers if b.maker in present]
    users = [{u for u in b.users if u in present} or {b.maker} for b in buffers]
    for index, buffer in enumerate(buffers):
        makes.setdefault(buffer.maker, []).append(buffer)
        for user in users[index]:
            frees.setdefault(user, []).append(index)
    left = [op for op in graph.ops if op in present]
    done: set[Op] = set()

    def fits(op: Op) -> bool:
        added = level.copy()
        for buffer in makes.get(op, ()):
            added[buffer.device] += buffer.size
        return all(
            device.limit is None or now <= device.limit
            for now, device in zip(added, graph.devices, strict=True)
        )

    while True:
        ready = [
            op
            for op in left
            if all(b in done or b not in present for b, _ in graph.predecessors(op))
            and fits(op)
        ]
        if not ready:
            return
        op = rng.choice(ready)
        left.remove(op)
        done.add(op)
        for buffer in makes.get(op, ()):
            level[buffer.device] += buffer.size
        for index in frees.get(op, ()):
            users[index].remove(op)
            if not users[index]:
                level[buffers[index].device] -= buffers[index].size
        yield op


def _one_microbatch_at_a_time(graph: OpGraph) -> list[Op]:
    present = _present(graph, _frugal_literals(graph))
    return sorted(present, key=_one_after_another)


def _one_after_another(op: Op) -> tuple[float, ...]:
    """Down the stages and back, R as late and W as early as possible.

    So nothing is alive while an op runs but what must be: R comes before the gradient
    arrives, which it does not need, and W right after I. Curvature comes after W, and
    what belongs to no microbatch at the end of the step.
    """
    match op.kind:
        case OpKind.FORWARD | OpKind.SEND_FORWARD:
            turn = op.microbatch, 0, op.stage, op.kind is OpKind.SEND_FORWARD
        case OpKind.RECOMPUTE:
            turn = op.microbatch, 1, -op.stage, 0
        case OpKind.SEND_BACKWARD:
            turn = op.microbatch, 1, 1 - op.stage, 1
        case OpKind.CURVATURE_A | OpKind.CURVATURE_B:
            turn = op.microbatch, 1, -op.stage, 4
        case kind if kind in _OF_NO_MICROBATCH:
            turn = inf, _OF_NO_MICROBATCH.index(kind), op.stage, 0
        case _:
            turn = op.microbatch, 1, -op.stage, 2 + (op.kind is _WEIGHT)
    return op.step, *turn
