"""A ``BaseSchedule`` class for JaxPP: a Python module with the tasks of each rank.

JaxPP (NVIDIA, ``src/jaxpp/schedules.py``; read, not executed) asks a schedule for
``tasks(n_mubatches)``, a list of ``Task`` per rank, and ``get_mpmd_idx(stage)``; any
map from stages to ranks will do. ``is_partial_bwd`` says whether every backward is
BWD_I and BWD_W or every one is BWD; in a schedule that is partial a whole backward is
written as the pair BWD_I, BWD_W with nothing between. On stage 0 they must be a pair
(``check_and_strip_adjecent_bwd_a_bwd_w``). Recomputation is remat in the model: R is
not written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from schedopt.errors import ExportError
from schedopt.export.program import Program
from schedopt.export.python_text import header, words_text
from schedopt.ops import Op, OpKind

FILE_NAME = "jaxpp_schedule.py"
_TYPES = {
    OpKind.FORWARD: "FWD",
    OpKind.BACKWARD: "BWD",
    OpKind.BACKWARD_INPUT: "BWD_I",
    OpKind.BACKWARD_WEIGHT: "BWD_W",
}


def jaxpp_module(program: Program) -> Mapping[str, str]:
    """The module with the class ``ExportedSchedule``.

    Raises
    ------
    ExportError
        If JaxPP has no task for an op, or I and W of stage 0 are no neighbours.
    """
    partial = any(
        op.kind is OpKind.BACKWARD_INPUT for row in program.rows for op in row
    )
    rows = [list(_words(row, partial=partial)) for row in program.rows]
    text = _MODULE.format(
        header=header(program, "JaxPP"),
        stages=len(program.device_of_stage),
        microbatches=program.microbatches,
        rank_of_stage=tuple(program.device_of_stage),
        partial=partial,
        rows=words_text(rows),
    )
    return {FILE_NAME: text}


def _words(row: Sequence[Op], *, partial: bool) -> Iterator[str]:
    tasks = [op for op in row if op.kind is not OpKind.RECOMPUTE]
    for op, after in zip(tasks, (*tasks[1:], None), strict=True):
        if op.kind not in _TYPES:
            msg = f"{op}: JaxPP has no task for it; solve again with --runtime jaxpp"
            raise ExportError(msg)
        weight = op._replace(kind=OpKind.BACKWARD_WEIGHT)
        if op.stage == 0 and op.kind is OpKind.BACKWARD_INPUT and after != weight:
            msg = (
                f"{op} is not directly followed by {weight}, which JaxPP needs on stage"
                " 0; solve again with --runtime jaxpp"
            )
            raise ExportError(msg)
        kinds: tuple[str, ...] = (_TYPES[op.kind],)
        if partial and op.kind is OpKind.BACKWARD:
            kinds = (
                _TYPES[OpKind.BACKWARD_INPUT],
                _TYPES[OpKind.BACKWARD_WEIGHT],
            )
        for kind in kinds:
            yield f"{kind}:{op.stage}:{op.microbatch}"


_MODULE = '''{header}
Not executed there: the tasks keep the rules of jaxpp/schedules.py. A word is
type:stage:microbatch, the types those of TaskType. Use: schedule=ExportedSchedule() in
the accumulation loop.
"""

import dataclasses

from jaxpp.schedules import BaseSchedule, Task
from jaxpp.types import MpmdIdx, TaskType

STAGES = {stages}
MICROBATCHES = {microbatches}
RANK_OF_STAGE = {rank_of_stage}
IS_PARTIAL = {partial}
ROWS = {rows}


@dataclasses.dataclass(eq=True, frozen=True)
class ExportedSchedule(BaseSchedule):
    """The tasks of each rank, in the order that was optimized."""

    num_stages: int = STAGES

    def __post_init__(self):
        super().__post_init__()
        if self.num_stages != STAGES:
            raise ValueError(
                f"this schedule is for {{STAGES}} stages, not {{self.num_stages}}"
            )
        object.__setattr__(self, "is_partial_bwd", IS_PARTIAL)

    def get_mpmd_idx(self, stage_id):
        return MpmdIdx(RANK_OF_STAGE[stage_id])

    def tasks(self, n_mubatches):
        if n_mubatches != MICROBATCHES:
            raise ValueError(
                f"this schedule is for {{MICROBATCHES}} microbatches,"
                f" not {{n_mubatches}}"
            )
        found = []
        for row in ROWS:
            tasks = []
            for word in row.split():
                kind, stage, microbatch = word.split(":")
                tasks.append(Task.make(int(stage), int(microbatch), TaskType[kind]))
            found.append(tasks)
        return found
'''
