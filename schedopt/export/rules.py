"""Which rules of a runtime a program breaks; an exporter refuses such a program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from schedopt.build import class_of
from schedopt.export.fifo import order_detail, out_of_order
from schedopt.export.program import Program
from schedopt.formats.instance_runtime import (
    devices_objection,
    microbatches_objection,
    placement_objection,
    two_way_objection,
)
from schedopt.instance import Placement
from schedopt.ops import Op, OpKind
from schedopt.runtimes import (
    FirstStage,
    Forms,
    MicrobatchOrder,
    Recompute,
    RuntimeProfile,
)

_SPLIT = (OpKind.BACKWARD_INPUT, OpKind.BACKWARD_WEIGHT)


class BrokenRule(NamedTuple):
    """A rule that a program breaks.

    Attributes
    ----------
    rule : str
        Its short name: ``kfac``, ``steps``, ``placement``, ``devices``,
        ``microbatches``, ``overlap``, ``backward form``, ``recompute``, ``microbatch
        order``, ``stage 0`` or ``last stage``.
    op : Op or None
        The first op that breaks it; None if it is no matter of one op.
    detail : str
        One line: what is wrong and what to change.
    """

    rule: str
    op: Op | None
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


def broken_rules(program: Program, profile: RuntimeProfile) -> tuple[BrokenRule, ...]:
    """Every rule of the runtime that the program breaks, each once; best none.

    The program may come from an instance with another runtime or with none.
    """
    found = (rule(program, profile) for rule in _RULES)
    return tuple(first for broken in found if (first := next(broken, None)) is not None)


def _one_step(program: Program, profile: RuntimeProfile) -> Iterator[BrokenRule]:
    instance = program.instance
    if instance.kfac is not None:
        detail = f"{profile.name} has no K-FAC work: remove kfac from the instance"
        if profile.name == "torch-csv":
            detail = "rows alone have no K-FAC work: export torch-kfac, or remove kfac"
        yield BrokenRule("kfac", None, f"{detail} and solve again")
    if instance.steps > 1:
        detail = (
            f"{profile.name} takes the order of one training step and repeats it, not"
            f" of {instance.steps}: set steps: 1 and solve again"
        )
        yield BrokenRule("steps", None, detail)


def _placement(program: Program, profile: RuntimeProfile) -> Iterator[BrokenRule]:
    if program.instance.placement is Placement.BIDIRECTIONAL:
        yield BrokenRule("placement", None, two_way_objection(profile))
    why = placement_objection(profile, program.device_of_stage, len(program.rows))
    if why:
        yield BrokenRule("placement", None, why)


def _devices(program: Program, profile: RuntimeProfile) -> Iterator[BrokenRule]:
    if why := devices_objection(profile, len(program.rows)):
        yield BrokenRule("devices", None, f"{why}; export torch-csv instead")


def _microbatches(program: Program, profile: RuntimeProfile) -> Iterator[BrokenRule]:
    why = microbatches_objection(profile, program.microbatches, len(program.rows))
    if why:
        detail = f"{why}: change microbatches in the instance and solve again"
        yield BrokenRule("microbatches", None, detail)


def _overlap(program: Program, profile: RuntimeProfile) -> Iterator[BrokenRule]:
    for op in _ops(program):
        if op.kind is OpKind.OVERLAP:
            detail = (
                f"{op} runs a forward and a backward as one op, which {profile.name}"
                " does not; remove overlap from the instance and solve again"
            )
            yield BrokenRule("overlap", op, detail)


def _forms(program: Program, profile: RuntimeProfile) -> Iterator[BrokenRule]:
    again = f"; solve again with --runtime {profile.name}"
    seen: dict[int, Op] = {}
    first_is_pair = profile.first_stage is FirstStage.ADJACENT
    for op in _ops(program):
        if op.kind in _SPLIT and not profile.has_split:
            detail = f"{op} is half of a split backward, {profile.name} has whole ones"
            yield BrokenRule("backward form", op, f"{detail} only: use backward: whole")
        if op.kind is OpKind.BACKWARD and not profile.has_whole:
            detail = f"{op} is a whole backward, {profile.name} has split ones only"
            yield BrokenRule("backward form", op, f"{detail}: use backward: split")
        if class_of(op) is not OpKind.BACKWARD:
            continue
        if first_is_pair and op.stage == 0 and op.kind is OpKind.BACKWARD:
            continue  # written as I and W among split ones
        if profile.forms is Forms.PER_MICROBATCH:
            other = seen.setdefault(op.microbatch, op)
            scope = f"along microbatch {op.microbatch}"
        elif profile.forms is Forms.PER_SCHEDULE:
            other = seen.setdefault(0, op)
            scope = "in a schedule"
        else:
            continue
        if other.kind is not op.kind:
            detail = (
                f"{other} and {op} are of different forms, and {profile.name} has one"
                f" form of backward {scope}"
            )
            yield BrokenRule("backward form", op, detail + again)


def _recompute(program: Program, profile: RuntimeProfile) -> Iterator[BrokenRule]:
    recompute = program.instance.recompute
    if recompute and profile.recompute is Recompute.NONE:
        detail = f"{profile.name} cannot recompute in an order: use recompute: none"
        yield BrokenRule("recompute", None, detail)
    barred = profile.whole_only(recompute)
    in_weight = profile.first_stage is FirstStage.ALL_IN_WEIGHT
    for op in _ops(program):
        if op.kind in _SPLIT and op.stage in barred:
            detail = (
                f"{op} is half of a split backward of a recomputed stage, and"
                f" {profile.name} would recompute it in both halves: use"
                " backward: whole, or do not recompute the stage"
            )
            yield BrokenRule("recompute", op, detail)
    for row in program.rows if profile.recompute is Recompute.IN_WHOLE else ():
        for place, op in enumerate(row):
            if op.kind is not OpKind.RECOMPUTE:
                continue
            after = row[place + 1 :]
            whole = [op._replace(kind=OpKind.BACKWARD)]
            if in_weight and op.stage == 0:
                nothing = op._replace(kind=OpKind.BACKWARD_INPUT)  # I does nothing
                after = after[1:] if after[:1] == (nothing,) else after
                whole.append(op._replace(kind=OpKind.BACKWARD_WEIGHT))
            if not after or after[0] not in whole:
                detail = (
                    f"{op} is not directly followed by its backward, but"
                    f" {profile.name} recomputes inside it; solve again with --runtime"
                    f" {profile.name}"
                )
                yield BrokenRule("recompute", op, detail)


def _order(program: Program, profile: RuntimeProfile) -> Iterator[BrokenRule]:
    if profile.order is MicrobatchOrder.LAST_FORWARDS:
        last = len(program.device_of_stage) - 1
        sequence = [
            op for op in _ops(program) if op.stage == last and op.kind is OpKind.FORWARD
        ]
        for before, op in pairwise(sequence):
            if op.microbatch < before.microbatch:
                detail = (
                    f"{op} comes after {before}, but {profile.name} gives the losses of"
                    " the last stage to the microbatches in the order of their numbers;"
                    f" solve again with --runtime {profile.name}"
                )
                yield BrokenRule("microbatch order", op, detail)
    if profile.order is MicrobatchOrder.FIFO:
        wrong = out_of_order(program)
        if wrong is not None:
            detail = order_detail(*wrong, profile.name)
            yield BrokenRule("microbatch order", wrong[1], detail)


def _first_stage(program: Program, profile: RuntimeProfile) -> Iterator[BrokenRule]:
    if profile.first_stage is not FirstStage.ADJACENT:
        return
    for row in program.rows:
        for op, after in zip(row, (*row[1:], None), strict=True):
            if op.stage or op.kind is not OpKind.BACKWARD_INPUT:
                continue
            weight = op._replace(kind=OpKind.BACKWARD_WEIGHT)
            if after != weight:
                detail = (
                    f"{op} is not directly followed by {weight}, as {profile.name}"
                    f" needs on stage 0; solve again with --runtime {profile.name}"
                )
                yield BrokenRule("stage 0", op, detail)


def _last_stage(program: Program, profile: RuntimeProfile) -> Iterator[BrokenRule]:
    if not profile.last_stage_paired:
        return
    last = len(program.device_of_stage) - 1
    for row in program.rows:
        for op, after in zip(row, (*row[1:], None), strict=True):
            if op.stage != last or op.kind is not OpKind.FORWARD:
                continue
            own = (OpKind.BACKWARD, OpKind.BACKWARD_INPUT, OpKind.RECOMPUTE)
            if after is None or after.kind not in own or after[1:] != op[1:]:
                detail = (
                    f"{op} is not directly followed by its backward, as {profile.name}"
                    f" needs on the last stage; solve again with --runtime"
                    f" {profile.name}"
                )
                yield BrokenRule("last stage", op, detail)


_RULES: tuple[Callable[[Program, RuntimeProfile], Iterator[BrokenRule]], ...] = (
    _one_step,
    _placement,
    _devices,
    _microbatches,
    _overlap,
    _forms,
    _recompute,
    _order,
    _first_stage,
    _last_stage,
)


def _ops(program: Program) -> Iterator[Op]:
    """Every op, row by row in the order in which they run."""
    for row in program.rows:
        yield from row
