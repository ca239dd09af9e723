"""How much time a search has left: none once it has been interrupted."""

from __future__ import annotations

import time

from schedopt.solve.interrupts import Interrupts


class Deadline:
    """A moment until which a search may go on, or until Ctrl-C is heard."""

    def __init__(self, end: float, interrupts: Interrupts) -> None:
        self._end = end
        self._interrupts = interrupts

    @property
    def left(self) -> float:
        """Seconds; at most 0 when the search has to end."""
        return 0.0 if self._interrupts.heard else self._end - time.monotonic()

    def part(self, share: float) -> Deadline:
        """The moment at which this share of what is left will have gone by."""
        return Deadline(time.monotonic() + share * self.left, self._interrupts)
