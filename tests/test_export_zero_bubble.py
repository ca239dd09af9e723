"""Lists for the zero-bubble fork, checked against its written rules.

The fork needs GPUs and
cannot be executed here: what its sources say is written down below as a validator, and
the generated module is imported with stubs in the place of the runtime.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import pytest
from export_helpers import baseline_program, import_text, pipeline, programs

from schedopt.errors import ExportError
from schedopt.export import zero_bubble
from schedopt.instance import Backward, Placement
from schedopt.ops import Op, OpKind


class FuncType(Enum):
    F = "F"
    B = "B"
    W = "W"
    R = "R"
    BW = "BW"


@dataclass
class ZeroBubbleNode:
    type: FuncType
    stage: int
    microbatch: int
    chunk: int = 0
    seq_split_idx: int = 0
    layer_group_idx: int | None = None
    need_recompute: bool = False


@dataclass
class GraphConfig:
    n_stages: int
    n_micro: int
    max_chunks: int


ZERO_BUBBLE_STUBS: dict[str, dict[str, Any]] = {
    "megatron.core.pipeline_parallel.zerobubble.scheduler.graph": {
        "FuncType": FuncType,
        "ScheduledNode": ZeroBubbleNode,
    }
}


Key = tuple[str, int, int]


def key_of(node: ZeroBubbleNode) -> Key:
    assert node.layer_group_idx is not None
    return (node.type.value, node.layer_group_idx, node.microbatch)


def key_before(node: ZeroBubbleNode, groups: int) -> Key | None:
    """get_prev_key of graph.py."""
    kind, group, microbatch = key_of(node)
    if kind == "F":
        return ("F", group - 1, microbatch) if group else None
    if kind in {"W", "R"}:
        return ("B" if kind == "W" else "F", group, microbatch)
    if group + 1 == groups:
        return ("F", group, microbatch)
    return (kind, group + 1, microbatch)


def check_zero_bubble(
    lists: Sequence[Sequence[ZeroBubbleNode]], ranks: int, chunks: int
) -> None:
    """The rules of graph.py, passes.py and communication.py, and of the runtime."""
    groups = ranks * chunks
    seen: dict[Key, ZeroBubbleNode] = {}
    for rank, nodes in enumerate(lists):
        check_first_in_first_out(nodes)
        for node in nodes:
            assert node.stage == rank  # pre_validate
            assert key_of(node) not in seen
            seen[key_of(node)] = node
    for node in seen.values():
        needed = key_before(node, groups)
        if needed is not None:
            assert needed in seen  # "Cannot find prev node"
            check_hand_over(seen[needed], node, ranks)
    queues = [deque(nodes) for nodes in lists]
    done: set[Key | None] = {None}
    while any(queues):  # add_time
        ready = [q for q in queues if q and key_before(q[0], groups) in done]
        assert ready, "Cannot find next runnable node"
        done.update(key_of(queue.popleft()) for queue in ready)


def check_first_in_first_out(nodes: Sequence[ZeroBubbleNode]) -> None:
    """SpQueue and WeightGradStore ignore the number, so it must be the place."""
    order: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for node in nodes:
        kind = node.type.value.replace("BW", "B")
        order[kind, node.chunk].append(node.microbatch)
    for (kind, _), numbers in order.items():
        assert numbers == sorted(numbers)
        assert kind == "W" or numbers == list(range(len(numbers)))


def check_hand_over(before: ZeroBubbleNode, node: ZeroBubbleNode, ranks: int) -> None:
    """Neighbours on the ring, or on one rank the last one, even to odd chunk."""
    apart = (before.stage - node.stage) % ranks
    if apart:
        assert apart in (1, ranks - 1)  # "Invalid send-recv stages"
    elif before.chunk != node.chunk:
        assert node.stage == ranks - 1
        assert {before.chunk, node.chunk} == {0, 1}


@pytest.mark.parametrize(
    ("placement", "backward"),
    [
        (Placement.LINEAR, Backward.WHOLE),
        (Placement.LINEAR, Backward.SPLIT),
        (Placement.LOOPED, Backward.WHOLE),
        (Placement.V, Backward.SPLIT),
    ],
)
def test_zero_bubble_lists(placement: Placement, backward: Backward) -> None:
    for program in programs(placement, backward):
        text = zero_bubble.zero_bubble_module(program)[zero_bubble.FILE_NAME]
        module = import_text(text, ZERO_BUBBLE_STUBS)
        chunks = 1 if placement is Placement.LINEAR else 2

        lists = module["create_schedule"](GraphConfig(4, 8, chunks))

        check_zero_bubble(lists, 4, chunks)
        letters = {"F": "F", "BW": "B", "B": "I", "W": "W"}
        assert [
            [f"{n.layer_group_idx}{letters[n.type.value]}{n.microbatch}" for n in row]
            for row in lists
        ] == [list(map(str, row)) for row in program.rows]
        with pytest.raises(ValueError, match="for 4 ranks, 8 microbatches"):
            module["create_schedule"](GraphConfig(4, 9, chunks))


def test_zero_bubble_names_recomputed_stages() -> None:
    instance = pipeline(devices=2, microbatches=3)
    instance = replace(instance, recompute=frozenset({1}))
    program = baseline_program("1f1b", instance)
    text = zero_bubble.zero_bubble_module(program)[zero_bubble.FILE_NAME]

    lists = import_text(text, ZERO_BUBBLE_STUBS)["create_schedule"](
        GraphConfig(2, 3, 1)
    )

    check_zero_bubble(lists, 2, 1)
    assert [n.type.value for n in lists[1][:3]] == ["F", "R", "BW"]
    for node in (node for row in lists for node in row):
        assert node.need_recompute == (node.type is FuncType.F and node.stage == 1)


def test_ops_without_a_node_are_refused() -> None:
    (program, _) = programs(Placement.LINEAR, Backward.WHOLE)
    joint = Op(OpKind.OVERLAP, 0, 0, part="0B1")
    rows = ((*program.rows[0], joint), *program.rows[1:])

    with pytest.raises(ExportError, match="0OVERLAP_F_B0:0B1: the zero-bubble fork"):
        zero_bubble.zero_bubble_module(replace(program, rows=rows))
