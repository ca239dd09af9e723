"""The check of rows with K-FAC in slots, without torch.

Without its slots a step must pass the check of all rows (``checking``). Then each rank
is followed through all steps: every slot stands once, on its stage's rank, after what
makes its data and before what overwrites it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from schedopt.export.checking import MOST_FAULTS, faults
from schedopt.export.checking_rows import Fault, FaultRule
from schedopt.export.torch_tokens import Rows, Token, TokenKind
from schedopt.ops import Op, OpKind

_SIDES = {OpKind.CURVATURE_A: "A", OpKind.CURVATURE_B: "B"}


def slot_faults(
    steps: Sequence[Rows],
    slots: Sequence[Sequence[Op]],
    *,
    microbatches: int,
    rank_of_stage: Sequence[int],
    recomputed: Collection[int] = (),
) -> tuple[Fault, ...]:
    """What is wrong with the rows of all steps; best nothing.

    Parameters
    ----------
    steps
        For each step its rows, transfers listed.
    slots
        For each stage what the numbers of its ``UNSHARD`` mean.
    recomputed
        The stages whose inputs are there once the backward has recomputed them.
    """
    for rows in steps:
        plain = [[token for token in row if not _is_slot(token)] for row in rows]
        found = faults(
            plain,
            microbatches=microbatches,
            rank_of_stage=rank_of_stage,
            lists_transfers=True,
        )
        if found:
            return found
    walked = [
        fault
        for rank in range(len(steps[0]) if steps else 0)
        for fault in _Walk(rank, slots, microbatches, recomputed).faults(steps)
    ]
    return (*_left_out(steps, slots), *walked)[:MOST_FAULTS]


def _is_slot(token: Token) -> bool:
    return token.kind is TokenKind.UNSHARD and token.microbatch is not None


def _left_out(steps: Sequence[Rows], slots: Sequence[Sequence[Op]]) -> Iterator[Fault]:
    """Slots that stand nowhere."""
    there = {token for rows in steps for row in rows for token in row}
    for stage, ops in enumerate(slots):
        for number, op in enumerate(ops):
            token = Token(stage, TokenKind.UNSHARD, number)
            if token not in there:
                detail = f"{op} stands nowhere; add {token}"
                yield Fault(None, None, str(token), FaultRule.SLOT, detail)


class _Share(NamedTuple):
    """A factor of a layer in the refresh of a step's data."""

    stage: int
    factor: str
    step: int


class _Walk:
    """What a rank has done so far, step by step."""

    def __init__(
        self,
        rank: int,
        slots: Sequence[Sequence[Op]],
        microbatches: int,
        recomputed: Collection[int],
    ) -> None:
        self.rank = rank
        self.slots = slots
        self.microbatches = microbatches
        self.recomputed = recomputed
        self.step = 0
        self.done: set[Op] = set()
        self.reduced: set[tuple[int, int]] = set()  # (step, stage)
        self.shares: Counter[_Share] = Counter()
        self.filled: dict[tuple[int, str], int] = {}  # step of what a factor holds

    def faults(self, steps: Sequence[Rows]) -> Iterator[Fault]:
        """What is wrong on the rank."""
        for self.step, rows in enumerate(steps):
            for position, token in enumerate(rows[self.rank]):
                detail = self._wrong(token)
                if detail is not None:
                    yield Fault(
                        self.rank,
                        position,
                        f"{token} of step {self.step}",
                        FaultRule.SLOT,
                        detail,
                    )

    def _wrong(self, token: Token) -> str | None:
        """Why a token may not stand here; then it counts as done."""
        if token.kind is TokenKind.REDUCE_GRAD:
            self.reduced.add((self.step, token.stage))
        if token.kind.is_compute:
            kind = OpKind(token.kind.value)
            op = Op(kind, token.stage, token.microbatch or 0, self.step)
            before = Op(OpKind.STEP, token.stage, 0, self.step - 1)
            missing = (
                kind is OpKind.FORWARD and self.step > 0 and before not in self.done
            )
            self.done.add(op)
            return f"needs {before} before it; move that up" if missing else None
        if not _is_slot(token):
            return None
        number = token.microbatch or 0
        if number >= len(self.slots[token.stage]):
            return f"there are {len(self.slots[token.stage])} slots of the stage"
        op = self.slots[token.stage][number]
        if op in self.done:
            return f"{op} stands a second time; take it out"
        missing_op = self._missing(op)
        self.done.add(op)
        self._count(op)
        if missing_op is None:
            return None
        return f"{op} needs {missing_op} before it; move the slot behind that"

    def _count(self, op: Op) -> None:
        if op.kind in _SIDES:
            factor = f"{op.part}.{_SIDES[op.kind]}"
            self.shares[_Share(op.stage, factor, op.step)] += 1
            self.filled[op.stage, factor] = op.step

    def _missing(self, op: Op) -> str | None:
        """What an op in a slot needs and does not have; None if nothing."""
        match op.kind:
            case OpKind.CURVATURE_A | OpKind.CURVATURE_B:
                return self._missing_for_share(op)
            case OpKind.INVERSION:
                found = self.shares[_Share(op.stage, op.part, op.step)]
                if found != self.microbatches:
                    return f"all {self.microbatches} shares of its factor, not {found}"
            case OpKind.PRECONDITION:
                if (op.step, op.stage) not in self.reduced:
                    return f"{op.stage}REDUCE_GRAD of step {op.step}"
            case OpKind.STEP:
                before = op._replace(kind=OpKind.PRECONDITION)
                if before not in self.done:
                    return str(before)
            case _:
                return "another runtime: torch has no slot for it"
        return None

    def _missing_for_share(self, op: Op) -> str | None:
        factor = f"{op.part}.{_SIDES[op.kind]}"
        held = self.filled.get((op.stage, factor), op.step)
        if held != op.step:
            before = Op(OpKind.INVERSION, op.stage, 0, held, factor)
            if before not in self.done:
                return str(before)
        kinds = [OpKind.FORWARD]
        if op.kind is OpKind.CURVATURE_B or op.stage in self.recomputed:
            # torch runs the whole backward of stage 0 in its W.
            half = OpKind.BACKWARD_INPUT if op.stage else OpKind.BACKWARD_WEIGHT
            kinds = [OpKind.BACKWARD, half]
        makers = [Op(kind, op.stage, op.microbatch, op.step) for kind in kinds]
        if any(maker in self.done for maker in makers):
            return None
        named = " or ".join(map(str, makers))
        if op.kind is OpKind.CURVATURE_A and op.stage in self.recomputed:
            return f"{named}, in which torch recomputes its input,"
        return named
