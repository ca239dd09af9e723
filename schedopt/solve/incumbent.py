"""The best schedule and the best bound so far.

Every schedule is judged by the verifier before it counts. A bound above the value of a
verified schedule is wrong, whoever found it: nothing that its source has said or will
say counts, and the best bound of the other sources holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from schedopt.build import in_microbatch_order
from schedopt.instance import Instance, Objective
from schedopt.opgraph import OpGraph
from schedopt.schedule import Schedule
from schedopt.solve.solution import TraceEntry
from schedopt.steady import Periodic
from schedopt.verify import (
    Violation,
    runtime_violations,
    steady_violations,
    violations,
)

Progress = Callable[[TraceEntry], None]


class Verdict(StrEnum):
    """What became of an offer.

    ``improved``: the value or the bound is better now. ``no better``: it is not.
    ``refused``: the offer is wrong, and so is whoever made it.
    """

    IMPROVED = "improved"
    NO_BETTER = "no better"
    REFUSED = "refused"


class _Best(NamedTuple):
    """Kept together, so that an interrupt finds the old one or the new one.

    For the period ``periodic`` counts, and there is no schedule yet.
    """

    schedule: Schedule | None
    value: int
    method: str
    rank: tuple[int, int, int]
    periodic: Periodic | None = None


class Incumbent:
    """What is known about the best possible value of one op graph."""

    def __init__(
        self,
        graph: OpGraph,
        objective: Objective,
        progress: Progress | None = None,
        *,
        ruled: Instance | None = None,
    ) -> None:
        """``ruled`` is the instance where a runtime's rules hold for it."""
        self.graph = graph
        self._ruled = ruled
        self.objective = objective
        self.trace: list[TraceEntry] = []
        self.complaints: list[str] = []
        self._best: _Best | None = None
        self._bounds: dict[str, int] = {}
        self._distrusted: set[str] = set()
        self._progress = progress
        self._began = time.monotonic()

    @property
    def schedule(self) -> Schedule | None:
        """The best schedule; it has passed the verifier. None for the period."""
        return None if self._best is None else self._best.schedule

    @property
    def periodic(self) -> Periodic | None:
        """The best periodic schedule, if the objective is the period; also verified."""
        return None if self._best is None else self._best.periodic

    @property
    def value(self) -> int | None:
        """Its value, ticks."""
        return None if self._best is None else self._best.value

    @property
    def method(self) -> str:
        """The member that found a schedule of this value first."""
        return "" if self._best is None else self._best.method

    @property
    def lower_bound(self) -> int:
        """The best bound of all trusted sources, ticks."""
        return max(self._bounds.values(), default=0)

    @property
    def is_proven(self) -> bool:
        """Whether nothing better is possible."""
        return self.value is not None and self.value == self.lower_bound

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def offer(self, schedule: Schedule, member: str) -> Verdict:
        """Take a better schedule; at a tie lower peaks, then earlier starts.

        Where a runtime asks for it, equal microbatches are renamed first.
        """
        if self._ruled is not None:
            schedule = in_microbatch_order(self._ruled, schedule)
        value = schedule.value(self.objective)
        rank = (value, sum(schedule.peak_memory), sum(schedule.start.values()))
        if self._best is not None and rank >= self._best.rank:
            return Verdict.NO_BETTER
        broken = violations(self.graph, schedule.start)
        if self._ruled is not None:
            broken += runtime_violations(self._ruled.runtime, schedule.start)
        return self._judge(_Best(schedule, value, member, rank), broken)

    def offer_periodic(self, periodic: Periodic, member: str) -> Verdict:
        """The same where the objective is the period."""
        value = periodic.period
        rank = (value, sum(periodic.peak_memory), sum(periodic.start))
        if self._best is not None and rank >= self._best.rank:
            return Verdict.NO_BETTER
        broken = steady_violations(self.graph, periodic.starts, periodic.cycle)
        return self._judge(_Best(None, value, member, rank, periodic), broken)

    def _judge(self, best: _Best, broken: tuple[Violation, ...]) -> Verdict:
        """Take what is of better rank and breaks no rule; distrust bounds above it."""
        value, member = best.value, best.method
        if broken:
            self.complaints.append(f"{member} offered an invalid schedule: {broken[0]}")
            return Verdict.REFUSED
        wrong = [source for source, bound in self._bounds.items() if bound > value]
        for source in wrong:
            self._distrust(source, self._bounds[source], value)
        improved = self._best is None or value < self._best.value
        self._best = best if improved else best._replace(method=self.method)
        if improved or wrong:
            self._record(member)
        return Verdict.IMPROVED if improved else Verdict.NO_BETTER

    def prove(self, bound: int, member: str, source: str = "") -> Verdict:
        """Take a bound if it is better.

        ``source`` is what is distrusted if the bound is wrong; by default the member.
        """
        source = source or member
        if source in self._distrusted:
            return Verdict.REFUSED
        if self.value is not None and bound > self.value:
            self._distrust(source, bound, self.value)
            self._record(member)
            return Verdict.REFUSED
        improved = bound > self.lower_bound
        if bound > self._bounds.get(source, 0):
            self._bounds[source] = bound
        if improved:
            self._record(member)
        return Verdict.IMPROVED if improved else Verdict.NO_BETTER

    def _distrust(self, source: str, bound: int, value: int) -> None:
        self._distrusted.add(source)
        self._bounds.pop(source, None)
        unit = self.graph.units
        self.complaints.append(
            f"{source} claimed a bound of {unit.time_of(bound)} {unit.time} above the"
            f" value {unit.time_of(value)} {unit.time} of a verified schedule, so none"
            " of its bounds counts; please report this"
        )

    def _record(self, member: str) -> None:
        entry = TraceEntry(self.elapsed_s, self.value, self.lower_bound, member)
        self.trace.append(entry)
        if self._progress is not None:
            self._progress(entry)
