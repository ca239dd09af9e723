"""A refresh in the gaps of a pipeline that stands still.

Candidates are tried from the best on, each component of devices by itself; what is
found out about one of them holds for all that are easier, or harder. The first pass is
short; what it left undecided gets the rest of the time, best first; the last share of
it goes to memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

from schedopt.cpsat import Outcome, PackingResult, components, pack
from schedopt.ops import Op
from schedopt.refresh.bounds import best_bound, interval_bounds, interval_of
from schedopt.refresh.frame import Frame
from schedopt.refresh.problem import Packing, Problem, at, problem_of, without_memory
from schedopt.refresh.settings import Minimise
from schedopt.solve.deadline import Deadline
from schedopt.solve.interrupts import Interrupts, hearing_interrupts
from schedopt.solve.loosening import loosened
from schedopt.solve.refresh_attempts import WAYS, pack_component
from schedopt.solve.refresh_candidates import MOST_STEPS, Candidate, Candidates
from schedopt.solve.refresh_known import Known, greedy_packings, why_none
from schedopt.solve.refresh_solution import (
    Progress,
    RefreshParameters,
    RefreshSolution,
)
from schedopt.solve.solution import Status

_FIRST_PASS_S = 12.0  # per component of a candidate
_SHARE_OF_MEMORY = 0.25  # of the time limit
_LEAST_MEMORY_S = 1.0  # for all components together, though no time be left
_LOOSENING_S = 3.0  # per component and try


def solve_frozen(
    frame: Frame, parameters: RefreshParameters, progress: Progress
) -> RefreshSolution:
    """Pack the frame's second-order work as well as the time allows."""
    with hearing_interrupts() as interrupts:
        return _Search(frame, parameters, progress, interrupts).solve()


class _Search:
    def __init__(
        self,
        frame: Frame,
        parameters: RefreshParameters,
        progress: Progress,
        interrupts: Interrupts,
    ) -> None:
        self.began = time.monotonic()
        self.interrupts = interrupts
        self.deadline = Deadline(self.began + parameters.time_limit_s, interrupts)
        self.frame = frame
        self.parameters = parameters
        self.progress = progress
        full = problem_of(frame, 1, wrap=parameters.wrap)
        self.full = full
        self.has_limits = any(device.limit is not None for device in full.memory)
        self.free = full if self.has_limits else without_memory(full)
        self.known = [Known(devices, parameters.wrap) for devices in components(full)]
        self.bounds = interval_bounds(frame, wrap=parameters.wrap)
        least = interval_of(self.bounds)
        most = max(MOST_STEPS, least)
        for packing in greedy_packings(frame, wrap=parameters.wrap):
            most = max(most, packing.problem.interval)
            for known in self.known:
                known.learn(packing)
        self.candidates = Candidates(
            wrap=parameters.wrap,
            least_interval=least,
            # Work that may use any gap of a step once needs so many steps.
            least_steps=interval_of(interval_bounds(frame, wrap=False)),
            most_interval=most,
            uses_next_step=frame.has_gaps_at_its_end,
        )

    # -- solving --------------------------------------------------------------

    def solve(self) -> RefreshSolution:
        """Both passes over the candidates, and memory."""
        if reason := why_none(self.full, self.bounds):
            return self._solution(Status.INFEASIBLE, None, reason=reason)
        best = self._first_found()
        if best is None:
            reason = "no packing was found in time"
            return self._solution(Status.UNKNOWN, None, reason=reason)
        best = self._better_than(best)
        packing, memory_bound = self._with_least_memory(best)
        packing = self._loosened(packing)
        is_best = all(map(self._is_impossible, self._before(best)))
        if self.parameters.minimise is Minimise.MEMORY and memory_bound is not None:
            peak = max(packing.cycle.schedule.peak_memory)
            is_best = is_best and peak <= memory_bound
        status = Status.OPTIMAL if is_best else Status.FEASIBLE
        return self._solution(status, packing, memory=memory_bound)

    def _first_found(self) -> Candidate | None:
        """The first candidate for which a packing is known, or found by a short run."""
        for candidate in self._by_order():
            if self.deadline.left > 0 and self._decide(candidate, _FIRST_PASS_S):
                return candidate
            if all(known.start(candidate) is not None for known in self.known):
                return candidate
        return None

    def _better_than(self, best: Candidate) -> Candidate:
        """The best candidate, after longer runs of those that are undecided."""
        share_of_memory = _SHARE_OF_MEMORY * self.parameters.time_limit_s
        undecided = [c for c in self._before(best) if not self._is_impossible(c)]
        for number, candidate in enumerate(undecided):
            left = self.deadline.left - share_of_memory
            if left <= 0:
                break
            share = left / len(self.known) / (len(undecided) - number)
            if not self._is_impossible(candidate) and self._decide(candidate, share):
                return candidate
        return best

    def _before(self, best: Candidate) -> list[Candidate]:
        """The candidates that would be better."""
        return list(takewhile(lambda c: c != best, self._by_order()))

    def _by_order(self) -> Iterator[Candidate]:
        return self.candidates.by(self.parameters.minimise)

    def _is_impossible(self, candidate: Candidate) -> bool:
        return any(known.is_impossible(candidate) for known in self.known)

    def _decide(self, candidate: Candidate, seconds: float) -> bool:
        """Try every component; whether all have a packing."""
        for known in self.known:
            if known.start(candidate) is not None:
                continue
            if known.is_impossible(candidate):
                return False
            result = self._pack(known.devices, candidate, seconds)
            if result.outcome is Outcome.INFEASIBLE:
                known.impossible.append(candidate)
            if result.start is None:
                return False
            known.found[candidate] = result.start
        self.progress(f"interval {candidate.interval}, age {candidate.age}")
        return True

    def _pack(
        self, devices: tuple[int, ...], candidate: Candidate, seconds: float
    ) -> PackingResult:
        problem = self._at(self.free, candidate)
        end = self.began + self.parameters.time_limit_s
        try:
            with self.interrupts.let_in():
                effort = self.parameters.effort(seconds)
                return pack_component(problem, devices, effort, end)
        except KeyboardInterrupt:
            return PackingResult(Outcome.UNKNOWN, None)

    def _with_least_memory(self, candidate: Candidate) -> tuple[Packing, int | None]:
        """A packing of a candidate, with as low a peak as the time allows."""
        starts = [known.start(candidate) or {} for known in self.known]
        packing = self._packing(candidate, starts)
        if not any(share.size for g in self.full.classes for share in g.shares):
            return packing, None
        peaks = packing.cycle.schedule.peak_memory
        bound = 0
        for number, known in enumerate(self.known):
            if self.interrupts.heard:
                break
            share = max(
                _LEAST_MEMORY_S / len(self.known),
                self.deadline.left / (len(self.known) - number),
            )
            peak = max(peaks[device] for device in known.devices)
            start, least = self._least_peak(packing.problem, known, share, peak)
            bound = max(bound, least)
            if start is not None:
                starts[number] = start
        return self._packing(candidate, starts), bound

    def _least_peak(
        self, problem: Problem, known: Known, seconds: float, peak: int
    ) -> tuple[Mapping[Op, int] | None, int]:
        """A packing of a component with a lower peak, if found; what none is below."""
        start, bound = None, 0
        for way in WAYS:
            if bound >= peak:
                break
            result = pack(
                problem,
                known.devices,
                self.parameters.effort(seconds / len(WAYS)),
                minimise_memory=True,
                **way,
            )
            bound = max(bound, result.peak_bound or 0)
            if result.start is not None and (result.peak or 0) < peak:
                start, peak = result.start, result.peak or 0
        return start, bound

    def _loosened(self, packing: Packing) -> Packing:
        """The same interval, age and peak, but with more tolerance, if time is left."""

        def pack_longer(
            problem: Problem, devices: tuple[int, ...]
        ) -> Mapping[Op, int] | None:
            seconds = min(_LOOSENING_S, self.deadline.left)
            if seconds <= 0:
                return None
            effort = self.parameters.effort(seconds)
            return pack(problem, devices, effort, outlined=True).start

        devices = [known.devices for known in self.known]
        found = loosened(packing, devices, pack_longer, lambda: self.deadline.left <= 0)
        return packing if found is packing else self._checked(found)

    # -- results --------------------------------------------------------------

    def _packing(
        self, candidate: Candidate, starts: Sequence[Mapping[Op, int]]
    ) -> Packing:
        """The components' packings together."""
        start = {op: begin for part in starts for op, begin in part.items()}
        return self._checked(Packing(self._at(self.full, candidate), start, "packing"))

    @staticmethod
    def _checked(packing: Packing) -> Packing:
        """The packing, after the verifier has passed it."""
        if broken := packing.cycle.broken:
            msg = f"a packing breaks a rule, which is a fault of schedopt: {broken[0]}"
            raise AssertionError(msg)
        return packing

    def _least_interval(self) -> int:
        """The first interval that has not been proven impossible."""
        for candidate in self.candidates.at_any_age():
            if not self._is_impossible(candidate):
                return candidate.interval
        return self.candidates.most_interval + 1

    def _least_age(self) -> int:
        """The first age that has not been proven impossible."""
        for candidate in self.candidates.by_age():
            if not self._is_impossible(candidate):
                return candidate.age
        return self.candidates.most_age

    def _solution(
        self,
        status: Status,
        packing: Packing | None,
        *,
        memory: int | None = None,
        reason: str = "",
    ) -> RefreshSolution:
        is_impossible = status is Status.INFEASIBLE
        return RefreshSolution(
            frame=self.frame,
            parameters=self.parameters,
            status=status,
            cycle=None if packing is None else packing.cycle,
            bound=best_bound(self.bounds),
            least_interval=None if is_impossible else self._least_interval(),
            least_age=None if is_impossible else self._least_age(),
            memory_bound=memory,
            wall_seconds=time.monotonic() - self.began,
            reason=reason,
        )

    def _at(self, problem: Problem, candidate: Candidate) -> Problem:
        return at(
            problem,
            candidate.interval,
            wrap=self.parameters.wrap,
            latest=candidate.latest,
        )
