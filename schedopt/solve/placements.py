"""Solving an instance in several placements, most of the time in the best ones.

All are solved for a little while; then the better half goes on from where it was, for
twice as long each, and so forth until one is left (successive halving). A placement
whose lower bound is not below the best value found is dropped, also before its first
run; when one is proven, its time goes to the others.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from schedopt.bounds import quick_bounds
from schedopt.build import build_graph, shortfalls
from schedopt.build.placements import Candidate, candidates_of
from schedopt.formats import Limits
from schedopt.instance import Instance
from schedopt.solve.incumbent import Progress
from schedopt.solve.interrupts import Interrupts, hearing_interrupts
from schedopt.solve.solution import Solution, SolveParameters, Status, TraceEntry
from schedopt.solve.solving import solve

_LEAST_S = 0.01
"""Seconds below which there is no time left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementTrial:
    """A placement and what was found for it; times in ticks.

    Attributes
    ----------
    name : str
        The placement and, where it is not 1, the stages per device.
    lower_bound : int
        Proven: no schedule in this placement has a smaller value; 0 if nothing is.
    solution : Solution or None
        None: it was dropped before its first run, since ``lower_bound`` is not below
        the best value, or time was up.
    """

    name: str
    instance: Instance
    lower_bound: int
    solution: Solution | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementSearch:
    """The placements of an instance side by side, at equal memory.

    Attributes
    ----------
    best : Solution
        The best one; of equal ones the first, so that the instance's own placement
        stays unless another one is better. Its times and its trace are those of the
        whole search.
    trials : tuple of PlacementTrial
        The instance's own placement first.
    not_tried : tuple of (name, reason)
        Placements that the instance's stages cannot have.
    """

    best: Solution
    trials: tuple[PlacementTrial, ...]
    not_tried: tuple[tuple[str, str], ...]

    @property
    def lower_bound(self) -> int:
        """No schedule in any of the trials has a smaller value, ticks."""
        return min(
            (
                trial.lower_bound
                for trial in self.trials
                if trial.solution is None
                or trial.solution.status is not Status.INFEASIBLE
            ),
            default=0,
        )

    @property
    def gap(self) -> float | None:
        """(best value - lower bound) / best value; None without a schedule."""
        return replace(self.best, lower_bound=self.lower_bound).gap


def solve_placements(
    instance: Instance,
    parameters: SolveParameters | None = None,
    progress: Progress | None = None,
    *,
    limits: Limits | None = None,
) -> PlacementSearch:
    """Find the best placement of the instance's stages, and a good schedule in it.

    The time limit is for all placements together, which are solved one after the other.
    ``limits`` bound the size of the instances that are tried. Ctrl-C is as for
    ``solve``; it is raised only if nothing has been solved yet.
    """
    parameters = parameters or SolveParameters()
    found = candidates_of(instance, limits)
    contest = _Contest(found.tried, parameters, progress)
    with hearing_interrupts() as interrupts, interrupts.hold_back():
        try:
            contest.run(interrupts)
        except KeyboardInterrupt:
            contest.interrupted = True
        contest.interrupted |= interrupts.take()
    return PlacementSearch(
        best=contest.best(), trials=contest.trials(), not_tried=found.not_tried
    )


@dataclass(slots=True)
class _Entry:
    """A placement in the contest; ``is_over`` if more time would change nothing."""

    candidate: Candidate
    lower_bound: int = 0
    solution: Solution | None = None
    is_over: bool = False
    seconds: float = 0.0
    trace: list[TraceEntry] = field(default_factory=list)

    @property
    def value(self) -> int | None:
        return None if self.solution is None else self.solution.value

    def note(self, entry: TraceEntry) -> bool:
        """Whether it is an improvement on what earlier runs had; if so, keep it."""
        if self.trace:
            value, bound = self.trace[-1].value, self.trace[-1].lower_bound or 0
            shorter = entry.value is not None and (value is None or entry.value < value)
            if not shorter and (entry.lower_bound or 0) <= bound:
                return False
        self.trace.append(entry)
        return True


class _Contest:
    """Shares the time out, one run after the other."""

    def __init__(
        self,
        candidates: tuple[Candidate, ...],
        parameters: SolveParameters,
        progress: Progress | None,
    ) -> None:
        self._entries = [_Entry(candidate) for candidate in candidates]
        self._parameters = parameters
        own = candidates[0].instance
        self._objective = parameters.objective or own.objective
        self._progress = progress
        self._began = time.monotonic()
        self._spent_s = 0.0
        self._shortest_first_s = 0.0
        self.interrupted = False

    # -- results ------------------------------------------------------------------

    def best(self) -> Solution:
        """The best solution, with the times of the whole contest."""
        solved = [entry for entry in self._entries if entry.solution is not None]
        if not solved:
            raise KeyboardInterrupt
        best = min(solved, key=_rank_of_solved)
        assert best.solution is not None
        return replace(
            best.solution,
            wall_seconds=self._elapsed_s(),
            parameters=self._parameters,
            trace=tuple(best.trace),
            interrupted=self.interrupted,
        )

    def trials(self) -> tuple[PlacementTrial, ...]:
        """Every entry as it stands."""
        return tuple(
            PlacementTrial(
                name=entry.candidate.name,
                instance=entry.candidate.instance,
                lower_bound=entry.lower_bound,
                solution=entry.solution
                and replace(
                    entry.solution,
                    wall_seconds=entry.seconds,
                    parameters=self._parameters,
                    trace=tuple(entry.trace),
                ),
            )
            for entry in self._entries
        )

    # -- the contest --------------------------------------------------------------

    def run(self, interrupts: Interrupts) -> None:
        """Rounds of runs, each with half as many places, until time is up."""
        places = len(self._entries)
        number = 0
        while contest := self._open()[:places]:
            rounds = (len(contest) - 1).bit_length() + 1
            after = self._left_s() * (1 - 1 / rounds)
            for index in range(len(contest)):
                if number == 0 and index == 1:  # now there is a value to compare with
                    self._bound_others(interrupts)
                    contest[1:] = sorted(contest[1:], key=lambda one: one.lower_bound)
                if self._is_time_up() or interrupts.heard:
                    return
                entry = contest[index]
                if self._is_too_late_for(entry):
                    entry.is_over = True
                elif not self._is_beaten(entry):
                    share = (self._left_s() - after) / (len(contest) - index)
                    self._run(entry, max(0.0, share), number)
            places = -(-places // 2)
            number += 1

    def _open(self) -> list[_Entry]:
        """Those that may win yet, the most promising first."""
        return sorted(
            (
                entry
                for entry in self._entries
                if not entry.is_over and not self._is_beaten(entry)
            ),
            key=lambda entry: (entry.value is None, entry.value, entry.lower_bound),
        )

    def _is_beaten(self, entry: _Entry) -> bool:
        """Whether it cannot be better than the best so far."""
        values = [one.value for one in self._entries if one.value is not None]
        return bool(values) and entry.lower_bound >= min(values)

    def _bound_others(self, interrupts: Interrupts) -> None:
        """The quick bounds of what is not solved yet: they order it, or exclude it."""
        for entry in self._entries:
            if entry.solution is not None or self._is_time_up():
                continue
            with interrupts.let_in():
                graph = build_graph(entry.candidate.instance)
                if not shortfalls(graph):  # else solving says at once what is short
                    bounds = quick_bounds(graph, self._objective)
                    entry.lower_bound = max(bounds.values(), default=0)

    def _run(self, entry: _Entry, seconds: float, number: int) -> None:
        """Solve it for a while, from where it was; other random choices every time."""
        parameters = self._parameters
        offset = self._elapsed_s()

        def note(found: TraceEntry) -> None:
            later = replace(found, seconds=offset + found.seconds)
            if entry.note(later) and self._progress is not None:
                member = f"{entry.candidate.name}: {found.member}"
                self._progress(replace(later, member=member))

        earlier = entry.solution
        solution = solve(
            entry.candidate.instance,
            replace(parameters, time_limit_s=seconds, seed=parameters.seed + number),
            note,
            known=earlier,
        )
        reasons = [solution.reason] if earlier is None else [earlier.reason]
        if solution.reason not in reasons:
            reasons.append(solution.reason)
        entry.solution = replace(solution, reason="; ".join(filter(None, reasons)))
        entry.lower_bound = solution.lower_bound
        if earlier is None:
            first_s = solution.wall_seconds
            self._shortest_first_s = min(first_s, self._shortest_first_s or first_s)
        entry.seconds += solution.wall_seconds
        self._spent_s += seconds
        proven = solution.status in (Status.OPTIMAL, Status.INFEASIBLE)
        # Back long before its time is up: its members had nothing more to do.
        idle = not parameters.reproducible and solution.wall_seconds < seconds / 2
        entry.is_over = proven or idle

    # -- time ---------------------------------------------------------------------

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def _left_s(self) -> float:
        """Seconds left by the clock, or of the effort that is not given out yet."""
        parameters = self._parameters
        used = self._spent_s if parameters.reproducible else self._elapsed_s()
        return max(0.0, parameters.time_limit_s - used)

    def _is_too_late_for(self, entry: _Entry) -> bool:
        """Whether its first schedules would come after the time, by those of others."""
        if entry.solution is not None or self._parameters.reproducible:
            return False
        return self._left_s() < self._shortest_first_s

    def _is_time_up(self) -> bool:
        solved = any(entry.solution is not None for entry in self._entries)
        return solved and self._left_s() <= _LEAST_S


def _rank_of_solved(entry: _Entry) -> tuple[bool, int, bool]:
    """By value; of those without a schedule, infeasible ones last."""
    solution = entry.solution
    assert solution is not None
    infeasible = solution.status is Status.INFEASIBLE
    return solution.value is None, solution.value or 0, infeasible
