"""The packing of a refresh into bins: how many equal items each bin takes.

Where the pipeline's ops keep their times, no intervals are needed. A variable counts
the shares of a class of equal factors, of one microbatch, that a bin takes; another one
the inversions of the class. That is exact for equal factors: they are completed in one
order, and the k-th to be inverted is the k-th whose shares are complete.

In a bin shares stand first, from its begin, and inversions last, up to its end; on one
device every packing that does not wrap can be brought to that form. So an inversion may
use shares of its own device in the same bin. Of those that the device with the other
copy of the stage makes at the same time it may use all if all of them end before the
first inversion begins, else none; and what is left of a factor for the next refresh has
no place after an inversion in the same bin. There, and where reductions take time, the
model is stricter than it need be, and ``relaxed`` the other way round: the one finds
packings, the other proves that there are none.

An *outline* counts items of one length together: the shares of all microbatches, and
factors of one kind (whose shares and inversions last equally long on the same devices).
No more of them are done than have data, and the k-th inversion of a kind waits for k
times as many shares as a factor has. Every packing has an outline, and the other way
round nearly so, as it hardly matters which factor an item is of; but an outline has few
variables, so that it is found or excluded in a moment even where gaps are nearly full.

Reading order: ``packing_counts`` (the variables), ``packing_rules``,
``packing_groups`` and ``packing_reductions`` (over copies), ``packing_memory``,
``packing_layout`` (start times).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ortools.sat.python import cp_model

from schedopt.cpsat import packing_rules as rules
from schedopt.cpsat.model import Effort, Outcome, solver_of
from schedopt.cpsat.packing_counts import Counts
from schedopt.cpsat.packing_layout import Layout
from schedopt.cpsat.packing_memory import memory_is_within_limits
from schedopt.cpsat.packing_reductions import Reductions
from schedopt.cpsat.packing_symmetry import earlier_data_comes_first
from schedopt.ops import Op
from schedopt.refresh.problem import Problem

_MOST_OUTLINES = 12
_PAIR = 2  # devices


@dataclass(frozen=True, slots=True)
class PackingResult:
    """What a run found.

    ``start`` are the starts of the refresh's ops, ticks from the cycle's start; None if
    none was found. ``peak`` is their peak memory and ``peak_bound`` what that of no
    packing can be below, grains; None if nothing is known.
    """

    outcome: Outcome
    start: dict[Op, int] | None
    peak: int | None = None
    peak_bound: int | None = None


def components(problem: Problem) -> tuple[tuple[int, ...], ...]:
    """Devices that share factors, together; others can be packed on their own."""
    group = {device: {device} for device in range(len(problem.bins))}
    for factors in problem.classes:
        devices = {one.device for one in factors.inverting}
        devices |= {share.device for share in factors.shares}
        together = set().union(*(group[device] for device in devices))
        for device in together:
            group[device] = together
    return tuple(sorted({tuple(sorted(devices)) for devices in group.values()}))


def pack(
    problem: Problem,
    devices: Sequence[int],
    effort: Effort,
    *,
    minimise_memory: bool = False,
    relaxed: bool = False,
    outlined: bool = False,
) -> PackingResult:
    """Pack the work of some devices (a component) into their bins.

    ``relaxed`` counts everything as soon as it may be there: it finds no packing, but
    proves that there is none, or none with a lower peak. ``outlined`` first counts
    items of one length together, of whatever microbatch and factor, which takes a
    moment, and then looks for a packing with this outline; relaxed, it stops there.
    """
    if outlined and not relaxed:
        return _pack_outlined(problem, devices, effort, minimise_memory)
    counts = Counts(problem, devices, relaxed=relaxed, together=outlined)
    run = _Run(counts, minimise_memory=minimise_memory)
    run.solve(effort)
    return run.bound() if relaxed else run.result()


def _pack_outlined(
    problem: Problem, devices: Sequence[int], effort: Effort, minimise_memory: bool
) -> PackingResult:
    """Outlines, one after the other, until one of them has a packing.

    Where there are two devices, in most outlines they do the same at the same time, as
    copies of the same stages may: there are fewer of these, and they are found sooner.
    """
    end = time.monotonic() + effort.time_limit_s
    bound = 0
    for number in range(_MOST_OUTLINES):
        left = end - time.monotonic()
        if left <= 0:
            break
        mirrored = len(devices) == _PAIR and number % 3 != 1
        counts = Counts(problem, devices, together=True)
        outline = _Run(counts, minimise_memory=minimise_memory, mirrored=mirrored)
        if number % 2 and not minimise_memory:
            rules.shares_come_early(counts)
        if not outline.solve(
            replace(effort, time_limit_s=left / 3, seed=effort.seed + number)
        ):
            if outline.is_impossible and not mirrored:
                return outline.bound()
            continue
        bound = max(bound, outline.bound().peak_bound or 0)
        run = _Run(
            Counts(problem, devices),
            minimise_memory=minimise_memory,
            mirrored=mirrored,
        )
        rules.keeps_outline(run.counts, counts, outline.solver)
        left = max(end - time.monotonic(), 0.1)
        if run.solve(replace(effort, time_limit_s=left / 2)):
            result = run.result()
            found = bound if minimise_memory else None
            return replace(result, outcome=Outcome.FEASIBLE, peak_bound=found)
    return PackingResult(Outcome.UNKNOWN, None)


class _Run:
    """A model with all rules, and what the solver says of it."""

    def __init__(
        self, counts: Counts, *, minimise_memory: bool, mirrored: bool = False
    ) -> None:
        self.counts = counts
        self._reductions = Reductions(counts)
        self._minimise_memory = minimise_memory
        self._is_proof = counts.relaxed or (counts.is_exact and not mirrored)
        self._status = cp_model.UNKNOWN
        _state(counts, self._reductions, mirrored=mirrored)
        if minimise_memory:
            counts.model.minimize(counts.peak)

    def solve(self, effort: Effort) -> bool:
        """Whether there is a solution, in time."""
        self.solver = solver_of(effort)
        self._status = self.solver.solve(self.counts.model)
        if effort.on_spent is not None:
            effort.on_spent(self.solver.response_proto.deterministic_time)
        return self._status in (cp_model.OPTIMAL, cp_model.FEASIBLE)

    @property
    def is_impossible(self) -> bool:
        """Whether the model has no solution; that proves something if it is exact."""
        return self._status == cp_model.INFEASIBLE

    def bound(self) -> PackingResult:
        """What has been proven, without a packing."""
        if self.is_impossible and self._is_proof:
            return PackingResult(Outcome.INFEASIBLE, None)
        return PackingResult(Outcome.UNKNOWN, None, None, self._peak_bound())

    def result(self) -> PackingResult:
        """The packing, if there is one, and what has been proven."""
        if self._status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return self.bound()
        is_best = self._status == cp_model.OPTIMAL
        start = Layout(self.counts, self._reductions, self.solver).start
        peak = self.solver.value(self.counts.peak) if self._minimise_memory else None
        outcome = Outcome.OPTIMAL if is_best else Outcome.FEASIBLE
        return PackingResult(outcome, start, peak, self._peak_bound())

    def _peak_bound(self) -> int | None:
        has_bound = self._status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
        if not (self._minimise_memory and self._is_proof and has_bound):
            return None
        return max(0, round(self.solver.best_objective_bound))


def _state(counts: Counts, reductions: Reductions, *, mirrored: bool) -> None:
    """Add the rules to the model."""
    if mirrored:
        rules.devices_mirror_each_other(counts)
    rules.everything_is_done(counts)
    rules.bins_hold_their_load(counts)
    rules.bins_hold_few_large_items(counts)
    rules.large_items_come_first(counts)
    rules.inversions_wait_for_shares(counts, reductions)
    rules.inversions_wait_for_their_side(counts, reductions)
    reductions.end_in_time()
    rules.factors_are_used_before_they_are_written(counts)
    memory_is_within_limits(counts)
    earlier_data_comes_first(counts)
