"""Equal microbatches are renamed so that a runtime finds them in order.

The k-th start of each stage and kind becomes microbatch k's, with the same times: no
precedence, no stream and no memory limit is broken by that where all microbatches are
equal (docs/problem.md, "Equal microbatches may be kept in order"). It stays true with
what a runtime adds to the graph:

- Every B of the last stage before the next F there (DeepSpeed): those ops are in order
  already and keep their names, and the argument for each pair of stages is the same.
- One form of backward per microbatch (zero bubble): precedences keep F, B and I in
  order, so that W alone is renamed, among the microbatches that have one. Nothing waits
  for W but memory, which counts W of one stage alike.

Whoever calls this has the verifier look at the result.
"""

from __future__ import annotations

from schedopt.build.runtime_rules import ENTRIES, has_equal_microbatches
from schedopt.instance import Instance
from schedopt.ops import Op, OpKind
from schedopt.runtimes import MicrobatchOrder, profile_of
from schedopt.schedule import Schedule

_Key = tuple[int, object]


def in_microbatch_order(instance: Instance, schedule: Schedule) -> Schedule:
    """The schedule with equal microbatches renamed to the order of their starts.

    Unchanged where the runtime asks for no order, or where microbatches differ (their
    order is in the graph then).
    """
    if not instance.runtime or not has_equal_microbatches(instance):
        return schedule
    order = profile_of(instance.runtime).order
    if order is MicrobatchOrder.ANY:
        return schedule
    groups: dict[_Key, list[Op]] = {}
    weights: dict[int, list[Op]] = {}
    for op in schedule.start:
        if op.kind is OpKind.BACKWARD_WEIGHT:
            weights.setdefault(op.stage, []).append(op)
        else:
            kind = "entry" if op.kind in ENTRIES else op.kind
            groups.setdefault((op.stage, kind), []).append(op)
    start: dict[Op, int] = {}
    number: dict[tuple[int, int], int] = {}  # of an entry's stage and microbatch
    for ops in groups.values():
        ranked = sorted(
            ops, key=lambda op: (schedule.start[op], schedule.end(op), op.microbatch)
        )
        for op, microbatch in zip(
            ranked, sorted(op.microbatch for op in ops), strict=True
        ):
            start[op._replace(microbatch=microbatch)] = schedule.start[op]
            if op.kind in ENTRIES:
                number[op.stage, op.microbatch] = microbatch
    for stage, ops in weights.items():
        names = [number[stage, op.microbatch] for op in ops]
        if order is MicrobatchOrder.FIFO:
            ops.sort(key=lambda op: (schedule.start[op], op.microbatch))
            names.sort()
        for op, microbatch in zip(ops, names, strict=True):
            start[op._replace(microbatch=microbatch)] = schedule.start[op]
    ordered = {op: start[op] for op in schedule.graph.ops if op in start}
    return Schedule(schedule.graph, ordered)
