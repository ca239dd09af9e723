"""The candidates of a refresh, in the order of what is minimised.

A candidate is an interval and the last step in which an inverse may be used for the
first time. More of either only relaxes what a packing must do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from schedopt.refresh.settings import Minimise

MOST_STEPS = 64
"""An interval beyond this is no refresh any more."""


class Candidate(NamedTuple):
    """An interval, and the last step in which an inverse may be used first."""

    interval: int
    latest: int

    @property
    def age(self) -> int:
        """The largest age at use, steps."""
        return self.latest + self.interval - 1

    def rank(self, minimise: Minimise) -> tuple[int, int]:
        """What to compare candidates by; memory is none of theirs."""
        if minimise is Minimise.AGE:
            return self.age, self.interval
        return self.interval, self.age


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Those that bounds allow.

    Attributes
    ----------
    wrap : bool
        Whether work may use the next cycle's gaps.
    least_interval : int
        What bounds leave of the interval.
    least_steps : int
        In how many steps the work can be done at the earliest.
    most_interval : int
        Longer intervals are not looked at.
    uses_next_step : bool
        Whether work may end between a device's preconditioning and the step's end.
    """

    wrap: bool
    least_interval: int
    least_steps: int
    most_interval: int
    uses_next_step: bool

    def by(self, minimise: Minimise) -> Iterator[Candidate]:
        """All, best first."""
        match minimise:
            case Minimise.AGE:
                return self.by_age()
            case Minimise.INTERVAL:
                return self.by_interval()
            case Minimise.MEMORY:
                return self.at_any_age()

    def by_age(self) -> Iterator[Candidate]:
        """By largest age, then by interval."""
        for age in range(self.most_age):
            most = min(age + 1, self.most_interval)
            for interval in range(self.least_interval, most + 1):
                candidate = Candidate(interval, age + 1 - interval)
                first = self.least_steps - 1
                if first <= candidate.latest <= self.latest_of(interval):
                    yield candidate

    def by_interval(self) -> Iterator[Candidate]:
        """By interval, then by age."""
        for interval in range(self.least_interval, self.most_interval + 1):
            for latest in range(self.least_steps - 1, self.latest_of(interval) + 1):
                yield Candidate(interval, latest)

    def at_any_age(self) -> Iterator[Candidate]:
        """One of each interval."""
        for interval in range(self.least_interval, self.most_interval + 1):
            yield Candidate(interval, self.latest_of(interval))

    @property
    def most_age(self) -> int:
        """All candidates have less."""
        return self.most_interval + self.latest_of(self.most_interval)

    def latest_of(self, interval: int) -> int:
        """The latest first use that an interval allows."""
        steps = 2 * interval if self.wrap else interval
        return steps - 1 + self.uses_next_step
