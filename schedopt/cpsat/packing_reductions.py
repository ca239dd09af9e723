"""Reductions of factors over copies, in a packing: when what is reduced is there.

The factors whose last share a group of bins has (``packing_groups``) are reduced one
after the other once all its shares have ended, at the latest, and before the next group
begins. Where reductions take no time and wait for nothing, a share is there as soon as
it has ended.
"""

from __future__ import annotations

from collections.abc import Iterator

from ortools.sat.python import cp_model

from schedopt.cpsat.packing_counts import Counts, Row, total
from schedopt.cpsat.packing_groups import Group, groups_of
from schedopt.refresh.problem import Bin


class Reductions:
    """When shares have ended, and been reduced where that matters."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.matter = counts.reductions_matter and not counts.relaxed
        self.groups: tuple[Group, ...] = ()
        if self.matter:
            self.groups = groups_of(
                counts.problem, counts.bins, counts.busy_collectives
            )
        self._group_of = {one: group for group in self.groups for one in group.bins}
        self._meetings: dict[tuple[Bin | Group, Bin], cp_model.IntVar] = {}
        self._queues: dict[tuple[object, ...], cp_model.LinearExpr] = {}

    def group_of(self, one: Bin) -> Group:
        """The group of a bin."""
        return self._group_of[one]

    # -- rules ----------------------------------------------------------------

    def end_in_time(self) -> None:
        """The reductions of a group end before their streams are needed again."""
        counts = self.counts
        if any(group.is_endless for group in self.groups):
            counts.model.add_bool_or([])  # here nothing says when reductions run
            return
        for group in self.groups:
            queue = self._queue(group)
            for one in group.bins:
                if group.free_from <= group.limit:
                    counts.model.add(queue + group.free_from <= group.limit)
                    counts.model.add(counts.shares_end(one) + queue <= group.limit)
                    continue
                number = counts.bins[one.device].index(one)
                for row in counts.shares_on(one.device):
                    counts.model.add(row.here[number] == 0)

    def ended(self, share: Row, here: Bin) -> cp_model.LinearExpr | None:
        """Shares that are there when the inversions of a bin begin.

        Where it is not known, none of those that may be so; relaxed, all of them, and
        None if nothing can be said.
        """
        if self.counts.relaxed:
            # One of no duration may stand anywhere after its release.
            is_known = share.duration > 0
            return share.in_bins_begun_before(here.end) if is_known else None
        if not self.matter and share.device == here.device:
            return share.in_bins_begun_before(here.end)
        ended: list[cp_model.LinearExpr] = []
        for number, other in enumerate(share.bins):
            if not share.most[number]:
                continue
            what = self._group_of[other] if self.matter else other
            limit = what.limit if isinstance(what, Group) else what.end
            if limit <= here.begin:
                ended.append(share.here[number])
            elif other.begin < here.end:
                ended.append(self._in_time(share, number, what, here))
        return total(ended)

    def _in_time(
        self, share: Row, number: int, what: Bin | Group, here: Bin
    ) -> cp_model.IntVar:
        """Shares of a bin, if all of its kind are there when inversions begin."""
        counts = self.counts
        model = counts.model
        if (what, here) not in self._meetings:
            meets = model.new_bool_var("")
            last = counts.load(counts.inversions_on(here.device), counts.alike(here))
            for end in self._ends(what):
                model.add(end + last <= here.end).only_enforce_if(meets)
            self._meetings[what, here] = meets
        size = share.most[number]
        counted = model.new_int_var(0, size, "")
        model.add(counted <= share.here[number])
        model.add(counted <= size * self._meetings[what, here])
        return counted

    def _ends(self, what: Bin | Group) -> Iterator[cp_model.LinearExpr]:
        """When the shares of a bin have ended; of a group, when they are reduced."""
        if isinstance(what, Bin):
            yield self.counts.shares_end(what)
            return
        queue = self._queue(what)
        yield queue + what.free_from
        for one in what.bins:
            yield self.counts.shares_end(one) + queue

    # -- how long reductions take ---------------------------------------------

    def _queue(self, group: Group) -> cp_model.LinearExpr:
        """What a group's reductions take together, of both refreshes, ticks."""
        if group.kind not in self._queues:
            takes_all = self.counts.problem.device_barrier
            self._queues[group.kind] = total(
                wait
                for twin in self.groups
                if twin.kind == group.kind
                for wait in (
                    self._waits_for_all(twin) if takes_all else self._waits(twin)
                )
            )
        return self._queues[group.kind]

    def _waits(self, group: Group) -> Iterator[cp_model.LinearExpr]:
        """Each class's reductions, at most as many as a bin has of any share."""
        model = self.counts.model
        for one in group.bins:
            number = self.counts.bins[one.device].index(one)
            for rows in self.counts.classes:
                shares = [row for row in rows.shares if row.device == one.device]
                most = max((row.most[number] for row in shares), default=0)
                if rows.group.sync and most:
                    count = model.new_int_var(0, most, "")
                    for row in shares:
                        model.add(row.per_factor * count >= row.here[number])
                    yield rows.group.sync * count

    def _waits_for_all(self, group: Group) -> Iterator[cp_model.LinearExpr]:
        """All reductions that there are, if the group has any share."""
        counts = self.counts
        has_any = counts.model.new_bool_var("")
        for one in group.bins:
            number = counts.bins[one.device].index(one)
            for row in counts.shares_on(one.device):
                counts.model.add(row.here[number] <= row.most[number] * has_any)
        yield has_any * sum(
            (rows.group.sync or 0) * rows.size for rows in counts.classes
        )
