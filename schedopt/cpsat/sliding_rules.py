"""The rules of a refresh whose bins slide; each a function, ``add_rules`` adds all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ortools.sat.python import cp_model

from schedopt.cpsat.sliding_counts import (
    NOTHING,
    Counts,
    Detail,
    Inverted,
    Row,
    load,
    total,
)
from schedopt.cpsat.sliding_times import Space
from schedopt.refresh.problem import FactorClass

_MANY_ITEMS = 60  # in a bin; what they leave of its length is little


def add_rules(counts: Counts) -> None:
    """All that applies."""
    for device, detail in counts.details.items():
        if detail is Detail.LOADS:
            spaces_hold_loads(counts, device)
    everything_is_done(counts)
    bins_hold_their_load(counts)
    inversions_wait_for_shares(counts)
    if counts.problem.device_barrier:
        inversions_wait_for_all_shares_of_their_side(counts)
    early_microbatches_come_first(counts)
    if counts.problem.wrap:
        factors_are_used_before_they_are_written(counts)


def spaces_hold_loads(counts: Counts, device: int) -> None:
    """The spaces of a cycle hold the device's items, in whatever order."""
    items = {d: count for d, count in counts.items(device).items() if d}
    placed: dict[int, list[cp_model.IntVar]] = {duration: [] for duration in items}
    for space in counts.times.spaces(device, counts.problem.interval):
        if space.longest < min(items, default=0):
            continue
        here = {
            d: counts.model.new_int_var(0, min(count, space.longest // d), "")
            for d, count in items.items()
        }
        load = total(d * var for d, var in here.items())
        counts.model.add(load <= counts.times.length(space))
        for duration, var in here.items():
            placed[duration].append(var)
    for duration, count in items.items():
        counts.model.add(total(placed[duration]) == count)


def everything_is_done(counts: Counts) -> None:
    """Every share and every inversion is in some bin."""
    for number, group in enumerate(counts.classes):
        for row in counts.shares[number]:
            counts.model.add(row.all == row.total)
        inverted = [one for one in counts.inversions if one.classes[0] == number]
        if group.all_copies or counts.twin:
            for one in inverted:
                counts.model.add(one.row.all == one.total)
        elif len(inverted) == len(group.inverting):
            counts.model.add(
                total(one.row.all for one in inverted) == inverted[0].total
            )


def bins_hold_their_load(counts: Counts) -> None:
    """What the bins of equal steps of all cycles take is at most their length.

    Implied, and added for the solver: of items that count floor(duration / u) each,
    a bin takes at most floor(length / u), for every u that is an item's duration.
    """
    for device, spaces in counts.bins.items():
        rows = counts.rows_on(device)
        grains = {row.duration for row in rows if row.duration}
        for same in counts.bins_alike(device):
            space = spaces[same[0]]
            length = counts.times.length(space)
            counts.model.add(load(rows, same) <= length)
            for grain in sorted(grains):
                most = space.longest // grain
                if 1 <= most <= _MANY_ITEMS:
                    counted = counts.model.new_int_var(0, most, "")
                    counts.model.add(grain * counted <= length)
                    items = total(
                        row.duration // grain * row.here[number]
                        for row in rows
                        for number in same
                    )
                    counts.model.add(items <= counted)


def inversions_wait_for_shares(counts: Counts) -> None:
    """The k-th inversion of a class begins after the k-th of each of its shares."""
    for inverted in counts.inversions:
        for number, most in enumerate(inverted.row.most):
            if most == 0:
                continue
            begun = _begun(counts, inverted, number)
            space = counts.bins[inverted.row.device][number]
            for group in inverted.classes:
                for row in counts.shares[group]:
                    ended = _ended(counts, row, space, number)
                    counts.model.add(row.total * begun <= inverted.total * ended)


def inversions_wait_for_all_shares_of_their_side(counts: Counts) -> None:
    """A bin has inversions only after every share that theirs waits for."""
    for inverted in counts.inversions:
        row = inverted.row
        waits = [
            other
            for number in inverted.classes
            for group in _beside(counts, counts.classes[number])
            for other in counts.shares[group]
        ]
        for number, most in enumerate(row.most):
            if most == 0:
                continue
            is_open = counts.model.new_bool_var("")
            counts.model.add(row.here[number] <= most * is_open)
            space = counts.bins[row.device][number]
            for other in waits:
                ended = _ended(counts, other, space, number)
                counts.model.add(ended >= other.total * is_open)


def _beside(counts: Counts, group: FactorClass) -> Iterator[int]:
    """The classes of the same side on the devices that hold the group's stage."""
    instance = counts.problem.frame.instance
    stages = {
        stage for one in group.inverting for stage in instance.stages_of(one.device)
    }
    for number, other in enumerate(counts.classes):
        if other.stage in stages and other.side == group.side:
            yield number


def early_microbatches_come_first(counts: Counts) -> None:
    """Of a class, no bin has seen more shares of a microbatch released later.

    Of equal shares on a device those that are released first may be done first.
    """
    for rows in counts.shares:
        for device in counts.bins:
            here = [row for row in rows if row.device == device]
            here.sort(key=lambda row: [most == 0 for most in row.most])
            for one, other in pairwise(here):
                if one.duration == other.duration:
                    for early, late in zip(one.until, other.until, strict=True):
                        counts.model.add(late <= early)


def factors_are_used_before_they_are_written(counts: Counts) -> None:
    """Shares of the next refresh follow the inversion of what is there."""
    for inverted in counts.inversions:
        for group in inverted.classes:
            for row in counts.shares[group]:
                for number, space in enumerate(counts.bins[row.device]):
                    if space.step >= counts.problem.interval:
                        break
                    used = _used(counts, inverted, space)
                    if used is not None:
                        most = row.total * used
                        counts.model.add(inverted.total * row.until[number] <= most)


def _begun(counts: Counts, inverted: Inverted, number: int) -> cp_model.LinearExpr:
    """Inversions of the class begun by the end of a bin."""
    row = inverted.row
    begun: cp_model.LinearExpr = row.until[number] + 0
    if counts.classes[inverted.classes[0]].all_copies or counts.twin:
        return begun
    space = counts.bins[row.device][number]
    for other in counts.inversions:
        if other is not inverted and other.classes == inverted.classes:
            begun = begun + _until(
                other.row,
                [
                    (b.end <= space.begin if counts.relaxed else b.begin < space.end)
                    for b in counts.bins[other.row.device]
                ],
            )
    return begun


def _ended(counts: Counts, row: Row, space: Space, number: int) -> cp_model.LinearExpr:
    """Shares that have ended before the inversions of a bin begin."""
    if row.device == space.device:
        return row.until[number] + 0
    return _until(
        row,
        [
            (b.begin < space.end if counts.relaxed else b.end <= space.begin)
            for b in counts.bins[row.device]
        ],
    )


def _used(
    counts: Counts, inverted: Inverted, space: Space
) -> cp_model.LinearExpr | None:
    """Inversions of the refresh before that have ended when a bin begins.

    Of all copies where one of them runs each; None where they are another copy's, which
    has factors of its own.
    """
    if counts.classes[inverted.classes[0]].all_copies or counts.twin:
        if inverted.row.device != space.device:
            return None
        return _used_of(counts, inverted.row, space)
    if counts.relaxed:
        return None  # a copy's factor may be written again once it has been reduced
    return total(
        _used_of(counts, one.row, space)
        for one in counts.inversions
        if one.classes == inverted.classes
    )


def _used_of(counts: Counts, row: Row, space: Space) -> cp_model.LinearExpr:
    interval = counts.problem.interval
    if row.device == space.device:
        # In a bin that both refreshes use shares stand before inversions.
        now = (space.step + interval, space.position + counts.relaxed)
        past = [(b.step, b.position) < now for b in counts.bins[row.device]]
        return _until(row, past)
    late = interval * counts.times.period
    past = [
        b.begin < space.end + late if counts.relaxed else b.end <= space.begin + late
        for b in counts.bins[row.device]
    ]
    return _until(row, past)


def _until(row: Row, past: Sequence[bool]) -> cp_model.LinearExpr:
    """Items in bins up to the last one that is past; bins are in order of time."""
    last = max((b for b, is_past in enumerate(past) if is_past), default=-1)
    return row.until[last] + 0 if last >= 0 else NOTHING
