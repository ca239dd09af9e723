"""Improving a schedule slab by slab: all that is near one moment, on all devices.

A slab is what a schedule runs between two moments. What comes before it stays where it
is; what comes after it keeps its order and moves up. The former gives every op of the
slab a head and the latter a tail, both by longest paths through the orders of all
streams, so the best times of the slab's ops for the whole schedule are those of a small
problem with heads and tails (``slab_scope``). Nearly all ways from the first op to the
last pass through the slab, which is why a better one makes the whole shorter.

Search moves few ops at a time, and bounds look at one stream at a time; a slab sees how
devices that are short of memory stall each other.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace

from schedopt.cpsat.coarse import coarsened, exact_scale, scale_within
from schedopt.cpsat.model import Effort, Outcome, run
from schedopt.cpsat.replaying import replayed, replayed_with_order
from schedopt.cpsat.rules import PROBLEM
from schedopt.cpsat.slab_scope import Links, Timeline
from schedopt.instance import Objective
from schedopt.schedule import Schedule

_FIRST_OPS = 18
"""Ops of a slab to begin with, for each device."""

_SLAB_S = {False: 2.0, True: 0.3}
"""The most effort for a slab, seconds by the clock or (True) of deterministic effort;
these take several times as long on problems as small as slabs."""

_PER_OP_S = 0.0002
"""Deterministic effort of making the model of a slab, which CP-SAT does not count."""

_QUICK = 0.25
"""The share of a slab's effort within which it is solved quickly."""

_LEAST_SHARE = 0.1
"""The share of a slab's effort with which it is not begun."""

_GROWTH, _SHRINKAGE = 1.04, 0.9
"""How sizes change after a slab that is solved quickly, or not in time."""

_SETTINGS = {"linearization_level": 0}
"""Measured: a sweep takes two thirds of the time, and finds more."""


class Slabs:
    """Sweeps over a schedule, slab after slab.

    Slabs of a sweep overlap by half, or more, and come in random order. They grow while
    they are solved quickly, and shrink if they are not solved in time.

    Attributes
    ----------
    best : Schedule
        The best schedule so far.
    is_settled : bool
        Whether a slab that was all of it has been solved: nothing is better.
    """

    def __init__(self, schedule: Schedule, seed: int) -> None:
        graph = schedule.graph
        self._scale = scale_within(graph, schedule.makespan)
        self._is_exact = exact_scale(graph) % self._scale == 0
        self._coarse = coarsened(graph, self._scale, round_up=True)
        self._links = Links(self._coarse)
        self._random = random.Random(seed)
        self._size = float(_FIRST_OPS * len(graph.devices))
        self.learn(schedule)

    def learn(self, schedule: Schedule) -> None:
        """Go on from another schedule of the same op graph."""
        self.best = schedule
        self._timeline = self._replay(schedule)
        self.is_settled = self._timeline is None or not schedule.start

    def improve(
        self, effort: Effort, on_schedule: Callable[[Schedule], None] | None = None
    ) -> None:
        """Sweep until the effort is spent, or nothing is left to find.

        Every better schedule is reported.
        """
        budget = _Budget(effort)
        while budget.is_left and not self.is_settled:
            for begin in self._begins():
                best = self.best
                self._solve(begin, budget)
                if self.best is not best and on_schedule is not None:
                    on_schedule(self.best)
                if not budget.is_left or self.is_settled:
                    break

    def _begins(self) -> list[int]:
        """The places in time at which a sweep's slabs begin."""
        ops = len(self.best.start)
        step = max(1, round(min(self._size, ops) / 2))
        begins = list(range(-self._random.randrange(step), ops, step))
        self._random.shuffle(begins)
        return begins

    def _solve(self, begin: int, budget: _Budget) -> None:
        """Look for better times of one slab."""
        timeline = self._timeline
        assert timeline is not None
        slab = timeline.between(begin, begin + round(self._size))
        problem = timeline.problem(slab)
        result = run(
            problem.scope,
            Objective.MAKESPAN,
            budget.slab(len(slab)),
            hint=problem.hint,
            rules=PROBLEM,
        )
        budget.account()
        if result.start is not None:
            found = {op: problem.base + moment for op, moment in result.start.items()}
            self._take(timeline.with_slab(slab, found))
        is_solved = result.outcome in (Outcome.OPTIMAL, Outcome.INFEASIBLE)
        ops = len(self.best.start)
        if is_solved and budget.share < _QUICK:
            self._size = min(self._size * _GROWTH, 2 * ops)
        elif not is_solved and budget.share >= 1:
            self._size *= _SHRINKAGE
        if is_solved and self._is_exact and len(slab) == ops:
            self.is_settled = True

    def _take(self, schedule: Schedule) -> None:
        """Go on from a schedule in coarse ticks if its replay is shorter."""
        timeline = self._replay(schedule)
        assert self._timeline is not None
        known = self._timeline.schedule.makespan
        if timeline is None or timeline.schedule.makespan >= known:
            return
        self._timeline = timeline
        exact = self._in_ticks(timeline.schedule)
        if exact is not None and exact.makespan < self.best.makespan:
            self.best = exact

    def _replay(self, schedule: Schedule) -> Timeline | None:
        """A schedule in coarse ticks; None if its order does not fit then."""
        found = replayed_with_order(self._coarse, schedule, Objective.MAKESPAN)
        return None if found is None else Timeline(*found, self._links)

    def _in_ticks(self, coarse: Schedule) -> Schedule | None:
        """A schedule in the graph's own ticks; None if its order does not fit then."""
        graph = self.best.graph
        if self._is_exact:
            start = {op: moment * self._scale for op, moment in coarse.start.items()}
            return Schedule(graph, start)
        return replayed(graph, coarse, Objective.MAKESPAN)


class _Budget:
    """What is left of an effort, and each slab's part of it.

    By the clock or, where results must repeat, by deterministic effort.
    """

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._is_exact = effort.deterministic_time is not None
        self._most = _SLAB_S[self._is_exact]
        self._began = self._slab_began = time.monotonic()
        self._spent = self._slab_spent = 0.0

    @property
    def is_left(self) -> bool:
        """Whether another slab may be begun."""
        return self._left > _LEAST_SHARE * self._most

    @property
    def _left(self) -> float:
        if self._effort.deterministic_time is not None:
            return self._effort.deterministic_time - self._spent
        return self._effort.time_limit_s - (time.monotonic() - self._began)

    @property
    def share(self) -> float:
        """How much of the most that a slab may take the last one took."""
        return self._slab_spent / self._most

    def slab(self, ops: int) -> Effort:
        """The effort for the next slab, of so many ops."""
        seconds = min(self._most, self._left)
        self._slab_began, self._slab_spent = time.monotonic(), 0.0
        self._spend(_PER_OP_S * ops)
        return replace(
            self._effort,
            time_limit_s=self._effort.time_limit_s if self._is_exact else seconds,
            deterministic_time=seconds if self._is_exact else None,
            on_spent=self._spend,
            by_levels=False,
            settings=_SETTINGS,
        )

    def account(self) -> None:
        """The slab has ended."""
        if not self._is_exact:
            self._slab_spent = time.monotonic() - self._slab_began

    def _spend(self, seconds: float) -> None:
        self._slab_spent += seconds
        self._spent += seconds
        if self._effort.on_spent is not None:
            self._effort.on_spent(seconds)
