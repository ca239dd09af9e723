"""The least cycle of so many microbatches, by halving between what is known.

Cycles are asked for in beats. "Infeasible" holds for all shorter ones, so what remains
is an interval: from the least cycle not refuted to the longest that would be better
than what is known. Each question is first asked under a restriction that makes good
answers easy to find: the first op of every stream starts as soon as it can.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from schedopt.cpsat.model import Effort, Outcome
from schedopt.cpsat.modulo import beat_of, schedule_cycle
from schedopt.steady import CycleProblem, Periodic, shortened, stretched

_FIRST_TRY_S = 2.0

_LEAST_EFFORT_S = 0.01

_WAYS = ((True, 2), (False, 1), (False, 0))
"""How a question is asked, in turn: restricted or not, linearization level."""


class CycleSearch:
    """Questions about one problem, and what the answers leave open.

    Parameters
    ----------
    least : int
        A bound on the cycle, ticks.
    """

    def __init__(self, problem: CycleProblem, least: int) -> None:
        self.problem = problem
        self.best: Periodic | None = None
        self._beat = beat_of(problem)
        self._least = least
        self._low = max(1, -(-least // self._beat))
        self._share = 0.0
        self._way = 0
        self._try_s = _FIRST_TRY_S
        self._tight = first_ops(problem)

    @property
    def refuted(self) -> int:
        """Ticks: there is no periodic schedule with a cycle of at most as many."""
        return max((self._low - 1) * self._beat, self._least - 1)

    def is_over(self, below: int) -> bool:
        """Whether no beat is left whose cycle has a period below ``below`` ticks."""
        return self._low > self._high(below)

    def ask(self, effort: Effort, below: int) -> Periodic | None:
        """One question for a period below ``below`` ticks; a better schedule or None.

        It takes no longer than the effort allows.
        """
        high = self._high(below)
        cycle = self._low + round((high - self._low) * self._share)
        restricted, level = _WAYS[self._way]
        tight = self._tight if restricted else ()
        result = schedule_cycle(
            self.problem,
            cycle * self._beat,
            self._limited(effort, level),
            tight=tight,
            hint=self.best,
        )
        if result.periodic is not None:
            self._share = 0.5
            self.best = self._whole(result.periodic)
            return self.best if self.best.period < below else None
        if result.outcome is Outcome.INFEASIBLE and not tight:
            self._low = cycle + 1
            self._share, self._way = 0.5, 0
            return None
        self._turn_to_another()
        return None

    def _high(self, below: int) -> int:
        return (below * self.problem.microbatches - 1) // self._beat

    def _turn_to_another(self) -> None:
        """The next way to ask; then a longer cycle, which is easier; then more time."""
        self._way = (self._way + 1) % len(_WAYS)
        if self._way == 0:
            self._share = (self._share + 1) / 2
            if self._share > 0.9:
                self._share = 0.5
                self._try_s *= 2

    def _limited(self, effort: Effort, level: int) -> Effort:
        limit = effort.deterministic_time
        return replace(
            effort,
            time_limit_s=effort.time_limit_s
            if limit is not None
            else min(effort.time_limit_s, self._try_s),
            deterministic_time=None if limit is None else min(limit, self._try_s),
            settings={**effort.settings, "linearization_level": level},
        )

    def _whole(self, periodic: Periodic) -> Periodic:
        """With a cycle of whole ticks per microbatch, as short as its decisions let."""
        count = self.problem.microbatches
        return shortened(
            stretched(periodic, -(-periodic.cycle // count) * count), self._least
        )


def first_ops(problem: CycleProblem) -> tuple[int, ...]:
    """The ops of every stream that come before all others there, with one predecessor.

    For one stage per device these are the forwards, for several those of the first.
    """
    found: dict[int, None] = {}
    for numbers in problem.streams.values():
        first = problem.ops[numbers[0]].op
        for number in numbers:
            op = problem.ops[number].op
            if op._replace(microbatch=first.microbatch) == first:
                found[number] = None
    return tuple(n for n in found if len(problem.predecessors[n]) == 1)


def search_cycles(
    search: CycleSearch,
    effort: Effort,
    below: int,
    report: Callable[[Periodic], None],
) -> None:
    """Ask until the effort is spent or nothing is open; report what is ever better.

    The effort's limits are for all questions together.
    """
    began, spent = time.monotonic(), 0.0

    def spend(seconds: float) -> None:
        nonlocal spent
        spent += max(seconds, _LEAST_EFFORT_S)
        if effort.on_spent is not None:
            effort.on_spent(seconds)

    while not search.is_over(below):
        left = effort.time_limit_s - (time.monotonic() - began)
        limit = effort.deterministic_time
        rest = None if limit is None else limit - spent
        if (left if rest is None else rest) <= 0:
            return
        found = search.ask(
            replace(effort, time_limit_s=left, deterministic_time=rest, on_spent=spend),
            below,
        )
        if found is not None:
            below = found.period
            report(found)
