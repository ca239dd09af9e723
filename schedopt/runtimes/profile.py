"""What a runtime can execute, in words that everything above it reads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Shape(NamedTuple):
    """Equally many stages per device, placed by one rule.

    Attributes
    ----------
    placement : str
        ``looped`` (stage k on device k mod P) or ``v`` (zigzag).
    least, most : int
        Stages per device; ``most`` None: any number.
    """

    placement: str
    least: int
    most: int | None

    def __str__(self) -> str:
        if self.most == 1:
            return "one stage per device in order"
        count = str(self.least)
        if self.most is None:
            count += " or more"
        elif self.most > self.least:
            count += f" to {self.most}"
        return f"{self.placement} with {count} per device"


class Forms(StrEnum):
    """Which forms of backward a runtime has, and for what they are chosen."""

    WHOLE = "whole"
    SPLIT = "split"
    PER_OP = "per op"
    PER_MICROBATCH = "per microbatch"
    PER_SCHEDULE = "per schedule"


class MicrobatchOrder(StrEnum):
    """In which order the microbatches of a stage may run."""

    ANY = "any"
    LAST_FORWARDS = "last stage's F ascending"
    FIFO = "one order"


class FirstStage(StrEnum):
    """What a split backward is on stage 0, whose input needs no gradient."""

    REAL = "as on other stages"
    ALL_IN_WEIGHT = "I does nothing, W is the whole backward"
    ADJACENT = "I directly before its W"


class Recompute(StrEnum):
    """How a stage's forward may be run again before its backward."""

    NONE = "no"
    IN_WHOLE = "inside a whole backward"
    AS_OP = "as an op"


class Evidence(StrEnum):
    """How a runtime profile is known."""

    EXECUTED = "executed"
    READ = "read"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeProfile:
    """A training runtime that executes an order from outside.

    Attributes
    ----------
    name : str
        As in ``solve --runtime NAME`` and in instance files.
    summary : str
        One line for a person.
    shapes : tuple of Shape
        Placements that it has; empty means any map from stages to devices.
    forms : Forms
        Whole or split backward.
    takes_one_device : bool
        Whether one device is a pipeline to it.
    multiple_of_devices : bool
        Whether the number of microbatches must be a multiple of that of devices.
    order : MicrobatchOrder
        The order of microbatches. ``LAST_FORWARDS``: the forwards of the last stage
        start in the order of their numbers. ``FIFO``: the forwards, the backwards
        (B or I), the W and the R of all stages run the microbatches in one order.
    first_stage : FirstStage
        A split backward on stage 0.
    last_stage_paired : bool
        On the last stage every F is directly followed by its own backward, whichever
        microbatch comes first.
    recompute : Recompute
        ``IN_WHOLE``: R is part of B (and of W on stage 0 where W is the whole
        backward), as no order can place it.
    communication : str
        Who orders transfers, and what they block.
    extra_ops : str
        Where work that is no forward or backward could be put.
    deadlock : str
        What keeps an order from hanging.
    evidence : Evidence
        Whether orders were executed, or the runtime's source was read only.
    source : str
        Version and the files in which the rules stand.
    """

    name: str
    summary: str
    shapes: tuple[Shape, ...]
    forms: Forms
    takes_one_device: bool = True
    multiple_of_devices: bool = False
    order: MicrobatchOrder
    first_stage: FirstStage
    last_stage_paired: bool
    recompute: Recompute
    communication: str
    extra_ops: str
    deadlock: str
    evidence: Evidence
    source: str

    @property
    def has_whole(self) -> bool:
        """Whether it runs a backward as one op."""
        return self.forms is not Forms.SPLIT

    @property
    def has_split(self) -> bool:
        """Whether it runs a backward as I and W."""
        return self.forms is not Forms.WHOLE

    def whole_only(self, recomputed: frozenset[int]) -> frozenset[int]:
        """The stages, of those recomputed, whose backward it cannot split.

        Where W is the whole backward, it recomputes once as B does; elsewhere I and W
        would each recompute.
        """
        if self.recompute is not Recompute.IN_WHOLE:
            return frozenset()
        in_weight = self.first_stage is FirstStage.ALL_IN_WEIGHT
        return recomputed - {0} if in_weight else recomputed

    @property
    def placement_text(self) -> str:
        """Its placements, for tables and messages."""
        return ", or ".join(map(str, self.shapes)) or "any"
