"""Words of the objective ``refresh``."""

from __future__ import annotations

from enum import StrEnum


class Minimise(StrEnum):
    """What a refresh minimises first; the others break ties, in this order.

    The largest age at use of an inverse, the interval from one refresh to the next, or
    the peak memory.
    """

    AGE = "age"
    INTERVAL = "k"
    MEMORY = "memory"
