"""Rows with both ends of every transfer, for runtimes whose sends and receives block.

A transfer that blocks until both ends are there is one event on two ranks. If all
events (compute ops and transfers) stand in one total order that keeps every dependency,
and each rank's row is what that order says of it, no rank can wait in a circle: the
first unfinished event of the total order can always run. ``with_transfers`` makes rows
that way; ``check_rendezvous`` knows nothing of how rows were made and plays them, each
send meeting its receive, so that it also judges rows that were changed by hand.

Where a transfer stands decides how long ranks wait for each other, so callers give it a
time, and two ways to choose are here: as early as its data is there (in the schedule's
own time if it is an op there), or directly before the op that needs it. Transfers of
gradients are always the latter where
``gradients_last`` is set (DeepSpeed 0.19.8, ``runtime/pipe/engine.py``, has one
``grad_layer`` per rank, which the next ``RecvGrad`` overwrites).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from schedopt.errors import ExportError
from schedopt.export.program import Program
from schedopt.ops import Op, OpKind

_PASSES_GRADIENT = (OpKind.BACKWARD, OpKind.BACKWARD_INPUT)


class Transfer(NamedTuple):
    """What ``producer`` made goes to ``consumer``, from one rank to another."""

    producer: Op
    consumer: Op
    source: int
    target: int

    @property
    def is_gradient(self) -> bool:
        """Whether it goes from a stage to the one before it."""
        return self.producer.kind is not OpKind.FORWARD

    @property
    def op(self) -> Op:
        """The op that stands for it where transfers occupy something."""
        kind = OpKind.SEND_BACKWARD if self.is_gradient else OpKind.SEND_FORWARD
        return self.producer._replace(kind=kind)

    def __str__(self) -> str:
        return f"{self.producer} -> {self.consumer}"


class Send(NamedTuple):
    """The sender's end of a transfer."""

    transfer: Transfer

    def __str__(self) -> str:
        return f"send {self.transfer}"


class Receive(NamedTuple):
    """The receiver's end of a transfer."""

    transfer: Transfer

    def __str__(self) -> str:
        return f"receive {self.transfer}"


Item = Op | Send | Receive
CommunicatingRows = tuple[tuple[Item, ...], ...]
"""For each rank its compute ops and its ends of transfers, first to last."""


class Placing(StrEnum):
    """When a transfer takes place."""

    EARLY = "when the schedule has it, or as soon as its data is there"
    LATE = "directly before the op that needs it"


def transfers_of(program: Program) -> tuple[Transfer, ...]:
    """Every hand-over between neighbouring stages on different ranks.

    F hands its output to F of the next stage, B or I its gradient to B or I of the
    stage before.
    """
    rank_of = {op: rank for rank, row in enumerate(program.rows) for op in row}
    gradient_ops = {
        (op.stage, op.microbatch): op for op in rank_of if op.kind in _PASSES_GRADIENT
    }
    found = []
    for op, rank in rank_of.items():
        consumer: Op | None = None
        if op.kind is OpKind.FORWARD:
            consumer = op._replace(stage=op.stage + 1)
        elif op.kind in _PASSES_GRADIENT:
            consumer = gradient_ops.get((op.stage - 1, op.microbatch))
        if consumer in rank_of and rank_of[consumer] != rank:
            found.append(Transfer(op, consumer, rank, rank_of[consumer]))
    return tuple(found)


def transfer_ticks(program: Program) -> Mapping[Transfer, int]:
    """How long each transfer takes: its edge's lag, or the op that stands for it."""
    graph = program.schedule.graph
    found = {}
    for transfer in transfers_of(program):
        producer, consumer = transfer.producer, transfer.consumer
        if transfer.op in program.schedule.start:
            found[transfer] = graph.data[transfer.op].duration
        elif graph.digraph.has_edge(producer, consumer):
            found[transfer] = int(graph.digraph.edges[producer, consumer]["lag"])
        else:
            found[transfer] = 0
    return found


def with_transfers(
    program: Program, placing: Placing, *, gradients_last: bool = False
) -> CommunicatingRows:
    """The program's rows with both ends of every transfer, in one total order.

    Parameters
    ----------
    gradients_last
        Every gradient is received directly before the op that needs it, whatever
        ``placing`` says.

    Raises
    ------
    ExportError
        If the rows cannot run in any total order.
    """
    transfers = transfers_of(program)
    start, end = program.schedule.start, program.schedule.end
    late = {
        transfer
        for transfer in transfers
        if placing is Placing.LATE or (gradients_last and transfer.is_gradient)
    }
    # A late transfer has no time of its own: it goes with its consumer.
    incoming = {transfer.consumer: transfer for transfer in late}
    keys: dict[Op | Transfer, tuple[int, int]] = {}
    for op in (op for row in program.rows for op in row):
        keys[op] = (start[op], 1)
    for transfer in transfers:
        if transfer not in late:
            sending = transfer.op
            when = start[sending] if sending in start else end(transfer.producer)
            keys[transfer] = (when, 0)
    events = _total_order(keys, _successors(program, transfers, late))
    rows: list[list[Item]] = [[] for _ in program.rows]
    rank_of = {op: rank for rank, row in enumerate(program.rows) for op in row}
    for event in events:
        if isinstance(event, Transfer):
            _put(rows, event)
            continue
        if event in incoming:
            _put(rows, incoming[event])
        rows[rank_of[event]].append(event)
    return tuple(map(tuple, rows))


def check_rendezvous(rows: Sequence[Sequence[Item]]) -> None:
    """Play the rows with transfers that block until both ends are there.

    Raises
    ------
    ExportError
        If ranks wait for each other, an end meets the end of another transfer, or an
        op runs before its input has come; the message names what each rank stopped at.
    """
    played_makespan(rows, {}, {})


def played_makespan(
    rows: Sequence[Sequence[Item]],
    durations: Mapping[Op, int],
    lags: Mapping[Transfer, int],
) -> int:
    """When the last rank ends if every transfer blocks both of its ranks, ticks.

    Both ends of a transfer begin when the later one is reached and take its lag. Ops
    and transfers that the mappings lack take no time.

    Raises
    ------
    ExportError
        As ``check_rendezvous`` has it.
    """
    at = [0] * len(rows)
    clock = [0] * len(rows)
    done: set[Op | Transfer] = set()
    needs: dict[Op, set[Op | Transfer]] = {}
    for item in (item for row in rows for item in row):
        if isinstance(item, Receive):
            needs.setdefault(item.transfer.consumer, set()).add(item.transfer)
    ready = list(range(len(rows)))
    while ready:
        rank = ready.pop()
        while at[rank] < len(rows[rank]):
            item = rows[rank][at[rank]]
            if isinstance(item, Op):
                missing = needs.get(item, set()) - done
                if missing:
                    msg = f"{item} runs before {min(map(str, missing))} has come"
                    raise ExportError(msg)
                clock[rank] += durations.get(item, 0)
                done.add(item)
                at[rank] += 1
                continue
            transfer = item.transfer
            peer = transfer.target if isinstance(item, Send) else transfer.source
            if not _meets(rows[peer][at[peer] : at[peer] + 1], item):
                break
            if transfer.producer not in done:
                msg = f"{transfer} is sent before {transfer.producer} has run"
                raise ExportError(msg)
            clock[rank] = clock[peer] = max(clock[rank], clock[peer]) + lags.get(
                transfer, 0
            )
            done.add(transfer)
            at[rank] += 1
            at[peer] += 1
            ready.append(peer)
    if any(at[rank] < len(row) for rank, row in enumerate(rows)):
        raise _stuck(rows, at)
    return max(clock, default=0)


def _meets(ahead: Sequence[Item], item: Send | Receive) -> bool:
    """Whether the next item of the other rank is the other end of the transfer."""
    other_end = Receive if isinstance(item, Send) else Send
    return any(
        isinstance(other, other_end) and other.transfer == item.transfer
        for other in ahead
    )


def _stuck(rows: Sequence[Sequence[Item]], at: Sequence[int]) -> ExportError:
    stops = [
        f"rank {rank} at {row[at[rank]]}"
        for rank, row in enumerate(rows)
        if at[rank] < len(row)
    ]
    return ExportError(
        f"sends and receives that block would wait for each other: {', '.join(stops)}"
    )


def _put(rows: list[list[Item]], transfer: Transfer) -> None:
    rows[transfer.source].append(Send(transfer))
    rows[transfer.target].append(Receive(transfer))


def _successors(
    program: Program, transfers: Sequence[Transfer], late: set[Transfer]
) -> dict[Op | Transfer, list[Op | Transfer]]:
    """What must come after each event: in its row, and along the data."""
    after: dict[Op | Transfer, list[Op | Transfer]] = {}
    for row in program.rows:
        for before, following in pairwise(row):
            after.setdefault(before, []).append(following)
    for transfer in transfers:
        if transfer in late:
            after.setdefault(transfer.producer, []).append(transfer.consumer)
        else:
            after.setdefault(transfer.producer, []).append(transfer)
            after.setdefault(transfer, []).append(transfer.consumer)
    return after


def _total_order(
    keys: Mapping[Op | Transfer, tuple[int, int]],
    after: Mapping[Op | Transfer, Sequence[Op | Transfer]],
) -> list[Op | Transfer]:
    """All events by key, as far as what must come before lets them."""
    number = {event: index for index, event in enumerate(keys)}
    waiting = dict.fromkeys(keys, 0)
    for followers in after.values():
        for follower in followers:
            waiting[follower] += 1
    heap = [
        (keys[event], number[event], event)
        for event, count in waiting.items()
        if count == 0
    ]
    heapq.heapify(heap)
    events = []
    while heap:
        _, _, event = heapq.heappop(heap)
        events.append(event)
        for follower in after.get(event, ()):
            waiting[follower] -= 1
            if waiting[follower] == 0:
                heapq.heappush(heap, (keys[follower], number[follower], follower))
    if len(events) < len(keys):
        blocked = next(event for event, count in waiting.items() if count > 0)
        msg = f"the order is cyclic: {blocked} waits for what comes after it"
        raise ExportError(msg)
    return events
