"""How a refresh is solved, and what is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from schedopt.cpsat import Effort
from schedopt.refresh.bounds import IntervalBound
from schedopt.refresh.cycle import Cycle
from schedopt.refresh.frame import Frame
from schedopt.refresh.settings import Freedom, Minimise
from schedopt.solve.solution import Status

Progress = Callable[[str], None]
"""Told what was found, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshParameters:
    """How to solve.

    ``wrap`` lets work run in the next cycle's gaps; ``freedom`` is what the pipeline's
    ops may do at most. ``workers`` are CP-SAT's threads.
    """

    minimise: Minimise = Minimise.AGE
    wrap: bool = False
    freedom: Freedom = Freedom.FROZEN
    time_limit_s: float = 60.0
    workers: int = 2
    seed: int = 0

    def effort(self, seconds: float) -> Effort:
        """How one run of CP-SAT searches for so long."""
        return Effort(time_limit_s=seconds, workers=self.workers, seed=self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshSolution:
    """The best packing into a frame, and what no packing into it can beat.

    Attributes
    ----------
    cycle : Cycle or None
        The packing; it has passed the verifier.
    freedom : Freedom
        What the pipeline's ops do in it; at most that of the parameters.
    swaps : int
        By how many swaps of neighbours its order differs from the frame's.
    bound : IntervalBound or None
        The strongest counting bound on the interval.
    least_interval, least_age : int or None
        Proven for all that the parameters allow; None means that no packing exists at
        any interval, of which ``reason`` tells why.
    memory_bound : int or None
        What no packing of this interval and age can be below, grains; None where that
        is not known.
    is_interrupted : bool
        Whether Ctrl-C ended the search; what had been found by then stands.
    """

    frame: Frame
    parameters: RefreshParameters
    status: Status
    cycle: Cycle | None
    freedom: Freedom = Freedom.FROZEN
    swaps: int = 0
    bound: IntervalBound | None
    least_interval: int | None
    least_age: int | None
    memory_bound: int | None
    wall_seconds: float
    reason: str = ""
    is_interrupted: bool = False

    @property
    def rank(self) -> tuple[float, ...]:
        """Solutions of different frames in the order of what is minimised."""
        if self.cycle is None:
            return (inf,)
        interval, peak = self.cycle.interval, self.cycle.peak_memory
        age = (self.cycle.first_use or 0) + interval - 1
        match self.parameters.minimise:
            case Minimise.AGE:
                return age, interval, peak
            case Minimise.INTERVAL:
                return interval, age, peak
            case Minimise.MEMORY:
                return interval, peak, age
