"""Numbers of microbatches for runtimes that take them first in, first out."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from schedopt.errors import ExportError
from schedopt.export.program import Program
from schedopt.ops import Op, OpKind

_CLASS = {
    OpKind.FORWARD: "forwards",
    OpKind.BACKWARD: "backwards",
    OpKind.BACKWARD_INPUT: "backwards",
    OpKind.BACKWARD_WEIGHT: "backwards for the weights",
    OpKind.RECOMPUTE: "recomputations",
}


def numbers_in_order(program: Program, runtime: str) -> dict[int, int]:
    """For each microbatch its place in the one order in which all stages run them.

    Such a runtime gives the k-th forward of the first stage the k-th item of the data
    and takes what comes next everywhere else, so that is the microbatch's number there.

    Raises
    ------
    ExportError
        If any stage runs the forwards, backwards or weight backwards in another order.
    """
    sequences: defaultdict[tuple[int, str], list[Op]] = defaultdict(list)
    for row in program.rows:
        for op in row:
            sequences[op.stage, _CLASS.get(op.kind, op.kind.value)].append(op)
    place = {
        op.microbatch: number
        for number, op in enumerate(sequences[0, _CLASS[OpKind.FORWARD]])
    }
    for (stage, what), ops in sorted(sequences.items()):
        for before, op in pairwise(ops):
            if place[op.microbatch] < place[before.microbatch]:
                msg = (
                    f"{op} comes after {before}: {runtime} runs the {what} of stage"
                    f" {stage} in the order of stage 0's forwards; solve again with"
                    f" --runtime {runtime}"
                )
                raise ExportError(msg)
    return place
