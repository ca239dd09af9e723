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
