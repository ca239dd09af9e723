"""Random numbers that compiled and plain loops draw alike.

L'Ecuyer's combined generator ("Efficient and portable combined random number
generators", Communications of the ACM 31(6), 1988); what follows a logarithm comes from
tables.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schedopt.lattice import Ints

TABLE = 4096
"""Entries of tables from which numbers are drawn."""

LARGEST = 2147483562


def exponentials() -> npt.NDArray[np.float64]:
    """A table of exponentially distributed numbers with mean 1."""
    table: npt.NDArray[np.float64] = -np.log((np.arange(TABLE) + 0.5) / TABLE)
    return table


def seeded(seed: int) -> Ints:
    """The generator's two states; close seeds are far apart."""
    state = np.array(
        [1 + seed * 69_621 % 2147483562, 1 + seed * 45_991 % 2147483398], np.int64
    )
    for _ in range(8):
        draw(state)
    return state


def draw(state: Ints) -> int:
    """The next random number, from 1 to ``LARGEST``."""
    state[0] = 40014 * state[0] % 2147483563
    state[1] = 40692 * state[1] % 2147483399
    value = int(state[0] - state[1])
    return value if value > 0 else value + LARGEST
