"""Checks of listed transfers: both ends there, in one order, and none that hangs.

torch gives messages no names: the k-th RECV of a rank from another one takes the k-th
message that was sent, whatever stage and microbatch it was for, forward or backward.
And under NCCL a transfer may block until both ends are there (pytorch issue #172668),
so the order must agree for each pair of ranks, in both directions together.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import NamedTuple

from schedopt.export.checking_orders import circle
from schedopt.export.checking_rows import CheckedRows, Fault, FaultRule, Place
from schedopt.export.torch_tokens import Token, TokenKind


class _Transfer(NamedTuple):
    """A message by its two ends."""

    send: Token
    receive: Token


def _onward(token: Token) -> bool:
    """Whether the other end of a transfer is at the next stage, not the previous."""
    return token.kind in (TokenKind.SEND_FORWARD, TokenKind.RECV_BACKWARD)


_OTHER_END = {
    TokenKind.SEND_FORWARD: TokenKind.RECV_FORWARD,
    TokenKind.RECV_FORWARD: TokenKind.SEND_FORWARD,
    TokenKind.SEND_BACKWARD: TokenKind.RECV_BACKWARD,
    TokenKind.RECV_BACKWARD: TokenKind.SEND_BACKWARD,
}


def _other_end(token: Token) -> Token:
    step = 1 if _onward(token) else -1
    return Token(token.stage + step, _OTHER_END[token.kind], token.microbatch)


def _transfer(token: Token) -> _Transfer:
    other = _other_end(token)
    return _Transfer(token, other) if token.kind.is_send else _Transfer(other, token)


def _peer(rows: CheckedRows, token: Token) -> int | None:
    """The rank of a transfer's other end; None where there is no such stage."""
    return rows.rank_of_stage.get(_other_end(token).stage)


def every_transfer_has_its_ends(rows: CheckedRows) -> Iterator[Fault]:
    """Between stages of two ranks each message has one SEND and one RECV; else none."""
    if not rows.lists_transfers:
        return
    for place in rows.places:
        token = place.token
        if token.kind.is_transfer:
            yield from _faults_of_end(rows, place)
            continue
        maker = rows.maker_of_input(token)
        if maker is None or rows.at(maker).rank == place.rank:
            continue
        forward = token.kind is TokenKind.FORWARD
        sent = TokenKind.SEND_FORWARD if forward else TokenKind.SEND_BACKWARD
        send = maker._replace(kind=sent)
        for end, rank, side in (
            (send, rows.at(maker).rank, f"behind {maker}"),
            (_other_end(send), place.rank, f"before {token}"),
        ):
            if end not in rows:
                yield Fault(
                    rank,
                    None,
                    str(end),
                    FaultRule.TRANSFER,
                    f"is missing, and the ranks would wait for ever; put it {side}",
                )


def _faults_of_end(rows: CheckedRows, place: Place) -> Iterator[Fault]:
    token = place.token
    peer = _peer(rows, token)
    if peer is None:
        yield place.fault(
            FaultRule.TRANSFER,
            f"there is no stage {_other_end(token).stage} to be its other end; take it"
            " out",
        )
    elif peer == place.rank:
        yield place.fault(
            FaultRule.TRANSFER,
            "both stages are on this rank, where torch hands tensors over; take it out",
        )
    elif rows.at(token) != place:
        yield place.fault(
            FaultRule.TRANSFER,
            "stands a second time, and what it leaves over would be taken for the next"
            " message; take one of them out",
        )


def messages_arrive_in_the_order_sent(rows: CheckedRows) -> Iterator[Fault]:
    """The k-th RECV of a rank from another one is of the k-th message sent."""
    sent: dict[tuple[int, int], list[Place]] = {}
    received: dict[tuple[int, int], list[Place]] = {}
    for place in rows.places:
        peer = _peer(rows, place.token) if place.token.kind.is_transfer else None
        if peer is None:
            continue
        if place.token.kind.is_send:
            sent.setdefault((place.rank, peer), []).append(place)
        else:
            received.setdefault((peer, place.rank), []).append(place)
    for channel, sends in sent.items():
        for send, receive in zip(sends, received[channel], strict=True):
            if _other_end(send.token) != receive.token:
                yield receive.fault(
                    FaultRule.FIFO,
                    f"would take the message of {send.token}, which rank {channel[0]}"
                    f" sends at its position {send.position}: messages have no names;"
                    " put the RECVs in the order of the SENDs",
                )
                break


def pairs_see_one_order(rows: CheckedRows) -> Iterator[Fault]:
    """Each pair of ranks has its transfers, both directions, in one order on both."""
    seen: dict[tuple[int, int], list[Place]] = {}
    for place in rows.places:
        peer = _peer(rows, place.token) if place.token.kind.is_transfer else None
        if peer is not None:
            seen.setdefault((place.rank, peer), []).append(place)
    for (rank, peer), own in seen.items():
        if rank > peer:
            continue
        for here, there in zip_longest(own, seen.get((peer, rank), [])):
            if _transfer(here.token) != _transfer(there.token):
                yield here.fault(
                    FaultRule.PAIR,
                    f"rank {peer} has {there.token} at its position {there.position}"
                    " where this one is due: transfers that block until both ends are"
                    " there would hang; put the transfers of this pair in one order on"
                    " both ranks",
                )
                break


def transfers_meet(rows: CheckedRows) -> Iterator[Fault]:
    """The rows can be executed even if each transfer blocks until both ends are there.

    Compute tokens have their inputs by then: the checks before say so.
    """
    if not rows.lists_transfers:
        return
    at = [0] * len(rows.rows)

    def current(rank: int) -> Token | None:
        row = rows.rows[rank]
        return row[at[rank]] if at[rank] < len(row) else None

    def skip_own_work(rank: int) -> None:
        while (token := current(rank)) is not None and not token.kind.is_transfer:
            at[rank] += 1

    ready = list(range(len(at)))
    while ready:
        rank = ready.pop()
        skip_own_work(rank)
        token = current(rank)
        peer = None if token is None else _peer(rows, token)
        if token is None or peer is None:
            continue
        skip_own_work(peer)
        if current(peer) == _other_end(token):
            at[rank] += 1
            at[peer] += 1
            ready += [rank, peer]
    waits = {}
    for rank in range(len(at)):
        token = current(rank)
        peer = None if token is None else _peer(rows, token)
        if token is not None and peer is not None:
            waits[Place(rank, at[rank], token)] = (str(_other_end(token)), peer)
    yield from circle(waits)
