"""Which rules of a runtime a program breaks; an exporter refuses such a program."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from schedopt.export.program import Program
from schedopt.formats.instance_runtime import placement_objection, whole_only_stages
from schedopt.ops import Op, OpKind
from schedopt.runtimes import (
    FirstStage,
    Forms,
    MicrobatchOrder,
    Recompute,
    RuntimeProfile,
)

_SPLIT = (OpKind.BACKWARD_INPUT, OpKind.BACKWARD_WEIGHT)
_ENTRIES = (OpKind.BACKWARD, OpKind.BACKWARD_INPUT)


class BrokenRule(NamedTuple):
    """A rule that a program breaks.

    Attributes
    ----------
    rule : str
        Its short name: ``placement``, ``overlap``, ``backward form``, ``recompute``,
        ``microbatch order``, ``stage 0`` or ``last stage``.
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


def _placement(program: Program, profile: RuntimeProfile) -> Iterator[BrokenRule]:
    why = placement_objection(profile, program.device_of_stage, len(program.rows))
    if why:
        yield BrokenRule("placement", None, why)


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
        if op.kind not in _ENTRIES:
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
    barred = whole_only_stages(profile, recompute)
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
            rest = [(after.kind, *after[1:]) for after in row[place + 1 : place + 3]]
            whole = [(OpKind.BACKWARD, *op[1:])]
            if in_weight and op.stage == 0:  # I does nothing there
                whole += [(kind, *op[1:]) for kind in _SPLIT]
            if not rest or rest[0] not in whole or (rest[0][0] is OpKind.BACKWARD_INPUT and rest[1:] != whole[-1:]):
                yield _apart(op, profile)


def _apart(op: Op, profile: RuntimeProfile) -> BrokenRule:
    detail = (
        f"{op} is not directly followed by its backward, but {profile.name} recomputes"
        f" inside it; solve again with --runtime {profile.name}"
    )
    return BrokenRule("recompute", op, detail)


def _order(program: Program, profile: RuntimeProfile) -> Iterator[BrokenRule]:
    again = f"; solve again with --runtime {profile.name}"
    if profile.order is MicrobatchOrder.LAST_FORWARDS:
        last = len(program.device_of_stage) - 1
        sequence = _by_stage(program, (OpKind.FORWARD,)).get(last, [])
        for before, op in pairwise(sequence):
            if op.microbatch < before.microbatch:
                detail = (
                    f"{op} comes after {before}, but {profile.name} gives the losses of"
                    " the last stage to the microbatches in the order of their numbers"
                )
                yield BrokenRule("microbatch order", op, detail + again)
    if profile.order is MicrobatchOrder.FIFO:
        yield from _not_one_order(program, profile, again)


def _not_one_order(
    program: Program, profile: RuntimeProfile, again: str
) -> Iterator[BrokenRule]:
    """Where F, backwards and W do not run their microbatches in one order."""
    forwards = _by_stage(program, (OpKind.FORWARD,))
    place = {op.microbatch: n for n, op in enumerate(forwards.get(0, []))}
    kinds = ((OpKind.FORWARD,), _ENTRIES, (OpKind.BACKWARD_WEIGHT,))
    for group in kinds:
        for sequence in _by_stage(program, group).values():
            for before, op in pairwise(sequence):
                if place.get(op.microbatch, 0) < place.get(before.microbatch, 0):
                    detail = (
                        f"{op} comes after {before}, but {profile.name} takes the"
                        " microbatches of all stages, forward and backward, in one"
                        " order"
                    )
                    yield BrokenRule("microbatch order", op, detail + again)


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
    _placement,
    _overlap,
    _forms,
    _recompute,
    _order,
    _first_stage,
    _last_stage,
)


def _ops(program: Program) -> Iterator[Op]:
    """Every op, in the order of stages and of rows."""
    for row in program.rows:
        yield from row


def _by_stage(program: Program, kinds: tuple[OpKind, ...]) -> dict[int, list[Op]]:
    """The ops of some kinds of each stage, in the order in which they run."""
    found: defaultdict[int, list[Op]] = defaultdict(list)
    for op in _ops(program):
        if op.kind in kinds:
            found[op.stage].append(op)
    return found
