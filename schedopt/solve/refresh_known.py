"""What is known of a refresh's candidates; what PipeFisher's rule finds, to begin with.

More of a candidate's interval or time only relaxes what a packing must do; but where
work wraps, another interval has other gaps share their length, and nothing follows from
one to the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from schedopt.instance import FactorBarrier
from schedopt.ops import Op
from schedopt.refresh.bounds import IntervalBound
from schedopt.refresh.frame import Frame
from schedopt.refresh.greedy import MARGIN, greedy_of
from schedopt.refresh.greedy_packing import packing_of
from schedopt.refresh.problem import Packing, Problem, problem_of
from schedopt.solve.refresh_candidates import Candidate

_RULES = ((MARGIN, FactorBarrier.DEVICE), (Fraction(0), FactorBarrier.FACTOR))


@dataclass
class Known:
    """What is known of a component's candidates."""

    devices: tuple[int, ...]
    wrap: bool
    found: dict[Candidate, Mapping[Op, int]] = field(default_factory=dict)
    impossible: list[Candidate] = field(default_factory=list)

    def start(self, candidate: Candidate) -> Mapping[Op, int] | None:
        """A packing that a candidate allows."""
        for other, start in self.found.items():
            if self._allows(candidate, other):
                return start
        return None

    def is_impossible(self, candidate: Candidate) -> bool:
        """Whether it has been proven that a candidate allows no packing."""
        return any(self._allows(other, candidate) for other in self.impossible)

    def _allows(self, one: Candidate, other: Candidate) -> bool:
        """Whether every packing that ``other`` allows is one of ``one``'s."""
        if self.wrap and one.interval != other.interval:
            return False
        return other.interval <= one.interval and other.latest <= one.latest

    def learn(self, packing: Packing) -> None:
        """Add a valid packing's part on these devices."""
        data = packing.problem.graph.data
        start = {
            op: time
            for op, time in packing.start.items()
            if data[op].device in self.devices
        }
        uses = (use for op, use in packing.cycle.first_uses.items() if op in start)
        self.found[Candidate(packing.problem.interval, max(uses, default=0))] = start


def greedy_packings(frame: Frame, *, wrap: bool) -> Iterator[Packing]:
    """What PipeFisher's rule finds, with its margin and without, where it is valid.

    Where work may not wrap, but the rule has it wrap, the interval is as many steps as
    the work takes.
    """
    for margin, barrier in _RULES:
        packing = packing_of(greedy_of(frame, margin, barrier)).packing
        if packing is None:
            continue
        if not wrap:
            problem = problem_of(frame, _steps(packing))
            packing = Packing(problem, packing.start, packing.method)
            if packing.cycle.broken:
                continue
        yield packing


def why_none(problem: Problem, bounds: Iterable[IntervalBound]) -> str:
    """Why there is no packing at any interval; empty if that is not known."""
    units = problem.frame.graph.units
    for bound in bounds:
        if bound.interval is None:
            return (
                f"device {bound.devices[0]} has no gap of"
                f" {units.time_of(bound.grain)} {units.time}, which some op of its"
                " second-order work takes"
            )
    for memory, levels in zip(problem.memory, problem.frame_levels, strict=True):
        least = max((level for _, level in levels), default=memory.static)
        if memory.limit is not None and least > memory.limit:
            return (
                f"{memory.name} needs {units.memory_of(least)} {units.memory} for its"
                " pipeline and factors, more than its limit of"
                f" {units.memory_of(memory.limit)}"
            )
    return ""


def _steps(packing: Packing) -> int:
    """In how many steps all of the work is done, at least the interval's."""
    frame = packing.problem.frame
    data = packing.problem.graph.data
    steps = packing.problem.interval
    for op, time in packing.start.items():
        if op.kind.is_compute:
            last = frame.gaps[data[op].device][-1].end
            missing = time + data[op].duration - last
            steps = max(steps, 1 - (-missing // frame.period))
    return steps
