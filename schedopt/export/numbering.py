"""New numbers for the microbatches of a schedule, where all of them are equal.

Numbers are names; but runtimes have rules on them (torch: the last stage's forwards run
in the order 0, 1, 2, ...; others: everything does). Where all microbatches cost the
same, the first rule can always be kept by giving each microbatch another number, and
the second by giving the k-th start of every class of ops the number k: order statistics
keep precedences, and levels of memory depend on counts only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from schedopt.build import build_graph
from schedopt.instance import Instance, Placement
from schedopt.ops import Op, OpKind
from schedopt.schedule import Schedule

_BACKWARD = (OpKind.BACKWARD, OpKind.BACKWARD_INPUT)  # the same work to other stages


def numbers_are_free(instance: Instance, schedule: Schedule) -> bool:
    """Whether all microbatches are equal, so that they may swap their numbers.

    They are not where each has its own scale, or its own direction, or where an op
    joins two of them.
    """
    return (
        len(set(instance.microbatch_scale)) <= 1
        and instance.placement is not Placement.BIDIRECTIONAL
        and not any(op.kind is OpKind.OVERLAP for op in schedule.start)
    )


def numbered_by_last_stage(instance: Instance, schedule: Schedule) -> Schedule:
    """The same times; microbatches numbered as the last stage starts their forwards."""
    last = len(instance.stages) - 1
    forwards = [
        op
        for op in _by_start(schedule)
        if op.kind is OpKind.FORWARD and op.stage == last
    ]
    number: dict[tuple[int, int], int] = {}
    for op in forwards:
        number[op.step, op.microbatch] = sum(step == op.step for step, _ in number)
    renamed = {
        op: op._replace(microbatch=number[op.step, op.microbatch])
        for op in schedule.start
    }
    return _with_names(instance, schedule, renamed)


def numbered_in_one_order(instance: Instance, schedule: Schedule) -> Schedule:
    """The same times; on every stage the k-th F, backward, W and R are microbatch k.

    B and I count as one class: the k-th of them keeps its form. A W belongs to an I,
    the j-th W to the j-th of them.
    """
    classes: defaultdict[tuple[int, int, OpKind], list[Op]] = defaultdict(list)
    for op in _by_start(schedule):
        kind = OpKind.BACKWARD if op.kind in _BACKWARD else op.kind
        classes[op.step, op.stage, kind].append(op)
    renamed: dict[Op, Op] = {}
    for (step, stage, kind), ops in classes.items():
        if kind is OpKind.BACKWARD_WEIGHT:
            backwards = classes[step, stage, OpKind.BACKWARD]
            numbers = [
                number
                for number, op in enumerate(backwards)
                if op.kind is OpKind.BACKWARD_INPUT
            ]
        else:
            numbers = list(range(len(ops)))
        for op, number in zip(ops, numbers, strict=True):
            renamed[op] = op._replace(microbatch=number)
    return _with_names(instance, schedule, renamed)


def _by_start(schedule: Schedule) -> list[Op]:
    """The ops by start; among equal ones as ``Schedule.order`` has them."""
    position = {op: index for index, op in enumerate(schedule.graph.ops)}
    return sorted(
        schedule.start,
        key=lambda op: (schedule.start[op], schedule.end(op), position[op]),
    )


def _with_names(
    instance: Instance, schedule: Schedule, renamed: Mapping[Op, Op]
) -> Schedule:
    start = {renamed[op]: time for op, time in schedule.start.items()}
    graph = schedule.graph
    if any(op not in graph.data for op in start):
        graph = build_graph(instance)  # the other one has its choices made
    return Schedule(graph, start)
