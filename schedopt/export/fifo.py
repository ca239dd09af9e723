"""Numbers of microbatches for runtimes that take them first in, first out."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from schedopt.build import class_of
from schedopt.errors import ExportError
from schedopt.export.program import Program
from schedopt.ops import Op, OpKind


def out_of_order(program: Program) -> tuple[Op, Op] | None:
    """Two ops that are not in the order of stage 0's forwards; None in one order.

    The first of them comes first, and its microbatch later in that order. Every stage
    runs its forwards, its backwards (B or I), its W and its R in one order.
    """
    sequences: defaultdict[tuple[int, OpKind], list[Op]] = defaultdict(list)
    for row in program.rows:
        for op in row:
            sequences[op.stage, class_of(op)].append(op)
    place = _places(program)
    for _, ops in sorted(sequences.items()):
        for before, op in pairwise(ops):
            # A forward that is part of a joint op has no place of its own.
            if place.get(op.microbatch, 0) < place.get(before.microbatch, 0):
                return before, op
    return None


def numbers_in_order(program: Program, runtime: str) -> dict[int, int]:
    """For each microbatch its place in the one order in which all stages run them.

    Such a runtime gives the k-th forward of the first stage the k-th item of the data
    and takes what comes next everywhere else, so that is the microbatch's number there.

    Raises
    ------
    ExportError
        If any stage runs another order.
    """
    wrong = out_of_order(program)
    if wrong is not None:
        raise ExportError(order_detail(*wrong, runtime))
    return _places(program)


def order_detail(before: Op, op: Op, runtime: str) -> str:
    """One line on two ops that are out of order."""
    return (
        f"{op} comes after {before}, but {runtime} takes the microbatches of all"
        " stages, forward and backward, in the order of stage 0's forwards; solve again"
        f" with --runtime {runtime}"
    )


def _places(program: Program) -> dict[int, int]:
    forwards = (
        op
        for row in program.rows
        for op in row
        if op.stage == 0 and op.kind is OpKind.FORWARD
    )
    return {op.microbatch: number for number, op in enumerate(forwards)}
