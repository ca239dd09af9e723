"""The rules of a packing, one function each, on how many items every bin takes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from ortools.sat.python import cp_model

from schedopt.cpsat.packing_counts import Amount, ClassRows, Counts, Row, total
from schedopt.cpsat.packing_reductions import Reductions
from schedopt.refresh.problem import Bin

_MANY_ITEMS = 60  # in a bin; what they leave of its length is little
_LEAST_GRAIN = 4  # ticks


def everything_is_done(counts: Counts) -> None:
    """Every share and every inversion is in some bin."""
    for rows in counts.classes:
        together = [[row] for row in rows.shares]
        if rows.of_all_copies:
            together += [[row] for row in rows.inversions]
        else:
            together.append(rows.inversions)
        for alike in together:
            if not (counts.relaxed and any(row.duration == 0 for row in alike)):
                items = alike[0].per_factor * rows.size
                counts.model.add(total(row.all for row in alike) == items)


def bins_hold_their_load(counts: Counts) -> None:
    """What bins that share their length take is at most that long."""
    for one, amounts in _by_bin(counts):
        load = total(amount.duration * amount.items for amount in amounts)
        counts.model.add(load <= one.length)


def bins_hold_few_large_items(counts: Counts) -> None:
    """Implied: items of at least d ticks that a bin takes are at most length / d.

    An item of twice d counts twice, and so on: the sum of floors is no more than the
    floor of the sum. It spares the solver from finding out bin by bin that large items
    leave room which no other one fits.
    """
    for one, amounts in _by_bin(counts):
        durations = {amount.duration for amount in amounts if amount.duration > 1}
        grains = durations | {d // 2 for d in durations if d > _LEAST_GRAIN}
        for grain in sorted(grains):
            if one.length // grain <= _MANY_ITEMS:
                items = total(
                    (amount.duration // grain) * amount.items for amount in amounts
                )
                counts.model.add(items <= one.length // grain)


def _by_bin(counts: Counts) -> Iterator[tuple[Bin, list[Amount]]]:
    for one, amounts in groupby(counts.amounts, key=lambda amount: amount.bin):
        yield one, list(amounts)


def large_items_come_first(counts: Counts) -> None:
    """A way to search: decide on large items, bin by bin, before smaller ones.

    What small ones of which microbatch and factor fill the rest is then easy to find.
    """
    amounts = sorted(counts.amounts, key=lambda one: (-one.duration, one.bin.begin))
    counts.model.add_decision_strategy(
        [amount.items for amount in amounts],
        cp_model.CHOOSE_FIRST,
        cp_model.SELECT_MIN_VALUE,
    )


def inversions_wait_for_shares(counts: Counts, reductions: Reductions) -> None:
    """The k-th inversion of a class begins after the k-th of each of its shares."""
    for rows in counts.classes:
        for inversion in rows.inversions:
            if counts.relaxed and not inversion.duration:
                continue  # it may stand where no bin is
            for number, here in enumerate(inversion.bins):
                if not inversion.most[number]:
                    continue
                begun = _begun(counts, rows, inversion, number)
                for share in rows.shares:
                    ended = reductions.ended(share, here)
                    if ended is not None:
                        counts.model.add(share.per_factor * begun <= ended)


def _begun(
    counts: Counts, rows: ClassRows, inversion: Row, number: int
) -> cp_model.LinearExpr:
    """Inversions of the class that have begun when those of a bin have.

    Those in other bins that overlap with it are begun earlier or later.
    """
    begun: cp_model.LinearExpr = inversion.until[number]
    if rows.of_all_copies:
        return begun
    end = inversion.bins[number].end
    for other in rows.inversions:
        if other is not inversion:
            begun += (
                other.in_bins_ended_by(end)
                if counts.relaxed
                else other.in_bins_begun_before(end)
            )
    return begun


def inversions_wait_for_their_side(counts: Counts, reductions: Reductions) -> None:
    """With a device-wide barrier a bin's inversions follow all shares of their side."""
    instance = counts.problem.frame.instance
    for device in counts.devices if counts.problem.device_barrier else ():
        stages = set(instance.stages_of(device))
        for side in "AB":
            beside = [
                rows
                for rows in counts.classes
                if rows.group.stage in stages and rows.group.side == side
            ]
            mine = [row for rows in beside for row in rows.inversions_on(device)]
            if counts.relaxed:
                mine = [row for row in mine if row.duration]
            for number, here in enumerate(counts.bins[device]):
                if not any(row.most[number] for row in mine):
                    continue
                is_open = counts.model.new_bool_var("")
                for row in mine:
                    counts.model.add(row.here[number] <= row.most[number] * is_open)
                for rows in beside:
                    for share in rows.shares:
                        ended = reductions.ended(share, here)
                        if ended is not None:
                            items = share.per_factor * rows.size
                            counts.model.add(ended >= items * is_open)


def factors_are_used_before_they_are_written(counts: Counts) -> None:
    """Shares of the next refresh follow the inversion of what is there.

    And its reduction, which the other device's inversion implies.
    """
    problem = counts.problem
    cycle = problem.interval * problem.frame.period
    last = max((one.end for bins in counts.bins.values() for one in bins), default=0)
    for rows in counts.classes:
        for share in rows.shares:
            for number, one in enumerate(share.bins):
                if one.begin + cycle >= last:
                    break
                if not any(share.most[: number + 1]):
                    continue
                if counts.relaxed:
                    _may_be_written(counts, rows, share, number, one.end + cycle)
                    continue
                used = [
                    row.in_bins_ended_by(one.begin + cycle)
                    for row in rows.inversions
                    if row.device == share.device or not rows.of_all_copies
                ]
                most = share.per_factor * total(used)
                counts.model.add(share.until[number] <= most)


def _may_be_written(
    counts: Counts, rows: ClassRows, share: Row, number: int, time: int
) -> None:
    """What has been used may have been so until a time, not only surely."""
    written = share.until[number]
    for other in rows.shares:
        if other.duration:
            there = share.per_factor * other.in_bins_begun_before(time)
            counts.model.add(other.per_factor * written <= there)
    for row in rows.inversions_on(share.device):
        if row.duration:
            elsewhere = 0 if rows.of_all_copies else rows.size - row.all
            used = row.in_bins_begun_before(time) + elsewhere
            counts.model.add(written <= share.per_factor * used)


def devices_mirror_each_other(counts: Counts) -> None:
    """Equal rows of two devices take the same in every bin.

    Of inversions that one copy runs, what the first copy of one stage does is what the
    first copy of the other one does: no factor need be halved.
    """
    found: dict[tuple[object, ...], dict[int, list[Row]]] = {}
    for rows in counts.classes:
        like = (rows.group.side, rows.size)
        for row in rows.shares:
            shares = [
                (share._replace(microbatch=0, device=0), factors)
                for share, factors in row.items
            ]
            key = (*like, row.duration, *shares)
            found.setdefault(key, {}).setdefault(row.device, []).append(row)
        for inverting, row in zip(rows.group.inverting, rows.inversions, strict=True):
            is_shared = not (rows.of_all_copies or counts.together)
            twin = (*like, row.duration, inverting.copy if is_shared else None)
            found.setdefault(twin, {}).setdefault(row.device, []).append(row)
    for alike in found.values():
        first, *others = alike.values()
        for other in others:
            for one, two in zip(first, other, strict=False):
                for here, there in zip(one.here, two.here, strict=False):
                    counts.model.add(here == there)


def shares_come_early(counts: Counts) -> None:
    """As many shares as possible in early bins: more inversions may then follow."""
    rows = [row for group in counts.classes for row in group.shares]
    counts.model.maximize(total(until for row in rows for until in row.until))


def keeps_outline(counts: Counts, outline: Counts, solver: cp_model.CpSolver) -> None:
    """What an outline counts together, bins hold together."""
    rows_of = {rows.group: rows for rows in counts.classes}
    for outlined in outline.classes:
        members = [rows_of[group] for group in outlined.members]
        for row in outlined.shares:
            device, duration, size = _kind(row)
            mine = [
                one
                for rows in members
                for one in rows.shares
                if _kind(one) == (device, duration, size)
            ]
            _hold_together(counts, mine, row, solver)
        for row in outlined.inversions:
            mine = [one for rows in members for one in rows.inversions_on(row.device)]
            _hold_together(counts, mine, row, solver)


def _kind(row: Row) -> tuple[int, int, int]:
    return row.device, row.duration, row.items[0].share.size


def _hold_together(
    counts: Counts, rows: list[Row], outlined: Row, solver: cp_model.CpSolver
) -> None:
    for number, here in enumerate(outlined.here):
        items = total(row.here[number] for row in rows)
        counts.model.add(items == solver.value(here))
