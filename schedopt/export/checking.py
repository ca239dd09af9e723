"""The check of torch's rows, without torch: what it accepts silently is refused here.

``torch.distributed.pipelining`` 2.13 checks sets and counts when it reads rows
(``schedules.py::_validate_schedule``); doubled ops, messages received in another order
than they were sent, or a last stage out of order run, hang, or give wrong gradients.
Here every rule is one function over the rows, and the tuple ``RULES`` is the whole of
them, in groups: where a group finds a fault, the later ones, which build on it, are not
asked. Rows may be compute-only or have their transfers listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice

from schedopt.export.checking_orders import (
    forwards_of_last_stage_ascend,
    inputs_come_first,
    no_rank_waits_for_itself,
    receives_may_be_deferred,
)
from schedopt.export.checking_rows import CheckedRows, Fault, FaultRule, Place
from schedopt.export.checking_transfers import (
    every_transfer_has_its_ends,
    messages_arrive_in_the_order_sent,
    pairs_see_one_order,
    transfers_meet,
)
from schedopt.export.torch_tokens import Token, TokenKind

Check = Callable[[CheckedRows], Iterator[Fault]]


MOST_FAULTS = 100
"""How many faults are listed at most."""


def faults(
    rows: Sequence[Sequence[Token]],
    *,
    microbatches: int | None = None,
    rank_of_stage: Sequence[int] | None = None,
    lists_transfers: bool | None = None,
    defers_receives: bool = False,
) -> tuple[Fault, ...]:
    """What is wrong with rows, at most ``MOST_FAULTS`` of it; best nothing.

    Parameters
    ----------
    microbatches
        How many there should be; None: the highest number in the rows plus 1.
    rank_of_stage
        Where the stages should live; None: where the rows have them.
    lists_transfers
        Whether the rows are to be read as ``compute_comms``; None: if they have any
        token that is no compute.
    defers_receives
        Whether the runtime runs with ``defer_pp_recv=True``.
    """
    checked = CheckedRows.of(rows, microbatches, rank_of_stage, lists_transfers)
    deferred = ((receives_may_be_deferred,),) if defers_receives else ()
    for group in RULES + deferred:
        all_found = chain.from_iterable(rule(checked) for rule in group)
        found = tuple(islice(all_found, MOST_FAULTS))
        if found:
            return found
    return ()


def stages_have_one_rank(rows: CheckedRows) -> Iterator[Fault]:
    """Every stage lives on one rank, the expected one, and every rank has a stage."""
    for place in rows.places:
        home = rows.rank_of_stage.get(place.token.stage)
        if home != place.rank:
            yield place.fault(
                FaultRule.PLACEMENT,
                f"stage {place.token.stage} belongs to rank {home}; move the token"
                " there"
                if home is not None
                else f"there is no stage {place.token.stage}; take the token out",
            )
    gap = next((s for s in range(rows.stages) if s not in rows.rank_of_stage), None)
    if gap is not None:
        yield Fault(
            None,
            None,
            f"{gap}F0",
            FaultRule.PLACEMENT,
            f"stage {gap} is on no rank; number the stages from 0 without gaps",
        )
    if not rows.rows:
        yield Fault(
            None,
            None,
            "",
            FaultRule.PLACEMENT,
            "there are no rows; write one for each rank",
        )
    for rank, row in enumerate(rows.rows):
        if not row:
            yield Fault(
                rank,
                None,
                "",
                FaultRule.PLACEMENT,
                "the rank has no token, but torch needs a stage on every rank;"
                " use fewer ranks or give it a stage",
            )


def ops_stand_once(rows: CheckedRows) -> Iterator[Fault]:
    """Every microbatch has one F, and one B or one I and one W, on every stage."""
    for place in rows.places:
        token = place.token
        if not token.kind.has_microbatch:
            continue
        if not 0 <= (token.microbatch or 0) < rows.microbatches:
            yield place.fault(
                FaultRule.COUNT,
                f"microbatches are 0 to {rows.microbatches - 1}; number it so",
            )
        elif token.kind.is_compute and rows.at(token) != place:
            yield place.fault(
                FaultRule.COUNT, "stands there a second time; take one of them out"
            )
    for stage in range(rows.stages):
        for microbatch in range(rows.microbatches):
            yield from _missing_ops(rows, stage, microbatch)


def _missing_ops(rows: CheckedRows, stage: int, microbatch: int) -> Iterator[Fault]:
    forward, whole, for_input, for_weights = (
        Token(stage, kind, microbatch)
        for kind in (
            TokenKind.FORWARD,
            TokenKind.BACKWARD,
            TokenKind.BACKWARD_INPUT,
            TokenKind.BACKWARD_WEIGHT,
        )
    )
    if forward not in rows:
        yield rows.missing(forward, "every microbatch needs its forward; add it")
    if whole in rows:
        for part in (for_input, for_weights):
            if part in rows:
                yield rows.at(part).fault(
                    FaultRule.COUNT,
                    f"the backward is already run whole by {whole}; take {part} out,"
                    f" or {whole} out and have both {for_input} and {for_weights}",
                )
    elif for_input in rows and for_weights not in rows:
        yield rows.missing(for_weights, f"{for_input} needs its second half; add it")
    elif for_weights in rows and for_input not in rows:
        yield rows.missing(for_input, f"{for_weights} needs its first half; add it")
    elif for_input not in rows:
        yield rows.missing(
            whole, f"every microbatch needs {whole}, or {for_input} and {for_weights}"
        )


def gradients_are_reduced_once(rows: CheckedRows) -> Iterator[Fault]:
    """With listed transfers, each stage has REDUCE_GRAD once, after its last backward.

    Without it torch does not divide the gradients by the number of microbatches, and
    says nothing.
    """
    if not rows.lists_transfers:
        return
    reduced: dict[int, Place] = {}
    late: dict[int, Token] = {}  # the first B or W of a stage after its reduction
    for place in rows.places:
        stage, kind, _ = place.token
        if kind is TokenKind.REDUCE_GRAD:
            if stage in reduced:
                detail = "stands a second time; take it out"
                yield place.fault(FaultRule.REDUCTION, detail)
            reduced.setdefault(stage, place)
        elif stage in reduced and kind in _LAST_KINDS:
            late.setdefault(stage, place.token)
    for stage in range(rows.stages):
        if stage not in reduced:
            yield Fault(
                rows.rank_of_stage[stage],
                None,
                str(Token(stage, TokenKind.REDUCE_GRAD)),
                FaultRule.REDUCTION,
                "is missing, and gradients would not be divided by the number of"
                " microbatches; put it after the stage's last B or W",
            )
        elif stage in late:
            yield reduced[stage].fault(
                FaultRule.REDUCTION,
                f"stands before {late[stage]}, whose gradient it would miss; put it"
                " after the stage's last B or W",
            )


_LAST_KINDS = (TokenKind.BACKWARD, TokenKind.BACKWARD_WEIGHT)


def only_compute_where_only_that_is_read(rows: CheckedRows) -> Iterator[Fault]:
    """A file that torch reads as ``compute_only`` has F, B, I and W alone."""
    if rows.lists_transfers:
        return
    for place in rows.places:
        if not place.token.kind.is_compute:
            yield place.fault(
                FaultRule.FORM,
                "has no place in a compute-only file; take it out, or load the file"
                " with format compute_comms",
            )


def shards_are_there(rows: CheckedRows) -> Iterator[Fault]:
    """UNSHARD and RESHARD of a stage alternate, and what computes stands between.

    Only where a stage has such tokens; the last RESHARD may be left out.
    """
    stages = {
        place.token.stage
        for place in rows.places
        if place.token.kind in (TokenKind.UNSHARD, TokenKind.RESHARD)
    }
    whole: set[int] = set()
    for place in rows.places:
        stage, kind, _ = place.token
        if stage not in stages:
            continue
        if kind is TokenKind.UNSHARD and stage in whole:
            yield place.fault(
                FaultRule.SHARDING, "the stage is unsharded already; take it out"
            )
        needs_whole = kind.is_compute or kind is TokenKind.RESHARD
        if needs_whole and stage not in whole:
            yield place.fault(
                FaultRule.SHARDING,
                f"the stage is sharded here; put {stage}UNSHARD before it",
            )
        if kind is TokenKind.UNSHARD:
            whole.add(stage)
        elif kind is TokenKind.RESHARD:
            whole.discard(stage)


RULES: tuple[tuple[Check, ...], ...] = (
    (stages_have_one_rank, only_compute_where_only_that_is_read),
    (ops_stand_once,),
    (
        inputs_come_first,
        forwards_of_last_stage_ascend,
        gradients_are_reduced_once,
        shards_are_there,
        every_transfer_has_its_ends,
    ),
    (messages_arrive_in_the_order_sent,),
    (pairs_see_one_order,),
    (no_rank_waits_for_itself, transfers_meet),
)
"""The rules, in groups; where a group finds faults, the later ones are not asked."""
