"""Packing a refresh while the pipeline's ops slide: gaps are differences of starts.

As in ``packing``, variables count the equal items that a bin takes: the shares of a
class of equal factors, of one microbatch, and the class's inversions. A bin is a space
between two neighbours of a device; it may vanish. In a bin shares stand first, from its
begin, and inversions last, up to its end.

Two devices that hold copies of the same stages may mirror each other: their ops start
at the same times in pairs, and only one of them is modelled. Otherwise work of other
devices counts only where their bin has ended before this one can begin; so without
``mirrored`` the model is exact for devices on their own, and stricter than need be for
others. ``relaxed`` is the other way round: it finds no packing, but proves that there
is none. Work is then rounded down, else up, to coarse ticks.

A scale c that divides the frame's times keeps both promises: a bin of L coarse ticks
holds work only if the sum of its floors, each of duration / c, is at most L, and it
does hold it if the sum of the ceilings is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ortools.sat.python import cp_model

from schedopt.cpsat.coarse import exact_scale
from schedopt.cpsat.model import Effort, Outcome, solver_of
from schedopt.cpsat.sliding_times import (
    Sequences,
    Space,
    Times,
    Windows,
    sequences_of,
)
from schedopt.errors import NotApplicableError
from schedopt.instance import Placement, StepBarrier
from schedopt.ops import Op, OpKind
from schedopt.refresh.frame import Frame
from schedopt.refresh.moving import MovingPacking
from schedopt.refresh.problem import (
    FactorClass,
    Problem,
    Share,
    problem_of,
    without_memory,
)

_NOTHING = cp_model.LinearExpr.constant(0)


@dataclass(frozen=True, slots=True)
class SlidingResult:
    """What a run found: a packing, or that there is none, or nothing."""

    outcome: Outcome
    packing: MovingPacking | None = None


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
        The order on each stream; None keeps the frame's own.
    """

    frame: Frame
    interval: int
    wrap: bool = False
    latest: int | None = None
    sequences: Sequences | None = None

    def windows(self) -> Windows:
        """Earliest and latest starts."""
        return Windows(self.frame, self.sequences or sequences_of(self.frame))


def pack_sliding(
    task: Sliding, effort: Effort, *, mirrored: bool = False
) -> SlidingResult:
    """Pack the work of all devices.

    Raises
    ------
    NotApplicableError
        If reductions of factors take time.
    """
    windows = task.windows()
    if windows.are_empty:
        return SlidingResult(Outcome.INFEASIBLE)
    counts = _Counts(task, windows, mirrored=mirrored)
    status, solver = _solved(counts, effort)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        packing = _Layout(counts, solver).packing()
        return SlidingResult(Outcome.FEASIBLE, packing)
    return SlidingResult(Outcome.UNKNOWN)


def cannot_slide(task: Sliding, devices: Sequence[int], effort: Effort) -> bool:
    """Whether it is proven that no packing exists, by some devices' work alone.

    All of the pipeline's ops slide; ``devices`` (a component) are those whose work is
    looked at, as ``relaxed`` has it.
    """
    windows = task.windows()
    if windows.are_empty:
        return True
    counts = _Counts(task, windows, devices=devices, relaxed=True)
    status, _ = _solved(counts, effort)
    return bool(status == cp_model.INFEASIBLE)


def mirror_of(frame: Frame) -> Mapping[Op, Op]:
    """For each op of a two-way pipeline the one that mirrors it; empty if none does.

    Devices d and D - 1 - d mirror each other if every microbatch m on the one runs at
    the times of m + 1 (m even) or m - 1 on the other, and second-order work is alike.
    """
    instance = frame.instance
    devices = len(instance.devices)
    if instance.placement is not Placement.BIDIRECTIONAL or devices % 2:
        return {}
    found = {}
    for op in frame.start:
        twin = op
        if op.kind not in (OpKind.REDUCE_GRAD, OpKind.GATHER_GRAD):
            twin = op._replace(microbatch=op.microbatch ^ 1)
        if frame.start.get(twin) != frame.start[op]:
            return {}
        one, other = frame.graph.data[op], frame.graph.data[twin]
        is_opposite = other.device == devices - 1 - one.device
        if one.duration != other.duration or (twin != op and not is_opposite):
            return {}
        found[op] = twin
    return found


def _solved(
    counts: _Counts, effort: Effort
) -> tuple[cp_model.CpSolverStatus, cp_model.CpSolver]:
    counts.everything_is_done()
    counts.bins_hold_their_load()
    counts.inversions_wait_for_shares()
    counts.early_microbatches_come_first()
    if counts.task.wrap and not counts.relaxed:
        counts.factors_are_used_before_they_are_written()
    solver = solver_of(effort)
    return solver.solve(counts.model), solver


@dataclass(frozen=True, slots=True)
class _Row:
    """Variables of a share, or of a copy's inversions, over the bins of its device.

    ``here[b]`` counts the items in bin b, at most ``most[b]``; ``until[b]`` those in
    bins up to it. ``duration`` is in coarse ticks.
    """

    device: int
    duration: int
    most: list[int]
    here: list[cp_model.IntVar]
    until: list[cp_model.IntVar]

    @property
    def all(self) -> cp_model.LinearExpr:
        """Items in any bin."""
        return self.until[-1] if self.until else _NOTHING


@dataclass(frozen=True, slots=True)
class _Inverted:
    """A row of inversions, and the classes whose shares they wait for.

    The first of ``classes`` (numbers) is the one that is inverted; where devices mirror
    each other and one of them inverts, the second is what the other one inverts.
    """

    copy: int
    classes: tuple[int, ...]
    row: _Row


class _Counts:
    """The model: times, counts per class and bin, one method per rule."""

    def __init__(
        self,
        task: Sliding,
        windows: Windows,
        *,
        mirrored: bool = False,
        devices: Sequence[int] | None = None,
        relaxed: bool = False,
    ) -> None:
        frame = task.frame
        self.task = task
        self.relaxed = relaxed
        self.model = cp_model.CpModel()
        self.problem = without_memory(
            problem_of(frame, task.interval, wrap=task.wrap, latest=task.latest)
        )
        moments = (frame.period, frame.pipeline_end)
        self.scale = exact_scale(frame.graph, moments)
        self.twin = mirror_of(frame) if mirrored else {}
        self.times = Times(self.model, windows, task.interval, self.scale, self.twin)
        count = len(frame.instance.devices)
        everyone = range(count // 2 if self.twin else count)
        self.devices = tuple(everyone if devices is None else devices)
        self.bins = {device: self._bins(device) for device in self.devices}
        self.classes: list[FactorClass] = []
        self.shares: list[list[tuple[Share, _Row]]] = []
        for group in self.problem.classes:
            if group.sync:
                msg = "sliding does not know reductions of factors that take time"
                raise NotApplicableError(msg)
            rows = [
                (share, self._share_row(group, share))
                for share in group.shares
                if share.device in self.bins
            ]
            if rows:
                self.classes.append(group)
                self.shares.append(rows)
        self.inversions = self._inversion_rows()

    # -- variables ------------------------------------------------------------

    def _bins(self, device: int) -> list[Space]:
        """The spaces of a device that may hold something in time."""
        task, frame = self.task, self.task.frame
        durations = _durations(self.problem, device)
        least = min(durations, default=0) // self.scale
        first_use = next(
            (
                position
                for position, op in enumerate(self.times.order(device))
                if op.kind is OpKind.PRECONDITION
            ),
            len(self.times.order(device)),
        )
        kfac = frame.instance.kfac
        ends_together = kfac is None or kfac.step_barrier is StepBarrier.EVERYONE
        last = len(self.times.order(device)) - 1
        steps = 2 * task.interval if task.wrap else task.interval
        latest = self.problem.latest
        found = []
        for space in self.times.spaces(device, steps):
            used = space.step if space.position < first_use else space.step + 1
            is_beyond = (
                ends_together
                and not task.wrap
                and (space.step, space.position) == (steps - 1, last)
            )
            if used <= latest and not is_beyond and space.end - space.begin >= least:
                found.append(space)
        return found

    def _share_row(self, group: FactorClass, share: Share) -> _Row:
        op = group.share_op(group.layers[0], share.microbatch)
        order = self.times.order(share.device)
        release = max(
            order.index(before)
            for before, _ in self.problem.graph.predecessors(op)
            if before in self.task.frame.start
        )
        return self._row(share.device, share.duration, len(group.layers), (0, release))

    def _inversion_rows(self) -> list[_Inverted]:
        found = []
        for number, group in enumerate(self.classes):
            for one in group.inverting:
                if one.device not in self.bins:
                    continue
                classes: tuple[int, ...] = (number,)
                if self.twin and not group.all_copies:
                    if one.copy:
                        continue
                    classes = (number, self._opposite(number))
                row = self._row(one.device, one.duration, len(group.layers), (0, 0))
                found.append(_Inverted(one.copy, classes, row))
        return found

    def _opposite(self, number: int) -> int:
        """The class that the mirroring device inverts meanwhile."""
        group = self.classes[number]
        last = len(self.task.frame.instance.stages) - 1
        for other, candidate in enumerate(self.classes):
            alike = group._replace(
                stage=last - group.stage, shares=(), inverting=()
            ) == candidate._replace(shares=(), inverting=())
            if alike and {one.duration for one in candidate.inverting} == {
                one.duration for one in group.inverting
            }:
                return other
        msg = "devices mirror each other only if their stages are equal"
        raise NotApplicableError(msg)

    def _row(
        self, device: int, duration: int, size: int, release: tuple[int, int]
    ) -> _Row:
        coarse = duration // self.scale if self.relaxed else -(-duration // self.scale)
        most: list[int] = []
        here, until = [], []
        before = _NOTHING
        for space in self.bins[device]:
            limit = 0
            if (space.step, space.position) >= release:
                longest = space.end - space.begin
                limit = min(size, longest // coarse) if coarse else size
            most.append(limit)
            here.append(self.model.new_int_var(0, limit, ""))
            until.append(self.model.new_int_var(0, size, ""))
            self.model.add(until[-1] == before + here[-1])
            before = until[-1]
        return _Row(device, coarse, most, here, until)

    # -- rules ----------------------------------------------------------------

    def everything_is_done(self) -> None:
        """Every share and every inversion is in some bin."""
        for number, group in enumerate(self.classes):
            size = len(group.layers)
            for _, row in self.shares[number]:
                self.model.add(row.all == size)
            rows = [one.row for one in self.inversions if one.classes[0] == number]
            if group.all_copies or self.twin:
                for row in rows:
                    self.model.add(row.all == size)
            elif len(rows) == len(group.inverting):
                self.model.add(_total(row.all for row in rows) == size)

    def bins_hold_their_load(self) -> None:
        """What the bins of equal steps of all cycles take is at most their length.

        Implied, and added for the solver: of items that count floor(duration / u) each,
        a bin takes at most floor(length / u), for every u that is an item's duration.
        """
        for device in self.devices:
            rows = self.rows_on(device)
            grains = {row.duration for row in rows if row.duration}
            for same in self.bins_alike(device):
                space = self.bins[device][same[0]]
                length = self.times.length(space)
                load = self.load(rows, same)
                self.model.add(load <= length)
                longest = space.end - space.begin
                for grain in grains:
                    if not 1 <= longest // grain <= _MANY_ITEMS:
                        continue
                    counted = self.model.new_int_var(0, longest // grain, "")
                    self.model.add(grain * counted <= length)
                    items = _total(
                        (row.duration // grain) * row.here[number]
                        for row in rows
                        if row.duration >= grain
                        for number in same
                    )
                    self.model.add(items <= counted)

    def inversions_wait_for_shares(self) -> None:
        """The k-th inversion of a class begins after the k-th of each of its shares."""
        for inverted in self.inversions:
            for number, most in enumerate(inverted.row.most):
                if most == 0:
                    continue
                begun = self._begun(inverted, number)
                space = self.bins[inverted.row.device][number]
                for group in inverted.classes:
                    for _, row in self.shares[group]:
                        self.model.add(begun <= self._ended(row, space, number))

    def early_microbatches_come_first(self) -> None:
        """Of a class, no bin has seen more shares of a microbatch released later.

        Of equal shares on a device those that are released first may be done first.
        """
        for rows in self.shares:
            for device in self.devices:
                here = [row for _, row in rows if row.device == device]
                here.sort(key=lambda row: [most == 0 for most in row.most])
                for one, other in pairwise(here):
                    if one.duration == other.duration:
                        for early, late in zip(one.until, other.until, strict=True):
                            self.model.add(late <= early)

    def factors_are_used_before_they_are_written(self) -> None:
        """Shares of the next refresh follow the inversion of what is there."""
        for inverted in self.inversions:
            for group in inverted.classes:
                for _, row in self.shares[group]:
                    for number, space in enumerate(self.bins[row.device]):
                        if space.step >= self.task.interval:
                            break
                        used = self._used(inverted, space)
                        if used is not None:
                            self.model.add(row.until[number] <= used)

    # -- sums -----------------------------------------------------------------

    def rows_on(self, device: int) -> list[_Row]:
        """All rows of a device."""
        rows = [row for group in self.shares for _, row in group]
        rows += [one.row for one in self.inversions]
        return [row for row in rows if row.device == device]

    def bins_alike(self, device: int) -> Iterable[tuple[int, ...]]:
        """Bins of a device that share their length: equal steps modulo the interval."""
        found: dict[tuple[int, int], tuple[int, ...]] = {}
        for number, space in enumerate(self.bins[device]):
            key = (space.step % self.task.interval, space.position)
            found[key] = (*found.get(key, ()), number)
        return found.values()

    def load(self, rows: Iterable[_Row], bins: Sequence[int]) -> cp_model.LinearExpr:
        """What items take of some bins, coarse ticks."""
        return _total(row.duration * row.here[b] for row in rows for b in bins)

    def _begun(self, inverted: _Inverted, number: int) -> cp_model.LinearExpr:
        """Inversions of the class begun by the end of a bin."""
        row = inverted.row
        begun: cp_model.LinearExpr = row.until[number]
        group = self.classes[inverted.classes[0]]
        if group.all_copies or self.twin:
            return begun
        space = self.bins[row.device][number]
        for other in self.inversions:
            if other is not inverted and other.classes == inverted.classes:
                begun = begun + self._until(
                    other.row,
                    [
                        (b.end <= space.begin if self.relaxed else b.begin < space.end)
                        for b in self.bins[other.row.device]
                    ],
                )
        return begun

    def _ended(self, row: _Row, space: Space, number: int) -> cp_model.LinearExpr:
        """Shares that have ended before the inversions of a bin begin."""
        if row.device == space.device:
            return row.until[number]
        return self._until(
            row,
            [
                (b.begin < space.end if self.relaxed else b.end <= space.begin)
                for b in self.bins[row.device]
            ],
        )

    def _used(self, inverted: _Inverted, space: Space) -> cp_model.LinearExpr | None:
        """Inversions of the refresh before that have ended when a bin begins.

        None where they are another copy's, which has factors of its own.
        """
        row = inverted.row
        interval = self.task.interval
        if row.device == space.device:
            now = (space.step + interval, space.position)
            past = [(b.step, b.position) < now for b in self.bins[row.device]]
            return self._until(row, past)
        if self.classes[inverted.classes[0]].all_copies:
            return None
        cycle = interval * self.times.period
        past = [b.end <= space.begin + cycle for b in self.bins[row.device]]
        return self._until(row, past)

    def _until(self, row: _Row, past: list[bool]) -> cp_model.LinearExpr:
        """Items in bins up to the last one that is past; bins are in order of time."""
        last = max((b for b, is_past in enumerate(past) if is_past), default=-1)
        return row.until[last] if last >= 0 else _NOTHING


_MANY_ITEMS = 60


def _total(terms: Iterable[cp_model.LinearExpr]) -> cp_model.LinearExpr:
    return cp_model.LinearExpr.sum(list(terms))


def _durations(problem: Problem, device: int) -> list[int]:
    """Those of a device's items."""
    found = []
    for group in problem.classes:
        found += [s.duration for s in group.shares if s.device == device]
        found += [one.duration for one in group.inverting if one.device == device]
    return found


class _Layout:
    """Start times: shares from a bin's begin, inversions up to its end."""

    def __init__(self, counts: _Counts, solver: cp_model.CpSolver) -> None:
        self.counts = counts
        self.value = solver.value
        self.scale = counts.scale
        self._times: dict[int, list[int]] = {}
        self._start: dict[Op, int] = {}

    def packing(self) -> MovingPacking:
        """All that the solver decided."""
        counts, task = self.counts, self.counts.task
        for device in counts.devices:
            for same in counts.bins_alike(device):
                self._fill(device, same)
        for number, group in enumerate(counts.classes):
            self._name_shares(number, group)
            self._name_inversions(number, group)
        if counts.twin:
            self._add_mirrored()
        self._reduce()
        steps = tuple(
            {
                op: self.scale * self.value(counts.times.start(op, step))
                for op in task.frame.start
            }
            for step in range(task.interval)
        )
        return MovingPacking(task.frame, task.wrap, steps, self._start)

    def _fill(self, device: int, same: Sequence[int]) -> None:
        """Items of bins that share their length; those of the older refresh first."""
        counts = self.counts
        spaces = counts.bins[device]
        length = self.value(counts.times.length(spaces[same[0]]))
        shares = [row for group in counts.shares for _, row in group]
        inversions = [one.row for one in counts.inversions]
        load = self.value(
            counts.load([row for row in inversions if row.device == device], same)
        )
        for rows, first in ((shares, 0), (inversions, length - load)):
            offset = first
            for number in reversed(same):
                for row in rows:
                    if row.device != device:
                        continue
                    times = self._times.setdefault(id(row), [])
                    for _ in range(self.value(row.here[number])):
                        times.append(self._begin(spaces[number]) + self.scale * offset)
                        offset += row.duration

    def _begin(self, space: Space) -> int:
        """When a space begins, ticks from the cycle's start."""
        times, frame = self.counts.times, self.counts.task.frame
        op = times.order(space.device)[space.position]
        start = self.scale * self.value(times.start(op, space.step))
        return start + frame.graph.data[op].duration + space.step * frame.period

    def _name_shares(self, number: int, group: FactorClass) -> None:
        """The k-th item of each row, by time, is that of the k-th layer."""
        for share, row in self.counts.shares[number]:
            times = sorted(self._times.get(id(row), []))
            for layer, time in zip(group.layers, times, strict=True):
                self._start[group.share_op(layer, share.microbatch)] = time

    def _name_inversions(self, number: int, group: FactorClass) -> None:
        rows = [one for one in self.counts.inversions if one.classes[0] == number]
        queues = [
            [(time, one.copy) for time in self._times.get(id(one.row), [])]
            for one in rows
        ]
        if not group.all_copies:
            queues = [[item for queue in queues for item in queue]] if rows else []
        for queue in queues:
            for layer, (time, copy) in zip(group.layers, sorted(queue), strict=True):
                self._start[group.inversion_op(layer, copy)] = time

    def _add_mirrored(self) -> None:
        """What the mirroring devices do: another microbatch, copy or stage."""
        last = len(self.counts.task.frame.instance.stages) - 1
        whole = {
            group.inversion_op(layer, one.copy)
            for group in self.counts.problem.classes
            if not group.all_copies
            for layer in group.layers
            for one in group.inverting
        }
        for op, time in list(self._start.items()):
            if op in whole:
                twin = op._replace(stage=last - op.stage)
            else:
                twin = op._replace(microbatch=op.microbatch ^ 1)
            self._start[twin] = time

    def _reduce(self) -> None:
        """Reductions, which take no time, as soon as all shares have ended."""
        graph = self.counts.problem.graph
        for group in self.counts.classes:
            if group.sync is None:
                continue
            for layer in group.layers:
                op = group.sync_op(layer)
                self._start[op] = max(
                    self._start[before] + graph.data[before].duration
                    for before, _ in graph.predecessors(op)
                )
