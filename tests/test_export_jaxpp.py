"""The schedule class for JaxPP, checked against its written rules.

JaxPP needs GPUs and
cannot be executed here: what its sources say is written down below as a validator, and
the generated module is imported with stubs in the place of the runtime.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import pytest
from export_helpers import import_text, programs, written

from schedopt.errors import ExportError
from schedopt.export import jaxpp
from schedopt.export.program import Program
from schedopt.instance import Backward, Placement
from schedopt.ops import Op, OpKind


class TaskType(Enum):
    FWD = 1
    BWD = 2
    BWD_I = 3
    BWD_W = 4


@dataclass(frozen=True)
class Task:
    stage_id: int
    mubatch_idx: int
    fwd_or_bwd: TaskType
    latency: int = field(hash=False, compare=False)

    @classmethod
    def make(cls, stage_id: int, mubatch_idx: int, fwd_or_bwd: TaskType) -> Task:
        return cls(stage_id, mubatch_idx, fwd_or_bwd, 1)


@dataclass(eq=True, frozen=True)
class BaseSchedule:
    num_stages: int
    is_partial_bwd: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        assert self.num_stages > 0


JAXPP_STUBS: dict[str, dict[str, Any]] = {
    "jaxpp.schedules": {"BaseSchedule": BaseSchedule, "Task": Task},
    "jaxpp.types": {"MpmdIdx": int, "TaskType": TaskType},
}


def check_jaxpp(schedule: Any, program: Program) -> list[list[str]]:
    """The rules of schedules.py and core.py; what each rank runs."""
    rows = schedule.tasks(program.microbatches)
    letters = {"FWD": "F", "BWD": "B", "BWD_I": "I", "BWD_W": "W"}
    kinds = {"F", "I", "W"} if schedule.is_partial_bwd else {"F", "B"}
    seen = set()
    for rank, row in enumerate(rows):
        for task, after in zip(row, [*row[1:], None], strict=True):
            assert schedule.get_mpmd_idx(task.stage_id) == rank
            assert task not in seen
            seen.add(task)
            assert letters[task.fwd_or_bwd.name] in kinds
            if task.stage_id == 0 and task.fwd_or_bwd is TaskType.BWD_I:
                assert after == replace(task, fwd_or_bwd=TaskType.BWD_W)
    stages = len(program.device_of_stage)
    assert len(seen) == stages * program.microbatches * len(kinds)
    assert hash(schedule) == hash(type(schedule)())  # a static argument of jit
    return [
        [f"{t.stage_id}{letters[t.fwd_or_bwd.name]}{t.mubatch_idx}" for t in row]
        for row in rows
    ]


def jaxpp_schedule(program: Program) -> Any:
    text = jaxpp.jaxpp_module(program)[jaxpp.FILE_NAME]
    return import_text(text, JAXPP_STUBS)["ExportedSchedule"]


@pytest.mark.parametrize("placement", [Placement.LINEAR, Placement.LOOPED])
def test_jaxpp_tasks_of_whole_backwards(placement: Placement) -> None:
    for program in programs(placement, Backward.WHOLE):
        schedule = jaxpp_schedule(program)

        rows = check_jaxpp(schedule(), program)

        assert not schedule().is_partial_bwd
        assert rows == [list(map(str, row)) for row in program.rows]
        with pytest.raises(ValueError, match="for 8 microbatches, not 7"):
            schedule().tasks(7)
        with pytest.raises(ValueError, match="stages, not 3"):
            schedule(num_stages=3)


def test_jaxpp_tasks_of_split_backwards() -> None:
    """Stage 0 with I and W apart is refused; with a whole backward it is a pair."""
    (split, *_) = programs(Placement.LINEAR, Backward.SPLIT)
    instance = replace(
        split.instance,
        stages=split.instance.stages[:2],
        devices=split.instance.devices[:2],
        device_of_stage=(0, 1),
        microbatches=2,
        backward=Backward.CHOOSE,
    )
    base = replace(split, instance=instance)
    apart = written(base, "0F0 0F1 0I0 0I1 0W0 0W1", "1F0 1I0 1F1 1I1 1W0 1W1")
    with pytest.raises(ExportError, match="0I0 is not directly followed by 0W0"):
        jaxpp.jaxpp_module(apart)

    mixed = written(base, "0F0 0F1 0B0 0I1 0W1", "1F0 1I0 1F1 1I1 1W0 1W1")
    schedule = jaxpp_schedule(mixed)()
    assert schedule.is_partial_bwd
    assert check_jaxpp(schedule, mixed) == [
        ["0F0", "0F1", "0I0", "0W0", "0I1", "0W1"],
        ["1F0", "1I0", "1F1", "1I1", "1W0", "1W1"],
    ]


def test_ops_without_a_task_are_refused() -> None:
    (program, _) = programs(Placement.LINEAR, Backward.WHOLE)
    joint = Op(OpKind.OVERLAP, 0, 0, part="0B1")
    rows = ((*program.rows[0], joint), *program.rows[1:])

    with pytest.raises(ExportError, match="0OVERLAP_F_B0:0B1: JaxPP has no task"):
        jaxpp.jaxpp_module(replace(program, rows=rows))
