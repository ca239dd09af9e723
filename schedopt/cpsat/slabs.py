"""Improving a schedule slab by slab: all that is near one moment, on all devices.

A slab is what a schedule runs between two moments. What comes before it stays where it
is; what comes after it keeps its order and moves up. The former gives every op of the
slab a head and the latter a tail, both by longest paths through the orders of all
streams, so the best times of the slab's ops for the whole schedule are those of a small
problem with heads and tails (``Scope``). All ways from the first op to the last pass
through the slab, which is why a better slab makes the whole shorter.

Search moves few ops at a time, and bounds look at one stream at a time; a slab sees how
devices that are short of memory stall each other.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from schedopt.cpsat.coarse import (
    LARGEST_HORIZON,
    ROUNDED_HORIZON,
    coarsened,
    exact_scale,
)
from schedopt.cpsat.model import Effort, Outcome, run
from schedopt.cpsat.replaying import replayed
from schedopt.cpsat.rules import PROBLEM
from schedopt.cpsat.slab_scope import Links, Timeline
from schedopt.instance import Objective
from schedopt.schedule import Schedule

_FIRST_OPS = 18
"""Ops of a slab to begin with, for each device."""

_SLAB_S = 2.0
"""The most effort for a slab, seconds."""

_LEAST_S = 0.001
"""What every slab counts for at least, so that an end is reached."""

_QUICK = 0.25
"""The share of a slab's effort within which it is solved quickly."""

_GROWTH, _SHRINKAGE = 1.04, 0.9
"""How sizes change after a slab that is solved quickly, or not in time."""

_SETTINGS = {"linearization_level": 0}
"""Measured: a sweep takes two thirds of the time, and finds more."""


class _Budget:
    """What is left of an effort, and each slab's part of it."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._began = time.monotonic()
        self._spent = 0.0
        self.last = 0.0

    @property
    def left(self) -> float:
        """Seconds, by the clock or of deterministic effort."""
        if self._effort.deterministic_time is not None:
            return self._effort.deterministic_time - self._spent
        return self._effort.time_limit_s - (time.monotonic() - self._began)

    def slab(self) -> Effort:
        """The effort for the next slab."""
        self._spend(_LEAST_S)
        seconds = max(_LEAST_S, min(_SLAB_S, self.left))
        is_exact = self._effort.deterministic_time is not None
        return replace(
            self._effort,
            time_limit_s=self._effort.time_limit_s if is_exact else seconds,
            deterministic_time=seconds if is_exact else None,
            on_spent=self._spend,
            by_levels=False,
            settings=_SETTINGS,
        )

    def _spend(self, seconds: float) -> None:
        self.last = seconds
        self._spent += seconds
        if self._effort.on_spent is not None:
            self._effort.on_spent(seconds)


class Slabs:
    """Sweeps over a schedule, slab after slab.

    Slabs of a sweep overlap by half, or more, and come in random order. They grow while
    they are solved quickly, and shrink if they are not solved in time.
    """

    def __init__(self, schedule: Schedule, seed: int) -> None:
        graph, horizon = schedule.graph, schedule.makespan
        scale = exact_scale(graph)
        if horizon // scale > LARGEST_HORIZON:
            scale = -(-horizon // ROUNDED_HORIZON)
        self._coarse = coarsened(graph, scale, round_up=True)
        self._links = Links(self._coarse)
        self._random = random.Random(seed)
        self._size = float(_FIRST_OPS * len(graph.devices))
        self._timeline: Timeline | None = None
        self._is_settled = False
        self.best = schedule
        self.learn(schedule)

    def learn(self, schedule: Schedule) -> None:
        """Go on from another schedule of the same op graph."""
        coarse = replayed(self._coarse, schedule, Objective.MAKESPAN)
        self.best = schedule
        self._timeline = None if coarse is None else self._line(coarse)
        self._is_settled = coarse is None

    def improve(
        self, effort: Effort, on_schedule: Callable[[Schedule], None] | None = None
    ) -> None:
        """Sweep until the effort is spent, or one slab is all and solved.

        Every better schedule is reported.
        """
        budget = _Budget(effort)
        while budget.left > 0 and not self._is_settled:
            best = self.best
            for _ in self._sweep(budget):
                if self.best is not best and on_schedule is not None:
                    best = self.best
                    on_schedule(best)
                if budget.left <= 0:
                    break

    def _sweep(self, budget: _Budget) -> Iterator[None]:
        """Solve slabs all over the schedule, each from the best known."""
        ops = len(self.best.start)
        step = max(1, round(min(self._size, ops) / 2))
        begins = list(range(-self._random.randrange(step), ops, step))
        self._random.shuffle(begins)
        for begin in begins:
            self._solve(begin, budget)
            yield

    def _solve(self, begin: int, budget: _Budget) -> None:
        """Look for better times of one slab."""
        timeline = self._timeline
        assert timeline is not None
        slab = timeline.between(begin, begin + round(self._size))
        scope, base = timeline.scope(slab)
        known = timeline.schedule.start
        result = run(
            scope,
            Objective.MAKESPAN,
            budget.slab(),
            hint={op: known.get(op, base) - base for op in scope.graph.ops},
            rules=PROBLEM,
        )
        if result.start is not None:
            found = {op: base + moment for op, moment in result.start.items()}
            self._take(timeline.with_slab(slab, found))
        if result.outcome in (Outcome.FEASIBLE, Outcome.UNKNOWN):
            self._size *= _SHRINKAGE
            return
        ops = len(self.best.start)
        self._is_settled = len(slab.ops) == ops
        if budget.last < _QUICK * _SLAB_S:
            self._size = min(self._size * _GROWTH, 2 * ops)

    def _take(self, schedule: Schedule) -> None:
        """Go on from a schedule in coarse ticks if its replay is a shorter one."""
        coarse = replayed(self._coarse, schedule, Objective.MAKESPAN)
        assert self._timeline is not None
        if coarse is None or coarse.makespan >= self._timeline.schedule.makespan:
            return
        self._timeline = self._line(coarse)
        exact = replayed(self.best.graph, coarse, Objective.MAKESPAN)
        if exact is not None and exact.makespan < self.best.makespan:
            self.best = exact

    def _line(self, coarse: Schedule) -> Timeline:
        return Timeline(coarse, self._links)
