"""What solving takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from schedopt.instance import Instance, Objective
from schedopt.opgraph import OpGraph
from schedopt.schedule import Schedule
from schedopt.steady import Periodic


class Status(StrEnum):
    """What is known at the end.

    ``optimal``: the value equals a proven bound, in exact time. ``feasible``: there is
    a schedule, perhaps not the best. ``infeasible``: there is none. ``unknown``: none
    was found in the time given.
    """

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveParameters:
    """How to solve.

    Attributes
    ----------
    time_limit_s : float
        Wall time for everything, seconds.
    workers : int
        Processes that may be busy at once.
    seed : int
        Seed of every random choice.
    objective : Objective or None
        None: the instance's own.
    reproducible : bool
        Deterministic limits instead of wall time: the same result byte for byte on one
        machine and version.
    memory_limit_bytes : int
        Memory that one solver process may use.
    """

    time_limit_s: float = 60.0
    workers: int = 2
    seed: int = 0
    objective: Objective | None = None
    reproducible: bool = False
    memory_limit_bytes: int = 8 * 2**30


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """A moment at which the value or the bound improved, and by which member."""

    seconds: float
    value: int | None
    lower_bound: int | None
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """What solving another instance says of this one.

    Attributes
    ----------
    method : str
        Where it comes from, for traces and results.
    schedule : Schedule or None
        A schedule of this instance; the verifier judges it.
    lower_bound : int
        Proven also for this instance, ticks; 0 if nothing is.
    """

    method: str
    schedule: Schedule | None = None
    lower_bound: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The outcome of solving an instance; times in ticks.

    Attributes
    ----------
    schedule : Schedule or None
        The best schedule found; it has passed the verifier.
    value : int or None
        The objective's value of ``schedule``.
    lower_bound : int
        Proven: no schedule has a smaller value. For the period: n microbatches take at
        least n times as long in any schedule, periodic or not.
    method : str
        The member that made the schedule.
    periodic : Periodic or None
        For the objective ``period``: the periodic schedule whose period is ``value``;
        ``schedule`` is then the batch unrolled from it.
    best_baseline : (name, value) or None
        The best hand-made schedule that fits this instance as it is written, of those
        tried.
    all_baselines_tried : bool
        Whether none is left that could have been tried.
    reason : str
        Why there is no schedule, or what a person should know; may be empty.
    """

    instance: Instance
    graph: OpGraph
    objective: Objective
    status: Status
    schedule: Schedule | None
    value: int | None
    lower_bound: int
    method: str
    wall_seconds: float
    parameters: SolveParameters
    periodic: Periodic | None = None
    best_baseline: tuple[str, int] | None = None
    all_baselines_tried: bool = True
    trace: tuple[TraceEntry, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    interrupted: bool = False

    @property
    def gap(self) -> float | None:
        """(value - lower bound) / value; None without a schedule."""
        if self.value is None:
            return None
        if self.value == 0:
            return 0.0
        return (self.value - self.lower_bound) / self.value

    def _repr_html_(self) -> str:
        """Summary and chart, as Jupyter shows them."""
        # Showing is the report layer's work; pyproject.toml declares this import.
        from schedopt.report.notebook import solution_html  # noqa: PLC0415 - above us

        return solution_html(self)
