"""Lists of ``ScheduledNode`` for ColossalAI's ``ZeroBubbleVPipeScheduler``.

ColossalAI (``colossalai/pipeline/schedule/v_schedule.py`` and ``zero_bubble_pp.py``;
read, not executed) walks one list of nodes per rank: F, B (for the input) and W, and
between them SEND_FORWARD, RECV_FORWARD, SEND_BACKWARD, RECV_BACKWARD. Two chunks per
rank, placed as a V; the hand-over on the last rank is local and has no nodes. Buffers
are first in, first out, and a node's microbatch is ignored. The number of microbatches
must be a multiple of that of ranks (``load_batch``). B of stage 0 does nothing
(``backward_b_step``): its W is the whole backward.

Transfers come from one total order, so that both ends of every pair of ranks see them
in the same order. A receive whose data comes while the rank computes stands before that
op, so that the two overlap; ColossalAI's own lists do the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schedopt.errors import ExportError
from schedopt.export.fifo import numbers_in_order
from schedopt.export.program import Program
from schedopt.export.python_text import header, words_text
from schedopt.export.rendezvous import (
    Item,
    Placing,
    Receive,
    Send,
    check_rendezvous,
    with_transfers,
)
from schedopt.ops import Op, OpKind

FILE_NAME = "colossalai_schedule.py"
_CHUNKS = 2
_TYPES = {
    OpKind.FORWARD: "F",
    OpKind.BACKWARD_INPUT: "B",
    OpKind.BACKWARD_WEIGHT: "W",
}


def colossalai_module(program: Program) -> Mapping[str, str]:
    """The module with ``scheduler_nodes``.

    Raises
    ------
    ExportError
        If ColossalAI has no node for an op, the microbatches are no multiple of the
        ranks or do not run in one order, or a rank has another number of stages.
    """
    for op in (op for row in program.rows for op in row):
        if op.kind not in _TYPES:
            msg = (
                f"{op}: ColossalAI has no node for it, only forwards and split"
                " backwards; solve again with --runtime colossalai"
            )
            raise ExportError(msg)
    ranks = len(program.rows)
    if program.microbatches % ranks:
        msg = (
            f"microbatches = {program.microbatches}: ColossalAI needs a multiple of the"
            f" number of devices, {ranks}"
        )
        raise ExportError(msg)
    stages = [program.instance.stages_of(rank) for rank in range(ranks)]
    for rank, mine in enumerate(stages):
        if len(mine) != _CHUNKS:
            msg = (
                f"device {rank} has {len(mine)} stages: ColossalAI needs {_CHUNKS} on"
                " every device; solve again with --runtime colossalai"
            )
            raise ExportError(msg)
    number = numbers_in_order(program, "colossalai")
    rows = [
        [_word(item, stages[rank], number) for item in row]
        for rank, row in enumerate(overlapping_rows(program))
    ]
    text = _MODULE.format(
        header=header(program, "ColossalAI"),
        ranks=ranks,
        microbatches=program.microbatches,
        rows=words_text(rows),
    )
    return {FILE_NAME: text}


def overlapping_rows(program: Program) -> tuple[tuple[Item, ...], ...]:
    """The rows with both ends of every transfer, receives before ops they overlap.

    Raises
    ------
    ExportError
        If the rows cannot run.
    """
    end = program.schedule.end
    rows = [list(row) for row in with_transfers(program, Placing.EARLY)]
    for row in rows:
        for place in range(1, len(row)):
            before, item = row[place - 1 : place + 1]
            if (
                isinstance(before, Op)
                and isinstance(item, Receive)
                and end(item.transfer.producer) < end(before)
            ):
                row[place - 1 : place + 1] = [item, before]
    check_rendezvous(rows)
    return tuple(map(tuple, rows))


def _word(item: Item, stages: Sequence[int], number: Mapping[int, int]) -> str:
    match item:
        case Send():
            op, name = item.transfer.producer, "SEND"
        case Receive():
            op, name = item.transfer.consumer, "RECV"
        case _:
            op, name = item, ""
    kind = _TYPES[op.kind]
    if name:
        kind = f"{name}_{'FORWARD' if op.kind is OpKind.FORWARD else 'BACKWARD'}"
    return f"{kind}:{stages.index(op.stage)}:{number[op.microbatch]}"


_MODULE = '''{header}
Not executed there: the lists keep the rules of zero_bubble_pp.py. A word is
type:chunk:microbatch. Use:

    HybridParallelPlugin(
        pp_style="zbv",
        pp_size={ranks},
        num_model_chunks=2,
        num_microbatches={microbatches},
        scheduler_nodes=scheduler_nodes(),
    )
"""

import dataclasses

from colossalai.pipeline.schedule.v_schedule import ScheduledNode

RANKS = {ranks}
MICROBATCHES = {microbatches}
ROWS = {rows}


def scheduler_nodes():
    """One list of nodes per rank, transfers included."""
    known = {{field.name for field in dataclasses.fields(ScheduledNode)}}
    nodes = []
    for rank, row in enumerate(ROWS):
        mine = []
        for place, word in enumerate(row.split()):
            kind, chunk, microbatch = word.split(":")
            fields = {{
                "type": kind,
                "chunk": int(chunk),
                "stage": rank,
                "minibatch": int(microbatch),
                # Some versions have times; only their order means something.
                "start_time": place,
                "completion_time": place,
            }}
            mine.append(
                ScheduledNode(**{{k: v for k, v in fields.items() if k in known}})
            )
        nodes.append(mine)
    return nodes
'''
