"""Plain K-FAC: a step with a refresh whose second-order work is all exposed.

PipeFisher's implementation (kazukiosawa/pipe-fisher) runs its first step in this way,
before it places anything in bubbles: the pipeline is as without K-FAC; once the last of
a device's pipeline ops has ended, the device runs the curvature of all its microbatches
and then its inversions, and only then preconditions, with the inverses just made. What
the step takes longer is what second-order work costs where nothing hides it.

"Exposed" is meant per device: one whose last backward ends early begins early, while
others still compute. Where stages are equal, the device that ends last has all of its
work on the critical path: the step takes T_pipe + N T_curv + T_inv + T_prec.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from schedopt.opgraph import Stream
from schedopt.ops import Op, OpKind
from schedopt.refresh.frame import END_OF_STEP, Frame, period_of
from schedopt.refresh.greedy import works_of
from schedopt.schedule import Schedule

_END_IN_TURN = (
    OpKind.REDUCE_GRAD,
    OpKind.PRECONDITION,
    OpKind.GATHER_GRAD,
    OpKind.STEP,
)


@dataclass(frozen=True)
class Exposed:
    """Plain K-FAC in a frame.

    Attributes
    ----------
    schedule : Schedule
        A step with a refresh, on the op graph of one step.
    refreshing : int
        From the start of a step with a refresh to that of the next step, ticks.
    other : int
        The same for a step without a refresh, ticks.
    """

    schedule: Schedule
    refreshing: int
    other: int

    def mean(self, interval: int) -> Fraction:
        """Ticks per step where one step of every ``interval`` refreshes."""
        return Fraction(self.refreshing + (interval - 1) * self.other, interval)


def exposed_of(frame: Frame) -> Exposed:
    """Plain K-FAC where the pipeline's ops stand as in the frame.

    Whole inversions are shared between the copies of a stage as the greedy rule does.
    """
    replay = _Replay(frame)
    # Curvature, syncs, inversions: as they stand in the lists of the greedy rule.
    works = [work.op for mine in works_of(frame) for work in mine]
    for kinds in (
        (OpKind.CURVATURE_A, OpKind.CURVATURE_B),
        (OpKind.SYNC_CURVATURE,),
        (OpKind.INVERSION,),
    ):
        replay.append(op for op in dict.fromkeys(works) if op.kind in kinds)
    for kind in _END_IN_TURN:
        replay.append(op for op in frame.start if op.kind is kind)
    schedule = Schedule(replay.graph, replay.start)
    refreshing = period_of(replay.graph, replay.start)
    return Exposed(schedule, refreshing, frame.period)


class _Replay:
    """The pipeline's ops of a step, and more ops after them."""

    def __init__(self, frame: Frame) -> None:
        self.graph = frame.with_refresh
        self.start: dict[Op, int] = {}
        self._free: dict[Stream, int] = {}
        for op, time in frame.start.items():
            if op.kind not in END_OF_STEP:
                self._place(op, time)

    def append(self, ops: Iterable[Op]) -> None:
        """Run ops that do not wait for each other, those first that may start first."""
        ready = {op: self._ready(op) for op in ops}
        for op in sorted(ready, key=ready.__getitem__):
            free = [self._free.get(stream, 0) for stream in self.graph.data[op].streams]
            self._place(op, max([ready[op], *free]))

    def _ready(self, op: Op) -> int:
        return max(
            (
                self.start[before] + self.graph.data[before].duration + lag
                for before, lag in self.graph.predecessors(op)
                if before in self.start
            ),
            default=0,
        )

    def _place(self, op: Op, time: int) -> None:
        data = self.graph.data[op]
        self.start[op] = time
        for stream in data.streams:
            end = time + data.duration
            self._free[stream] = max(end, self._free.get(stream, 0))
