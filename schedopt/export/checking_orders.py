"""Checks of the order of compute tokens: dependencies, the last stage, waiting."""

from __future__ import annotations

from collections.abc import Iterator

from schedopt.export.checking_rows import CheckedRows, Fault, FaultRule, Place
from schedopt.export.torch_tokens import Token, TokenKind


def inputs_come_first(rows: CheckedRows) -> Iterator[Fault]:
    """What a token needs of its own rank stands before it."""
    for place in rows.places:
        for needed in _needed_on_rank(rows, place.token):
            other = rows.find(needed)
            if other is not None and other.rank == place.rank and other > place:
                yield place.fault(
                    FaultRule.DEPENDENCY,
                    f"stands before {needed}, which it needs; put it behind",
                )


def _needed_on_rank(rows: CheckedRows, token: Token) -> Iterator[Token]:
    """What must be done before a token, as far as it may be on the same rank."""
    stage, kind, microbatch = token
    maker = rows.maker_of_input(token)
    if maker is not None:
        yield maker
    if kind.is_backward or kind is TokenKind.SEND_FORWARD:
        yield Token(stage, TokenKind.FORWARD, microbatch)
    if kind is TokenKind.BACKWARD_WEIGHT:
        yield Token(stage, TokenKind.BACKWARD_INPUT, microbatch)
    if kind is TokenKind.SEND_BACKWARD:
        yield rows.gradient_maker(stage, microbatch)
    if kind is TokenKind.FORWARD and rows.lists_transfers:
        yield Token(stage, TokenKind.RECV_FORWARD, microbatch)
    if kind.is_backward and rows.lists_transfers:
        yield Token(stage, TokenKind.RECV_BACKWARD, microbatch)


def forwards_of_last_stage_ascend(rows: CheckedRows) -> Iterator[Fault]:
    """The last stage runs its forwards in the order 0, 1, 2, ...

    torch appends each loss as it is made and looks it up by the microbatch's number: in
    another order, earlier ranks get the gradients of other microbatches.
    """
    last = rows.stages - 1
    expected = 0
    for place in rows.places:
        token = place.token
        if token.stage != last or token.kind is not TokenKind.FORWARD:
            continue
        if token.microbatch != expected:
            yield place.fault(
                FaultRule.LAST_STAGE,
                f"the last stage's forwards must run in the order 0, 1, 2, ..., and"
                f" {expected} comes here: torch looks losses up by their place;"
                " number the microbatches anew in this order, on every stage",
            )
            return
        expected += 1


def no_rank_waits_for_itself(rows: CheckedRows) -> Iterator[Fault]:
    """Without listed transfers: the rows of all ranks together can be executed."""
    if rows.lists_transfers:
        return
    at = [0] * len(rows.rows)
    done: set[Token] = set()

    def blocker(rank: int) -> Token | None:
        token = rows.rows[rank][at[rank]]
        maker = rows.maker_of_input(token)
        return None if maker is None or maker in done else maker

    def unfinished() -> list[int]:
        return [rank for rank, row in enumerate(rows.rows) if at[rank] < len(row)]

    progress = True
    while progress:
        progress = False
        for rank in unfinished():
            while at[rank] < len(rows.rows[rank]) and blocker(rank) is None:
                done.add(rows.rows[rank][at[rank]])
                at[rank] += 1
                progress = True
    waits = {
        Place(rank, at[rank], rows.rows[rank][at[rank]]): blocker(rank)
        for rank in unfinished()
    }
    yield from circle(
        {
            place: (str(needed), rows.at(needed).rank)
            for place, needed in waits.items()
            if needed is not None
        }
    )


def circle(waits: dict[Place, tuple[str, int]]) -> Iterator[Fault]:
    """One fault for ranks that wait for each other in a circle, if there are any.

    ``waits`` has, for each rank that is stuck, the place where it is, and what it waits
    for, in words, with the rank that has it.
    """
    if not waits:
        return
    stuck = {place.rank: place for place in waits}
    rank = min(stuck)
    seen: list[int] = []
    while rank not in seen:
        seen.append(rank)
        rank = waits[stuck[rank]][1]
    ring = [stuck[r] for r in seen[seen.index(rank) :]]
    parts = [
        f"rank {place.rank} stops at {place.token} and waits for"
        f" {waits[place][0]} on rank {waits[place][1]}"
        for place in ring
    ]
    yield ring[0].fault(
        FaultRule.WAIT, f"{'; '.join(parts)}; move one of these tokens behind its wait"
    )


def receives_may_be_deferred(rows: CheckedRows) -> Iterator[Fault]:
    """With ``defer_pp_recv=True`` each rank uses messages in the order they were sent.

    That option moves each RECV next to the token that uses its message, while messages
    of one rank to another arrive in the order in which they were sent.
    """
    sent: dict[tuple[int, int], list[Token]] = {}
    for rank, _, token in rows.places:
        user = _user_rank(rows, token)
        if user not in (None, rank):
            sent.setdefault((rank, user), []).append(token)
    for place in rows.places:
        maker = rows.maker_of_input(place.token)
        if maker is None or rows.at(maker).rank == place.rank:
            continue
        first = sent[rows.at(maker).rank, place.rank].pop(0)
        if first != maker:
            yield place.fault(
                FaultRule.DEFERRED,
                f"uses the message of {maker} before that of {first}, which rank"
                f" {rows.at(first).rank} sends first: with defer_pp_recv=True it would"
                " get the wrong data; leave that option off",
            )
            return


def _user_rank(rows: CheckedRows, token: Token) -> int | None:
    """The rank of the neighbouring stage that uses what a token makes; None: none."""
    if token.kind is TokenKind.FORWARD:
        return rows.rank_of_stage.get(token.stage + 1)
    if token.kind.is_backward:
        return rows.rank_of_stage.get(token.stage - 1)
    return None
