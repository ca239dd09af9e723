"""Start times of a packing, from how many items every bin takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ortools.sat.python import cp_model

from schedopt.cpsat.packing_counts import ClassRows, Counts
from schedopt.cpsat.packing_groups import Group
from schedopt.cpsat.packing_reductions import Reductions
from schedopt.ops import Op
from schedopt.refresh.problem import Bin


class _Item(NamedTuple):
    """A share or an inversion: when it starts, ticks, on which copy, in which bin."""

    start: int
    copy: int
    bin: Bin


class Layout:
    """Shares stand from a bin's begin on, inversions up to its end."""

    def __init__(
        self, counts: Counts, reductions: Reductions, solver: cp_model.CpSolver
    ) -> None:
        self._counts = counts
        self._reductions = reductions
        self._value = solver.value
        self.start: dict[Op, int] = {}
        self._bin: dict[Op, Bin] = {}
        self._items: dict[int, list[_Item]] = {}
        for device in counts.devices:
            for alike in counts.bins_alike(device):
                self._fill(device, alike)
        for rows in counts.classes:
            self._name(rows)
        self._reduce()

    def _fill(self, device: int, alike: Sequence[int]) -> None:
        """Items of bins that share their length; those of the older refresh first."""
        counts = self._counts
        bins = counts.bins[device]
        copies = {
            id(row): one.copy
            for rows in counts.classes
            for one, row in zip(rows.group.inverting, rows.inversions, strict=True)
        }
        inversions = counts.inversions_on(device)
        last = self._value(counts.load(inversions, alike))
        for rows, begin in (
            (counts.shares_on(device), 0),
            (inversions, bins[alike[0]].length - last),
        ):
            offset = begin
            for number in reversed(alike):
                for row in rows:
                    items = self._items.setdefault(id(row), [])
                    for _ in range(self._value(row.here[number])):
                        time = bins[number].begin + offset
                        items.append(_Item(time, copies.get(id(row), 0), bins[number]))
                        offset += row.duration

    def _name(self, rows: ClassRows) -> None:
        """The k-th item of each row, by time, is that of the k-th layer."""
        group = rows.group
        for row in rows.shares:
            ((share, _),) = row.items
            items = sorted(self._items.get(id(row), []))
            for layer, item in zip(group.layers, items, strict=True):
                op = group.share_op(layer, share.microbatch)
                self.start[op], self._bin[op] = item.start, item.bin
        queues = [self._items.get(id(row), []) for row in rows.inversions]
        if not rows.of_all_copies:
            queues = [[item for queue in queues for item in queue]]
        for queue in queues:
            for layer, item in zip(group.layers, sorted(queue), strict=True):
                self.start[group.inversion_op(layer, item.copy)] = item.start

    # -- reductions -----------------------------------------------------------

    def _reduce(self) -> None:
        """Reductions, each as soon as it can where they take no time."""
        graph = self._counts.problem.graph
        together: dict[tuple[object, ...], list[tuple[int, Op, Group]]] = {}
        for rows in self._counts.classes:
            for layer in rows.group.layers if rows.group.sync is not None else ():
                op = rows.group.sync_op(layer)
                ready, last = max(
                    (self.start[before] + graph.data[before].duration, before)
                    for before, _ in graph.predecessors(op)
                )
                if not self._reductions.matter:
                    self.start[op] = ready
                    continue
                group = self._reductions.group_of(self._bin[last])
                since = max(ready, group.free_from) - group.begin
                together.setdefault(group.kind, []).append((since, op, group))
        for queue in together.values():
            self._in_turn(queue)

    def _in_turn(self, queue: list[tuple[int, Op, Group]]) -> None:
        """One after the other, as if both refreshes were in the same cycle."""
        data = self._counts.problem.graph.data
        free = 0
        for since, op, group in sorted(queue, key=lambda one: one[:2]):
            free = max(free, since)
            self.start[op] = group.begin + free
            free += data[op].duration
