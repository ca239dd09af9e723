"""A refresh in the gaps of a pipeline whose ops slide, or change their order.

What is found where the pipeline stands still is the start: only candidates that are
better are tried, first with the frame's own order, then with others. A short pass goes
over them from the best on; what it left undecided gets the rest of the time.

Memory limits are not in the models, so a packing that breaks one, as the verifier says,
is no result. That the frame's order allows none is proven for that order only: where
others are allowed, nothing but the bounds at any times counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile

from schedopt.cpsat import Sliding, fits_no_space
from schedopt.refresh.bounds import STRICT, best_bound, interval_of
from schedopt.refresh.cycle import Cycle
from schedopt.refresh.frame import Frame
from schedopt.refresh.moving_bounds import bounds_at_any_times
from schedopt.refresh.settings import Freedom, Minimise
from schedopt.solve.deadline import Deadline
from schedopt.solve.interrupts import Interrupts, hearing_interrupts
from schedopt.solve.refresh_attempts import Packed, attempt
from schedopt.solve.refresh_candidates import MOST_STEPS, Candidate, Candidates
from schedopt.solve.refresh_solution import (
    Progress,
    RefreshParameters,
    RefreshSolution,
)
from schedopt.solve.solution import Status

_FIRST_PASS_S = 10.0  # per candidate
_SHARE_OF_SLIDING = 0.5  # of the time, where the order may change as well


def improve_moving(
    frozen: RefreshSolution,
    parameters: RefreshParameters,
    progress: Progress,
) -> RefreshSolution:
    """Better a packing of a frame that stands still, with the time that is left.

    The bounds of the solution hold for everything that ``parameters.freedom`` allows.
    """
    with hearing_interrupts() as interrupts:
        return _Search(frozen, parameters, progress, interrupts).solve()


class _Search:
    def __init__(
        self,
        frozen: RefreshSolution,
        parameters: RefreshParameters,
        progress: Progress,
        interrupts: Interrupts,
    ) -> None:
        self.interrupts = interrupts
        self.began = time.monotonic() - frozen.wall_seconds
        self.deadline = Deadline(self.began + parameters.time_limit_s, interrupts)
        self.frame = frozen.frame
        self.parameters = parameters
        self.progress = progress
        self.frozen = frozen
        self.best: Packed | None = None
        if frozen.cycle is not None:
            self.best = Packed(frozen.cycle, Freedom.FROZEN, 0)
        self.bounds = bounds_at_any_times(frozen.frame, wrap=parameters.wrap)
        self.candidates = _candidates(frozen.frame, parameters, frozen.cycle)
        self.impossible: set[Candidate] = set()  # in the frame's order
        self.too_long = fits_no_space(Sliding(frame=self.frame, interval=1))

    def solve(self) -> RefreshSolution:
        """One freedom after the other."""
        if reason := self._impossible():
            return self._solution(Status.INFEASIBLE, reason)
        if not self.too_long:
            share = _SHARE_OF_SLIDING if self._may_reorder else 1.0
            self._improve(Freedom.SLIDING, self.deadline.part(share))
        if self._may_reorder:
            self._improve(Freedom.REORDERED, self.deadline)
        if self.best is None:
            return self._solution(Status.UNKNOWN, "no packing was found in time")
        is_best = all(self._is_impossible(one) for one in self._better())
        return self._solution(Status.OPTIMAL if is_best else Status.FEASIBLE)

    def _impossible(self) -> str:
        """Why there is no packing at any interval; empty if that is not known."""
        for bound in self.bounds:
            if bound.interval is None:
                return f"device {bound.devices[0]} has no idle time for its work"
        return "" if self._may_reorder else self.too_long

    @property
    def _may_reorder(self) -> bool:
        return self.parameters.freedom is Freedom.REORDERED

    # -- candidates -----------------------------------------------------------

    def _better(self) -> Iterator[Candidate]:
        """The candidates that would be better than what is known, best first."""
        minimise = self.parameters.minimise
        every = self.candidates.by(minimise)
        if self.best is None:
            return every
        cycle = self.best.cycle
        known = Candidate(cycle.interval, cycle.first_use or 0).rank(minimise)
        return takewhile(lambda candidate: candidate.rank(minimise) < known, every)

    def _is_impossible(self, candidate: Candidate) -> bool:
        """Whether it is proven, for all that is allowed; bounds left it open."""
        return not self._may_reorder and any(
            other.interval == candidate.interval and candidate.latest <= other.latest
            for other in self.impossible
        )

    # -- solving --------------------------------------------------------------

    def _improve(self, freedom: Freedom, end: Deadline) -> None:
        """A short pass over the candidates; then those that it left undecided.

        Where the interval is minimised, each is first tried at any age.
        """
        if self.parameters.minimise is Minimise.INTERVAL:
            self._improve_at_any_age(freedom, end)
        undecided = []
        for candidate in self._better():
            left = end.left
            if left <= 0 or self._found(candidate, freedom, min(left, _FIRST_PASS_S)):
                break
            undecided.append(candidate)
        for number, candidate in enumerate(undecided):
            left = end.left / (len(undecided) - number)
            if left <= 0 or (
                not self._is_impossible(candidate)
                and self._found(candidate, freedom, left)
            ):
                break

    def _improve_at_any_age(self, freedom: Freedom, end: Deadline) -> None:
        """Shorter intervals, in half of the time."""
        known = self.best.cycle.interval if self.best else MOST_STEPS
        shorter = [c for c in self.candidates.at_any_age() if c.interval < known]
        seconds = end.left / 2
        for candidate in shorter:
            share = max(_FIRST_PASS_S, seconds / len(shorter))
            left = end.left
            if left <= 0 or self._found(candidate, freedom, min(left, share)):
                break

    def _found(self, candidate: Candidate, freedom: Freedom, seconds: float) -> bool:
        """Whether a packing of a candidate is found; it is then the best."""
        task = Sliding(
            frame=self.frame,
            interval=candidate.interval,
            wrap=self.parameters.wrap,
            latest=candidate.latest,
        )
        try:
            with self.interrupts.let_in():
                found = attempt(freedom, task, self.parameters.effort(seconds))
        except KeyboardInterrupt:
            return False
        what = f"interval {candidate.interval}, age {candidate.age}, {freedom.value}"
        if found.is_impossible:
            self.impossible.add(candidate)
        if found.breaks_memory:
            self.progress(f"{what}: breaks a memory limit")
        if found.packed is None:
            return False
        self.best = found.packed
        self.progress(what)
        return True

    # -- results --------------------------------------------------------------

    def _solution(self, status: Status, reason: str = "") -> RefreshSolution:
        found = self.best
        is_impossible = status is Status.INFEASIBLE
        least_interval = least_age = None
        if not is_impossible:
            least_interval = next(
                (
                    candidate.interval
                    for candidate in self.candidates.at_any_age()
                    if not self._is_impossible(candidate)
                ),
                self.candidates.most_interval + 1,
            )
            least_age = next(
                (
                    candidate.age
                    for candidate in self.candidates.by_age()
                    if not self._is_impossible(candidate)
                ),
                self.candidates.most_age,
            )
        return replace(
            self.frozen,
            parameters=self.parameters,
            status=status,
            cycle=found and found.cycle,
            freedom=found.freedom if found else Freedom.FROZEN,
            swaps=found.swaps if found else 0,
            bound=best_bound(self.bounds),
            least_interval=least_interval,
            least_age=least_age,
            memory_bound=None,
            wall_seconds=time.monotonic() - self.began,
            reason=reason,
        )


def _candidates(
    frame: Frame, parameters: RefreshParameters, known: Cycle | None
) -> Candidates:
    """What the bounds at any times leave.

    In how many steps the work can be done is known only where all devices end a step
    together: then the strict bound holds for the steps up to the last one, even if work
    wraps. Elsewhere a step's ops may move so far that no count of steps says anything.
    """
    together = frame.ends_together
    least = interval_of(bounds_at_any_times(frame, wrap=parameters.wrap))
    strict = [
        bound
        for bound in bounds_at_any_times(frame, wrap=False)
        if bound.name == STRICT and together
    ]
    most = max(MOST_STEPS, least, 0 if known is None else known.interval)
    return Candidates(
        wrap=parameters.wrap,
        least_interval=least,
        least_steps=interval_of(strict),
        most_interval=most,
        uses_next_step=parameters.wrap or not together or frame.has_gaps_at_its_end,
    )
