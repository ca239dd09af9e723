"""The packing of a refresh into bins: how many equal items each bin takes.

Where the pipeline's ops keep their times, no intervals are needed. A variable counts
the shares of a class of equal factors, of one microbatch, that a bin takes; another one
the inversions of the class. That is exact for equal factors: they are completed in one
order, and the k-th to be inverted is the k-th whose shares are complete.

In a bin shares stand first, from its begin, and inversions last, up to its end. So an
inversion may use shares of its own device in the same bin, and those that the device
with the other copy of the stage makes at the same time if they end before it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model

from schedopt.cpsat.model import Effort, Outcome, solver_of
from schedopt.ops import Op
from schedopt.refresh.problem import Bin, FactorClass, Problem

_MOST_GRAINS = 2**50
_MANY_ITEMS = 60  # in a bin; what they leave of its length is little
_LEAST_GRAIN = 4  # ticks
_NOTHING = cp_model.LinearExpr.constant(0)


@dataclass(frozen=True, slots=True)
class PackingResult:
    """What a run found.

    ``start`` are the starts of the refresh's ops, ticks from the cycle's start; None if
    none was found. ``peak`` is their peak memory and ``peak_bound`` what it cannot be
    below, grains.
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
    overloaded: bool = False,
) -> PackingResult:
    """Pack the work of some devices (a component) into their bins.

    ``mirrored`` has two devices with copies of the same stages do the same at the same
    time: fewer packings, found sooner; that there are none then says nothing.
    ``overloaded`` lets bins take too much and minimises by how much, which gives the
    solver a way to improve; only a packing without overload counts.
    """
    counts = _Counts(problem, devices)
    if mirrored:
        counts.devices_mirror_each_other()
    counts.everything_is_done()
    if overloaded:
        counts.bins_are_overloaded_little()
    else:
        counts.bins_hold_their_load()
        counts.bins_hold_few_large_items()
    counts.inversions_wait_for_shares()
    if problem.wrap:
        counts.factors_are_used_before_they_are_written()
    counts.memory_is_within_limits()
    if minimise_memory:
        counts.model.minimize(counts.peak)
    solver = solver_of(effort)
    status = solver.solve(counts.model)
    if status == cp_model.INFEASIBLE:
        none = Outcome.UNKNOWN if mirrored else Outcome.INFEASIBLE
        return PackingResult(none, None)
    if overloaded and (status != cp_model.OPTIMAL or solver.objective_value > 0):
        proven = solver.best_objective_bound > 0 and not mirrored
        return PackingResult(Outcome.INFEASIBLE if proven else Outcome.UNKNOWN, None)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return PackingResult(Outcome.UNKNOWN, None)
    outcome = Outcome.OPTIMAL if status == cp_model.OPTIMAL else Outcome.FEASIBLE
    start = _Layout(counts, solver).start
    if not minimise_memory:
        return PackingResult(outcome, start)
    bound = max(0, round(solver.best_objective_bound))
    return PackingResult(outcome, start, solver.value(counts.peak), bound)


@dataclass(frozen=True, slots=True)
class _Row:
    """Variables of a share, or of a copy's inversions, over the bins of its device.

    ``here[b]`` counts the items in bin b, at most ``most[b]``; ``until[b]`` those in
    bins up to it.
    """

    device: int
    duration: int
    most: list[int]
    here: list[cp_model.IntVar]
    until: list[cp_model.IntVar]


class _Counts:
    """The model: counts per class and bin, one method per rule."""

    def __init__(self, problem: Problem, devices: Sequence[int]) -> None:
        self.problem = problem
        self.devices = tuple(devices)
        self.model = cp_model.CpModel()
        inside = set(devices)
        self.classes = [
            group
            for group in problem.classes
            if {share.device for share in group.shares} & inside
        ]
        self.shares: list[list[_Row]] = []
        self.inversions: list[list[_Row]] = []
        for group in self.classes:
            size = len(group.layers)
            self.shares.append(
                [
                    self._row(size, share.device, share.duration, share.release)
                    for share in group.shares
                ]
            )
            self.inversions.append(
                [
                    self._row(size, one.device, one.duration, 0)
                    for one in group.inverting
                ]
            )
        self.peak = self.model.new_int_var(0, _MOST_GRAINS, "peak")
        self._meetings: dict[tuple[int, int, int, int], cp_model.IntVar] = {}
        self._groups = {device: self._bins_by_gap(device) for device in devices}

    def _bins_by_gap(self, device: int) -> dict[tuple[int, int], tuple[int, ...]]:
        found: dict[tuple[int, int], tuple[int, ...]] = {}
        for number, one in enumerate(self.problem.bins[device]):
            key = (one.step % self.problem.interval, one.gap)
            found[key] = (*found.get(key, ()), number)
        return found

    def _row(self, size: int, device: int, duration: int, release: int) -> _Row:
        model = self.model
        most: list[int] = []
        here, until = [], []
        before = _NOTHING
        for one in self.problem.bins[device]:
            most.append(0)
            if one.begin >= release and duration <= one.length:
                most[-1] = min(size, one.length // duration) if duration else size
            here.append(model.new_int_var(0, most[-1], ""))
            until.append(model.new_int_var(0, size, ""))
            model.add(until[-1] == before + here[-1])
            before = until[-1]
        return _Row(device, duration, most, here, until)

    # -- rules ----------------------------------------------------------------

    def everything_is_done(self) -> None:
        """Every share and every inversion is in some bin."""
        for group, shares, inversions in zip(
            self.classes, self.shares, self.inversions, strict=True
        ):
            size = len(group.layers)
            for row in shares:
                self.model.add(row.until[-1] == size)
            if group.all_copies:
                for row in inversions:
                    self.model.add(row.until[-1] == size)
            else:
                self.model.add(_total(row.until[-1] for row in inversions) == size)

    def bins_hold_their_load(self) -> None:
        """What bins that share their length take is at most that long."""
        for device in self.devices:
            bins = self.problem.bins[device]
            for same in self.bins_alike(device):
                load = self.load(self.shares, device, same) + self.load(
                    self.inversions, device, same
                )
                self.model.add(load <= bins[same[0]].length)

    def bins_hold_few_large_items(self) -> None:
        """Implied: items of at least d ticks that a bin takes are at most length / d.

        An item of twice d counts twice, and so on: the sum of floors is no more than
        the floor of the sum. It spares the solver from finding out bin by bin that
        large items leave room which no other one fits.
        """
        for device in self.devices:
            rows = self._rows_on(device)
            durations = {row.duration for row in rows if row.duration > 1}
            grains = durations | {d // 2 for d in durations if d > _LEAST_GRAIN}
            for same in self.bins_alike(device):
                length = self.problem.bins[device][same[0]].length
                for grain in sorted(grains):
                    if length // grain > _MANY_ITEMS:
                        continue
                    items = _total(
                        (row.duration // grain) * row.here[number]
                        for row in rows
                        if row.duration >= grain
                        for number in same
                    )
                    self.model.add(items <= length // grain)

    def bins_are_overloaded_little(self) -> None:
        """What bins take beyond their length is to be minimised."""
        excesses = []
        for device in self.devices:
            bins = self.problem.bins[device]
            for same in self.bins_alike(device):
                load = self.load(self.shares, device, same) + self.load(
                    self.inversions, device, same
                )
                excess = self.model.new_int_var(0, self.problem.work[device], "")
                self.model.add(load <= bins[same[0]].length + excess)
                excesses.append(excess)
        self.model.minimize(_total(excesses))

    def inversions_wait_for_shares(self) -> None:
        """The k-th inversion of a class begins after the k-th of each of its shares."""
        for group, shares, inversions in zip(
            self.classes, self.shares, self.inversions, strict=True
        ):
            for inversion in inversions:
                for number in range(len(inversion.here)):
                    begun = self._begun(group, inversions, inversion, number)
                    if begun is None:
                        continue
                    for share in shares:
                        self.model.add(begun <= self._ended(share, inversion, number))

    def factors_are_used_before_they_are_written(self) -> None:
        """Shares of the next refresh follow the inversion of what is there."""
        for group, shares, inversions in zip(
            self.classes, self.shares, self.inversions, strict=True
        ):
            for share in shares:
                for number, one in enumerate(self.problem.bins[share.device]):
                    if one.step >= self.problem.interval:
                        break
                    used = _total(
                        self._used(inversion, one)
                        for inversion in inversions
                        if not group.all_copies or inversion.device == share.device
                    )
                    self.model.add(share.until[number] <= used)

    def memory_is_within_limits(self) -> None:
        """The level at every start of an op of the frame, on every device."""
        problem = self.problem
        period, interval = problem.frame.period, problem.interval
        for device in self.devices:
            limit = problem.memory[device].limit
            for time, level in problem.frame_levels[device]:
                for step in range(interval):
                    waiting = _total(
                        self._waiting(device, time + (step + late) * period)
                        for late in ((0, interval) if problem.wrap else (0,))
                    )
                    self.model.add(level + waiting <= self.peak)
                    if limit is not None:
                        self.model.add(level + waiting <= limit)

    def devices_mirror_each_other(self) -> None:
        """Equal rows of two devices take the same in every bin."""
        rows: dict[tuple[object, ...], dict[int, list[_Row]]] = {}
        for group, shares, inversions in zip(
            self.classes, self.shares, self.inversions, strict=True
        ):
            like = (group.side, len(group.layers))
            for share, row in zip(group.shares, shares, strict=True):
                key = (*like, share._replace(microbatch=0, device=0))
                rows.setdefault(key, {}).setdefault(row.device, []).append(row)
            for copy, row in zip(group.inverting, inversions, strict=True):
                twin = (*like, copy.duration)
                rows.setdefault(twin, {}).setdefault(row.device, []).append(row)
        for alike in rows.values():
            first, *others = alike.values()
            for other in others:
                for one, two in zip(first, other, strict=False):
                    for here, there in zip(one.here, two.here, strict=False):
                        self.model.add(here == there)

    # -- sums -----------------------------------------------------------------

    def load(
        self, rows: Sequence[Sequence[_Row]], device: int, bins: Sequence[int]
    ) -> cp_model.LinearExpr:
        """What items of a device take of some of its bins, ticks."""
        return _total(
            row.duration * row.here[number]
            for group in rows
            for row in group
            if row.device == device
            for number in bins
        )

    def _rows_on(self, device: int) -> list[_Row]:
        return [
            row
            for rows in (*self.shares, *self.inversions)
            for row in rows
            if row.device == device
        ]

    def bins_alike(self, device: int) -> Iterable[tuple[int, ...]]:
        """Bins of a device that share their length: equal steps modulo the interval."""
        return self._groups[device].values()

    def _begun(
        self,
        group: FactorClass,
        inversions: Sequence[_Row],
        inversion: _Row,
        number: int,
    ) -> cp_model.LinearExpr | None:
        """Inversions of the class begun by the end of a bin; None if none can be."""
        if inversion.most[number] == 0:
            return None
        begun: cp_model.LinearExpr = inversion.until[number]
        if group.all_copies:
            return begun
        end = self.problem.bins[inversion.device][number].end
        for other in inversions:
            if other is not inversion:
                bins = self.problem.bins[other.device]
                last = max((i for i, b in enumerate(bins) if b.begin < end), default=-1)
                begun += other.until[last] if last >= 0 else _NOTHING
        return begun

    def _ended(self, share: _Row, inversion: _Row, number: int) -> cp_model.LinearExpr:
        """Shares that have ended before the inversions of a bin begin."""
        if share.device == inversion.device:
            return share.until[number]
        here = self.problem.bins[inversion.device][number]
        ended = _NOTHING
        for index, other in enumerate(self.problem.bins[share.device]):
            if other.end <= here.begin:
                ended = share.until[index]
            elif other.begin < here.end:
                ended += self._in_time(share, index, inversion, number)
        return ended

    def _in_time(
        self, share: _Row, index: int, inversion: _Row, number: int
    ) -> cp_model.LinearExpr:
        """Shares of another device's bin if all of them end before the inversions."""
        model, problem = self.model, self.problem
        key = (share.device, index, inversion.device, number)
        if key not in self._meetings:
            meets = model.new_bool_var("")
            there = problem.bins[share.device][index]
            here = problem.bins[inversion.device][number]
            first = self.load(self.shares, share.device, self._alike(there))
            last = self.load(self.inversions, inversion.device, self._alike(here))
            model.add(there.begin + first + last <= here.end).only_enforce_if(meets)
            self._meetings[key] = meets
        size = share.most[index]
        counted = model.new_int_var(0, size, "")
        model.add(counted <= share.here[index])
        model.add(counted <= size * self._meetings[key])
        return counted

    def _alike(self, one: Bin) -> tuple[int, ...]:
        """The bins that share the length of one."""
        key = (one.step % self.problem.interval, one.gap)
        return self._groups[one.device][key]

    def _used(self, inversion: _Row, one: Bin) -> cp_model.LinearExpr:
        """Inversions of the refresh before that have ended when a bin begins."""
        late = self.problem.interval * self.problem.frame.period
        bins = self.problem.bins[inversion.device]
        ended = [i for i, other in enumerate(bins) if other.end <= one.begin + late]
        return inversion.until[ended[-1]] if ended else _NOTHING

    def _waiting(self, device: int, time: int) -> cp_model.LinearExpr:
        """What waits for shares on a device at a time, grains."""
        bins = self.problem.bins[device]
        past = [i for i, one in enumerate(bins) if one.begin < time]
        waiting = _NOTHING
        for group, rows in zip(self.classes, self.shares, strict=True):
            for share, row in zip(group.shares, rows, strict=True):
                if share.device == device and share.size and share.waits_from <= time:
                    done = row.until[past[-1]] if past else _NOTHING
                    waiting += share.size * (len(group.layers) - done)
        return waiting


def _total(terms: Iterable[cp_model.LinearExpr]) -> cp_model.LinearExpr:
    return cp_model.LinearExpr.sum(list(terms))


class _Layout:
    """Start times of all items: shares from a bin's begin, inversions up to its end."""

    def __init__(self, counts: _Counts, solver: cp_model.CpSolver) -> None:
        self.counts = counts
        self.value = solver.value
        self.start: dict[Op, int] = {}
        self._times: dict[int, list[int]] = {}
        for device in counts.devices:
            for same in counts.bins_alike(device):
                self._fill(device, same)
        syncs: list[tuple[int, FactorClass, str]] = []
        for group, shares, inversions in zip(
            counts.classes, counts.shares, counts.inversions, strict=True
        ):
            self._name(group, shares, inversions)
            for layer in group.layers:
                ends = [
                    self.start[group.share_op(layer, share.microbatch)] + share.duration
                    for share in group.shares
                ]
                if group.sync is not None:
                    syncs.append((max(ends), group, layer))
        self._reduce(syncs)

    def _fill(self, device: int, same: Sequence[int]) -> None:
        """Items of bins that share their length; those of the older refresh first."""
        counts = self.counts
        bins = counts.problem.bins[device]
        load = self.value(counts.load(counts.inversions, device, same))
        for rows, begin in (
            (counts.shares, 0),
            (counts.inversions, bins[same[0]].length - load),
        ):
            offset = begin
            for number in reversed(same):
                for row in (row for group in rows for row in group):
                    if row.device != device:
                        continue
                    times = self._times.setdefault(id(row), [])
                    for _ in range(self.value(row.here[number])):
                        times.append(bins[number].begin + offset)
                        offset += row.duration

    def _name(
        self, group: FactorClass, shares: Sequence[_Row], inversions: Sequence[_Row]
    ) -> None:
        """The k-th item of each row, by time, is that of the k-th layer."""
        for share, row in zip(group.shares, shares, strict=True):
            times = sorted(self._times.get(id(row), []))
            for layer, time in zip(group.layers, times, strict=True):
                self.start[group.share_op(layer, share.microbatch)] = time
        queues = [
            [(time, one.copy) for time in self._times.get(id(row), [])]
            for one, row in zip(group.inverting, inversions, strict=True)
        ]
        if not group.all_copies:
            queues = [[item for queue in queues for item in queue]]
        for queue in queues:
            for layer, (time, copy) in zip(group.layers, sorted(queue), strict=True):
                self.start[group.inversion_op(layer, copy)] = time

    def _reduce(self, syncs: list[tuple[int, FactorClass, str]]) -> None:
        """Reductions one after the other, in the order in which factors complete."""
        free = 0
        for ready, group, layer in sorted(syncs, key=lambda sync: sync[0]):
            begin = max(free, ready)
            self.start[group.sync_op(layer)] = begin
            free = begin + (group.sync or 0)
