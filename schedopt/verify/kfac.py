"""The second-order work of a schedule against the sums that its instance implies.

The op graph cannot show that a builder put too little into it: a schedule of the wrong
work keeps every rule. So the work is counted here from the instance's numbers alone,
with no look at the graph. Durations count at speed 1 (a device's time times its speed),
so that sums do not hang on who does what. Per stage, on all of its copies together:

* curvature of a side in a refresh: the layers' costs times the microbatches' scales;
* inversion of a side in a refresh: the layers' costs, a replica's share of them;
* preconditioning in every step: its cost, a replica's share;
* the optimizer's step in every step: its cost on every copy.

A sum may differ by what rounding every op to a tick can do, and by nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

from schedopt.instance import Instance, Inversion, Kfac, Number, Placement
from schedopt.ops import Op, OpKind
from schedopt.verify.quantities import exact
from schedopt.verify.violation import Rule, Violation


class Work(NamedTuple):
    """An op, the device that runs it, and for how many ticks."""

    op: Op
    device: int
    ticks: int


class _Sort(NamedTuple):
    """Work that is added up: of one kind, step, stage and side (A, B or none)."""

    kind: OpKind
    step: int
    stage: int
    side: str

    def __str__(self) -> str:
        side = f" of factors {self.side}" if self.side else ""
        return f"{self.kind.value}{side} of stage {self.stage} in step {self.step}"


class _Total(NamedTuple):
    """How many ops, and their durations at speed 1, ticks."""

    ops: int
    ticks: Fraction


_SIDES = {OpKind.CURVATURE_A: "A", OpKind.CURVATURE_B: "B"}
_COUNTED = (*_SIDES, OpKind.INVERSION, OpKind.PRECONDITION, OpKind.STEP)


def kfac_violations(instance: Instance, works: Iterable[Work]) -> tuple[Violation, ...]:
    """Where second-order work is not what the instance says; nothing without K-FAC.

    ``works`` are all ops of a schedule; those of other kinds are not looked at.
    """
    if instance.kfac is None:
        return ()
    counted = [work for work in works if work.op.kind in _COUNTED]
    return (
        *_totals_are_right(instance, instance.kfac, counted),
        *_devices_are_right(instance, counted),
    )


def _totals_are_right(
    instance: Instance, kfac: Kfac, works: list[Work]
) -> Iterator[Violation]:
    """Of every sort of work there are as many ops, and as much, as there should be."""
    speeds = [exact(device.speed) for device in instance.devices]
    ops: Counter[_Sort] = Counter()
    found: dict[_Sort, Fraction] = {}
    rounding: dict[_Sort, Fraction] = {}
    for op, device, ticks in works:
        sort = _sort_of(op)
        speed = speeds[device] if device < len(speeds) else Fraction(1)
        ops[sort] += 1
        found[sort] = found.get(sort, Fraction(0)) + ticks * speed
        rounding[sort] = rounding.get(sort, Fraction(0)) + speed / 2
    expected = _expected(instance, kfac)
    for sort in sorted(expected.keys() | ops.keys()):
        right = expected.get(sort, _Total(0, Fraction(0)))
        if ops[sort] != right.ops:
            detail = f"{sort}: there are {ops[sort]} ops, should be {right.ops}"
            yield Violation(Rule.KFAC_WORK, (), detail)
        elif ops[sort] and abs(found[sort] - right.ticks) > rounding[sort]:
            here, should = (
                _in_unit(ticks, instance) for ticks in (found[sort], right.ticks)
            )
            detail = f"{sort}: they take {here} at speed 1 together, should be {should}"
            yield Violation(Rule.KFAC_WORK, (), detail)


def _devices_are_right(instance: Instance, works: list[Work]) -> Iterator[Violation]:
    """Curvature is where its microbatch runs, all else where its copy is."""
    for op, device, _ in works:
        right = _device_of(instance, op.stage, op.microbatch)
        if device != right:
            detail = f"{op} is on device {device}, should be on {right}"
            yield Violation(Rule.KFAC_WORK, (op,), detail)


def _expected(instance: Instance, kfac: Kfac) -> dict[_Sort, _Total]:
    """Every sort of work that there is, and how much of it."""
    per_unit = 1 / exact(instance.resolution)
    totals: dict[_Sort, _Total] = {}
    for stage, cost in enumerate(instance.stages):
        copies = _copies(instance, stage)
        for step in range(instance.steps):
            work = exact(cost.precondition) / kfac.replicas * per_unit
            totals[_Sort(OpKind.PRECONDITION, step, stage, "")] = _Total(copies, work)
            work = exact(cost.optimizer_step) * copies * per_unit
            totals[_Sort(OpKind.STEP, step, stage, "")] = _Total(copies, work)
        for step in range(0, kfac.refreshes * kfac.interval, kfac.interval):
            if cost.modules:
                totals |= _expected_of_refresh(instance, kfac, step, stage)
    return totals


def _expected_of_refresh(
    instance: Instance, kfac: Kfac, step: int, stage: int
) -> dict[_Sort, _Total]:
    """What a refresh takes of the data of a step on a stage."""
    per_unit = 1 / exact(instance.resolution)
    scales = [exact(scale) for scale in instance.microbatch_scale]
    scaled = sum(scales, Fraction(0)) if scales else instance.microbatches
    whole = kfac.inversion is Inversion.WHOLE
    copies = 1 if whole else _copies(instance, stage)
    modules = instance.stages[stage].modules
    layers = sum(module.count for module in modules)
    sides = {
        OpKind.CURVATURE_A: (
            [(module.count, module.curvature_a) for module in modules],
            [(module.count, module.inversion_a) for module in modules],
        ),
        OpKind.CURVATURE_B: (
            [(module.count, module.curvature_b) for module in modules],
            [(module.count, module.inversion_b) for module in modules],
        ),
    }
    totals = {}
    for kind, (curvature, inversion) in sides.items():
        side = _SIDES[kind]
        work = _sum(curvature) * scaled * per_unit
        ops = layers * instance.microbatches
        totals[_Sort(kind, step, stage, side)] = _Total(ops, work)
        work = _sum(inversion) / kfac.replicas * per_unit
        ops = layers * copies
        totals[_Sort(OpKind.INVERSION, step, stage, side)] = _Total(ops, work)
    return totals


def _sum(costs: Iterable[tuple[int, Number]]) -> Fraction:
    """What all layers of a stage cost together, given counts and costs of one."""
    return sum((count * exact(cost) for count, cost in costs), Fraction(0))


def _sort_of(op: Op) -> _Sort:
    side = _SIDES.get(op.kind, "")
    if op.kind is OpKind.INVERSION:
        side = op.part.rpartition(".")[2]
    return _Sort(op.kind, op.step, op.stage, side)


def _copies(instance: Instance, stage: int) -> int:
    """On how many devices a stage is: two in a two-way pipeline, but for the middle."""
    return len({_device_of(instance, stage, way) for way in (0, 1)})


def _device_of(instance: Instance, stage: int, number: int) -> int:
    """Where a microbatch passes a stage, or a copy of it is: odd numbers run up."""
    if instance.placement is Placement.BIDIRECTIONAL and number % 2:
        return len(instance.devices) - 1 - stage
    return instance.device_of_stage[stage]


def _in_unit(ticks: Fraction, instance: Instance) -> str:
    return f"{float(ticks * exact(instance.resolution)):g} {instance.time_unit}"
