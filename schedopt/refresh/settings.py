"""Words of the objective ``refresh``."""

from __future__ import annotations

from enum import StrEnum


class Minimise(StrEnum):
    """What a refresh minimises.

    ``age``: the largest age at use of an inverse, then the interval, then peak memory.
    ``k``: the interval from one refresh to the next, then age, then memory. ``memory``:
    peak memory at the least interval, whatever the age.
    """

    AGE = "age"
    INTERVAL = "k"
    MEMORY = "memory"


class Freedom(StrEnum):
    """What the forwards and backwards of a frame may do, from little to much.

    ``frozen``: they keep their times. ``sliding``: they keep their order, and their
    times may differ from step to step. ``reordered``: their order may change too.
    """

    FROZEN = "frozen"
    SLIDING = "sliding"
    REORDERED = "reordered"

    @property
    def up_to(self) -> tuple[Freedom, ...]:
        """Those that allow no more than this one, least first."""
        freedoms = tuple(Freedom)
        return freedoms[: freedoms.index(self) + 1]
