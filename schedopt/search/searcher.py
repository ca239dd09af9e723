"""A search that goes on in steps: greedy rules, climbing on them, annealing of orders.

Each step is a fixed amount of work that depends on the seed and on the schedules given,
never on the clock, so that a number of steps gives the same result everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count

import numpy as np

from schedopt.lattice import Ints, Problem, Windows, windows_by
from schedopt.schedule import Schedule
from schedopt.search.anneal import Annealing, anneal
from schedopt.search.climbing import Climber
from schedopt.search.grid import Grid
from schedopt.search.guided import Rule
from schedopt.search.rehearsal import with_fewer_microbatches
from schedopt.search.tables import ends_of, schedule_of, tables_of

_COMPILE_FROM = 250
"""Ops from which the greedies are compiled; annealing always is, after the rest."""

_MOST_STEPS = 25_000_000
"""Steps of the lattices that guide."""

_MOST_FULL = 2_000
"""Steps from which on a stream's lattice leaves out fillers: it guides as well."""

_ANNEAL_UP_TO = 20_000
"""Ops from which on the moves of annealing are too few to help."""

_LEEWAY = 1.03
"""The guiding windows are those of schedules this much longer than the best one."""

_WORTH_NEW_WINDOWS = 1.01

_ELITE = 6
_ANY = 2**60

# Seconds that work takes, about, so that runs can be measured without a clock.
_S_PER_OP_GUIDED = {True: 4e-7, False: 1e-4}
_S_PER_OP_GREEDY = {True: 4e-7, False: 4e-5}
_S_PER_OP = 6e-9
_S_PER_MOVE = 3e-7

_CLIMB_S = (1.5, 2.0, 3.0, 4.0)
_ANNEAL_S = (1.0, 1.5, 2.0, 3.0, 5.0)
_GRID_S = 1.5
"""For the greedy on lanes to begin with, if it finds something. With ample memory and
equal stages one of its first rules is the best."""

_REHEARSAL_S = 3.0
_GRID_SHARE = 0.2
"""Of the time for climbing, what the greedy on lanes gets; all if nothing guides, and
nothing on large problems if something does."""


class Searcher:
    """Improves schedules of one problem.

    Parameters
    ----------
    starts : schedules
        Known schedules of the graph; every hand-made one is worth giving.
    rules_only : bool
        Whether nothing is annealed.

    Attributes
    ----------
    spent : float
        The work done so far, in seconds of a usual machine; counted, not measured.
    """

    def __init__(
        self,
        problem: Problem,
        starts: list[Schedule],
        seed: int,
        *,
        rules_only: bool = False,
    ) -> None:
        self._problem = problem
        self._rng = random.Random(seed)
        self._elite: list[tuple[int, Ints]] = []
        self._compile = len(problem.ops) >= _COMPILE_FROM
        self._grid = Grid(problem, self._rng.randrange(2**31))
        self._climber = Climber(problem, self._rng.randrange(2**31))
        self._counted = 0
        self._windows: Windows | None = None
        self._rules_only = rules_only
        self._rehearsal: Searcher | None = None
        self._rehearsing: Iterator[str] = iter(())
        self.spent = 0.0
        if self._is_large:
            shorter = with_fewer_microbatches(problem)
            if shorter is not None and Searcher.applies(shorter):
                self._rehearsal = Searcher(
                    shorter, [], self._rng.randrange(2**31), rules_only=True
                )
                self._rehearsing = self._rehearsal.steps()
        for schedule in starts:
            self.learn(schedule)

    @staticmethod
    def applies(problem: Problem | None) -> bool:
        """Whether the problem has the structure that this search needs."""
        return problem is not None and tables_of(problem) is not None

    @property
    def _anneals(self) -> bool:
        in_vain = self._is_large and self._guiding is not None
        return not (self._rules_only or in_vain)

    @property
    def _useful(self) -> int:
        """The latest end that is worth keeping, beats: annealing begins with several.

        Schedules without that use are left as soon as they cannot be better.
        """
        if not self._anneals:
            return 0
        return self._elite[-1][0] if len(self._elite) == _ELITE else _ANY

    @property
    def _is_large(self) -> bool:
        return len(self._problem.ops) > _ANNEAL_UP_TO

    @property
    def rules(self) -> list[Rule]:
        """The guided greedy's best rules so far."""
        return self._climber.rules

    @property
    def best_makespan(self) -> int | None:
        """That of the best schedule so far, ticks."""
        return self._elite[0][0] * self._problem.beat if self._elite else None

    @property
    def best(self) -> Schedule | None:
        """The best schedule so far."""
        return schedule_of(self._problem, self._elite[0][1]) if self._elite else None

    def learn(self, schedule: Schedule) -> None:
        """Take note of a schedule that another member found."""
        self._keep(ends_of(self._problem, schedule.start))

    def steps(self) -> Iterator[str]:
        """Do one step after the other; yields each step's name when it is done."""
        for ends in self._grid.points(compile_loops=self._compile):
            self._keep(ends)
            self.spent += len(self._problem.ops) * _S_PER_OP_GREEDY[self._compile]
            yield "greedy"
            if self.spent > _GRID_S and self._elite:
                break
        yield from self._renew_windows()
        yield from self._rehearse()
        yield from self._draw()
        for number in count():
            begun = self.spent
            yield from self._climb(number)
            yield from self._rehearse()
            yield from self._renew_windows()
            if self._anneals:
                yield from self._anneal(number)
            elif self.spent == begun:
                self.spent += _REHEARSAL_S  # so that who counts it gets to an end
                yield "nothing"

    # -- greedy rules -------------------------------------------------------------

    def _renew_windows(self) -> Iterator[str]:
        """Windows that guide, a little wider than what the best schedule needs."""
        if not self._elite:
            return
        end = int(self._elite[0][0] * _LEEWAY)
        if self._windows is None:
            self._windows = windows_by(
                self._problem,
                end,
                most_steps=_MOST_STEPS,
                most_full=_MOST_FULL,
                compile_loops=self._compile,
            )
            assert self._windows is not None, "the best schedule keeps them"
        elif end * _WORTH_NEW_WINDOWS < self._windows.end:
            self._windows = self._windows.by(end)
        else:
            return
        self.spent += len(self._problem.ops) * _S_PER_OP + self._windows.spent
        yield "windows"
        listing_s = self._windows.spent
        if self._guiding is not None:
            for _ in self._windows.settle(compile_loops=self._compile):
                self.spent += len(self._problem.ops) * _S_PER_OP
                yield "windows"
            self.spent += self._windows.spent - listing_s

    @property
    def _guiding(self) -> Windows | None:
        """The windows, if they can guide."""
        windows = self._windows
        return windows if windows is not None and windows.is_whole else None

    def _draw(self) -> Iterator[str]:
        """Random rules."""
        until = self.spent + _CLIMB_S[0]
        windows = self._guiding
        while windows is not None and self.spent < until:
            self._keep(
                self._climber.draw(windows, self._useful, compile_loops=self._compile)
            )
            self._spend_guided()
            yield "guided"

    def _rehearse(self) -> Iterator[str]:
        """Go on with fewer microbatches, and try the best rules on all of them."""
        rehearsal, windows = self._rehearsal, self._guiding
        if rehearsal is None or windows is None:
            return
        if rehearsal.best_makespan is None and self.best is not None:
            rehearsal.learn(self.best)  # of a schedule, its first microbatches are one
        until = rehearsal.spent + _REHEARSAL_S
        for name in self._rehearsing:
            yield name
            if rehearsal.spent > until:
                break
        self.spent += rehearsal.spent - until + _REHEARSAL_S
        for rule in rehearsal.rules:
            self._keep(self._climber.adopt(windows, rule, compile_loops=self._compile))
            self._spend_guided()
            yield "guided"

    def _climb(self, number: int) -> Iterator[str]:
        """Better rules near the best, with and without a guide."""
        seconds = _CLIMB_S[min(number, len(_CLIMB_S) - 1)]
        windows = self._guiding
        guided_s = 0.0
        if windows is not None:
            guided_s = seconds * (1 if self._is_large else 1 - _GRID_SHARE)
        until = self.spent + guided_s
        while windows is not None and self.spent < until:
            self._keep(
                self._climber.climb(windows, self._useful, compile_loops=self._compile)
            )
            self._spend_guided()
            yield "guided"
        until += seconds - guided_s
        while self._grid.applies and self.spent < until:
            self._keep(self._grid.climb(compile_loops=self._compile))
            self.spent += len(self._problem.ops) * _S_PER_OP_GREEDY[self._compile]
            yield "greedy"

    def _spend_guided(self) -> None:
        """Count what the climber has done since this was called last."""
        effort = self._climber.effort
        self.spent += (effort - self._counted) * _S_PER_OP_GUIDED[self._compile]
        self._counted = effort

    # -- annealing ----------------------------------------------------------------

    def _anneal(self, number: int) -> Iterator[str]:
        ops = len(self._problem.ops)
        seconds = _ANNEAL_S[min(number, len(_ANNEAL_S) - 1)]
        if not self._elite:
            self.spent += seconds  # so that who counts it gets to an end
            yield "nothing"
            return
        moves = max(500, int(seconds / (ops * _S_PER_OP + _S_PER_MOVE)))
        for _ in range(3):
            rank = min(int(self._rng.expovariate(0.7)), len(self._elite) - 1)
            effort = Annealing(
                moves=moves,
                hot=self._rng.choice((0.1, 0.2, 0.45, 0.45, 0.9)),
                cold=0.02,
                reach=self._rng.choice((2.0, 3.0, 5.0, 10.0)),
            )
            seed = self._rng.randrange(2**31)
            self._keep(anneal(self._problem, self._elite[rank][1], effort, seed=seed))
            self.spent += moves * (ops * _S_PER_OP + _S_PER_MOVE)
            yield "annealing"

    def _keep(self, ends: Ints | None) -> None:
        """Among the best few of different makespans."""
        if ends is None:
            return
        makespan = int(ends.max(initial=0))
        if any(known == makespan for known, _ in self._elite):
            return
        if len(self._elite) == _ELITE and makespan > self._elite[-1][0]:
            return
        self._elite.append((makespan, np.asarray(ends)))
        self._elite.sort(key=lambda known: known[0])
        del self._elite[_ELITE:]
