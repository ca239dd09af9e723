"""What every exporter reads: each rank's compute ops in order of execution."""

from __future__ import annotations

import re
from dataclasses import dataclass

from schedopt.build import (
    numbered_by_last_stage,
    numbered_in_one_order,
    numbers_are_free,
)
from schedopt.instance import Instance
from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op
from schedopt.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Program:
    """A schedule as runtimes see it: one row of compute ops per rank.

    Attributes
    ----------
    instance, schedule
        What was scheduled, and when each op runs (ticks).
    rows : tuple of tuple of Op
        For each device its compute ops, first to last; transfers are not among them.
    """

    instance: Instance
    schedule: Schedule
    rows: tuple[tuple[Op, ...], ...]

    @property
    def name(self) -> str:
        """The instance's name."""
        return self.instance.name

    @property
    def microbatches(self) -> int:
        """How many microbatches a step has; they are numbered from 0."""
        return self.instance.microbatches

    @property
    def device_of_stage(self) -> tuple[int, ...]:
        """The rank that each stage lives on; if on two, that of microbatch 0."""
        return self.instance.device_of_stage

    @property
    def file_stem(self) -> str:
        """The instance's name as files may be called: letters, digits, ``._-``."""
        return (
            re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip(".-")[:80] or "schedule"
        )

    @property
    def can_be_relabelled(self) -> bool:
        """Whether all microbatches are equal, so that they may swap their numbers."""
        return numbers_are_free(self.instance, self.schedule)

    def relabelled(self, *, one_order: bool = False) -> Program:
        """The same times with other microbatch numbers, as runtimes want them.

        The microbatches are numbered as the last stage starts their forwards. With
        ``one_order`` every stage runs its forwards, its backwards and its W in the
        order of the numbers: the k-th of each becomes microbatch k, which keeps every
        precedence and every level of memory.

        Raises
        ------
        ValueError
            If the microbatches are not equal: their numbers mean something.
        """
        if not self.can_be_relabelled:
            msg = "microbatches that differ cannot swap their numbers"
            raise ValueError(msg)
        number = numbered_in_one_order if one_order else numbered_by_last_stage
        return program_of(self.instance, number(self.instance, self.schedule))


def program_of(instance: Instance, schedule: Schedule) -> Program:
    """The rows of a schedule, whether or not any runtime executes them."""
    sequences = schedule.order.sequences
    rows = tuple(
        tuple(
            op
            for op in sequences.get(Stream(StreamKind.COMPUTE, device), ())
            if op.kind.is_compute
        )
        for device in range(len(instance.devices))
    )
    return Program(instance, schedule, rows)
