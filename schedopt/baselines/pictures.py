"""Schedules as small text pictures, for docstrings and tests.

One row per device, one cell per unit of time (the largest that divides every start and
duration). A microbatch is a digit in its forward, a small letter in its whole or input
backward (``a`` is microbatch 0), a capital letter in its weight backward and ``*`` in
its recomputation; it is written once per unit that the op lasts. ``.`` is idle. Where a
microbatch passes a device several times, the number of the pass follows the character.
Work of K-FAC is ``(`` for the curvature of inputs, ``)`` for that of output gradients,
``^`` for an inversion and ``%`` for preconditioning; ``|`` is the optimizer's step.

The docstring of a baseline's module shows one, which the tests draw again: after "4
devices, 8 microbatches::" an indented block of exactly what ``picture`` gives for equal
stages with ``forward: 1, backward_input: 1, backward_weight: 1`` at no latency.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from math import gcd

from schedopt.ops import Op, OpKind
from schedopt.schedule import Schedule

_SYMBOLS = {
    OpKind.FORWARD: string.digits,
    OpKind.BACKWARD: string.ascii_lowercase,
    OpKind.BACKWARD_INPUT: string.ascii_lowercase,
    OpKind.BACKWARD_WEIGHT: string.ascii_uppercase,
    OpKind.RECOMPUTE: "*" * 10,
    OpKind.OVERLAP: "&" * 10,
    OpKind.CURVATURE_A: "(" * 10,
    OpKind.CURVATURE_B: ")" * 10,
    OpKind.INVERSION: "^" * 10,
    OpKind.PRECONDITION: "%" * 10,
    OpKind.STEP: "|" * 10,
}


def picture(schedule: Schedule) -> str:
    """The schedule drawn to scale; see the module's docstring.

    Raises
    ------
    ValueError
        If there are more than ten microbatches, which have no digits.
    """
    schedule = schedule.shifted_to_zero()
    ops = [op for op in schedule.start if op.kind.is_compute]
    if any(op.microbatch > 9 for op in ops):
        msg = "a picture shows at most ten microbatches"
        raise ValueError(msg)
    cell = gcd(*(t for op in ops for t in (schedule.start[op], schedule.end(op))))
    if cell == 0:
        return ""
    passes = _passes(schedule, ops)
    width = 2 if any(passes.values()) else 1
    columns = max(map(schedule.end, ops)) // cell
    rows = [["." * width] * columns for _ in schedule.graph.devices]
    for op in ops:
        suffix = str(passes[op]) if width == 2 else ""
        for column in range(schedule.start[op] // cell, schedule.end(op) // cell):
            row = rows[schedule.graph.data[op].device]
            row[column] = _SYMBOLS[op.kind][op.microbatch] + suffix
    return "\n".join(" ".join(row) for row in rows)


def _passes(schedule: Schedule, ops: Iterable[Op]) -> dict[Op, int]:
    """For each op, how many earlier stages of its microbatch share its device."""
    stages: dict[tuple[int, int], set[int]] = {}
    device = {op: schedule.graph.data[op].device for op in ops}
    for op, where in device.items():
        stages.setdefault((where, op.microbatch), set()).add(op.stage)
    return {
        op: sorted(stages[where, op.microbatch]).index(op.stage)
        for op, where in device.items()
    }
