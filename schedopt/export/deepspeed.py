"""A ``PipeSchedule`` for DeepSpeed: a Python module with the instructions of each rank.

DeepSpeed 0.19.8 (``runtime/pipe/schedule.py``, ``engine.py``; read, and executed by
``tests/test_export_deepspeed_run.py``) runs what ``PipeSchedule.steps`` yields, one
stage per rank. Its rules, and how they are kept here:

- Sends and receives block: the rows come from one total order (``rendezvous``), and
  are played with blocking transfers before they are written.
- ``RecvGrad`` fills the one ``grad_layer`` of a rank: it stands directly before its
  ``BackwardPass``.
- ``LoadMicroBatch`` takes the next item of the data, on the first and the last rank:
  where the forwards are in another order, earlier microbatches are loaded ahead.
- ``BackwardPass`` of the last stage takes the one ``self.loss``: every forward is
  directly followed by its own backward (the profile's rule).
- A buffer is free again after its ``BackwardPass`` and ``SendGrad``.
- One tail: ``ReduceTiedGrads``, ``ReduceGrads``, ``OptimizerStep``.

A recomputation R is no instruction: DeepSpeed recomputes inside ``BackwardPass``
(``activation_checkpoint_interval``).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence

from schedopt.errors import ExportError
from schedopt.export.program import Program
from schedopt.export.python_text import header, tuple_text
from schedopt.export.rendezvous import (
    CommunicatingRows,
    Item,
    Placing,
    Receive,
    Send,
    check_rendezvous,
    played_makespan,
    transfer_ticks,
    with_transfers,
)
from schedopt.ops import Op, OpKind

FILE_NAME = "deepspeed_schedule.py"
Instruction = tuple[str, int]
"""The name of an instruction and its buffer."""


def deepspeed_module(program: Program) -> Mapping[str, str]:
    """The module, ready to be imported beside the training script.

    Raises
    ------
    ExportError
        If an op is no instruction of DeepSpeed, or the rows cannot run with transfers
        that block.
    """
    rows = blocking_rows(program)
    check_rendezvous(rows)
    steps = [
        tuple(_steps(row, rank, len(rows), program.microbatches))
        for rank, row in enumerate(rows)
    ]
    text = _MODULE.format(
        header=header(program, "DeepSpeed 0.19.8"),
        stages=len(rows),
        microbatches=program.microbatches,
        buffers=tuple_text([str(_buffers(row)) for row in steps]),
        rows=tuple_text([_row_text(rank, row) for rank, row in enumerate(steps)]),
    )
    return {FILE_NAME: text}


def blocking_rows(program: Program) -> CommunicatingRows:
    """The rows with their transfers, placed where blocking costs less of two ways.

    Gradients are received directly before the op that needs them; outputs as soon as
    they are there, or directly before the op that needs them, whichever rows end
    earlier when every transfer blocks both ranks.

    Raises
    ------
    ExportError
        If an op is no instruction of DeepSpeed.
    """
    for row in program.rows:
        for op in row:
            if op.kind not in _COMPUTE and op.kind is not OpKind.RECOMPUTE:
                msg = (
                    f"{op} is no instruction of DeepSpeed, which has whole forwards and"
                    " backwards; solve again with --runtime deepspeed"
                )
                raise ExportError(msg)
    data = program.schedule.graph.data
    durations = {op: data[op].duration for row in program.rows for op in row}
    ticks = transfer_ticks(program)
    candidates = [
        with_transfers(program, placing, gradients_last=True) for placing in Placing
    ]
    return min(candidates, key=lambda rows: played_makespan(rows, durations, ticks))


_LONGEST_STEP = 4  # instructions, so that lines stay short; steps mean nothing else
_COMPUTE = {OpKind.FORWARD: "ForwardPass", OpKind.BACKWARD: "BackwardPass"}


def _steps(
    row: Sequence[Item], rank: int, ranks: int, microbatches: int
) -> Iterator[tuple[Instruction, ...]]:
    """What one rank does, in steps of a compute instruction and its transfers."""
    step: list[Instruction] = []
    for name, buffer in _instructions(row, rank, ranks, microbatches):
        computed = any(done in _COMPUTE.values() for done, _ in step)
        if (computed and not name.startswith("Send")) or len(step) == _LONGEST_STEP:
            yield tuple(step)
            step = []
        step.append((name, buffer))
    if step:
        yield tuple(step)


def _instructions(
    row: Sequence[Item], rank: int, ranks: int, microbatches: int
) -> Iterator[Instruction]:
    """The instructions of one rank, each with the lowest buffer that is free."""
    free = list(range(microbatches))
    buffer_of: dict[int, int] = {}
    loaded = 0
    for item in row:
        if isinstance(item, Op) and item.kind is OpKind.RECOMPUTE:
            continue
        op = _op_here(item)
        if op.microbatch not in buffer_of:
            buffer_of[op.microbatch] = heapq.heappop(free)
        if (
            isinstance(item, Op)
            and item.kind is OpKind.FORWARD
            and rank in (0, ranks - 1)
        ):
            while loaded <= item.microbatch:
                if loaded not in buffer_of:
                    buffer_of[loaded] = heapq.heappop(free)
                yield "LoadMicroBatch", buffer_of[loaded]
                loaded += 1
        yield _name(item), buffer_of[op.microbatch]
        if _ends_a_microbatch(item, rank):
            heapq.heappush(free, buffer_of.pop(op.microbatch))


def _ends_a_microbatch(item: Item, rank: int) -> bool:
    """Whether the item is the last that its rank does for its microbatch."""
    if rank == 0:
        return isinstance(item, Op) and item.kind is OpKind.BACKWARD
    return isinstance(item, Send) and item.transfer.is_gradient


def _op_here(item: Item) -> Op:
    """The op on this rank that an item belongs to."""
    match item:
        case Send():
            return item.transfer.producer
        case Receive():
            return item.transfer.consumer
        case _:
            return item


def _name(item: Item) -> str:
    if isinstance(item, Op):
        return _COMPUTE[item.kind]
    what = "Grad" if item.transfer.is_gradient else "Activation"
    return f"{'Send' if isinstance(item, Send) else 'Recv'}{what}"


def _buffers(steps: Sequence[Sequence[Instruction]]) -> int:
    return 1 + max((buffer for step in steps for _, buffer in step), default=0)


def _row_text(rank: int, steps: Sequence[Sequence[Instruction]]) -> str:
    lines = "".join(
        f'        "{" ".join(f"{name}:{buffer}" for name, buffer in step)}",\n'
        for step in steps
    )
    return f"(  # rank {rank}\n{lines}    )"


_MODULE = '''{header}
Rows are steps of instructions, each with the number of its buffer. Use:

    engine, *_ = deepspeed.initialize(...)   # a PipelineModule, {stages} stages
    install(engine)
    engine.train_batch(data)                 # {microbatches} microbatches
"""

from deepspeed.runtime.pipe import schedule

STAGES = {stages}
MICROBATCHES = {microbatches}
BUFFERS = {buffers}
ROWS = {rows}
TAIL = ("ReduceTiedGrads", "ReduceGrads", "OptimizerStep")


class ExportedSchedule(schedule.PipeSchedule):
    """The instructions of one rank, in the order that was optimized."""

    def __init__(self, micro_batches, stages, stage_id):
        super().__init__(micro_batches, stages, stage_id)
        if (micro_batches, stages) != (MICROBATCHES, STAGES):
            raise ValueError(
                f"this schedule is for {{MICROBATCHES}} microbatches and {{STAGES}}"
                f" stages, the engine has {{micro_batches}} and {{stages}}"
            )

    def steps(self):
        row = ROWS[self.stage_id]
        for number, text in enumerate(row, start=1):
            step = []
            for word in text.split():
                name, buffer = word.split(":")
                step.append(getattr(schedule, name)(buffer_id=int(buffer)))
            if number == len(row):
                step.extend(getattr(schedule, name)() for name in TAIL)
            yield step

    def num_pipe_buffers(self):
        return BUFFERS[self.stage_id]


def install(engine):
    """Let ``engine.train_batch`` run this schedule."""
    engine._train_schedule = lambda: ExportedSchedule(
        engine.micro_batches, engine.num_stages, engine.stage_id
    )
'''
