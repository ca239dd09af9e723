"""New numbers for equal microbatches, so that a runtime finds them in its order.

Numbers are names; but runtimes have rules on them. Where all microbatches are equal,
two ways of numbering keep every time, every precedence and every memory limit:

- As the last stage starts their forwards: each microbatch gets another number, with all
  of its ops. Nothing but names changes.
- In one order: on each stage the k-th F, the k-th backward, the k-th W and the k-th R
  become microbatch k's (docs/problem.md, "Equal microbatches may be kept in order").

Both stay true with what a runtime adds to the graph. On the last stage of DeepSpeed
every B comes before the next F: those ops are in order already. Where zero bubble
chooses one form of backward per microbatch, precedences keep F, B and I in order, so
that only transfers, R and W are renamed. Transfers and R stand between ops that are in
order; nothing waits for W but memory, which counts the W of one stage alike.

Whoever calls this has the verifier look at the result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from schedopt.build.graph import build_graph
from schedopt.build.runtime_rules import ENTRIES, has_equal_microbatches
from schedopt.instance import Instance, Placement
from schedopt.ops import Op, OpKind
from schedopt.runtimes import MicrobatchOrder, profile_of
from schedopt.schedule import Schedule


def in_microbatch_order(instance: Instance, schedule: Schedule) -> Schedule:
    """The schedule with equal microbatches numbered as the instance's runtime wants.

    Unchanged where the runtime asks for no order, or where microbatches differ (their
    order is in the graph then).
    """
    if not instance.runtime or not numbers_are_free(instance, schedule):
        return schedule
    profile = profile_of(instance.runtime)
    if profile.order is MicrobatchOrder.FIFO:
        return numbered_in_one_order(instance, schedule)
    if profile.order is MicrobatchOrder.LAST_FORWARDS or profile.last_stage_paired:
        return numbered_by_last_stage(instance, schedule)
    return schedule


def numbers_are_free(instance: Instance, schedule: Schedule) -> bool:
    """Whether all microbatches are equal, so that they may swap their numbers.

    They are not where each has its own scale, or its own direction, or where an op
    joins two of them; nor where there are ops that belong to none, as those of K-FAC
    and the optimizer's steps, whose numbers mean copies of a stage.
    """
    return (
        instance.steps == 1
        and instance.kfac is None
        and has_equal_microbatches(instance)
        and instance.placement is not Placement.BIDIRECTIONAL
        and not any(op.kind is OpKind.OVERLAP for op in schedule.start)
    )


def class_of(op: Op) -> OpKind:
    """The kind of an op in one order; B and I are the same work to other stages."""
    return OpKind.BACKWARD if op.kind in ENTRIES else op.kind


def numbered_by_last_stage(instance: Instance, schedule: Schedule) -> Schedule:
    """The same times; microbatches numbered as the last stage starts their forwards."""
    last = len(instance.stages) - 1
    number: dict[tuple[int, int], int] = {}
    started: defaultdict[int, int] = defaultdict(int)
    for op in _by_start(schedule):
        if op.kind is OpKind.FORWARD and op.stage == last:
            number[op.step, op.microbatch] = started[op.step]
            started[op.step] += 1
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
        classes[op.step, op.stage, class_of(op)].append(op)
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
    graph = schedule.graph
    start = {renamed[op]: time for op, time in schedule.start.items()}
    if any(op not in graph.data for op in start):
        graph = build_graph(instance)  # the other one has its choices made
    return Schedule(graph, {op: start[op] for op in graph.ops if op in start})
