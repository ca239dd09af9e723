"""The rules of a runtime that are not in the op graph: the order of microbatches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

from schedopt.ops import Op, OpKind
from schedopt.runtimes import MicrobatchOrder, profile_of
from schedopt.verify.violation import Rule, Violation

_CLASSES = {
    OpKind.FORWARD: "forward",
    OpKind.BACKWARD: "backward",
    OpKind.BACKWARD_INPUT: "backward",
    OpKind.BACKWARD_WEIGHT: "weight",
    OpKind.RECOMPUTE: "recompute",
}


def runtime_violations(runtime: str, starts: Mapping[Op, int]) -> tuple[Violation, ...]:
    """Where start times are in an order of microbatches that a runtime does not keep.

    Each stage and kind is reported once. Without a runtime (empty) everything is right;
    an op is in order with another that starts with it.
    """
    if not runtime or not starts:
        return ()
    match profile_of(runtime).order:
        case MicrobatchOrder.ANY:
            return ()
        case MicrobatchOrder.LAST_FORWARDS:
            return tuple(_last_forwards(runtime, starts))
        case MicrobatchOrder.FIFO:
            return tuple(_one_order(runtime, starts))


def _last_forwards(runtime: str, starts: Mapping[Op, int]) -> Iterator[Violation]:
    """The forwards of the last stage start in the order of their numbers."""
    last = max(op.stage for op in starts)
    kind = OpKind.FORWARD
    forwards = [op for op in starts if op.stage == last and op.kind is kind]
    forwards.sort(key=lambda op: op.microbatch)
    for before, after in pairwise(forwards):
        if starts[after] < starts[before]:
            detail = (
                f"{after} starts before {before}, but {runtime} takes the forwards of"
                " the last stage in the order of their numbers"
            )
            yield Violation(Rule.MICROBATCH_ORDER, (after, before), detail)
            return


def _one_order(runtime: str, starts: Mapping[Op, int]) -> Iterator[Violation]:
    """Every stage's F, backwards, W and R take microbatches as stage 0's F does."""
    classes: dict[tuple[int, str], list[Op]] = {}
    for op in starts:
        if op.kind in _CLASSES:
            classes.setdefault((op.stage, _CLASSES[op.kind]), []).append(op)
    first = sorted(
        classes.get((0, "forward"), ()), key=lambda op: (starts[op], op.microbatch)
    )
    place = {op.microbatch: number for number, op in enumerate(first)}
    for ops in classes.values():
        ops.sort(key=lambda op: place.get(op.microbatch, -1))
        for before, after in pairwise(ops):
            if starts[after] < starts[before]:
                detail = (
                    f"{after} starts before {before}, but {runtime} takes the"
                    " microbatches of all stages, forward and backward, in one order"
                )
                yield Violation(Rule.MICROBATCH_ORDER, (after, before), detail)
                break
