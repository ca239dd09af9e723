"""Tokens: the actions of ``torch.distributed.pipelining``, and the text of its CSV.

A token is ``<stage><KIND>[microbatch]`` (torch 2.13, ``schedules.py::_Action``; read,
not copied). torch's reader takes the longest prefix that it knows, so that ``0F0x`` is
``0F0`` to it; here the whole cell must be a token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from schedopt.errors import FormatError
from schedopt.formats.complaints import one_line
from schedopt.ops import Op, OpKind


class TokenKind(StrEnum):
    """What a token does; the value is its spelling."""

    FORWARD = "F"
    BACKWARD = "B"
    BACKWARD_INPUT = "I"
    BACKWARD_WEIGHT = "W"
    SEND_FORWARD = "SEND_F"
    RECV_FORWARD = "RECV_F"
    SEND_BACKWARD = "SEND_B"
    RECV_BACKWARD = "RECV_B"
    REDUCE_GRAD = "REDUCE_GRAD"
    UNSHARD = "UNSHARD"
    RESHARD = "RESHARD"

    @property
    def is_compute(self) -> bool:
        """Whether it stands in a compute-only file."""
        return self in _COMPUTE

    @property
    def is_send(self) -> bool:
        """Whether it sends to another rank."""
        return self in (TokenKind.SEND_FORWARD, TokenKind.SEND_BACKWARD)

    @property
    def is_receive(self) -> bool:
        """Whether it receives from another rank."""
        return self in (TokenKind.RECV_FORWARD, TokenKind.RECV_BACKWARD)

    @property
    def is_transfer(self) -> bool:
        """Whether it is one end of a transfer."""
        return self.is_send or self.is_receive

    @property
    def is_backward(self) -> bool:
        """Whether it makes the gradient that the previous stage waits for."""
        return self in (TokenKind.BACKWARD, TokenKind.BACKWARD_INPUT)

    @property
    def has_microbatch(self) -> bool:
        """Whether a microbatch belongs to it."""
        return self.is_compute or self.is_transfer


_COMPUTE = (
    TokenKind.FORWARD,
    TokenKind.BACKWARD,
    TokenKind.BACKWARD_INPUT,
    TokenKind.BACKWARD_WEIGHT,
)
_OF_OP = {
    OpKind.FORWARD: TokenKind.FORWARD,
    OpKind.BACKWARD: TokenKind.BACKWARD,
    OpKind.BACKWARD_INPUT: TokenKind.BACKWARD_INPUT,
    OpKind.BACKWARD_WEIGHT: TokenKind.BACKWARD_WEIGHT,
}


class Token(NamedTuple):
    """One action of one rank; ``microbatch`` is None for work on a stage as a whole."""

    stage: int
    kind: TokenKind
    microbatch: int | None = None

    def __str__(self) -> str:
        microbatch = "" if self.microbatch is None else str(self.microbatch)
        return f"{self.stage}{self.kind.value}{microbatch}"

    @classmethod
    def of(cls, op: Op) -> Token | None:
        """The token of a compute op; None if torch has none for its kind."""
        kind = _OF_OP.get(op.kind)
        return None if kind is None else cls(op.stage, kind, op.microbatch)

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read a cell, the inverse of ``str(token)``; blanks around it are taken off.

        Raises
        ------
        FormatError
            If the cell is not exactly one token; the message says what it lacks.

        Examples
        --------
        >>> str(Token.parse("2SEND_F0"))
        '2SEND_F0'
        """
        match = _NOTATION.fullmatch(text.strip())
        kind = None if match is None else _KINDS.get(match["kind"])
        if match is None or kind is None:
            raise FormatError(_why_not(text.strip()))
        number = match["microbatch"]
        if kind.has_microbatch and not number:
            msg = f"has no microbatch; write e.g. {match['stage']}{kind.value}0"
            raise FormatError(msg)
        if number and not kind.has_microbatch:
            msg = f"is work on the whole stage; write {match['stage']}{kind.value}"
            raise FormatError(msg)
        return cls(int(match["stage"]), kind, int(number) if number else None)


_KINDS = {kind.value: kind for kind in TokenKind}
# ASCII digits and no leading zeros: one spelling per token.
_NUMBER = "0|[1-9][0-9]{0,8}"
_NOTATION = re.compile(
    rf"(?P<stage>{_NUMBER})(?P<kind>[A-Z_]+)(?P<microbatch>(?:{_NUMBER})?)"
)


def _why_not(text: str) -> str:
    text = one_line(text)[:40]
    if text.startswith("("):
        return (
            "is two ops in one, which torch runs one after the other;"
            " write them as two cells, e.g. 0F2,0B1"
        )
    if text != text.upper() and _NOTATION.fullmatch(text.upper()):
        return f"has lowercase letters; write {text.upper()}"
    prefix = _NOTATION.match(text)
    if prefix is not None and prefix["kind"] in _KINDS:
        rest = text[prefix.end() :]
        return f"has {rest!r} after the token {prefix[0]}; take that off"
    return "is not a token; expected e.g. 2F0, 1I3, 0SEND_F2 or 1REDUCE_GRAD"


Rows = tuple[tuple[Token, ...], ...]
"""For each rank its tokens, first to last."""


def parse_rows(text: str) -> Rows:
    """The rows of a CSV text; empty cells are idle time, and passed over.

    Raises
    ------
    FormatError
        At the first cell that is no token or the first empty line, which torch takes
        for a rank; at the first empty cell where transfers are listed, at which torch
        stops. The message names rank and position (from 0).
    """
    rows = []
    idle: list[tuple[int, int]] = []
    for rank, line in enumerate(text.splitlines()):
        if not line.strip():
            msg = (
                f"rank {rank}: the line is empty, and torch takes it for a rank;"
                " take the line out"
            )
            raise FormatError(msg)
        row = []
        for position, cell in enumerate(line.split(",")):
            if not cell.strip():
                idle.append((rank, position))
                continue
            try:
                row.append(Token.parse(cell))
            except FormatError as error:
                shown = one_line(cell.strip())[:40]
                msg = (
                    f"rank {rank}, position {position}, {shown}: malformed token:"
                    f" {error}"
                )
                raise FormatError(msg) from None
        rows.append(tuple(row))
    if idle and not all(token.kind.is_compute for row in rows for token in row):
        rank, position = idle[0]
        msg = (
            f"rank {rank}, position {position}: the cell is empty, at which torch stops"
            " in rows that list transfers; take the cell out"
        )
        raise FormatError(msg)
    return tuple(rows)


def text_of(rows: Sequence[Sequence[Token]]) -> str:
    """The rows as torch reads them: no header, and no empty line at the end.

    A line end after the last row is none: ``_load_csv`` reads the text with a CSV
    reader, to which only a further line would be a further rank.
    """
    return "".join(",".join(map(str, row)) + "\n" for row in rows)
