"""Lower bounds on the refresh interval: what no packing into a frame can beat.

All are one counting argument. Choose devices, a release r and a grain u, ticks. Every
item (a curvature share or an inversion) of these devices that cannot start before r
counts floor(duration / u). A bin counts floor(length / u), of which the part before r
does not count. Items are not interrupted, so those in a bin take no more than its
length; the sum of their floors is no more than the floor of their sum. Hence the items'
count is at most that of all bins. With ``first`` the count of the bins of step 0 and
``each`` that of any later step,

    items <= first + (interval - 1) * each.

Where work may use the next cycle's bins, an item released late in step 0 may use a bin
early in the next cycle's step 0: only r = 0 counts, and ``first`` is ``each``. (Bins of
steps that are equal modulo the interval share their length: in the steady state a bin
holds what two refreshes put there.)

The choices have names:

* ``fluid``, r = 0 and u = 1: ceil(work / idle time), as if work were a fluid.
* ``strict``, u = 1: the idle time before the data is there is lost, once.
* ``large items``, r = 0: a gap takes few large items, and wastes what they leave.
* ``strict large items``: both.

An item is released when its data is there: a share after its microbatch's forward or
backward, an inversion when the last of its factor's shares can have ended (and the
sync, if there is one). u is a duration of an item, or a half, third or fourth of one.
Devices are chosen one by one; devices that may invert each other's factors also
together, since an inversion that either may run belongs to neither. Where a device has
``each`` = 0 and items are left over, no interval is long enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from schedopt.refresh.frame import Frame, Gap
from schedopt.refresh.problem import FactorClass, problem_of

FLUID = "fluid"
STRICT = "strict"
LARGE = "large items"
STRICT_LARGE = "strict large items"
NAMES = (FLUID, STRICT, LARGE, STRICT_LARGE)

_MOST_PARTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalBound:
    """No packing has a shorter interval; None: there is none at any interval.

    Attributes
    ----------
    devices : tuple of int
        Those whose work and gaps are counted.
    release, grain : int
        r and u, ticks.
    items, first, each : int
        The counts of the items, of the bins of step 0 and of those of a later step.
    """

    name: str
    interval: int | None
    devices: tuple[int, ...]
    release: int
    grain: int
    items: int
    first: int
    each: int

    @property
    def ratio(self) -> Fraction | None:
        """The interval before it is rounded up; None where there is none."""
        missing = self.items - self.first
        if missing <= 0 and self.each == 0:
            return Fraction(1)
        return 1 + Fraction(missing, self.each) if self.each else None


def interval_bounds(frame: Frame, *, wrap: bool) -> tuple[IntervalBound, ...]:
    """For each group of devices its best bound of every name that applies.

    Groups come in order of devices, single ones first. Best is the greatest ratio; ties
    go to the coarser grain, then to the later release.
    """
    found = []
    for devices, items in _groups(frame):
        gaps = [gap for device in devices for gap in frame.gaps[device]]
        best: dict[str, IntervalBound] = {}
        for bound in _bounds(
            devices, items, gaps, wrap=wrap, joins=not frame.ends_together
        ):
            known = best.get(bound.name)
            if known is None or _strength(bound) > _strength(known):
                best[bound.name] = bound
        found += [best[name] for name in NAMES if name in best]
    return tuple(found)


def best_bound(bounds: Iterable[IntervalBound]) -> IntervalBound | None:
    """The strongest of some bounds, the first where several are; None if none is."""
    return max(bounds, key=_strength, default=None)


def interval_of(bounds: Iterable[IntervalBound]) -> int:
    """The strongest bound's interval; 1 where none says anything."""
    best = best_bound(bounds)
    return 1 if best is None or best.interval is None else best.interval


class _Item(NamedTuple):
    """A share or an inversion, ticks."""

    duration: int
    release: int


_Items = Counter[_Item]
_Group = tuple[tuple[int, ...], _Items]


def _groups(frame: Frame) -> Iterator[_Group]:
    """Single devices with their own items; devices that share items, with all."""
    own: list[_Items] = [Counter() for _ in frame.gaps]
    shared: dict[tuple[int, ...], _Items] = {}
    for group in problem_of(frame, 1, wrap=False).classes:
        count = len(group.layers)
        for share in group.shares:
            own[share.device][_Item(share.duration, share.release)] += count
        release = _inversion_release(group)
        if group.all_copies or len(group.inverting) == 1:
            for one in group.inverting:
                own[one.device][_Item(one.duration, release)] += count
        else:
            devices = tuple(sorted(one.device for one in group.inverting))
            least = min(one.duration for one in group.inverting)
            items = shared.setdefault(devices, Counter())
            items[_Item(least, release)] += count
    for device, items in enumerate(own):
        yield (device,), items
    for devices in _connected(shared):
        together: _Items = Counter()
        for device in devices:
            together += own[device]
        for pair, items in shared.items():
            if set(pair) <= set(devices):
                together += items
        yield devices, together


def _inversion_release(group: FactorClass) -> int:
    shares = (share.release + share.duration for share in group.shares)
    return max(shares, default=0) + (group.sync or 0)


def _connected(pairs: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Devices that share items, directly or through others."""
    groups: list[set[int]] = []
    for pair in pairs:
        joined = set(pair)
        apart = []
        for group in groups:
            if group & joined:
                joined |= group
            else:
                apart.append(group)
        groups = [*apart, joined]
    return sorted(tuple(sorted(group)) for group in groups)


def _bounds(
    devices: tuple[int, ...],
    items: _Items,
    gaps: Sequence[Gap],
    *,
    wrap: bool,
    joins: bool,
) -> Iterator[IntervalBound]:
    durations = {item.duration for item in items if item.duration > 1}
    grains = {
        duration // parts
        for duration in durations
        for parts in range(1, _MOST_PARTS + 1)
        if duration // parts > 1
    }
    releases = {0} if wrap else {0, *(item.release for item in items)}
    for grain in (*sorted(grains, reverse=True), 1):
        each = sum(gap.length // grain for gap in gaps)
        for release in sorted(releases, reverse=True):
            counted = sum(
                item.duration // grain * count
                for item, count in items.items()
                if item.release >= release
            )
            first = sum(
                # One that begins at a step's very end is there after the last step.
                (gap.length if joins and gap.begin == 0 else _after(gap, release))
                // grain
                for gap in gaps
            )
            yield IntervalBound(
                name=_NAMES[release > 0, grain > 1],
                interval=_least(counted, first, each),
                devices=devices,
                release=release,
                grain=grain,
                items=counted,
                first=first,
                each=each,
            )


def _after(gap: Gap, release: int) -> int:
    """What a gap of step 0 has after some data is there, ticks."""
    return max(0, gap.end - max(gap.begin, release))


_NAMES = {
    (False, False): FLUID,
    (True, False): STRICT,
    (False, True): LARGE,
    (True, True): STRICT_LARGE,
}


def _least(items: int, first: int, each: int) -> int | None:
    """The least interval with items <= first + (interval - 1) * each, at least 1."""
    missing = items - first
    if missing <= 0:
        return 1
    return None if each == 0 else 1 + -(-missing // each)


def _strength(bound: IntervalBound) -> tuple[bool, Fraction]:
    """What to compare bounds by."""
    ratio = bound.ratio
    return (True, Fraction(0)) if ratio is None else (False, ratio)
