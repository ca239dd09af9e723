"""Lowering: rows of compute tokens get their transfers and gradient reductions.

The walk is a round over the ranks, again and again: each rank whose next token has its
input takes that one token. A token that another rank waits for is followed by its
SEND, and in the same moment the RECV is put at the end of the receiver's row. So the
rows are projections of one total order, every pair of ranks sees its transfers in the
same order on both ends, and even transfers that block until both ends are there cannot
deadlock.

``torch.distributed.pipelining`` 2.13 does the same (``schedules.py``, functions
``_add_reduce_grad``, then ``_add_send_recv``; read, not copied), and the tests compare
the rows token for token. ``_prepare_schedule_with_comms`` runs one pass before these
two, ``_add_unshard_reshard``: for every stage, plain ones too, it adds ``UNSHARD``
before the first use and ``RESHARD`` after the last, keeps at most three stages of a
rank unsharded, and these tokens take their turns in the walk. They are no-ops on stages
that are not FSDP modules, so the lowering here leaves them out; it is not meant for
FSDP stages, which need them (export the compute-only file for those).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from schedopt.errors import ExportError
from schedopt.export.program import Program
from schedopt.export.torch_rows import compute_rows
from schedopt.export.torch_tokens import Rows, Token, TokenKind

_FORWARD_ENDS = (TokenKind.SEND_FORWARD, TokenKind.RECV_FORWARD)
_BACKWARD_ENDS = (TokenKind.SEND_BACKWARD, TokenKind.RECV_BACKWARD)


@dataclass(frozen=True)
class Lowering:
    """A program with its transfers.

    Attributes
    ----------
    events : tuple of (rank, Token)
        All tokens of all ranks in one order that keeps every dependency; each RECV
        follows its SEND at once.
    ranks : int
        How many ranks there are.
    """

    events: tuple[tuple[int, Token], ...]
    ranks: int

    @property
    def rows(self) -> Rows:
        """For each rank its tokens, first to last."""
        found: list[list[Token]] = [[] for _ in range(self.ranks)]
        for rank, token in self.events:
            found[rank].append(token)
        return tuple(map(tuple, found))


def lower(program: Program) -> Lowering:
    """The program with its transfers and gradient reductions.

    Raises
    ------
    ExportError
        If torch has no token for an op, or the rows wait for each other.
    """
    return lower_rows(
        compute_rows(program), program.device_of_stage, program.microbatches
    )


def lower_rows(
    rows: Sequence[Sequence[Token]], rank_of_stage: Sequence[int], microbatches: int
) -> Lowering:
    """Rows of compute tokens with their transfers and gradient reductions.

    Raises
    ------
    ExportError
        If the rows wait for each other; the message names the token that each rank
        stopped at.
    """
    walk = _Walk(
        tuple(_with_reductions(row, microbatches) for row in rows), rank_of_stage
    )
    while walk.unfinished:
        moved = [walk.advance(rank) for rank in walk.unfinished]
        if not any(moved):
            raise ExportError(walk.complaint())
    return Lowering(tuple(walk.events), len(rows))


def _with_reductions(row: Sequence[Token], microbatches: int) -> tuple[Token, ...]:
    """Each stage's gradients are reduced right after the last of its W and B."""
    seen: Counter[int] = Counter()
    found = []
    for token in row:
        found.append(token)
        if token.kind in (TokenKind.BACKWARD, TokenKind.BACKWARD_WEIGHT):
            seen[token.stage] += 1
            if seen[token.stage] == microbatches:
                found.append(Token(token.stage, TokenKind.REDUCE_GRAD))
    return tuple(found)


class _Walk:
    """How far each rank has come, and what has been computed."""

    def __init__(self, rows: Rows, rank_of_stage: Sequence[int]) -> None:
        self.events: list[tuple[int, Token]] = []
        self._rows = rows
        self._rank_of_stage = rank_of_stage
        self._next = [0] * len(rows)
        self._done: set[Token] = set()  # a whole backward also as one for the input

    @property
    def unfinished(self) -> list[int]:
        """The ranks that have tokens left, in order."""
        return [r for r, row in enumerate(self._rows) if self._next[r] < len(row)]

    def advance(self, rank: int) -> bool:
        """Take the rank's next token if its inputs are there; whether they were."""
        token = self._rows[rank][self._next[rank]]
        if self._missing(token) is not None:
            return False
        self._next[rank] += 1
        self.events.append((rank, token))
        self._done.add(_as_input_gradient(token))
        if token.kind is TokenKind.FORWARD:
            self._hand_over(rank, token, token.stage + 1, _FORWARD_ENDS)
        elif token.kind.is_backward:
            self._hand_over(rank, token, token.stage - 1, _BACKWARD_ENDS)
        return True

    def complaint(self) -> str:
        """Which token each rank stopped at, and what it waits for."""
        stops = []
        for rank in self.unfinished:
            token = self._rows[rank][self._next[rank]]
            needed = self._name(self._missing(token))
            stops.append(f"rank {rank} stops at {token}, which needs {needed}")
        return (
            f"the order is cyclic: {'; '.join(stops)};"
            " move one of these ops behind what it needs"
        )

    def _hand_over(
        self, rank: int, token: Token, stage: int, ends: tuple[TokenKind, TokenKind]
    ) -> None:
        """Send what ``token`` made to the rank of the neighbouring ``stage``."""
        if not 0 <= stage < len(self._rank_of_stage):
            return
        receiver = self._rank_of_stage[stage]
        if receiver != rank:
            sent, received = ends
            self.events.append((rank, token._replace(kind=sent)))
            self.events.append((receiver, Token(stage, received, token.microbatch)))

    def _missing(self, token: Token) -> Token | None:
        """The first token that must come before and has not; None if there is none."""
        return next((t for t in self._needs(token) if t not in self._done), None)

    def _name(self, token: Token | None) -> str:
        """A missing token as the rows spell it: B where they have no I."""
        whole = token and token._replace(kind=TokenKind.BACKWARD)
        gradient = token and token.kind is TokenKind.BACKWARD_INPUT
        if gradient and any(whole in row for row in self._rows):
            return str(whole)
        return str(token)

    def _needs(self, token: Token) -> Iterator[Token]:
        stage, kind, microbatch = token
        gradient = TokenKind.BACKWARD_INPUT
        if kind is TokenKind.FORWARD and stage > 0:
            yield Token(stage - 1, TokenKind.FORWARD, microbatch)
        elif kind.is_backward:
            yield Token(stage, TokenKind.FORWARD, microbatch)
            if stage + 1 < len(self._rank_of_stage):
                yield Token(stage + 1, gradient, microbatch)
        elif kind is TokenKind.BACKWARD_WEIGHT:
            yield Token(stage, gradient, microbatch)


def _as_input_gradient(token: Token) -> Token:
    """A token with B counted as I: either makes the gradient for the stage before."""
    if token.kind is TokenKind.BACKWARD:
        return token._replace(kind=TokenKind.BACKWARD_INPUT)
    return token
