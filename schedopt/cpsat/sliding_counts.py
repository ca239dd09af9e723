"""The variables of a refresh whose bins are spaces between ops that slide.

As in ``packing``, variables count the equal items that a bin takes: the shares of a
class of equal factors and the class's inversions. In a bin shares stand first, from its
begin, and inversions last, up to its end. A device's items are counted in one of three
details, each a relaxation of the one before:

* shares by microbatch: the k-th inversion waits for the k-th share of each;
* kinds: classes whose shares and inversions last equally long are counted together, and
  shares of all microbatches; of n inversions and s shares of a kind the k-th inversion
  waits for k s / n shares;
* loads: equal durations together, in any order, over the steps of one cycle.

Where two devices mirror each other, one of them is modelled. Otherwise work of other
devices counts once their bin must have ended before this one can begin; ``relaxed``
counts it as soon as that bin may have begun, and rounds work down, else up.

A scale c that divides the frame's times keeps both promises: a bin of L coarse ticks
takes work only if the sum of its floors (of duration / c) is at most L, and it does
take it if the sum of the ceilings is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from ortools.sat.python import cp_model

from schedopt.cpsat.coarse import LARGEST_HORIZON, exact_scale
from schedopt.cpsat.sliding_times import Space, Steps, Times, Windows
from schedopt.errors import NotApplicableError
from schedopt.instance import Placement
from schedopt.ops import Op, OpKind
from schedopt.refresh.frame import Frame
from schedopt.refresh.problem import FactorClass, Problem

NOTHING = cp_model.LinearExpr.constant(0)


class Detail(Enum):
    """How a device's items are counted."""

    SHARES = auto()
    KINDS = auto()
    LOADS = auto()


@dataclass(frozen=True, slots=True)
class Row:
    """Variables of equal items over the bins of their device.

    ``here[b]`` counts the items in bin b, at most ``most[b]``; ``until[b]`` those in
    bins up to it; there are ``total``. ``duration`` is in coarse ticks; ``microbatch``
    that of shares, None for all of them or for inversions.
    """

    device: int
    total: int
    duration: int
    microbatch: int | None
    most: list[int]
    here: list[cp_model.IntVar]
    until: list[cp_model.IntVar]

    @property
    def all(self) -> cp_model.LinearExpr:
        """Items in any bin."""
        return self.until[-1] if self.until else NOTHING


@dataclass(frozen=True, slots=True)
class Inverted:
    """A row of inversions on a copy, and the classes whose shares they wait for.

    The first of ``classes`` (numbers) is the one that is inverted; where devices mirror
    each other and one of them inverts, the second is what the other one inverts. There
    are ``total`` inversions, those of other copies that may run them included.
    """

    copy: int
    classes: tuple[int, ...]
    row: Row
    total: int


def mirror_of(frame: Frame) -> Mapping[Op, Op]:
    """For each op of a two-way pipeline the one that mirrors it; empty if none does.

    Devices d and D - 1 - d mirror each other if every microbatch m on the one runs at
    the times of m + 1 (m even) or m - 1 on the other, and takes as long.
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


def require_known(problem: Problem) -> None:
    """Refuse what is not modelled where the pipeline's ops move.

    Raises
    ------
    NotApplicableError
        If reductions of factors take time, or the pipeline has alternative ops.
    """
    require_no_alternatives(problem.frame)
    if any(group.sync for group in problem.classes):
        msg = "sliding does not know reductions of factors that take time"
        raise NotApplicableError(msg)


def require_no_alternatives(frame: Frame) -> None:
    """Refuse alternative ops where steps may be other than the frame's.

    Raises
    ------
    NotApplicableError
        If the pipeline has some.
    """
    if frame.graph.literals:
        msg = (
            "moving or stretching a pipeline does not know alternative ops (a stage's"
            " overlap, or backward: choose)"
        )
        raise NotApplicableError(msg)


class Counts:
    """The variables: times, and counts per class and bin; no rules of packing yet.

    ``details`` says how the items of each device are counted; devices that it does not
    have are not looked at. ``steps`` fixes all times.
    """

    def __init__(
        self,
        problem: Problem,
        windows: Windows,
        details: Mapping[int, Detail],
        *,
        twin: Mapping[Op, Op] | None = None,
        steps: Steps | None = None,
        relaxed: bool = False,
    ) -> None:
        require_known(problem)
        self.problem = problem
        self.details = details
        self.relaxed = relaxed
        self.model = cp_model.CpModel()
        self.scale = scale_of(problem)
        self.twin = twin or {}
        self.times = Times(
            self.model,
            windows,
            problem.interval,
            self.scale,
            twin=self.twin,
            steps=steps,
        )
        self.classes = problem.classes
        self.bins: dict[int, list[Space]] = {}
        self.shares: list[list[Row]] = [[] for _ in self.classes]
        self.inversions: list[Inverted] = []
        for device, detail in details.items():
            if detail is not Detail.LOADS:
                self.bins[device] = list(self._bins(device))
        self._kinds: dict[object, list[int]] = {}
        for number, group in enumerate(self.classes):
            self._kinds.setdefault(problem.kind(group), []).append(number)
        for number in range(len(self.classes)):
            for device in self.bins:
                members = self._counted_with(number, device)
                self.shares[number] += self._share_rows(members, device)
                self.inversions += self._inversion_rows(members, device)

    # -- variables ------------------------------------------------------------

    def _bins(self, device: int) -> Iterator[Space]:
        """The spaces of a device that may hold something in time."""
        problem = self.problem
        shortest = min(self._durations(device), default=0)
        order = self.times.order(device)
        # Where a device has several copies, the last one's inverses may still be used.
        uses = [p for p, op in enumerate(order) if op.kind is OpKind.PRECONDITION]
        first_use = (uses[-1] if self.relaxed else uses[0]) if uses else len(order)
        steps = 2 * problem.interval if problem.wrap else problem.interval
        for space in self.times.spaces(device, steps):
            used = space.step if space.position < first_use else space.step + 1
            is_next_one = self._is_beyond((space.step, space.position), device)
            if used <= problem.latest and not is_next_one and space.longest >= shortest:
                yield space

    def _durations(self, device: int) -> Iterator[int]:
        """Of all that a device may run, also if another one may, coarse ticks."""
        for group in self.classes:
            takes = [(one.device, one.duration) for one in group.shares]
            takes += [(one.device, one.duration) for one in group.inverting]
            for where, duration in takes:
                if where == device:
                    yield self._coarse(duration)

    def _is_beyond(self, place: tuple[int, int], device: int) -> bool:
        """Whether a space follows the cycle's end, where all end it together."""
        problem = self.problem
        together = problem.frame.ends_together and problem.frame.ends_at_once
        last = (problem.interval - 1, len(self.times.order(device)) - 1)
        return together and not problem.wrap and place >= last

    def _counted_with(self, number: int, device: int) -> Sequence[int]:
        """The classes that are counted in a class's rows on a device."""
        if self.details[device] is not Detail.KINDS:
            return (number,)
        members = self._kinds[self.problem.kind(self.classes[number])]
        return members if number == members[0] else ()

    def _first_counted(self, number: int, device: int) -> int:
        """The class in whose rows a class is counted on a device."""
        if self.details[device] is not Detail.KINDS:
            return number
        return self._kinds[self.problem.kind(self.classes[number])][0]

    def _share_rows(self, members: Sequence[int], device: int) -> Iterator[Row]:
        """A row for each microbatch, or for each duration."""
        alike: dict[int, list[tuple[int, int]]] = {}
        for number in members:
            group = self.classes[number]
            for share in group.shares:
                if share.device != device:
                    continue
                release = self._release(group, share.microbatch, device)
                items = (len(group.layers), release)
                if self.details[device] is Detail.KINDS:
                    alike.setdefault(share.duration, []).append(items)
                else:
                    kind = (device, share.duration)
                    yield self._row(*kind, [items], share.microbatch)
        for duration, together in alike.items():
            yield self._row(device, duration, together)

    def _release(self, group: FactorClass, microbatch: int, device: int) -> int:
        """The position after which a share's data is there."""
        order = self.times.order(device)
        op = group.share_op(group.layers[0], microbatch)
        return max(
            order.index(before)
            for before, _ in self.problem.graph.predecessors(op)
            if before in self.problem.frame.start
        )

    def _inversion_rows(
        self, members: Sequence[int], device: int
    ) -> Iterator[Inverted]:
        """A row for each copy of the classes' stages on a device."""
        mine: dict[int, list[int]] = {}
        for number in members:
            group = self.classes[number]
            for one in group.inverting:
                if one.device == device and not self._is_mirrored(group, one.copy):
                    mine.setdefault(one.copy, []).append(number)
        if self.details.get(device) is Detail.KINDS and mine:
            # Copies do not matter there.
            mine = {min(mine): [n for numbers in mine.values() for n in numbers]}
        for copy, numbers in mine.items():
            group = self.classes[numbers[0]]
            duration = next(i.duration for i in group.inverting if i.device == device)
            classes: tuple[int, ...] = (members[0],)
            if self.twin and not group.all_copies:
                opposite = self._opposite(members[0])
                if opposite not in members:
                    classes = (members[0], self._first_counted(opposite, device))
            sizes = [len(self.classes[number].layers) for number in numbers]
            row = self._row(device, duration, [(size, 0) for size in sizes])
            total = row.total
            if not group.all_copies and not self.twin:
                total = sum(len(self.classes[number].layers) for number in members)
            yield Inverted(copy, classes, row, total)

    def _is_mirrored(self, group: FactorClass, copy: int) -> bool:
        """Whether the inversion is the mirroring device's; each does its first copy."""
        return bool(self.twin) and not group.all_copies and copy > 0

    def _opposite(self, number: int) -> int:
        """The class that the mirroring device inverts meanwhile."""
        group = self.classes[number]
        last = len(self.problem.frame.instance.stages) - 1
        durations = [one.duration for one in group.inverting]
        alike = group._replace(stage=last - group.stage, shares=(), inverting=())
        for other, candidate in enumerate(self.classes):
            if (
                candidate._replace(shares=(), inverting=()) == alike
                and [one.duration for one in candidate.inverting] == durations
            ):
                return other
        msg = "devices mirror each other only if their stages are equal"
        raise NotApplicableError(msg)

    def _row(
        self,
        device: int,
        duration: int,
        items: Sequence[tuple[int, int]],
        microbatch: int | None = None,
    ) -> Row:
        """A row of so many items each, and the position from which they may run."""
        coarse = self._coarse(duration)
        most: list[int] = []
        here, until = [], []
        before = NOTHING
        for space in self.bins[device]:
            place = (space.step, space.position)
            limit = sum(size for size, release in items if place >= (0, release))
            most.append(min(limit, space.longest // coarse) if coarse else limit)
            here.append(self.model.new_int_var(0, most[-1], ""))
            until.append(self.model.new_int_var(0, limit, ""))
            self.model.add(until[-1] == before + here[-1])
            before = until[-1]
        total = sum(size for size, _ in items)
        return Row(device, total, coarse, microbatch, most, here, until)

    def _coarse(self, duration: int) -> int:
        return duration // self.scale if self.relaxed else -(-duration // self.scale)

    def items(self, device: int) -> Counter[int]:
        """How many items of each duration a device has, coarse ticks.

        Without those that another device may have, unless devices mirror each other.
        """
        found: Counter[int] = Counter()
        for group in self.classes:
            size = len(group.layers)
            for share in group.shares:
                if share.device == device:
                    found[self._coarse(share.duration)] += size
            alone = group.all_copies or len(group.inverting) == 1
            for one in group.inverting:
                mine = alone or (self.twin and not self._is_mirrored(group, one.copy))
                if one.device == device and mine:
                    found[self._coarse(one.duration)] += size
        return found

    # -- sums -----------------------------------------------------------------

    def rows_on(self, device: int) -> list[Row]:
        """All rows of a device."""
        rows = [row for group in self.shares for row in group]
        rows += [one.row for one in self.inversions]
        return [row for row in rows if row.device == device]

    def bins_alike(self, device: int) -> Iterable[tuple[int, ...]]:
        """Bins of a device that share their length: equal steps modulo the interval."""
        found: dict[tuple[int, int], tuple[int, ...]] = {}
        for number, space in enumerate(self.bins[device]):
            key = (space.step % self.problem.interval, space.position)
            found[key] = (*found.get(key, ()), number)
        return found.values()


def scale_of(problem: Problem) -> int:
    """Ticks of a coarse one: exact for the frame, and for the work if that is short."""
    frame = problem.frame
    moments = (frame.period, frame.pipeline_end)
    scale = exact_scale(problem.graph, moments)
    if problem.interval * frame.period <= LARGEST_HORIZON * scale:
        return scale
    return exact_scale(frame.graph, moments)


def load(rows: Iterable[Row], bins: Sequence[int]) -> cp_model.LinearExpr:
    """What items take of some bins of their device, coarse ticks."""
    return total(row.duration * row.here[b] for row in rows for b in bins)


def total(terms: Iterable[cp_model.LinearExpr]) -> cp_model.LinearExpr:
    """Their sum."""
    return cp_model.LinearExpr.sum(list(terms))
