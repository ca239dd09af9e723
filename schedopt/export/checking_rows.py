"""What the checks of torch's rows share: the rows with their places, and faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from schedopt.export.torch_tokens import Rows, Token, TokenKind


class FaultRule(StrEnum):
    """The rules of rows, by the names that messages use."""

    PLACEMENT = "placement"
    COUNT = "count"
    FORM = "compute only"
    DEPENDENCY = "dependency"
    LAST_STAGE = "last stage's order"
    REDUCTION = "gradient reduction"
    SHARDING = "sharding"
    TRANSFER = "transfer"
    FIFO = "first in, first out"
    PAIR = "order of a pair of ranks"
    WAIT = "cyclic wait"
    DEFERRED = "deferred receives"
    LOCKSTEP = "lockstep"
    SLOT = "slot"


class Fault(NamedTuple):
    """One thing that is wrong, and what to change.

    ``rank`` and ``position`` (from 0, in the row) are where; ``position`` is None for
    what is missing, ``rank`` for what is missing on every rank.
    """

    rank: int | None
    position: int | None
    token: str
    rule: FaultRule
    detail: str

    def __str__(self) -> str:
        where = [] if self.rank is None else [f"rank {self.rank}"]
        where += [] if self.position is None else [f"position {self.position}"]
        where += [self.token] if self.token else []
        return f"{', '.join(where)}: {self.rule.value}: {self.detail}"


class Place(NamedTuple):
    """Where a token stands."""

    rank: int
    position: int
    token: Token

    def fault(self, rule: FaultRule, detail: str) -> Fault:
        """A fault at this place."""
        return Fault(self.rank, self.position, str(self.token), rule, detail)


@dataclass(frozen=True, eq=False)
class CheckedRows:
    """Rows, and what they are checked against.

    Attributes
    ----------
    rows
        For each rank its tokens, first to last.
    microbatches
        How many there should be.
    rank_of_stage
        The rank that each stage should be on.
    lists_transfers
        Whether transfers are listed, as in torch's format ``compute_comms``.
    """

    rows: Rows
    microbatches: int
    rank_of_stage: Mapping[int, int]
    lists_transfers: bool

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[Token]],
        microbatches: int | None,
        rank_of_stage: Sequence[int] | None,
        lists_transfers: bool | None,
    ) -> CheckedRows:
        """Rows, with what is not given taken from them."""
        kept = tuple(map(tuple, rows))
        if microbatches is None:
            numbers = (token.microbatch for row in kept for token in row)
            microbatches = max((n for n in numbers if n is not None), default=-1) + 1
        homes: dict[int, int] = {}
        if rank_of_stage is None:
            for rank, row in enumerate(kept):
                for token in row:
                    homes.setdefault(token.stage, rank)
        else:
            homes.update(enumerate(rank_of_stage))
        if lists_transfers is None:
            tokens = (token for row in kept for token in row)
            lists_transfers = not all(token.kind.is_compute for token in tokens)
        return cls(kept, microbatches, homes, lists_transfers)

    @property
    def stages(self) -> int:
        """How many stages there should be."""
        return max(self.rank_of_stage, default=-1) + 1

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every token where it stands, rank by rank."""
        return tuple(
            Place(rank, position, token)
            for rank, row in enumerate(self.rows)
            for position, token in enumerate(row)
        )

    @cached_property
    def _first(self) -> Mapping[Token, Place]:
        found: dict[Token, Place] = {}
        for place in self.places:
            found.setdefault(place.token, place)
        return found

    def __contains__(self, token: Token) -> bool:
        return token in self._first

    def at(self, token: Token) -> Place:
        """Where a token that is there stands first."""
        return self._first[token]

    def find(self, token: Token) -> Place | None:
        """Where a token stands first; None if nowhere."""
        return self._first.get(token)

    def gradient_maker(self, stage: int, microbatch: int | None) -> Token:
        """The token that makes the gradient for the stage before: B, else I."""
        whole = Token(stage, TokenKind.BACKWARD, microbatch)
        if whole in self:
            return whole
        return whole._replace(kind=TokenKind.BACKWARD_INPUT)

    def maker_of_input(self, token: Token) -> Token | None:
        """The token of a neighbouring stage that makes what F, B or I needs."""
        stage, kind, microbatch = token
        if kind is TokenKind.FORWARD and stage > 0:
            return Token(stage - 1, kind, microbatch)
        if kind.is_backward and stage + 1 < self.stages:
            return self.gradient_maker(stage + 1, microbatch)
        return None

    def missing(self, token: Token, detail: str) -> Fault:
        """A fault for a token that is nowhere."""
        rank = self.rank_of_stage.get(token.stage)
        return Fault(rank, None, str(token), FaultRule.COUNT, f"is missing: {detail}")
