"""What every exporter reads: each rank's compute ops in order of execution."""

from __future__ import annotations

from dataclasses import dataclass

from schedopt.errors import ExportError
from schedopt.instance import Instance, Placement
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
        """The rank that each stage lives on."""
        return self.instance.device_of_stage


def program_of(instance: Instance, schedule: Schedule) -> Program:
    """The rows that a runtime executes.

    Raises
    ------
    ExportError
        If a stage lives on two devices (placement ``bidirectional``): no runtime that
        schedopt knows executes that.
    """
    if instance.placement is Placement.BIDIRECTIONAL:
        msg = (
            "placement = bidirectional: every stage lives on two devices, which no"
            " runtime known to schedopt executes; choose linear, looped or v"
        )
        raise ExportError(msg)
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
