"""What the verifier reports."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from schedopt.ops import Op


class Rule(StrEnum):
    """The rules by name; those from INSTANCE on concern what a schedule file says."""

    KNOWN = "known op"
    TIME = "start is a time"
    PRESENT = "op is present"
    TOGETHER = "ops of an alternative together"
    CHOICE = "one alternative of each choice"
    STREAM = "one op at a time on a stream"
    PRECEDENCE = "after what it needs"
    MEMORY = "within the memory limit"
    CYCLE = "ops of one cycle, repeated"
    MICROBATCH_ORDER = "order of microbatches as the runtime's"
    INSTANCE = "hash of the instance"
    ROW = "row agrees with its op"
    KFAC_WORK = "K-FAC work as the instance's"
    MEMORY_EDGE = "after what frees its memory"
    STATUS = "status agrees with the rest"
    MAKESPAN = "makespan as computed"
    DEVICE_SPAN = "device span as computed"
    BUBBLE_RATIO = "bubble ratio as computed"
    PEAK_MEMORY = "peak memory as computed"
    VALUE = "value is the objective's"
    LOWER_BOUND = "lower bound at most the value"
    GAP = "gap as computed"


class Violation(NamedTuple):
    """A broken rule: which, the ops concerned, and one line for a person."""

    rule: Rule
    ops: tuple[Op, ...]
    detail: str

    def __str__(self) -> str:
        return f"{self.rule.value}: {self.detail}"
