"""K-FAC work in the op graph: what waits for what, how long it takes, what it holds."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from typing import Any

import networkx as nx
import pytest
from kfac_instances import KFAC, MODULES, STAGE, random_training, training
from strategies import random_literals

from schedopt.build import build_graph
from schedopt.instance import (
    Backward,
    Communication,
    CommunicationMode,
    FactorBarrier,
    Instance,
    Inversion,
    Kfac,
    KfacModule,
    Placement,
    StepBarrier,
)
from schedopt.opgraph import Buffer, OpGraph, Stream, StreamKind
from schedopt.ops import Op, OpKind

UP_AND_DOWN = Placement.BIDIRECTIONAL
SHARES = {"A": OpKind.CURVATURE_A, "B": OpKind.CURVATURE_B}
LAYERS = ("qk.0", "qk.1", "o")


def ops_of(graph: OpGraph, *kinds: OpKind) -> list[Op]:
    return [op for op in graph.ops if op.kind in kinds]


def waits(graph: OpGraph, op: Op | str) -> set[Op]:
    op = Op.parse(op) if isinstance(op, str) else op
    return {before for before, _ in graph.predecessors(op)}


def named(*texts: str) -> set[Op]:
    return {Op.parse(text) for text in texts}


def shares(
    stage: int, side: str, microbatches: int, layers: tuple[str, ...] = LAYERS
) -> set[Op]:
    return {
        Op(SHARES[side], stage, microbatch, 0, layer)
        for microbatch in range(microbatches)
        for layer in layers
    }


def buffers(graph: OpGraph, maker: str) -> list[Buffer]:
    return [b for b in graph.buffers if b.maker == Op.parse(maker)]


def test_ops_name_layers_as_their_module_does() -> None:
    graph = build_graph(training())
    layers = tuple(layer for module in MODULES for layer in module.layers)
    assert layers == LAYERS
    for side, kind in SHARES.items():
        assert {op.part for op in ops_of(graph, kind)} == set(layers)
        inverted = {f"{layer}.{side}" for layer in layers}
        assert inverted <= {op.part for op in ops_of(graph, OpKind.INVERSION)}


# -- precedences --------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "after_a", "after_b"),
    [
        ({}, ["1F2"], ["1B2"]),
        ({"recompute": frozenset({1})}, ["1R2"], ["1B2"]),
        ({"backward": Backward.SPLIT}, ["1F2"], ["1I2"]),
        ({"backward": Backward.CHOOSE}, ["1F2"], ["1B2", "1I2"]),
        (
            {"recompute": frozenset({0, 1}), "backward": Backward.SPLIT},
            ["1R2"],
            ["1I2"],
        ),
        (
            {"stage": replace(STAGE, overlap=15), "microbatches": 3},
            ["1F2", "1OVERLAP_F_B2:1B0", "1OVERLAP_F_B2:1B1"],
            ["1B2"],
        ),
        (
            {"placement": UP_AND_DOWN, "microbatches": 4},
            ["1F2"],
            ["1B2"],
        ),
    ],
    ids=str,
)
def test_curvature_follows_the_forward_and_the_backward(
    changes: dict[str, Any], after_a: list[str], after_b: list[str]
) -> None:
    graph = build_graph(training(**changes))
    for layer in LAYERS:
        assert waits(graph, f"1CURVATURE_A2:{layer}") == named(*after_a)
        assert waits(graph, f"1CURVATURE_B2:{layer}") == named(*after_b)


def test_curvature_of_a_microbatch_in_a_joint_op() -> None:
    stage = replace(STAGE, overlap=15)
    graph = build_graph(training(1, 2, stages=2, stage=stage))
    # At one stage only an earlier microbatch's backward may join a forward.
    assert waits(graph, "0CURVATURE_A0:o") == named("0F0", "0OVERLAP_F_B0:1B1")
    assert waits(graph, "0CURVATURE_B0:o") == named(
        "0B0", "0OVERLAP_F_B1:0B0", "1OVERLAP_F_B1:0B0"
    )


@pytest.mark.parametrize("barrier", FactorBarrier)
def test_an_inversion_waits_for_the_curvature(barrier: FactorBarrier) -> None:
    kfac = Kfac(factor_barrier=barrier)
    graph = build_graph(training(2, 3, stages=3, placement=(1, 0, 1), kfac=kfac))
    for side in "AB":
        own = shares(0, side, 3, ("o",))
        beside = shares(0, side, 3) | shares(2, side, 3)
        right = own if barrier is FactorBarrier.FACTOR else beside
        assert waits(graph, f"0INVERSION0:o.{side}") == right
    assert not ops_of(
        graph, OpKind.SYNC_CURVATURE, OpKind.REDUCE_GRAD, OpKind.GATHER_GRAD
    )


@pytest.mark.parametrize("barrier", FactorBarrier)
def test_copies_reduce_a_factor_before_its_inversion(barrier: FactorBarrier) -> None:
    kfac = Kfac(factor_barrier=barrier)
    graph = build_graph(training(4, 4, placement=UP_AND_DOWN, kfac=kfac))
    alone = barrier is FactorBarrier.FACTOR
    sync = "1SYNC_CURVATURE0:o.B"
    # Both devices of stage 1 hold stages 1 and 2.
    everything = shares(1, "B", 4) | shares(2, "B", 4)
    assert waits(graph, sync) == (shares(1, "B", 4, ("o",)) if alone else everything)
    syncs = named(
        *(f"{stage}SYNC_CURVATURE0:{layer}.B" for stage in (1, 2) for layer in LAYERS)
    )
    for copy, device in ((0, 1), (1, 2)):
        op = Op.parse(f"1INVERSION{copy}:o.B")
        assert graph.data[op].device == device
        assert waits(graph, op) == (named(sync) if alone else syncs)
    assert set(graph.data[Op.parse(sync)].streams) == {
        Stream(StreamKind.COLLECTIVE, 1),
        Stream(StreamKind.COLLECTIVE, 2),
    }


@pytest.mark.parametrize("barrier", StepBarrier)
@pytest.mark.parametrize("backward", [Backward.WHOLE, Backward.SPLIT])
def test_preconditioning_waits_for_gradients_only(
    barrier: StepBarrier, backward: Backward
) -> None:
    kfac = Kfac(step_barrier=barrier)
    graph = build_graph(training(3, 2, backward=backward, kfac=kfac, steps=2))
    kind = OpKind.BACKWARD if backward is Backward.WHOLE else OpKind.BACKWARD_WEIGHT
    for step in (0, 1):
        for stage in range(3):
            everyone = barrier is StepBarrier.EVERYONE
            stages = range(3) if everyone else [stage]
            op = Op(OpKind.PRECONDITION, stage, 0, step)
            assert waits(graph, op) == {
                Op(kind, s, j, step) for s in stages for j in (0, 1)
            }
            end = Op(OpKind.STEP, stage, 0, step)
            assert waits(graph, end) == {op}
            followers = {after for after, _ in graph.successors(end)}
            forwards = {Op(OpKind.FORWARD, stage, j, 1) for j in (0, 1)}
            assert followers == (set() if step else forwards)


@pytest.mark.parametrize("barrier", StepBarrier)
def test_copies_reduce_and_gather_the_gradients(barrier: StepBarrier) -> None:
    kfac = Kfac(step_barrier=barrier)
    graph = build_graph(training(3, 2, placement=UP_AND_DOWN, kfac=kfac))
    reduced = {0: named("0REDUCE_GRAD0"), 2: named("2REDUCE_GRAD0")}
    reduced[1] = named("1B0", "1B1")  # the middle device has the only copy
    assert waits(graph, "0REDUCE_GRAD0") == named("0B0", "0B1")
    for stage in range(3):
        everyone = barrier is StepBarrier.EVERYONE
        right = set().union(*reduced.values()) if everyone else reduced[stage]
        for copy in (0,) if stage == 1 else (0, 1):
            assert waits(graph, f"{stage}PRECONDITION{copy}") == right
            last = f"{stage}GATHER_GRAD0" if stage != 1 else "1PRECONDITION0"
            assert waits(graph, f"{stage}STEP{copy}") == named(last)
    assert waits(graph, "2GATHER_GRAD0") == named("2PRECONDITION0", "2PRECONDITION1")
    assert len(ops_of(graph, OpKind.STEP)) == 5
    data = graph.data[Op.parse("2STEP1")]
    assert (data.device, graph.data[Op.parse("2STEP0")].device) == (0, 2)


def test_refreshes_take_the_data_of_their_steps() -> None:
    kfac = Kfac(interval=2, refreshes=2)
    graph = build_graph(training(2, 2, kfac=kfac, steps=4))
    kinds = (*SHARES.values(), OpKind.INVERSION)
    assert {op.step for op in ops_of(graph, *kinds)} == {0, 2}
    assert {op.step for op in ops_of(graph, OpKind.PRECONDITION)} == {0, 1, 2, 3}
    # A factor is not written before the inversion has used it; nothing else waits.
    assert waits(graph, "2@1CURVATURE_A0:o") == named("2@1F0", "1INVERSION0:o.A")
    assert waits(graph, "2@1CURVATURE_B0:qk.1") == named("2@1B0", "1INVERSION0:qk.1.B")
    for op in ops_of(graph, OpKind.INVERSION):
        after = {follower for follower, _ in graph.successors(op)}
        layer, side = op.part.rsplit(".", 1)
        same = {Op(SHARES[side], op.stage, j, 2, layer) for j in (0, 1)}
        assert after == (same if op.step == 0 else set())


def test_a_copy_waits_for_its_own_use_of_a_factor() -> None:
    kfac = Kfac(refreshes=2, inversion=Inversion.WHOLE)
    graph = build_graph(training(2, 2, kfac=kfac, steps=2, placement=UP_AND_DOWN))
    for copy in (0, 1):  # microbatch 0 runs down, 1 up
        assert waits(graph, f"1@0CURVATURE_A{copy}:o") == named(
            f"1@0F{copy}", f"0INVERSION{copy}:o.A", "0SYNC_CURVATURE0:o.A"
        )


# -- time ---------------------------------------------------------------------

CASES: list[dict[str, Any]] = [
    {},
    {"devices": 1, "microbatches": 1},
    {"devices": 1, "stages": 3, "microbatches": 2},
    {"devices": 4, "microbatches": 2},
    {"devices": 2, "stages": 5, "placement": (1, 0, 1, 1, 0)},
    {"devices": 2, "stages": 4, "placement": Placement.V},
    {"devices": 4, "microbatches": 5, "placement": UP_AND_DOWN},
    {"devices": 3, "microbatches": 4, "placement": UP_AND_DOWN},
    {"devices": 2, "microbatches": 1, "placement": UP_AND_DOWN},
    {"speeds": (1, 3)},
    {"devices": 3, "speeds": (2, 1, 3), "placement": UP_AND_DOWN},
    {"microbatch_scale": (1, 1.5, 0.25)},
    {"kfac": Kfac(replicas=3)},
    {"devices": 2, "placement": UP_AND_DOWN, "kfac": Kfac(replicas=2)},
    {"kfac": Kfac(inversion=Inversion.WHOLE, replicas=2)},  # nothing to choose
    {"kfac": Kfac(refreshes=3, interval=2), "steps": 5},
    {"backward": Backward.CHOOSE, "stage": replace(STAGE, overlap=15)},
    {"recompute": frozenset({0}), "backward": Backward.SPLIT},
    {
        "communication": Communication(mode=CommunicationMode.BLOCKING, latency=1),
        "placement": UP_AND_DOWN,
    },
]


def closed_form(instance: Instance, device: int, side: str) -> tuple[Fraction, ...]:
    """A device's curvature and inversion of a refresh, time units."""
    kfac = instance.kfac or KFAC
    speed = Fraction(instance.devices[device].speed)
    scales = instance.microbatch_scale or (1,) * instance.microbatches
    up = instance.placement is UP_AND_DOWN
    curvature = inversion = Fraction(0)
    for stage, cost in enumerate(instance.stages):
        homes = [instance.device_of_stage[stage]]
        if up:
            homes.append(len(instance.devices) - 1 - stage)
        for module in cost.modules:
            a = side == "A"
            share = Fraction(module.curvature_a if a else module.curvature_b)
            whole = Fraction(module.inversion_a if a else module.inversion_b)
            for microbatch, scale in enumerate(scales):
                if homes[microbatch % len(homes)] == device:
                    curvature += module.count * share * Fraction(scale) / speed
            if device in homes:
                inversion += module.count * whole / len(set(homes)) / kfac.replicas
    return curvature, inversion / speed


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_the_work_of_each_refresh_is_the_closed_form(changes: dict[str, Any]) -> None:
    instance = training(**changes, resolution=1e-6)
    graph = build_graph(instance)
    kfac = instance.kfac or KFAC
    for step in range(0, kfac.refreshes * kfac.interval, kfac.interval):
        for device in range(len(instance.devices)):
            here = [
                op
                for op in graph.ops
                if op.step == step and graph.data[op].device == device
            ]
            for side, kind in SHARES.items():
                curvature = [op for op in here if op.kind is kind]
                inversion = [
                    op
                    for op in here
                    if op.kind is OpKind.INVERSION and op.part.endswith(f".{side}")
                ]
                right = closed_form(instance, device, side)
                for ops, time in zip((curvature, inversion), right, strict=True):
                    ticks = sum(graph.data[op].duration for op in ops)
                    assert abs(ticks - time * 10**6) <= Fraction(len(ops), 2)


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_every_step_preconditions_once_on_every_copy(changes: dict[str, Any]) -> None:
    instance = training(**changes, resolution=1e-6)
    graph = build_graph(instance)
    replicas = (instance.kfac or KFAC).replicas
    expected = {}
    for step in range(instance.steps):
        for stage, cost in enumerate(instance.stages):
            homes = {instance.device_of(stage, copy) for copy in (0, 1)}
            for device in homes:
                work = Fraction(cost.precondition) / replicas / len(homes)
                work /= Fraction(instance.devices[device].speed)
                expected[step, stage, device] = round(work * 10**6)
    assert {
        (op.step, op.stage, graph.data[op].device): graph.data[op].duration
        for op in ops_of(graph, OpKind.PRECONDITION)
    } == expected
    assert len(ops_of(graph, OpKind.PRECONDITION)) == len(expected)


def test_shared_work_is_rounded_to_the_nearest_tick() -> None:
    graph = build_graph(training(2, 2, placement=UP_AND_DOWN))
    # Halves of 3, 4, 7 and 9 ticks: those between two ticks become even.
    lengths = {
        op.part: graph.data[op].duration for op in ops_of(graph, OpKind.INVERSION)
    }
    assert lengths == {
        "qk.0.A": 2,
        "qk.1.A": 2,
        "qk.0.B": 2,
        "qk.1.B": 2,
        "o.A": 4,
        "o.B": 4,
    }


def test_collectives_take_as_long_as_a_ring() -> None:
    # Over n copies: latency + rounds x (n - 1) / n x bytes / bandwidth.
    def lengths(kfac: Kfac, **changes: Any) -> dict[str, int]:
        graph = build_graph(training(2, 2, kfac=kfac, **changes, resolution=1e-3))
        return {
            str(op): graph.data[op].duration
            for op in graph.ops
            if str(op) in {"0SYNC_CURVATURE0:o.A", "0REDUCE_GRAD0", "0GATHER_GRAD0"}
        }

    # Factor o.A has 5 B, gradients 6 B.
    two_way = lengths(Kfac(bandwidth=2, latency=3), placement=UP_AND_DOWN)
    assert two_way["0SYNC_CURVATURE0:o.A"] == 3000 + 2500
    assert two_way["0REDUCE_GRAD0"] == two_way["0GATHER_GRAD0"] == 3000 + 1500
    to_one = lengths(
        Kfac(bandwidth=2, inversion=Inversion.WHOLE), placement=UP_AND_DOWN
    )
    assert to_one["0SYNC_CURVATURE0:o.A"] == 1250
    both = lengths(Kfac(bandwidth=2, replicas=2), placement=UP_AND_DOWN)
    assert both["0SYNC_CURVATURE0:o.A"] == 3750
    assert both["0REDUCE_GRAD0"] == 2250
    for inversion in Inversion:  # no difference where one device holds the stage
        four = lengths(Kfac(bandwidth=2, replicas=4, inversion=inversion))
        assert four["0SYNC_CURVATURE0:o.A"] == 3750
    free = lengths(Kfac(latency=7, replicas=2))
    assert set(free.values()) == {7000}


def test_whole_inversions_leave_the_owner_open() -> None:
    kfac = Kfac(inversion=Inversion.WHOLE, refreshes=2)
    graph = build_graph(training(3, 2, placement=UP_AND_DOWN, kfac=kfac, steps=2))
    optional = [op for op in graph.ops if graph.data[op].literal is not None]
    assert {op.stage for op in optional} == {0, 2}  # stage 1 has one device
    assert all(op.kind is OpKind.INVERSION for op in optional)
    owners: dict[frozenset[str], set[Op]] = {
        frozenset(choice.literals): {
            op for op in optional if graph.data[op].literal in choice.literals
        }
        for choice in graph.choices
    }
    # Two stages, two refreshes, three layers of two factors.
    assert len(owners) == len(graph.choices) == 2 * 2 * 6
    for pair in owners.values():
        assert {op.microbatch for op in pair} == {0, 1}
        assert len({op._replace(microbatch=0) for op in pair}) == 1
    lengths = {op.part: graph.data[op].duration for op in optional}
    assert (lengths["o.A"], lengths["qk.1.B"]) == (7, 4)


# -- memory -------------------------------------------------------------------


def test_inputs_and_output_gradients_wait_for_their_curvature() -> None:
    graph = build_graph(training(1, 1, steps=2, kfac=Kfac(interval=2)))
    made = [(b.size, b.users) for b in buffers(graph, "0F0")]
    end = Op.parse("0B0")
    # 20 of activation: 1 + 1 + 3 of it are the inputs of three layers.
    assert made == [
        (15, (end,)),
        (1, (end, Op.parse("0CURVATURE_A0:qk.0"))),
        (1, (end, Op.parse("0CURVATURE_A0:qk.1"))),
        (3, (end, Op.parse("0CURVATURE_A0:o"))),
    ]
    assert [(b.size, b.users) for b in buffers(graph, "0B0")] == [
        (2, (Op.parse("0CURVATURE_B0:qk.0"),)),
        (2, (Op.parse("0CURVATURE_B0:qk.1"),)),
        (4, (Op.parse("0CURVATURE_B0:o"),)),
    ]
    # No data is taken of the next step.
    step = [(b.size, *map(str, b.users)) for b in buffers(graph, "1@0F0")]
    assert step == [(20, "1@0B0")]
    assert buffers(graph, "1@0B0") == []


def test_memory_with_split_backward_and_recomputation() -> None:
    stage = replace(STAGE, checkpoint=7)
    recompute = frozenset({0})
    graph = build_graph(
        training(1, 1, stage=stage, recompute=recompute, backward=Backward.SPLIT)
    )
    assert [(b.size, *map(str, b.users)) for b in buffers(graph, "0F0")] == [(7, "0R0")]
    assert [(b.size, *map(str, b.users)) for b in buffers(graph, "0R0")] == [
        (13, "0W0"),  # 20, less 2 until I, less 5 of inputs
        (2, "0I0"),
        (1, "0W0", "0CURVATURE_A0:qk.0"),
        (1, "0W0", "0CURVATURE_A0:qk.1"),
        (3, "0W0", "0CURVATURE_A0:o"),
    ]
    assert [(b.size, *map(str, b.users)) for b in buffers(graph, "0I0")] == [
        (1, "0W0"),
        (2, "0CURVATURE_B0:qk.0"),
        (2, "0CURVATURE_B0:qk.1"),
        (4, "0CURVATURE_B0:o"),
    ]


def test_alternatives_hold_the_same_each() -> None:
    stage = replace(STAGE, overlap=15)
    graph = build_graph(training(1, 2, stage=stage, backward=Backward.CHOOSE))
    joint = Op.parse("0OVERLAP_F_B1:0B0")
    of_joint = [(b.size, b.device) for b in graph.buffers if b.maker == joint]
    forward = [(b.size, b.device) for b in buffers(graph, "0F1")]
    backward = [(b.size, b.device) for b in buffers(graph, "0B0")]
    assert sorted(of_joint) == sorted(forward + backward)
    inputs = [b for b in buffers(graph, "0F1") if len(b.users) > 1]
    ends = named("0B1", "0W1")
    assert all(ends <= set(b.users) for b in inputs if b.size != 2)


def test_what_is_saved_never_takes_more_than_the_activation() -> None:
    # Each input is 0.6 and rounds to 1; the activation is 1.8 and rounds to 2.
    module = KfacModule(
        name="m",
        count=3,
        curvature_a=1,
        curvature_b=1,
        inversion_a=1,
        inversion_b=1,
        saved_input=0.6,
    )
    stage = replace(STAGE, activation=1.8, activation_until_input=0, modules=(module,))
    graph = build_graph(training(1, 1, stage=stage))
    assert [b.size for b in buffers(graph, "0F0")] == [1, 1, 1]


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_factors_and_inverses_are_held_by_every_copy(changes: dict[str, Any]) -> None:
    instance = training(**changes)
    plain = build_graph(replace(instance, kfac=None, steps=1))
    graph = build_graph(instance)
    of_a_stage = 2 * (2 * (1 + 2) + 5 + 6)
    for device, (before, after) in enumerate(
        zip(plain.devices, graph.devices, strict=True)
    ):
        count = len(instance.stages_of(device))
        assert after == before._replace(static=before.static + count * of_a_stage)


# -- all of it ----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_no_selection_has_a_cycle_and_every_buffer_has_a_size(seed: int) -> None:
    rng = random.Random(seed)
    instance = random_training(rng)
    graph = build_graph(instance)
    for _ in range(3):
        chosen = graph.select(random_literals(graph, rng))
        assert nx.is_directed_acyclic_graph(chosen.digraph)
    assert all(buffer.size > 0 for buffer in graph.buffers)
    for op in ops_of(graph, OpKind.INVERSION, *SHARES.values()):
        assert op.stage in instance.stages_of(graph.data[op].device)
    assert len({choice.name for choice in graph.choices}) == len(graph.choices)
    # Per maker, a refresh's buffers hold what the stage's activation holds.
    plain = build_graph(replace(instance, kfac=None, steps=1))
    held = held_by_makers(plain)
    for maker, size in held_by_makers(graph).items():
        rounding = len(instance.stages[maker.stage].modules) * 2
        right = held[maker._replace(step=0)]
        assert right <= size <= right + rounding


def held_by_makers(graph: OpGraph) -> dict[Op, int]:
    """What each forward, or recomputation, makes."""
    found: dict[Op, int] = {}
    for buffer in graph.buffers:
        if buffer.maker.kind in (OpKind.FORWARD, OpKind.RECOMPUTE):
            found[buffer.maker] = found.get(buffer.maker, 0) + buffer.size
    return found
