"""The packing of a refresh into bins: how many equal items each bin takes.

Where the pipeline's ops keep their times, no intervals are needed. A variable counts
the shares of a class of equal factors, of one microbatch, that a bin takes; another one
the inversions of the class. That is exact for equal factors: they are completed in one
order, and the k-th to be inverted is the k-th whose shares are complete.

In a bin shares stand first, from its begin, and inversions last, up to its end; every
packing can be brought to that form. So an inversion may use shares of its own device in
the same bin. Of those that the device with the other copy of the stage makes at the
same time it may use all if all of them end before the first inversion begins, else
none; and what is left of a factor for the next refresh has no place after an inversion
in the same bin. There the model is stricter than it need be, and ``relaxed`` the other
way round: the one finds packings, the other proves that there are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ortools.sat.python import cp_model

from schedopt.cpsat.model import Effort, Outcome, solver_of
from schedopt.opgraph import Stream, StreamKind
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
    relaxed: bool = False,
) -> PackingResult:
    """Pack the work of some devices (a component) into their bins.

    ``mirrored`` has two devices with copies of the same stages do the same at the same
    time: fewer packings, found sooner; that there are none then says nothing.
    ``overloaded`` lets bins take too much and minimises by how much, which gives the
    solver a way to improve; only a packing without overload counts. ``relaxed`` counts
    everything of a bin as soon as the bin begins, where it matters to other bins of
    the same time: it finds no packing, but proves that there is none.
    """
    counts = _Counts(problem, devices, relaxed=relaxed)
    if mirrored:
        counts.devices_mirror_each_other()
    counts.everything_is_done()
    if overloaded:
        counts.bins_are_overloaded_little()
    else:
        counts.bins_hold_their_load()
        counts.bins_hold_few_large_items()
    counts.inversions_wait_for_shares()
    if not relaxed and any(group.sync for group in counts.classes):
        counts.reductions_end_in_time()
    if problem.device_barrier:
        counts.inversions_wait_for_all_shares_of_their_side()
    if problem.wrap:
        counts.factors_are_used_before_they_are_written()
    counts.memory_is_within_limits()
    if minimise_memory:
        counts.model.minimize(counts.peak)
    solver = solver_of(effort)
    status = solver.solve(counts.model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    if status == cp_model.INFEASIBLE and (
        relaxed or (counts.is_exact and not mirrored)
    ):
        return PackingResult(Outcome.INFEASIBLE, None)
    if not found or relaxed or (overloaded and solver.objective_value > 0):
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
    bins up to it. ``syncs`` says whether the items' factors are reduced over copies,
    which takes time.
    """

    device: int
    duration: int
    is_share: bool
    syncs: bool
    most: list[int]
    here: list[cp_model.IntVar]
    until: list[cp_model.IntVar]

    @property
    def all(self) -> cp_model.LinearExpr:
        """Items in any bin."""
        return self.until[-1] if self.until else _NOTHING


class _Cluster(NamedTuple):
    """Bins of a component that overlap in time, and when the next ones begin."""

    bins: tuple[Bin, ...]
    next_begin: int | None

    @property
    def begin(self) -> int:
        """When the first of them begins, ticks."""
        return self.bins[0].begin


class _Counts:
    """The model: counts per class and bin, one method per rule."""

    def __init__(
        self, problem: Problem, devices: Sequence[int], *, relaxed: bool = False
    ) -> None:
        self.problem = problem
        self.relaxed = relaxed
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
            self.shares.append(
                [
                    self._row(
                        group,
                        share.device,
                        share.duration,
                        share.release,
                        is_share=True,
                    )
                    for share in group.shares
                ]
            )
            self.inversions.append(
                [
                    self._row(group, one.device, one.duration, 0, is_share=False)
                    for one in group.inverting
                ]
            )
        self.peak = self.model.new_int_var(0, _MOST_GRAINS, "peak")
        self._meetings: dict[tuple[Bin, Bin, bool], cp_model.IntVar] = {}
        self._queues: dict[_Cluster, cp_model.LinearExpr] = {}
        self._groups = {device: self._bins_by_gap(device) for device in devices}

    def _bins_by_gap(self, device: int) -> dict[tuple[int, int], tuple[int, ...]]:
        found: dict[tuple[int, int], tuple[int, ...]] = {}
        for number, one in enumerate(self.problem.bins[device]):
            key = (one.step % self.problem.interval, one.gap)
            found[key] = (*found.get(key, ()), number)
        return found

    def _row(
        self,
        group: FactorClass,
        device: int,
        duration: int,
        release: int,
        *,
        is_share: bool,
    ) -> _Row:
        model, size = self.model, len(group.layers)
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
        return _Row(device, duration, is_share, bool(group.sync), most, here, until)

    @property
    def is_exact(self) -> bool:
        """Whether every packing can be brought to the form that is counted here."""
        takes_time = any(group.sync for group in self.classes)
        return len(self.devices) == 1 and not self.problem.wrap and not takes_time

    # -- rules ----------------------------------------------------------------

    def everything_is_done(self) -> None:
        """Every share and every inversion is in some bin."""
        for group, shares, inversions in zip(
            self.classes, self.shares, self.inversions, strict=True
        ):
            size = len(group.layers)
            for row in shares:
                self.model.add(row.all == size)
            if group.all_copies:
                for row in inversions:
                    self.model.add(row.all == size)
            else:
                self.model.add(_total(row.all for row in inversions) == size)

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

    def inversions_wait_for_all_shares_of_their_side(self) -> None:
        """A bin has inversions only after every share of their side on the device."""
        for device in self.devices:
            stages = set(self.problem.frame.instance.stages_of(device))
            for side in ("A", "B"):
                groups = [
                    (group, shares, inversions)
                    for group, shares, inversions in zip(
                        self.classes, self.shares, self.inversions, strict=True
                    )
                    if group.stage in stages and group.side == side
                ]
                mine = [
                    row
                    for _, _, inversions in groups
                    for row in inversions
                    if row.device == device
                ]
                for number in range(len(self.problem.bins[device])):
                    if not any(row.most[number] for row in mine):
                        continue
                    is_open = self.model.new_bool_var("")
                    for row in mine:
                        self.model.add(row.here[number] <= row.most[number] * is_open)
                    for group, shares, _ in groups:
                        size = len(group.layers)
                        for share in shares:
                            ended = self._ended(share, mine[0], number)
                            self.model.add(ended >= size * is_open)

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
        here = self.problem.bins[inversion.device][number]
        if share.syncs and not self.relaxed:
            return self._reduced(share, here)
        if share.device == inversion.device:
            return share.until[number]
        ended = _NOTHING
        for index, other in enumerate(self.problem.bins[share.device]):
            if other.end <= here.begin or (self.relaxed and other.begin < here.end):
                ended = share.until[index]
            elif other.begin < here.end:
                ended = ended + self._in_time(share, index, here)
        return ended

    def _in_time(self, share: _Row, index: int, here: Bin) -> cp_model.LinearExpr:
        """Shares of a bin, if everything of it has ended when inversions begin."""
        model = self.model
        there = self.problem.bins[share.device][index]
        key = (there, here, share.syncs)
        if key not in self._meetings:
            meets = model.new_bool_var("")
            last = self.load(self.inversions, here.device, self._alike(here))
            ends = [self._shares_end(there)]
            if share.syncs:
                cluster = self._cluster_of[there]
                queue = self._queue(cluster)
                ends = [self._shares_end(one) + queue for one in cluster.bins]
            for end in ends:
                model.add(end + last <= here.end).only_enforce_if(meets)
            self._meetings[key] = meets
        size = share.most[index]
        counted = model.new_int_var(0, size, "")
        model.add(counted <= share.here[index])
        model.add(counted <= size * self._meetings[key])
        return counted

    def _shares_end(self, one: Bin) -> cp_model.LinearExpr:
        """When the last share of a bin ends, ticks."""
        return self.load(self.shares, one.device, self._alike(one)) + one.begin

    # -- reductions over copies -----------------------------------------------

    def reductions_end_in_time(self) -> None:
        """The reductions of a cluster end before the next one, and the step's own.

        A cluster are bins of the component that overlap in time. Its factors are
        reduced one after the other once all its shares have ended, at the latest.
        """
        busy = self._busy_collectives()
        for cluster in self._clusters:
            queue = self._queue(cluster)
            limits = [begin for begin, _ in busy if begin >= cluster.begin]
            if cluster.next_begin is not None:
                limits.append(cluster.next_begin)
            for one in cluster.bins:
                if limits:
                    self.model.add(self._shares_end(one) + queue <= min(limits))
                if any(begin <= one.begin < end for begin, end in busy):
                    number = self.problem.bins[one.device].index(one)
                    for row in self._rows_on(one.device):
                        if row.syncs and row.is_share:
                            self.model.add(row.here[number] == 0)

    def _reduced(self, share: _Row, here: Bin) -> cp_model.LinearExpr:
        """Shares whose factors may have been reduced when inversions of a bin begin."""
        cluster = self._cluster_of[here]
        ended = _NOTHING
        for index, other in enumerate(self.problem.bins[share.device]):
            if other in cluster.bins:
                ended = ended + self._in_time(share, index, here)
            elif other.begin < cluster.begin:
                ended = share.until[index] + _NOTHING
        return ended

    def _queue(self, cluster: _Cluster) -> cp_model.LinearExpr:
        """How long the reductions take that a cluster's shares may make ready."""
        if cluster not in self._queues:
            waits = self._waits_for_all if self.problem.device_barrier else self._waits
            self._queues[cluster] = waits(cluster)
        return self._queues[cluster]

    def _waits(self, cluster: _Cluster) -> cp_model.LinearExpr:
        """Each class's reductions, at most as many as one bin has of any share."""
        terms = []
        for group, rows in zip(self.classes, self.shares, strict=True):
            for one in cluster.bins if group.sync else ():
                most = self.model.new_int_var(0, len(group.layers), "")
                for row in rows:
                    if row.device == one.device:
                        here = _total(row.here[n] for n in self._alike(one))
                        self.model.add(most >= here)
                terms.append((group.sync or 0) * most)
        return _total(terms)

    def _waits_for_all(self, cluster: _Cluster) -> cp_model.LinearExpr:
        """All reductions there are, if the cluster has any share at all."""
        has_any = self.model.new_bool_var("")
        for one in cluster.bins:
            for number in self._alike(one):
                for row in self._rows_on(one.device):
                    if row.is_share:
                        most = row.most[number] * has_any
                        self.model.add(row.here[number] <= most)
        total = sum((group.sync or 0) * len(group.layers) for group in self.classes)
        return total * has_any

    def _busy_collectives(self) -> list[tuple[int, int]]:
        """When the frame's own collectives run on the component's devices."""
        frame = self.problem.frame
        streams = {Stream(StreamKind.COLLECTIVE, device) for device in self.devices}
        steps = range(2 * self.problem.interval + 1)
        return sorted(
            (time + step * frame.period, frame.end(op) + step * frame.period)
            for op, time in frame.start.items()
            if streams.intersection(frame.graph.data[op].streams)
            for step in steps
        )

    @cached_property
    def _clusters(self) -> tuple[_Cluster, ...]:
        bins = sorted(
            (one for device in self.devices for one in self.problem.bins[device]),
            key=lambda one: (one.begin, one.end),
        )
        groups: list[list[Bin]] = []
        end = None
        for one in bins:
            if end is not None and one.begin < end:
                groups[-1].append(one)
                end = max(end, one.end)
            else:
                groups.append([one])
                end = one.end
        begins = [group[0].begin for group in groups]
        return tuple(
            _Cluster(tuple(group), begins[n + 1] if n + 1 < len(begins) else None)
            for n, group in enumerate(groups)
        )

    @cached_property
    def _cluster_of(self) -> dict[Bin, _Cluster]:
        return {one: cluster for cluster in self._clusters for one in cluster.bins}

    def _alike(self, one: Bin) -> tuple[int, ...]:
        """The bins that share the length of one."""
        key = (one.step % self.problem.interval, one.gap)
        return self._groups[one.device][key]

    def _used(self, inversion: _Row, one: Bin) -> cp_model.LinearExpr:
        """Inversions of the refresh before that have ended when a bin begins."""
        late = self.problem.interval * self.problem.frame.period
        bins = self.problem.bins[inversion.device]
        if self.relaxed:
            ended = [i for i, b in enumerate(bins) if b.begin < one.end + late]
        else:
            ended = [i for i, b in enumerate(bins) if b.end <= one.begin + late]
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
        for group, shares, inversions in zip(
            counts.classes, counts.shares, counts.inversions, strict=True
        ):
            self._name(group, shares, inversions)
        self._reduce()

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

    def _reduce(self) -> None:
        """Reductions one after the other, in the order in which factors are ready."""
        graph = self.counts.problem.graph
        ready = {
            group.sync_op(layer): max(
                self.start[before] + graph.data[before].duration
                for before, _ in graph.predecessors(group.sync_op(layer))
            )
            for group in self.counts.classes
            if group.sync is not None
            for layer in group.layers
        }
        free = 0
        for op in sorted(ready, key=lambda op: (ready[op], op)):
            self.start[op] = max(free, ready[op])
            free = self.start[op] + graph.data[op].duration
