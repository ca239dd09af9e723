"""Packing a refresh while the pipeline's ops slide, and proving that none exists.

Times first: starts for all steps of the cycle such that every device's spaces hold its
items, if their order did not matter (``Detail.LOADS``). With these times every
component of devices is packed by itself, in full. Devices for which that fails are
counted in more detail the next time. The frame's own times come before all others.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ortools.sat.python import cp_model

from schedopt.cpsat.model import Effort, Outcome, solver_of
from schedopt.cpsat.packing import components
from schedopt.cpsat.sliding_counts import Counts, Detail, mirror_of, scale_of
from schedopt.cpsat.sliding_layout import steps_of, with_syncs, work_of
from schedopt.cpsat.sliding_rules import add_rules
from schedopt.cpsat.sliding_times import Sequences, Steps, Windows, sequences_of
from schedopt.ops import Op
from schedopt.refresh.cycle import Cycle
from schedopt.refresh.frame import Frame
from schedopt.refresh.problem import Problem, problem_of, without_memory

_FINER = {
    Detail.LOADS: Detail.KINDS,
    Detail.KINDS: Detail.SHARES,
    Detail.SHARES: Detail.SHARES,
}
_SHARE_OF_TIMES = 0.3  # of what is left


@dataclass(frozen=True, slots=True)
class SlidingResult:
    """What a run found: a packing, or nothing; infeasible if the order cannot be kept.

    Memory limits were not looked at.
    """

    outcome: Outcome
    packing: Cycle | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sliding:
    """What to pack.

    Attributes
    ----------
    frame : Frame
    interval : int
        Steps from one refresh to the next.
    wrap : bool
        Whether work may use the next cycle's gaps.
    latest : int or None
        The last step in which an inverse may be used for the first time.
    sequences : mapping or None
        The order of a step's ops on each stream; None keeps the frame's own.
    """

    frame: Frame
    interval: int
    wrap: bool = False
    latest: int | None = None
    sequences: Sequences | None = None

    def problem(self) -> Problem:
        """The work and the setting."""
        problem = problem_of(
            self.frame, self.interval, wrap=self.wrap, latest=self.latest
        )
        return without_memory(problem)

    def windows(self) -> Windows:
        """Earliest and latest starts."""
        return Windows(self.frame, self.sequences or sequences_of(self.frame))


def pack_sliding(task: Sliding, effort: Effort) -> SlidingResult:
    """Pack the work of all devices.

    Raises
    ------
    NotApplicableError
        If reductions of factors take time.
    """
    windows = task.windows()
    if windows.are_empty:
        return SlidingResult(Outcome.INFEASIBLE)
    packing = _Search(task, windows, effort).packing()
    if packing is None:
        return SlidingResult(Outcome.UNKNOWN)
    return SlidingResult(Outcome.FEASIBLE, packing)


def cannot_slide(task: Sliding, effort: Effort) -> bool:
    """Whether it is proven that no packing exists in this order, at any times.

    Looks at the loads of each device, then at each component's work.
    """
    windows, problem = task.windows(), task.problem()
    if windows.are_empty:
        return True
    end = time.monotonic() + effort.time_limit_s
    devices = range(len(task.frame.instance.devices))
    tries: list[Mapping[int, Detail]] = [{d: Detail.LOADS} for d in devices]
    tries.append(dict.fromkeys(devices, Detail.LOADS))
    tries += [dict.fromkeys(some, Detail.KINDS) for some in components(problem)]
    for number, details in enumerate(tries):
        left = end - time.monotonic()
        if left <= 0:
            break
        counts = Counts(problem, windows, details, relaxed=True)
        status, _ = _solved(counts, effort, left / (len(tries) - number))
        if status == cp_model.INFEASIBLE:
            return True
    return False


def fits_no_space(task: Sliding) -> str:
    """Why no interval allows a packing in this order; empty if that is not known.

    An op of a refresh is not interrupted, and takes one of the spaces that its device
    has between neighbours.
    """
    windows, problem = task.windows(), task.problem()
    if windows.are_empty:
        return "the order makes a step longer"
    devices = range(len(task.frame.instance.devices))
    longest = [windows.longest_space(device) for device in devices]
    needed = [0] * len(longest)
    for group in problem.classes:
        own = [(share.device, share.duration) for share in group.shares]
        fits = [one for one in group.inverting if one.duration <= longest[one.device]]
        if group.all_copies or not fits:
            own += [(one.device, one.duration) for one in group.inverting]
        for device, duration in own:
            needed[device] = max(needed[device], duration)
    units = task.frame.graph.units
    for device, (least, space) in enumerate(zip(needed, longest, strict=True)):
        if least > space:
            return (
                f"device {device} has at no times a gap of {units.time_of(least)}"
                f" {units.time}, which some op of its second-order work takes"
            )
    return ""


def loads_fit(task: Sliding, effort: Effort) -> bool:
    """Whether times exist for which every device's spaces hold its items.

    A necessary condition, found out fast; False also if the time was too short, or if
    only devices that mirror each other were looked at.
    """
    windows = task.windows()
    if windows.are_empty:
        return False
    search = _Search(task, windows, effort)
    return search.steps(dict.fromkeys(search.devices, Detail.LOADS), 1) is not None


def _solved(
    counts: Counts, effort: Effort, seconds: float
) -> tuple[cp_model.CpSolverStatus, cp_model.CpSolver]:
    add_rules(counts)
    solver = solver_of(effort)
    solver.parameters.max_time_in_seconds = min(seconds, effort.time_limit_s)
    return solver.solve(counts.model), solver


class _Search:
    def __init__(self, task: Sliding, windows: Windows, effort: Effort) -> None:
        self.task = task
        self.windows = windows
        self.effort = effort
        self.end = time.monotonic() + effort.time_limit_s
        self.problem = task.problem()
        self.twin = mirror_of(task.frame)
        count = len(task.frame.instance.devices)
        self.devices = tuple(range(count // 2 if self.twin else count))
        self.components: Sequence[tuple[int, ...]] = (
            [(device,) for device in self.devices]
            if self.twin
            else components(self.problem)
        )

    def packing(self) -> Cycle | None:
        """The first packing found."""
        for steps, details in self._times():
            start: dict[Op, int] = {}
            failed: list[int] = []
            for number, devices in enumerate(self.components):
                share = self._left() / (len(self.components) - number + 1)
                work = self._work(steps, devices, share)
                if work is None:
                    failed += devices
                else:
                    start |= work
            if not failed:
                counts = Counts(self.problem, self.windows, {}, twin=self.twin)
                start = with_syncs(counts, start)
                return Cycle(self.task.frame, self.task.wrap, tuple(steps), start)
            for device in failed:
                details[device] = _FINER[details[device]]
        return None

    def steps(
        self, details: Mapping[int, Detail], share: float, seed: int = 0
    ) -> Steps | None:
        """Times of all steps at which the counts of all devices fit."""
        counts = Counts(self.problem, self.windows, details, twin=self.twin)
        effort = replace(self.effort, seed=self.effort.seed + seed)
        status, solver = _solved(counts, effort, share * self._left())
        return steps_of(counts, solver) if _has_solution(status) else None

    def _times(self) -> Iterator[tuple[Steps, dict[int, Detail]]]:
        """Times to try; the details may be refined in between.

        If there are none in that detail, others are tried without it.
        """
        loads = dict.fromkeys(self.devices, Detail.LOADS)
        if self.task.sequences is None and self._are_times_exact:
            yield [self.task.frame.start] * self.task.interval, dict(loads)
        details = dict(loads)
        seed = 0
        while self._left() > 0:
            steps = self.steps(details, _SHARE_OF_TIMES, seed)
            if steps is not None:
                yield steps, details
            elif details == loads:
                break
            else:
                details = dict(loads)
            seed += 1

    def _work(
        self, steps: Steps, devices: Iterable[int], seconds: float
    ) -> dict[Op, int] | None:
        """The work of a component, at given times."""
        details = dict.fromkeys(devices, Detail.SHARES)
        counts = Counts(
            self.problem, self.windows, details, twin=self.twin, steps=steps
        )
        status, solver = _solved(counts, self.effort, seconds)
        return work_of(counts, solver) if _has_solution(status) else None

    @property
    def _are_times_exact(self) -> bool:
        """Whether the frame's own times are whole in the solver's coarse ticks."""
        scale = scale_of(self.problem)
        return not any(time % scale for time in self.task.frame.start.values())

    def _left(self) -> float:
        return self.end - time.monotonic()


def _has_solution(status: cp_model.CpSolverStatus) -> bool:
    return bool(status in (cp_model.OPTIMAL, cp_model.FEASIBLE))
