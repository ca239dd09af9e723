"""Start times from counts: shares from a bin's begin, inversions up to its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ortools.sat.python import cp_model

from schedopt.cpsat.sliding_counts import Counts, Row, load
from schedopt.cpsat.sliding_times import Space
from schedopt.ops import Op
from schedopt.refresh.problem import FactorClass


def steps_of(counts: Counts, solver: cp_model.CpSolver) -> tuple[Mapping[Op, int], ...]:
    """The starts that a solver found for the ops of every step, ticks."""
    return tuple(
        {
            op: counts.scale * solver.value(counts.times.start(op, step))
            for op in counts.problem.frame.start
        }
        for step in range(counts.problem.interval)
    )


def work_of(counts: Counts, solver: cp_model.CpSolver) -> dict[Op, int]:
    """The starts of a refresh's ops on the devices whose shares are counted, ticks.

    Where devices mirror each other also those of the mirroring ones; not of syncs.
    """
    return _Layout(counts, solver).start


def with_syncs(counts: Counts, start: Mapping[Op, int]) -> dict[Op, int]:
    """The starts of all ops: reductions take no time, as soon as shares have ended."""
    graph = counts.problem.graph
    found = dict(start)
    for group in counts.classes:
        for layer in group.layers if group.sync is not None else ():
            op = group.sync_op(layer)
            found[op] = max(
                start[before] + graph.data[before].duration
                for before, _ in graph.predecessors(op)
            )
    return found


class _Layout:
    def __init__(self, counts: Counts, solver: cp_model.CpSolver) -> None:
        self.counts = counts
        self.value = solver.value
        self.start: dict[Op, int] = {}
        self._times: dict[int, list[int]] = {}
        for device in counts.bins:
            for same in counts.bins_alike(device):
                self._fill(device, same)
        for number, group in enumerate(counts.classes):
            self._name_shares(number, group)
            self._name_inversions(number, group)
        if counts.twin:
            self._add_mirrored()

    def _fill(self, device: int, same: Sequence[int]) -> None:
        """Items of bins that share their length; those of the older refresh first."""
        counts = self.counts
        inversions = [one.row for one in counts.inversions if one.row.device == device]
        shares = [
            row for group in counts.shares for row in group if row.device == device
        ]
        length = self.value(counts.times.length(counts.bins[device][same[0]]))
        self._place(shares, same, 0)
        self._place(inversions, same, length - self.value(load(inversions, same)))

    def _place(self, rows: Iterable[Row], same: Sequence[int], begin: int) -> None:
        """Items one after the other, from coarse ticks after the bin's begin on."""
        offset = begin
        for number in reversed(same):
            for row in rows:
                times = self._times.setdefault(id(row), [])
                first = self._begin(self.counts.bins[row.device][number])
                for _ in range(self.value(row.here[number])):
                    times.append(first + self.counts.scale * offset)
                    offset += row.duration

    def _begin(self, space: Space) -> int:
        """When a space begins, ticks from the cycle's start."""
        counts, frame = self.counts, self.counts.problem.frame
        op = counts.times.order(space.device)[space.position]
        start = counts.scale * self.value(counts.times.start(op, space.step))
        return start + frame.graph.data[op].duration + space.step * frame.period

    def _name_shares(self, number: int, group: FactorClass) -> None:
        """The k-th item of each row, by time, is that of the k-th layer."""
        for row in self.counts.shares[number]:
            assert row.microbatch is not None
            times = sorted(self._times[id(row)])
            for layer, time in zip(group.layers, times, strict=True):
                self.start[group.share_op(layer, row.microbatch)] = time

    def _name_inversions(self, number: int, group: FactorClass) -> None:
        """Of a copy's inversions the same; of copies that share them, of all."""
        rows = [one for one in self.counts.inversions if one.classes[0] == number]
        queues = [
            [(time, one.copy) for time in self._times[id(one.row)]] for one in rows
        ]
        if not group.all_copies and rows:
            queues = [[item for queue in queues for item in queue]]
        for queue in queues:
            for layer, (time, copy) in zip(group.layers, sorted(queue), strict=True):
                self.start[group.inversion_op(layer, copy)] = time

    def _add_mirrored(self) -> None:
        """What the mirroring devices do: another microbatch, copy or stage."""
        last = len(self.counts.problem.frame.instance.stages) - 1
        shared = {
            group.inversion_op(layer, one.copy)
            for group in self.counts.classes
            if not group.all_copies
            for layer in group.layers
            for one in group.inverting
        }
        for op, time in list(self.start.items()):
            if op in shared:
                self.start[op._replace(stage=last - op.stage)] = time
            else:
                self.start[op._replace(microbatch=op.microbatch ^ 1)] = time
