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

Reading order: ``packing_counts`` (the variables), ``packing_rules``,
``packing_groups`` and ``packing_reductions`` (over copies), ``packing_memory``,
``packing_layout`` (start times).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    mirrored: bool = False,
    relaxed: bool = False,
) -> PackingResult:
    """Pack the work of some devices (a component) into their bins.

    ``mirrored`` has two devices with copies of the same stages do the same at the same
    time: fewer packings, found sooner; that there are none then says nothing.
    ``relaxed`` counts everything as soon as it may be there: it finds no packing, but
    proves that there is none, or none with a lower peak.
    """
    counts = Counts(problem, devices, relaxed=relaxed)
    reductions = Reductions(counts)
    _state(counts, reductions, mirrored=mirrored)
    if minimise_memory:
        counts.model.minimize(counts.peak)
    solver = solver_of(effort)
    status = solver.solve(counts.model)
    if effort.on_spent is not None:
        effort.on_spent(solver.response_proto.deterministic_time)
    is_proof = relaxed or (counts.is_exact and not mirrored)
    if status == cp_model.INFEASIBLE and is_proof:
        return PackingResult(Outcome.INFEASIBLE, None)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return PackingResult(Outcome.UNKNOWN, None)
    bound = None
    if minimise_memory and is_proof:
        bound = max(0, round(solver.best_objective_bound))
    if relaxed:
        return PackingResult(Outcome.UNKNOWN, None, None, bound)
    outcome = Outcome.OPTIMAL if status == cp_model.OPTIMAL else Outcome.FEASIBLE
    start = Layout(counts, reductions, solver).start
    peak = solver.value(counts.peak) if minimise_memory else None
    return PackingResult(outcome, start, peak, bound)


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
