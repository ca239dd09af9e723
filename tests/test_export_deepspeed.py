"""The DeepSpeed module, executed by an engine of symbols: what DeepSpeed does to tags.

The engine below is written from deepspeed 0.19.8, runtime/pipe/engine.py: what each
instruction reads and writes. Instead of tensors its buffers hold microbatch numbers,
and its sends and receives meet as blocking ones do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from export_helpers import baseline_program, import_text, pipeline
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import random_order

from schedopt.build import build_graph
from schedopt.errors import ExportError, OrderError
from schedopt.export.deepspeed import FILE_NAME, blocking_rows, deepspeed_module
from schedopt.export.program import Program, program_of
from schedopt.export.rendezvous import played_makespan, transfer_ticks
from schedopt.instance import Backward, Communication, CommunicationMode
from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.schedule import Order
from schedopt.simulate import simulate

BUFFERED = (
    "LoadMicroBatch",
    "ForwardPass",
    "BackwardPass",
    "SendActivation",
    "RecvActivation",
    "SendGrad",
    "RecvGrad",
)
TAIL = ["ReduceTiedGrads", "ReduceGrads", "OptimizerStep"]


class PipeSchedule:
    def __init__(self, micro_batches: int, stages: int, stage_id: int) -> None:
        self.micro_batches = micro_batches
        self.stages = stages
        self.stage_id = stage_id


def instruction(name: str) -> Callable[..., tuple[str, int | None]]:
    if name in BUFFERED:
        return lambda *, buffer_id: (name, buffer_id)
    return lambda: (name, None)


SCHEDULE_MODULE = {"PipeSchedule": PipeSchedule} | {
    name: instruction(name) for name in (*BUFFERED, *TAIL)
}
STUBS: dict[str, dict[str, Any]] = {
    "deepspeed.runtime.pipe": {},
    "deepspeed.runtime.pipe.schedule": SCHEDULE_MODULE,
}


@dataclass
class Rank:
    """What one engine holds; every value is the number of a microbatch."""

    stage: int
    stages: int
    buffers: int
    loaded: int = 0
    inputs: dict[int, int] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    outputs: dict[int, int] = field(default_factory=dict)
    input_gradients: dict[int, int] = field(default_factory=dict)
    gradient_layer: int | None = None
    loss: int | None = None
    forwards: list[int] = field(default_factory=list)
    backwards: list[int] = field(default_factory=list)

    def compute(self, name: str, buffer: int) -> None:
        assert 0 <= buffer < self.buffers
        last = self.stage == self.stages - 1
        if name == "LoadMicroBatch":
            assert self.stage == 0 or last
            if self.stage == 0:
                self.inputs[buffer] = self.loaded
            if last:
                self.labels[buffer] = self.loaded
            self.loaded += 1
        elif name == "ForwardPass":
            microbatch = self.inputs[buffer]
            assert buffer not in self.outputs
            self.outputs[buffer] = microbatch
            self.forwards.append(microbatch)
            if last:
                assert self.labels.pop(buffer) == microbatch
                self.loss = microbatch
        else:
            microbatch = self.outputs.pop(buffer)
            source = self.loss if last else self.gradient_layer
            assert source == microbatch
            self.loss = self.gradient_layer = None
            self.input_gradients[buffer] = microbatch
            self.backwards.append(microbatch)

    def send(self, name: str, buffer: int) -> int:
        if name == "SendActivation":
            return self.outputs[buffer]
        assert self.inputs.pop(buffer) == self.input_gradients[buffer]
        return self.input_gradients.pop(buffer)

    def receive(self, name: str, buffer: int, microbatch: int) -> None:
        assert 0 <= buffer < self.buffers
        if name == "RecvActivation":
            assert buffer not in self.inputs
            self.inputs[buffer] = microbatch
        else:
            assert self.gradient_layer is None
            self.gradient_layer = microbatch


def execute(program: Program) -> list[Rank]:
    """Run the exported module on symbols; every rank's instructions to their end."""
    module = import_text(deepspeed_module(program)[FILE_NAME], STUBS)
    stages = len(program.rows)
    ranks, rows = [], []
    for stage in range(stages):
        schedule = module["ExportedSchedule"](program.microbatches, stages, stage)
        ranks.append(Rank(stage, stages, schedule.num_pipe_buffers()))
        steps = list(schedule.steps())
        row = [command for step in steps for command in step]
        assert [name for name, buffer in row if buffer is None] == TAIL
        assert [name for name, _ in row[-3:]] == TAIL
        assert [name for name, _ in steps[-1][-3:]] == TAIL
        rows.append(row[:-3])
    at = [0] * stages
    while any(at[stage] < len(row) for stage, row in enumerate(rows)):
        assert any(advance(stage, ranks, rows, at) for stage in range(stages))
    return ranks


def advance(
    stage: int, ranks: list[Rank], rows: list[list[tuple[str, int]]], at: list[int]
) -> bool:
    """One instruction of one rank; a transfer only where both ends have come to it."""
    if at[stage] == len(rows[stage]):
        return False
    name, buffer = rows[stage][at[stage]]
    if not name.startswith(("Send", "Recv")):
        ranks[stage].compute(name, buffer)
        at[stage] += 1
        return True
    if name.startswith("Recv"):
        return False  # its sender takes both
    peer = stage + 1 if name == "SendActivation" else stage - 1
    if at[peer] == len(rows[peer]):
        return False
    other, target = rows[peer][at[peer]]
    if other != name.replace("Send", "Recv"):
        return False
    ranks[peer].receive(other, target, ranks[stage].send(name, buffer))
    at[stage] += 1
    at[peer] += 1
    return True


def paired_program(seed: int) -> Program:
    """A random order in which the last stage's F are followed by their own B."""
    rng = random.Random(seed)
    devices = rng.randint(1, 4)
    instance = pipeline(devices=devices, microbatches=rng.randint(1, 5))
    if rng.random() < 0.3:
        instance = replace(instance, recompute=frozenset({rng.randrange(devices)}))
    mode = rng.choice(list(CommunicationMode))
    instance = replace(instance, communication=Communication(mode=mode, latency=2))
    graph = build_graph(instance)
    sequences = dict(random_order(graph, rng).sequences)
    last = Stream(StreamKind.COMPUTE, devices - 1)
    sequences[last] = tuple(paired(sequences[last], devices - 1))
    try:
        schedule = simulate(graph, Order(sequences))
    except OrderError:
        assume(False)
    return program_of(instance, schedule)


def paired(row: tuple[Op, ...], last: int) -> Iterator[Op]:
    kinds = (OpKind.RECOMPUTE, OpKind.BACKWARD)
    for op in row:
        if op.stage != last or op.kind is OpKind.FORWARD:
            yield op
        if op.kind is OpKind.FORWARD:
            after = [op._replace(kind=kind) for kind in kinds]
            yield from (other for other in after if other in row)


@given(st.integers(0, 2**32))
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_every_microbatch_meets_its_own_data_and_gradient(seed: int) -> None:
    program = paired_program(seed)

    for rank, row in zip(execute(program), program.rows, strict=True):
        assert rank.loaded == (
            program.microbatches if rank.stage in (0, rank.stages - 1) else 0
        )
        assert rank.forwards == [
            op.microbatch for op in row if op.kind is OpKind.FORWARD
        ]
        assert rank.backwards == [
            op.microbatch for op in row if op.kind is OpKind.BACKWARD
        ]


def test_buffers_of_one_forward_one_backward_are_those_in_flight() -> None:
    program = baseline_program("1f1b", pipeline(devices=4, microbatches=8))

    module = import_text(deepspeed_module(program)[FILE_NAME], STUBS)

    # Rank k holds 4 - k microbatches, and one more that has been received early.
    for rank, buffers in enumerate(module["BUFFERS"]):
        assert 4 - rank <= buffers <= 5 - rank


def test_the_better_of_two_ways_to_place_transfers_is_written() -> None:
    program = baseline_program("1f1b", pipeline(devices=4, microbatches=8))
    data = program.schedule.graph.data
    durations = {op: data[op].duration for row in program.rows for op in row}
    ticks = transfer_ticks(program)

    played = played_makespan(blocking_rows(program), durations, ticks)

    # Blocking costs something, but far less than running one op at a time.
    assert program.schedule.makespan <= played < 2 * program.schedule.makespan


def test_the_schedule_refuses_another_engine() -> None:
    program = baseline_program("gpipe", pipeline(devices=1, microbatches=2))
    module = import_text(deepspeed_module(program)[FILE_NAME], STUBS)

    with pytest.raises(ValueError, match="2 microbatches and 1 stages"):
        module["ExportedSchedule"](3, 1, 0)


def test_split_backwards_are_refused() -> None:
    split = pipeline(devices=2, microbatches=4, backward=Backward.SPLIT)

    with pytest.raises(ExportError, match="0I0 is no instruction of DeepSpeed"):
        deepspeed_module(baseline_program("zb-h1", split))
