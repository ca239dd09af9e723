"""A pipeline's lanes as arrays of integers, for loops that are compiled.

The stages of all lanes are numbered one after the other ("rows"). Ops are numbered by
row, kind (0 = F, 1 = B or I, 2 = W) and microbatch of the lane:
``first_op[row] + kind * microbatches[row] + n``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from schedopt.opgraph import OpGraph
from schedopt.ops import Op, OpKind
from schedopt.structure import Lane, lanes_of

Ints = npt.NDArray[np.int64]

UNLIMITED = 2**62
"""Stands for a memory limit where there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class LaneArrays:
    """The rows (stages of lanes) and ops of a pipeline.

    Attributes
    ----------
    device, forward, backward, weight, held, freed, gradient : arrays by row
        As ``structure.LaneStage``; ``weight`` is 0 where ``split`` is 0.
    lag_forward, lag_backward : arrays by row
        Lag into F from the row before, and into B from the row after.
    lane, microbatches, split : arrays by row
        The row's lane, how many microbatches pass, and whether W exists.
    first_op : array by row, one entry more
        Where the row's ops begin.
    room : array by device
        Memory limit minus static memory.
    ops : tuple of Op
        By op number.
    """

    device: Ints
    forward: Ints
    backward: Ints
    weight: Ints
    held: Ints
    freed: Ints
    gradient: Ints
    lag_forward: Ints
    lag_backward: Ints
    lane: Ints
    microbatches: Ints
    split: Ints
    first_op: Ints
    room: Ints
    ops: tuple[Op, ...]


@lru_cache(maxsize=4)
def lane_arrays(graph: OpGraph) -> LaneArrays | None:
    """The arrays of a graph's lanes; None if it has none."""
    lanes = lanes_of(graph)
    if not lanes:
        return None
    rows = [
        (number, lane, stage)
        for number, lane in enumerate(lanes)
        for stage in lane.stages
    ]
    ops: list[Op] = []
    first_op = [0]
    for _, lane, stage in rows:
        ops += _ops_of_row(lane, stage.stage)
        first_op.append(len(ops))

    def column(name: str) -> Ints:
        return np.array([getattr(stage, name) for _, _, stage in rows], np.int64)

    return LaneArrays(
        device=column("device"),
        forward=column("forward"),
        backward=column("backward"),
        weight=column("weight"),
        held=column("held"),
        freed=column("freed"),
        gradient=column("gradient"),
        lag_forward=column("lag_forward"),
        lag_backward=column("lag_backward"),
        lane=np.array([number for number, _, _ in rows], np.int64),
        microbatches=np.array(
            [len(lane.microbatches) for _, lane, _ in rows], np.int64
        ),
        split=np.array([lane.split for _, lane, _ in rows], np.int64),
        first_op=np.array(first_op, np.int64),
        room=np.array(
            [
                UNLIMITED if device.limit is None else device.limit - device.static
                for device in graph.devices
            ],
            np.int64,
        ),
        ops=tuple(ops),
    )


def _ops_of_row(lane: Lane, stage: int) -> list[Op]:
    kinds: tuple[OpKind, ...]
    if lane.split:
        kinds = (OpKind.FORWARD, OpKind.BACKWARD_INPUT, OpKind.BACKWARD_WEIGHT)
    else:
        kinds = (OpKind.FORWARD, OpKind.BACKWARD)
    return [
        Op(kind, stage, microbatch, step)
        for kind in kinds
        for step, microbatch in lane.microbatches
    ]
