"""Lists for ColossalAI, executed on symbols by the rules of its scheduler.

ColossalAI needs GPUs and cannot be executed here: the buffers and steps of
``zero_bubble_pp.py`` are written down below with microbatch numbers for tensors, and
the generated module is imported with stubs in the place of the runtime.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from export_helpers import baseline_program, import_text, pipeline, programs

from schedopt.errors import ExportError
from schedopt.export import colossalai
from schedopt.export.rendezvous import Receive
from schedopt.instance import Backward, Placement
from schedopt.ops import Op, OpKind


@dataclass(frozen=True)
class ColossalNode:
    type: str
    chunk: int
    stage: int
    minibatch: int
    rollback: bool = False


@dataclass(frozen=True)
class OlderColossalNode(ColossalNode):
    start_time: int = -1
    completion_time: int = -1


COLOSSAL = "colossalai.pipeline.schedule.v_schedule"


@dataclass
class ColossalRank:
    """The buffers of ZeroBubbleVPipeScheduler; values are microbatches."""

    rank: int
    ranks: int
    loaded: list[int] = field(default_factory=lambda: [0, 0])
    queues: dict[tuple[str, int], deque[int]] = field(
        default_factory=lambda: defaultdict(deque)
    )

    def is_first(self) -> bool:
        return self.rank == 0

    def is_last(self) -> bool:
        return self.rank == self.ranks - 1

    def take(self, name: str, chunk: int) -> int:
        assert self.queues[name, chunk], (self.rank, name, chunk)
        return self.queues[name, chunk].popleft()

    def put(self, name: str, chunk: int, value: int) -> None:
        self.queues[name, chunk].append(value)

    def forward(self, chunk: int) -> int:
        microbatch = self.loaded[chunk]
        self.loaded[chunk] += 1
        if chunk == 1 and self.is_last():
            assert self.take("local forward", 0) == microbatch
        elif not (chunk == 0 and self.is_first()):
            assert self.take("recv forward", chunk) == microbatch
        for name in ("input", "output", "output dw"):
            self.put(name, chunk, microbatch)
        if chunk == 0 and self.is_last():
            self.put("local forward", 0, microbatch)
        elif not (chunk == 1 and self.is_first()):
            self.put("send forward", chunk, microbatch)
        return microbatch

    def backward(self, chunk: int) -> int:
        microbatch = self.take("input", chunk)
        assert self.take("output", chunk) == microbatch
        if chunk == 0 and self.is_last():
            assert self.take("local backward", 0) == microbatch
        elif not (chunk == 1 and self.is_first()):
            assert self.take("recv backward", chunk) == microbatch
        self.put("gradient dw", chunk, microbatch)
        if chunk == 1 and self.is_last():
            self.put("local backward", 0, microbatch)
        elif not (chunk == 0 and self.is_first()):
            self.put("send backward", chunk, microbatch)
        return microbatch

    def weight(self, chunk: int) -> int:
        microbatch = self.take("output dw", chunk)
        assert self.take("gradient dw", chunk) == microbatch
        return microbatch

    def peer(self, kind: str, chunk: int) -> int:
        """Whom a transfer is with: forwards go down in chunk 0 and up in chunk 1."""
        down = (chunk == 0) == (kind in {"SEND_FORWARD", "RECV_BACKWARD"})
        peer = self.rank + (1 if down else -1)
        assert 0 <= peer < self.ranks
        return peer


def run_colossalai(lists: Sequence[Sequence[ColossalNode]]) -> list[list[str]]:
    """What every rank computes, if both ends of every transfer meet (both block)."""
    ranks = [ColossalRank(rank, len(lists)) for rank in range(len(lists))]
    at = [0] * len(lists)
    done: list[list[str]] = [[] for _ in lists]

    def ahead(rank: int) -> ColossalNode | None:
        return lists[rank][at[rank]] if at[rank] < len(lists[rank]) else None

    def step(rank: int) -> bool:
        node = ahead(rank)
        if node is None or node.type.startswith("RECV"):
            return False
        assert node.stage == rank
        mine = ranks[rank]
        if node.type in ("F", "B", "W"):
            run = {"F": mine.forward, "B": mine.backward, "W": mine.weight}[node.type]
            assert run(node.chunk) == node.minibatch
            done[rank].append(f"{node.type}{node.chunk}.{node.minibatch}")
            at[rank] += 1
            return True
        peer = mine.peer(node.type, node.chunk)
        other = ahead(peer)
        wanted = (node.type.replace("SEND", "RECV"), node.chunk, node.minibatch)
        if other is None or (other.type, other.chunk, other.minibatch) != wanted:
            return False
        what = node.type.removeprefix("SEND_").lower()
        value = mine.take(f"send {what}", node.chunk)
        assert value == node.minibatch
        ranks[peer].put(f"recv {what}", node.chunk, value)
        at[rank] += 1
        at[peer] += 1
        return True

    while any(ahead(rank) is not None for rank in range(len(lists))):
        assert any(step(rank) for rank in range(len(lists)))
    # assert_buffer_empty
    assert not any(queue for rank in ranks for queue in rank.queues.values())
    return done


@pytest.mark.parametrize("node_class", [ColossalNode, OlderColossalNode])
def test_colossalai_lists(node_class: type[ColossalNode]) -> None:
    for program in programs(Placement.V, Backward.SPLIT):
        text = colossalai.colossalai_module(program)[colossalai.FILE_NAME]
        module = import_text(text, {COLOSSAL: {"ScheduledNode": node_class}})

        lists = module["scheduler_nodes"]()

        assert run_colossalai(lists) == [
            [
                f"{str(op.kind).replace('I', 'B')}{int(op.stage >= 4)}.{op.microbatch}"
                for op in row
            ]
            for row in program.rows
        ]
        if node_class is OlderColossalNode:
            times = [node.start_time for node in lists[0]]
            assert times == sorted(times)


def test_colossalai_receives_overlap_computation() -> None:
    """Somewhere a receive stands before an op that ends after its data is there."""
    (program, *_) = programs(Placement.V, Backward.SPLIT)
    lists = colossalai.overlapping_rows(program)

    early = [
        (receive, op)
        for row in lists
        for receive, op in pairwise(row)
        if isinstance(receive, Receive)
        and isinstance(op, Op)
        and receive.transfer.consumer != op
    ]

    assert early
    for receive, op in early:
        assert program.schedule.end(receive.transfer.producer) < program.schedule.end(
            op
        )


def test_colossalai_refuses_what_it_cannot_run() -> None:
    v = pipeline(
        devices=4,
        microbatches=9,
        stages_per_device=2,
        placement=Placement.V,
        backward=Backward.SPLIT,
    )
    with pytest.raises(ExportError, match="microbatches = 9: ColossalAI needs a mult"):
        colossalai.colossalai_module(baseline_program("zb-v", v))
    (linear, _) = programs(Placement.LINEAR, Backward.SPLIT)
    with pytest.raises(ExportError, match="device 0 has 1 stages"):
        colossalai.colossalai_module(linear)


def test_ops_without_a_node_are_refused() -> None:
    (program, *_) = programs(Placement.V, Backward.SPLIT)
    again = program.rows[0][0]._replace(kind=OpKind.RECOMPUTE)
    rows = ((*program.rows[0], again), *program.rows[1:])

    with pytest.raises(ExportError, match="0R0: ColossalAI has no node"):
        colossalai.colossalai_module(replace(program, rows=rows))
