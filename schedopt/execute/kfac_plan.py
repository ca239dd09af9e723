"""What the ranks are told of a training with K-FAC, beside what a job says of any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from schedopt.errors import ExportError
from schedopt.export.kfac_rows import (
    SLOT_KINDS,
    KfacRows,
    inverses_in_use,
    layers_of,
    ops_by_step,
)
from schedopt.export.program import Program
from schedopt.export.torch_kfac import table_and_rows
from schedopt.ops import Op, OpKind

DAMPING = 0.3
"""What is added to the diagonal of a factor's mean before its inversion."""

_CURVATURE = (OpKind.CURVATURE_A, OpKind.CURVATURE_B)


@dataclass(frozen=True, slots=True, kw_only=True)
class KfacPlan:
    """A training with K-FAC.

    Attributes
    ----------
    files : dict of str to str
        The table of the slots and the rows of every step, by the files' names.
    layers : tuple of tuple of str
        For each stage the layers that have second-order work.
    refreshed : tuple of int
        The steps whose data a refresh takes.
    in_use : tuple of tuple of dict
        For each step and stage, of which step's data the inverse of each factor is that
        the stage is preconditioned with; by the schedule.
    most_waiting : tuple of int
        For each rank how many inputs and output gradients wait for their curvature at
        most; by the schedule.
    slots : tuple of int
        For each rank how many slots it executes in all.
    forever : bool
        Whether the steps that repeat come again beyond the schedule's end.
    """

    files: dict[str, str]
    layers: tuple[tuple[str, ...], ...]
    refreshed: tuple[int, ...]
    in_use: tuple[tuple[dict[str, int], ...], ...]
    most_waiting: tuple[int, ...]
    slots: tuple[int, ...]
    forever: bool = False

    @property
    def table(self) -> str:
        """The name of the table's file."""
        return next(name for name in self.files if name.endswith(".json"))

    @property
    def steps(self) -> int:
        """How many steps are executed."""
        return len(self.in_use)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> KfacPlan:
        """The inverse of ``dataclasses.asdict``, after JSON."""
        return cls(
            files=document["files"],
            layers=tuple(map(tuple, document["layers"])),
            refreshed=tuple(document["refreshed"]),
            in_use=tuple(map(tuple, document["in_use"])),
            most_waiting=tuple(document["most_waiting"]),
            slots=tuple(document["slots"]),
            forever=document["forever"],
        )


def plan_of(rows: KfacRows, steps: int | None = None) -> KfacPlan:
    """The plan of a training.

    Parameters
    ----------
    steps
        How many steps, the repeated ones again and again; None: those that are
        unrolled.

    Raises
    ------
    ExportError
        If steps should repeat and none do.
    """
    program, kfac = rows.program, rows.kfac
    if steps is not None and rows.repeated is None:
        msg = (
            "unrolls one refresh, so it does not say what a training repeats; unroll"
            " two refreshes, or give no number of steps"
        )
        raise ExportError(msg)
    count = len(rows.steps) if steps is None else steps
    refreshed = range(0, count, kfac.interval)
    if steps is None:
        refreshed = refreshed[: kfac.refreshes]
        in_use = _in_use_as_scheduled(program)
    else:
        in_use = _in_use_forever(program, count)
    walks = [_walk(rows, rank, steps) for rank in range(len(program.rows))]
    return KfacPlan(
        files=dict(table_and_rows(rows)),
        layers=layers_of(rows.program),
        refreshed=tuple(refreshed),
        in_use=in_use,
        most_waiting=tuple(most for most, _ in walks),
        slots=tuple(executed for _, executed in walks),
        forever=steps is not None,
    )


def _in_use_as_scheduled(program: Program) -> tuple[tuple[dict[str, int], ...], ...]:
    found = inverses_in_use(program)
    return tuple(
        tuple(
            dict(found[Op(OpKind.PRECONDITION, stage, 0, step)])
            for stage in range(len(program.instance.stages))
        )
        for step in range(program.instance.steps)
    )


def _in_use_forever(
    program: Program, steps: int
) -> tuple[tuple[dict[str, int], ...], ...]:
    """An inverse is used from so many steps after its data on as in the schedule."""
    kfac = program.instance.kfac
    assert kfac is not None
    found = _in_use_as_scheduled(program)
    late: list[dict[str, int]] = [{} for _ in program.instance.stages]
    for step, of_stages in enumerate(found):
        for stage, of_stage in enumerate(of_stages):
            for factor, data in of_stage.items():
                if data == kfac.interval:  # the refresh whose steps repeat
                    late[stage].setdefault(factor, step - data)
    return tuple(
        tuple(
            {
                factor: (step - lag) // kfac.interval * kfac.interval
                for factor, lag in of_stage.items()
                if step >= lag
            }
            for of_stage in late
        )
        for step in range(steps)
    )


def _walk(rows: KfacRows, rank: int, steps: int | None) -> tuple[int, int]:
    """The most data that waits at once on a rank, and how many slots it executes.

    By the schedule; but in torch the data of a recomputed stage comes with its B.
    """
    scheduled = ops_by_step(rows.program, rank)
    made: dict[Op, int] = {}  # by maker: of how many shares the data comes
    for op in chain.from_iterable(scheduled):
        if op.kind in _CURVATURE:
            is_input = op.kind is OpKind.CURVATURE_A
            late = not is_input or op.stage in rows.program.instance.recompute
            for maker in _backwards(op) if late else (_forward(op),):
                made[maker] = made.get(maker, 0) + 1
    waiting = most = executed = 0
    for number in range(len(scheduled) if steps is None else steps):
        here = number if steps is None else _row_of(rows, number)
        for op in scheduled[here]:
            if op.kind in SLOT_KINDS:
                if op.step + number - here < 0:
                    continue
                executed += 1
                waiting -= op.kind in _CURVATURE
            else:
                waiting += made.get(op, 0)
                most = max(most, waiting)
    return most, executed


def _forward(op: Op) -> Op:
    return op._replace(kind=OpKind.FORWARD, part="")


def _backwards(op: Op) -> tuple[Op, Op]:
    """B, and the half that makes output gradients in torch: W on stage 0, else I."""
    half = OpKind.BACKWARD_INPUT if op.stage else OpKind.BACKWARD_WEIGHT
    whole = op._replace(kind=OpKind.BACKWARD, part="")
    return whole, whole._replace(kind=half)


def _row_of(rows: KfacRows, number: int) -> int:
    assert rows.repeated is not None
    first, after = rows.repeated
    return number if number < after else first + (number - first) % (after - first)
