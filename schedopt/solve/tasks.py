"""What a worker process is asked to do, and what it answers, as JSON lines.

A line is a JSON object. The first that a worker reads names the instance; each further
one is a task. A worker answers with schedules (starts in the canonical order of ops,
null for absent ones; with ``cycle`` if it is a periodic one, and with ``baseline`` if
it is that hand-made one) and bounds as it finds them, and with ``done`` when a task is
over: how much deterministic effort it took, and whether the member applies at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from schedopt.opgraph import OpGraph
from schedopt.ops import Op
from schedopt.schedule import Schedule
from schedopt.steady import Periodic, cycle_problem

Starts = list[int | None]


OUT_OF_MEMORY = 77
"""Exit code of a worker whose memory limit was too small for its task."""


class TaskKind(StrEnum):
    """The members of the portfolio that run in workers."""

    BASELINES = "hand-made schedules"
    QUICK_BOUNDS = "quick bounds"
    SEARCH = "search"
    SLABS = "slabs"
    WINDOWS = "windows"
    DIVE = "dive"
    PROJECTION = "projection"
    ENDS = "two ends"
    CPSAT = "cp-sat"
    MODULO = "modulo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One piece of work for a worker.

    Attributes
    ----------
    seconds : float
        Wall time for it; deterministic effort where that is asked for.
    incumbent : starts or None
        The best schedule known.
    lower_bound, upper_bound : int
        What is known of the objective, ticks.
    devices : tuple of int
        For a projection: the devices that it keeps.
    effort : int
        Grows when a member is asked again; selects its variant.
    cycle_microbatches : int
        For modulo scheduling: how many microbatches a cycle has.
    deterministic : bool
        Stop after a fixed amount of work, not by the clock.
    """

    kind: TaskKind
    seconds: float
    seed: int
    incumbent: Starts | None
    lower_bound: int
    upper_bound: int
    devices: tuple[int, ...] = ()
    effort: int = 0
    cycle_microbatches: int = 0
    deterministic: bool = False

    @property
    def longest_s(self) -> float:
        """Wall time after which it is taken for hanging, but for a grace.

        Deterministic effort is counted in seconds of a fast machine; only a hang takes
        many times as long.
        """
        return 20 * self.seconds + 60 if self.deterministic else self.seconds

    def to_line(self) -> str:
        """The task as one line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Task:
        """The inverse of ``to_line``, after JSON."""
        values = dict(document)
        values["kind"] = TaskKind(values["kind"])
        values["devices"] = tuple(values["devices"])
        return cls(**values)


def starts_of(schedule: Schedule) -> Starts:
    """A schedule as starts in the canonical order of the graph's ops."""
    return [schedule.start.get(op) for op in schedule.graph.ops]


def periodic_starts_of(periodic: Periodic) -> Starts:
    """A periodic schedule as starts of all ops; only those of one cycle have one."""
    return [periodic.starts.get(op) for op in periodic.problem.graph.ops]


def periodic_from(graph: OpGraph, starts: Starts, cycle: int) -> Periodic | None:
    """The inverse of ``periodic_starts_of``; None if these are not starts of a cycle.

    Whether they keep the rules is for the verifier to say.
    """
    given = {
        op: start
        for op, start in zip(graph.ops, starts, strict=True)
        if start is not None
    }
    problem = cycle_problem(graph, len({op.microbatch for op in given}))
    if problem is None or cycle <= 0 or cycle % problem.microbatches:
        return None
    if given.keys() != {op.op for op in problem.ops}:
        return None
    return Periodic(problem, tuple(given[op.op] for op in problem.ops), cycle)


def schedule_from(graph: OpGraph, starts: Starts) -> Schedule:
    """The inverse of ``starts_of``."""
    found: dict[Op, int] = {
        op: start
        for op, start in zip(graph.ops, starts, strict=True)
        if start is not None
    }
    return Schedule(graph, found)
