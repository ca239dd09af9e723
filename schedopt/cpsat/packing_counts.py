"""The variables of a packing: how many equal items every bin takes, and sums of them.

``relaxed`` changes what sums count where it cannot be known from numbers alone, and
``together`` counts items of one length together, of whatever factor and microbatch: see
``schedopt.cpsat.packing``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from ortools.sat.python import cp_model

from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.refresh.problem import Bin, FactorClass, Inverting, Problem, Share

_MOST_GRAINS = 2**50
NOTHING = cp_model.LinearExpr.constant(0)


def total(terms: Iterable[cp_model.LinearExpr]) -> cp_model.LinearExpr:
    """The sum of some terms; 0 of none."""
    return cp_model.LinearExpr.sum(list(terms))


class Shares(NamedTuple):
    """A share of so many equal factors."""

    share: Share
    factors: int


@dataclass(frozen=True, slots=True)
class Row:
    """Variables of shares, or of a copy's inversions, over the bins of their device.

    ``here[b]`` counts the items in bin b, at most ``most[b]``; ``until[b]`` those in
    bins up to it. Each factor has ``per_factor`` of them. ``items`` are the shares that
    are counted; inversions have none.
    """

    device: int
    duration: int
    per_factor: int
    items: tuple[Shares, ...]
    bins: tuple[Bin, ...]
    most: list[int]
    here: list[cp_model.IntVar]
    until: list[cp_model.IntVar]

    @property
    def all(self) -> cp_model.LinearExpr:
        """Items in any bin."""
        return self.until[-1] if self.until else NOTHING

    def in_bins_ended_by(self, time: int) -> cp_model.LinearExpr:
        """Items in bins that end by a time: they have surely ended."""
        return self._until(sum(one.end <= time for one in self.bins))

    def in_bins_begun_before(self, time: int) -> cp_model.LinearExpr:
        """Items in bins that begin before a time: no other can have begun."""
        return self._until(sum(one.begin < time for one in self.bins))

    def _until(self, count: int) -> cp_model.LinearExpr:
        return self.until[count - 1] if count else NOTHING


class ClassRows(NamedTuple):
    """A class of equal factors, with a row for each of its shares and its inversions.

    ``of_all_copies`` says that every copy inverts each factor; else one of them does.
    ``members`` are the problem's classes that are counted here; ``group`` is their
    first, with the layers of all.
    """

    group: FactorClass
    members: tuple[FactorClass, ...]
    shares: list[Row]
    inversions: list[Row]

    @property
    def size(self) -> int:
        """How many factors there are."""
        return len(self.group.layers)

    @property
    def of_all_copies(self) -> bool:
        """Whether each copy runs its part of every inversion."""
        return self.group.all_copies or len(self.inversions) == 1

    def inversions_on(self, device: int) -> list[Row]:
        """Those that a device may run."""
        return [row for row in self.inversions if row.device == device]


class Amount(NamedTuple):
    """How many items of a duration a bin takes, with all that share its length."""

    bin: Bin
    duration: int
    items: cp_model.IntVar


class Counts:
    """A model without rules: the rows of all classes of some devices."""

    def __init__(
        self,
        problem: Problem,
        devices: Sequence[int],
        *,
        relaxed: bool = False,
        together: bool = False,
    ) -> None:
        self.problem = problem
        self.devices = tuple(devices)
        self.relaxed = relaxed
        self.together = together
        self.model = cp_model.CpModel()
        self.peak = self.model.new_int_var(0, _MOST_GRAINS, "peak")
        families: dict[object, list[FactorClass]] = {}
        for number, group in enumerate(self._groups()):
            key = problem.kind(group) if together else number
            families.setdefault(key, []).append(group)
        self.classes = [self._rows_of(members) for members in families.values()]

    # -- bins -----------------------------------------------------------------

    @cached_property
    def bins(self) -> dict[int, tuple[Bin, ...]]:
        """For each device its bins by begin, up to the last inversion of any device."""
        latest = 3 * self.problem.interval  # all bins that there are
        every = replace(self.problem, latest=latest).bins
        ends = [
            one.end
            for group in self._groups()
            for inverting in group.inverting
            for one in every[inverting.device]
            if self._is_in_time(group, inverting, one)
        ]
        return {
            device: tuple(b for b in every[device] if b.begin < max(ends, default=0))
            for device in self.devices
        }

    @cached_property
    def _alike(self) -> dict[Bin, tuple[int, ...]]:
        found: dict[tuple[int, int, int], list[int]] = {}
        for device, bins in self.bins.items():
            for number, one in enumerate(bins):
                found.setdefault(self._key(device, one), []).append(number)
        return {
            one: tuple(found[self._key(device, one)])
            for device, bins in self.bins.items()
            for one in bins
        }

    def _key(self, device: int, one: Bin) -> tuple[int, int, int]:
        return device, one.step % self.problem.interval, one.gap

    def alike(self, one: Bin) -> tuple[int, ...]:
        """The numbers of the bins that share one's length, by time.

        Their steps are equal modulo the interval.
        """
        return self._alike[one]

    def bins_alike(self, device: int) -> Iterator[tuple[int, ...]]:
        """The numbers of a device's bins, those together that share their length."""
        yield from dict.fromkeys(self._alike[one] for one in self.bins[device])

    # -- rows -----------------------------------------------------------------

    def _groups(self) -> Iterator[FactorClass]:
        inside = set(self.devices)
        for group in self.problem.classes:
            if inside & {one.device for one in group.inverting}:
                yield group

    def _rows_of(self, members: Sequence[FactorClass]) -> ClassRows:
        layers = tuple(layer for group in members for layer in group.layers)
        first = members[0]
        alike: dict[object, list[Shares]] = {}
        for group in members:
            for number, share in enumerate(group.shares):
                key: object = number
                if self.together:
                    key = (share.device, share.duration, share.size)
                alike.setdefault(key, []).append(Shares(share, len(group.layers)))
        shares = [self._row_of_shares(items, len(layers)) for items in alike.values()]
        inversions = [self._row_of_inverting(members, one) for one in first.inverting]
        group = first._replace(layers=layers)
        return ClassRows(group, tuple(members), shares, inversions)

    def _row_of_shares(self, items: Sequence[Shares], size: int) -> Row:
        device, duration = items[0].share.device, items[0].share.duration
        there = [
            sum(each.factors for each in items if one.begin >= each.share.release)
            for one in self.bins[device]
        ]
        per_factor = sum(each.factors for each in items) // size
        kind = (device, duration, per_factor, tuple(items))
        return self._row(*kind, may=there, most_until=there)

    def _row_of_inverting(self, members: Sequence[FactorClass], one: Inverting) -> Row:
        size = sum(len(group.layers) for group in members)
        bins = self.bins[one.device]
        may = [
            sum(
                len(group.layers)
                for group in members
                for mine in group.inverting
                if mine.device == one.device and self._is_in_time(group, mine, here)
            )
            for here in bins
        ]
        kind = (one.device, one.duration, 1, ())
        return self._row(*kind, may=may, most_until=[size] * len(bins))

    def _is_in_time(self, group: FactorClass, inverting: Inverting, one: Bin) -> bool:
        """Whether an inverse made in a bin is used by the latest step allowed."""
        frame = self.problem.frame
        use = frame.start[Op(OpKind.PRECONDITION, group.stage, inverting.copy)]
        return one.end <= use + self.problem.latest * frame.period

    def _row(
        self,
        device: int,
        duration: int,
        per_factor: int,
        items: tuple[Shares, ...],
        *,
        may: Sequence[int],
        most_until: Sequence[int],
    ) -> Row:
        """A row: how many items each bin may hold, and how many all bins up to it."""
        model, bins = self.model, self.bins[device]
        most: list[int] = []
        here, until = [], []
        before: cp_model.LinearExpr = NOTHING
        for one, allowed, in_all in zip(bins, may, most_until, strict=True):
            fits = min(allowed, one.length // duration) if duration else allowed
            most.append(fits)
            here.append(model.new_int_var(0, fits, ""))
            until.append(model.new_int_var(0, in_all, ""))
            model.add(until[-1] == before + here[-1])
            before = until[-1]
        return Row(device, duration, per_factor, items, bins, most, here, until)

    def shares_on(self, device: int) -> list[Row]:
        """The rows of all shares on a device."""
        return [r for rows in self.classes for r in rows.shares if r.device == device]

    def inversions_on(self, device: int) -> list[Row]:
        """The rows of all inversions on a device."""
        return [row for rows in self.classes for row in rows.inversions_on(device)]

    # -- sums -----------------------------------------------------------------

    @cached_property
    def amounts(self) -> tuple[Amount, ...]:
        """What every bin takes, or those together that share a length."""
        return tuple(
            self._amount(device, alike, duration)
            for device in self.devices
            for alike in self.bins_alike(device)
            for duration in sorted(self._durations(device), reverse=True)
        )

    def _durations(self, device: int) -> set[int]:
        rows = self.shares_on(device) + self.inversions_on(device)
        return {row.duration for row in rows if row.duration}

    def _amount(self, device: int, alike: Sequence[int], duration: int) -> Amount:
        rows = [
            row
            for row in self.shares_on(device) + self.inversions_on(device)
            if row.duration == duration
        ]
        first = self.bins[device][alike[0]]
        most = sum(row.most[number] for row in rows for number in alike)
        count = self.model.new_int_var(0, min(most, first.length // duration), "")
        self.model.add(count == total(row.here[n] for row in rows for n in alike))
        return Amount(first, duration, count)

    def load(self, rows: Iterable[Row], numbers: Sequence[int]) -> cp_model.LinearExpr:
        """What the items of some rows of a device take of some of its bins, ticks."""
        return total(row.duration * row.here[n] for row in rows for n in numbers)

    def shares_end(self, one: Bin) -> cp_model.LinearExpr:
        """When the last share of a bin has ended, ticks."""
        return self.load(self.shares_on(one.device), self.alike(one)) + one.begin

    # -- what the numbers can say ---------------------------------------------

    @cached_property
    def reductions_matter(self) -> bool:
        """Whether reductions over copies take time, or have to wait for others."""
        syncs = [rows.group.sync for rows in self.classes]
        return any(syncs) or (
            any(sync is not None for sync in syncs) and bool(self.busy_collectives)
        )

    @cached_property
    def busy_collectives(self) -> tuple[tuple[int, int], ...]:
        """When the frame's own collectives run on the devices, ticks in its step."""
        frame = self.problem.frame
        streams = {Stream(StreamKind.COLLECTIVE, device) for device in self.devices}
        return tuple(
            sorted(
                (time, frame.end(op))
                for op, time in frame.start.items()
                if streams.intersection(frame.graph.data[op].streams)
                and time < frame.end(op)
            )
        )

    @property
    def _rises_within_bins(self) -> bool:
        frame = self.problem.frame
        makers = {
            frame.start[buffer.maker]
            for buffer in self.problem.graph.buffers
            if buffer.device in self.devices and buffer.maker in frame.start
        }
        return any(
            gap.begin < time + shift < gap.end
            for device in self.devices
            for gap in frame.gaps[device]
            for time in makers
            for shift in (0, frame.period)
        )

    @cached_property
    def is_exact(self) -> bool:
        """Whether every packing can be brought to the form that is counted.

        Ops of no duration may also stand where no bin is. Where the frame's level rises
        within a bin, what the bin has ended by then is not counted.
        """
        return (
            len(self.devices) == 1
            and not self.problem.wrap
            and not self.reductions_matter
            and not self._rises_within_bins
            and all(
                row.duration
                for rows in self.classes
                for row in (*rows.shares, *rows.inversions)
            )
        )
