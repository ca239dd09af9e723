"""Rows with both ends of every transfer: made from one total order, judged by play."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from export_helpers import baseline_program, pipeline
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import ops, random_instance, random_schedule

from schedopt.build import build_graph
from schedopt.errors import ExportError
from schedopt.export.program import Program, program_of
from schedopt.export.rendezvous import (
    Item,
    Placing,
    Receive,
    Send,
    Transfer,
    check_rendezvous,
    played_makespan,
    transfer_ticks,
    transfers_of,
    with_transfers,
)
from schedopt.instance import Communication, CommunicationMode, Placement
from schedopt.ops import Op, OpKind

seeds = st.integers(0, 2**32)
examples = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def random_program(seed: int) -> Program:
    rng = random.Random(seed)
    instance = random_instance(rng)
    assume(instance.placement is not Placement.BIDIRECTIONAL)
    program = program_of(instance, random_schedule(build_graph(instance), rng))
    assume(all(op.kind is not OpKind.OVERLAP for row in program.rows for op in row))
    return program


@given(seeds, st.sampled_from(Placing), st.booleans())
@examples
def test_rows_can_be_played_and_hold_every_op_and_transfer_once(
    seed: int, placing: Placing, gradients_last: bool
) -> None:
    program = random_program(seed)

    rows = with_transfers(program, placing, gradients_last=gradients_last)

    check_rendezvous(rows)
    compute = tuple(tuple(i for i in row if isinstance(i, Op)) for row in rows)
    assert compute == program.rows
    for end, rank in ((Send, "source"), (Receive, "target")):
        found = [i.transfer for row in rows for i in row if isinstance(i, end)]
        assert sorted(found) == sorted(transfers_of(program))
        for number, row in enumerate(rows):
            mine = (i.transfer for i in row if isinstance(i, end))
            assert all(getattr(transfer, rank) == number for transfer in mine)


@given(seeds)
@examples
def test_every_stage_but_the_ends_hands_on_what_the_graph_says(seed: int) -> None:
    program = random_program(seed)
    rank_of = {op: rank for rank, row in enumerate(program.rows) for op in row}
    stages = len(program.device_of_stage)
    hops = sum(a != b for a, b in pairwise(program.device_of_stage) if stages > 1)

    found = transfers_of(program)

    assert len(found) == 2 * hops * program.microbatches
    assert all(rank_of[t.producer] == t.source for t in found)
    assert all(rank_of[t.consumer] == t.target for t in found)
    assert all(t.producer.microbatch == t.consumer.microbatch for t in found)


@given(seeds, st.sampled_from(Placing))
@examples
def test_gradients_last_stand_directly_before_their_backward(
    seed: int, placing: Placing
) -> None:
    program = random_program(seed)

    for row in with_transfers(program, placing, gradients_last=True):
        for before, after in pairwise(row):
            if isinstance(before, Receive) and before.transfer.is_gradient:
                assert after == before.transfer.consumer
        assert not row or not isinstance(row[-1], Receive)


@given(seeds)
@examples
def test_both_ends_of_a_pair_of_ranks_see_the_same_order(seed: int) -> None:
    program = random_program(seed)
    rows = with_transfers(program, Placing.EARLY)

    def between(rank: int, other: int) -> list[Transfer]:
        return [
            item.transfer
            for item in rows[rank]
            if not isinstance(item, Op)
            and {item.transfer.source, item.transfer.target} == {rank, other}
        ]

    for a in range(len(rows)):
        for b in range(a):
            assert between(a, b) == between(b, a)


F0, F1 = ops("0F0 1F0")
G0, G1 = ops("0F1 1F1")
B0, B1 = ops("0B0 1B0")
FIRST = Transfer(F0, F1, 0, 1)
SECOND = Transfer(G0, G1, 0, 1)
BACK = Transfer(B1, B0, 1, 0)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (
            # torch issue 172668 in small: both send first.
            [
                [F0, Send(FIRST), G0, Send(SECOND), Receive(BACK), B0],
                [Receive(FIRST), F1, B1, Send(BACK), Receive(SECOND), G1],
            ],
            "rank 0 at send 0F1 -> 1F1, rank 1 at send 1B0 -> 0B0",
        ),
        (
            [
                [F0, G0, Send(FIRST), Send(SECOND)],
                [Receive(SECOND), G1, Receive(FIRST), F1],
            ],
            "rank 0 at send 0F0 -> 1F0, rank 1 at receive 0F1 -> 1F1",
        ),
        ([[F0, Send(FIRST)], [F1]], "rank 0 at send 0F0 -> 1F0"),
        ([[F0], [Receive(FIRST), F1]], "rank 1 at receive 0F0 -> 1F0"),
        ([[F0, Send(FIRST)], [F1, Receive(FIRST)]], "1F0 runs before 0F0 -> 1F0"),
        ([[Send(FIRST), F0], [Receive(FIRST), F1]], "sent before 0F0 has run"),
    ],
)
def test_bad_rows_are_refused(rows: list[list[Item]], complaint: str) -> None:
    with pytest.raises(ExportError, match=complaint):
        check_rendezvous(rows)


def test_played_makespan_counts_both_ends_of_a_transfer() -> None:
    # Rank 1 computes G1 (5) and waits for F0 (3): the transfer (2) runs from 5 to 7.
    rows: list[list[Item]] = [[F0, Send(FIRST), G0], [G1, Receive(FIRST), F1]]
    durations = {F0: 3, F1: 1, G0: 4, G1: 5}

    assert played_makespan(rows, durations, {FIRST: 2}) == 7 + 4
    assert played_makespan(rows, durations, {}) == 5 + 4


@given(seeds)
@examples
def test_transfer_times_are_those_of_the_graph(seed: int) -> None:
    program = random_program(seed)
    ticks = transfer_ticks(program)
    start, end = program.schedule.start, program.schedule.end

    assert set(ticks) == set(transfers_of(program))
    for transfer, length in ticks.items():
        assert end(transfer.producer) + length <= start[transfer.consumer]


def test_rows_keep_the_times_of_blocking_transfers() -> None:
    """Where transfers block in the graph too, early rows play to its own makespan."""
    blocking = Communication(mode=CommunicationMode.BLOCKING, latency=3)
    instance = pipeline(devices=4, microbatches=6, communication=blocking)
    for name in ("1f1b", "gpipe"):
        program = baseline_program(name, instance)
        data = program.schedule.graph.data
        durations = {op: data[op].duration for row in program.rows for op in row}

        rows = with_transfers(program, Placing.EARLY)

        played = played_makespan(rows, durations, transfer_ticks(program))
        assert played == program.schedule.makespan
