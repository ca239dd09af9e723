"""Of equal items those whose data is there first come first: no packing is lost.

Take two shares of one class on one device that last equally long, the one's data there
no later than the other's. At every moment let the first have had the greater of both
counts of ended items, and the second the smaller one: the same items at the same times
under other names. No item comes before its data, since the second had none then. All
that waits for the class waits for the smallest count of any share, which stays. What
waits in memory becomes less, or stays.

The same goes for two classes whose shares and inversions last equally long, on the same
devices, if the data of every share of the one is there no later than that of the other:
the greater counts of all, of shares and of inversions, are the first class's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, permutations

from schedopt.cpsat.packing_counts import ClassRows, Counts, Row
from schedopt.refresh.problem import Share

_Item = tuple[Share, Row]


def earlier_data_comes_first(counts: Counts) -> None:
    """Of equal shares, and of equal classes, the earlier one is ahead in every bin."""
    if counts.together:
        return  # equal items are counted together, whenever their data is there
    for rows in counts.classes:
        for alike in _by_device(rows).values():
            for (one, ahead), (other, behind) in pairwise(alike):
                if _is_before(one, other):
                    _stays_ahead(counts, ahead, behind)
    pairs = [
        (first, second)
        for first, second in permutations(range(len(counts.classes)), 2)
        if _class_is_before(counts, first, second)
    ]
    for first, second in pairs:
        if any((first, c) in pairs and (c, second) in pairs for c, _ in pairs):
            continue  # it follows from others
        for ahead, behind in _partners(counts.classes[first], counts.classes[second]):
            _stays_ahead(counts, ahead, behind)


def _stays_ahead(counts: Counts, ahead: Row, behind: Row) -> None:
    for one, other, most in zip(ahead.until, behind.until, behind.most, strict=True):
        if most:
            counts.model.add(one >= other)


def _by_device(rows: ClassRows) -> dict[int, list[_Item]]:
    """The shares on each device, by when their data is there."""
    found: dict[int, list[_Item]] = {}
    for row in rows.shares:
        ((share, _),) = row.items
        found.setdefault(row.device, []).append((share, row))
    for items in found.values():
        items.sort(key=lambda item: (item[0].release, item[0].microbatch))
    return found


def _is_before(one: Share, other: Share) -> bool:
    """Whether two shares on a device are equal but for when their data is there."""
    return (
        (one.duration, one.size) == (other.duration, other.size)
        and one.release <= other.release
        and (one.size == 0 or one.waits_from <= other.waits_from)
    )


def _class_is_before(counts: Counts, first: int, second: int) -> bool:
    """Whether two classes are equal but for when the data of their shares is there."""
    one, other = counts.classes[first], counts.classes[second]
    if not (one.of_all_copies and other.of_all_copies):
        return False
    if counts.problem.device_barrier and (one.group.stage, one.group.side) != (
        other.group.stage,
        other.group.side,
    ):
        return False
    if (one.size, one.group.sync) != (other.size, other.group.sync):
        return False
    if _inverting(one) != _inverting(other):
        return False
    mine, others = _by_device(one), _by_device(other)
    if {d: len(items) for d, items in mine.items()} != {
        d: len(items) for d, items in others.items()
    }:
        return False
    before = all(
        _is_before(share, another)
        for device, items in mine.items()
        for (share, _), (another, _) in zip(items, others[device], strict=True)
    )
    # Classes that are equal in all are kept in order.
    return before and (first < second or not _class_is_before_strictly(others, mine))


def _class_is_before_strictly(
    mine: dict[int, list[_Item]], others: dict[int, list[_Item]]
) -> bool:
    return all(
        _is_before(share, another)
        for device, items in mine.items()
        for (share, _), (another, _) in zip(items, others[device], strict=True)
    )


def _inverting(rows: ClassRows) -> list[tuple[int, int, list[int]]]:
    return sorted((row.device, row.duration, row.most) for row in rows.inversions)


def _partners(one: ClassRows, other: ClassRows) -> Iterator[tuple[Row, Row]]:
    """Rows of two classes that stand for each other."""
    others = _by_device(other)
    for device, items in _by_device(one).items():
        for (_, ahead), (_, behind) in zip(items, others[device], strict=True):
            yield ahead, behind
    key = lambda row: row.device  # noqa: E731
    yield from zip(
        sorted(one.inversions, key=key), sorted(other.inversions, key=key), strict=True
    )
