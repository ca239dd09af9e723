"""Lists of ``ScheduledNode`` for the zero-bubble fork of Megatron-LM.

The fork (sail-sg, ``megatron/core/pipeline_parallel/zerobubble/scheduler``, files
``graph.py``, ``passes.py``, ``basic1f1b.py``, ``zbv.py``; read, not executed) takes
from a function ``create_schedule(config)`` one list of nodes per rank, compute only:
``run_schedule_passes`` adds peers, times and transfers. A node has a type (F, B for the
input, W for the weights, BW for both, R), the rank (which the fork calls stage), the
microbatch, the chunk (the how-manieth of the rank's stages) and ``layer_group_idx``,
our stage. Every stage with the same number of chunks on all ranks, one after the other
on the ring.

The runtime ignores the number of the microbatch and takes first in, first out per
chunk. So microbatches are numbered here in the order in which they run, which the
profile's rule makes one order.
"""

from __future__ import annotations

from collections.abc import Mapping

from schedopt.errors import ExportError
from schedopt.export.fifo import numbers_in_order
from schedopt.export.program import Program
from schedopt.export.python_text import header, words_text
from schedopt.ops import Op, OpKind

FILE_NAME = "zero_bubble_schedule.py"
_TYPES = {
    OpKind.FORWARD: "F",
    OpKind.BACKWARD: "BW",
    OpKind.BACKWARD_INPUT: "B",
    OpKind.BACKWARD_WEIGHT: "W",
    OpKind.RECOMPUTE: "R",
}


def zero_bubble_module(program: Program) -> Mapping[str, str]:
    """The module with ``create_schedule``.

    Raises
    ------
    ExportError
        If the fork has no node for an op, or the microbatches do not run in one order.
    """
    number = numbers_in_order(program, "zero-bubble")
    rows = [
        [f"{_type(op)}:{op.stage}:{number[op.microbatch]}" for op in row]
        for row in program.rows
    ]
    text = _MODULE.format(
        header=header(program, "the zero-bubble fork of Megatron-LM"),
        ranks=len(program.rows),
        microbatches=program.microbatches,
        chunks=max(len(program.instance.stages_of(rank)) for rank in range(len(rows))),
        rank_of_stage=tuple(program.device_of_stage),
        recomputed=tuple(sorted(program.instance.recompute)),
        rows=words_text(rows),
    )
    return {FILE_NAME: text}


def _type(op: Op) -> str:
    if op.kind not in _TYPES:
        msg = (
            f"{op}: the zero-bubble fork has no node for it;"
            " solve again with --runtime zero-bubble"
        )
        raise ExportError(msg)
    return _TYPES[op.kind]


_MODULE = '''{header}
Not executed there: the lists keep the rules of its scheduler and passes. A word is
type:stage:microbatch, the types those of FuncType, stages numbered along the model.

Put this file into megatron/core/pipeline_parallel/zerobubble/scheduler and call
create_schedule(config), then run_schedule_passes(config, nodes), from
get_zero_bubble_forward_backward_func in zerobubble/runtime.py.
"""

from megatron.core.pipeline_parallel.zerobubble.scheduler.graph import (
    FuncType,
    ScheduledNode,
)

RANKS = {ranks}
MICROBATCHES = {microbatches}
CHUNKS = {chunks}
RANK_OF_STAGE = {rank_of_stage}
RECOMPUTED_STAGES = {recomputed}
ROWS = {rows}


def create_schedule(config):
    """One list of nodes per rank; compute only."""
    found = (config.n_stages, config.n_micro, config.max_chunks)
    if found != (RANKS, MICROBATCHES, CHUNKS):
        raise ValueError(
            f"this schedule is for {{RANKS}} ranks, {{MICROBATCHES}} microbatches and"
            f" {{CHUNKS}} chunks, the configuration has {{found}}"
        )
    stages_of = [
        [stage for stage, other in enumerate(RANK_OF_STAGE) if other == rank]
        for rank in range(RANKS)
    ]
    order = []
    for rank, row in enumerate(ROWS):
        nodes = []
        for word in row.split():
            kind, stage, microbatch = word.split(":")
            stage = int(stage)
            more = {{}}
            if stage in RECOMPUTED_STAGES and kind == "F":
                more["need_recompute"] = True
            nodes.append(
                ScheduledNode(
                    type=FuncType(kind),
                    stage=rank,
                    microbatch=int(microbatch),
                    chunk=stages_of[rank].index(stage),
                    layer_group_idx=stage,
                    **more,
                )
            )
        order.append(nodes)
    return order
'''
