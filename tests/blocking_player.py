"""Plays torch's rows with transfers that block and have no names.

Written apart from ``schedopt.export.checking``, to judge it: nothing here reads a rule,
it only goes on until something wrong is computed or nobody can go on.
"""

from __future__ import annotations

from collections.abc import Sequence

from schedopt.export.torch_tokens import Token

Rows = Sequence[Sequence[Token]]


def runs_right(rows: Rows, home: Sequence[int], microbatches: int) -> bool:
    """Whether every token gets what it needs, all rows end, and nothing is missing."""
    player = _Player(rows, home, microbatches)
    try:
        player.play()
    except _WrongError:
        return False
    return player.is_complete()


class _WrongError(Exception):
    """Something is computed of the wrong data, or twice."""


class _Player:
    def __init__(self, rows: Rows, home: Sequence[int], microbatches: int) -> None:
        self.rows, self.home, self.microbatches = rows, home, microbatches
        self.at = [0] * len(rows)
        # (what, stage, microbatch): out, grad and weights made; in and back received.
        self.there: set[tuple[str, int, int | None]] = set()
        self.losses = 0
        self.last = len(home) - 1

    def play(self) -> None:
        moved = True
        while moved:
            moved = any(self._compute(rank) for rank in range(len(self.rows)))
            moved |= any(self._send(rank) for rank in range(len(self.rows)))

    def is_complete(self) -> bool:
        ends = all(a == len(row) for a, row in zip(self.at, self.rows, strict=True))
        stages = range(len(self.home))
        return ends and all(("reduced", stage, None) in self.there for stage in stages)

    def _next(self, rank: int) -> Token | None:
        row = self.rows[rank]
        return row[self.at[rank]] if self.at[rank] < len(row) else None

    def _compute(self, rank: int) -> bool:
        moved = False
        while (token := self._next(rank)) is not None and not token.kind.is_transfer:
            self._do(token, rank)
            self.at[rank] += 1
            moved = True
        return moved

    def _do(self, token: Token, rank: int) -> None:
        stage, kind, m = token.stage, token.kind.value, token.microbatch
        self._need(self.home[stage] == rank)
        if kind == "F":
            if stage > 0:
                self._handed("out", stage - 1, "in", stage, m)
            if stage == self.last:  # losses are looked up by their place
                self._need(m == self.losses)
                self.losses += 1
            self._make("out", stage, m)
        if kind in ("B", "I"):
            self._need(("out", stage, m) in self.there)
            if stage < self.last:
                self._handed("grad", stage + 1, "back", stage, m)
            self._make("grad", stage, m)
        if kind == "I":
            self._make("half", stage, m)
        if kind == "W":
            self._need(("half", stage, m) in self.there)
        if kind in ("B", "W"):
            self._make("weights", stage, m)
        if kind == "REDUCE_GRAD":
            for each in range(self.microbatches):
                self._need(("weights", stage, each) in self.there)
            self._make("reduced", stage, None)

    def _handed(self, made: str, source: int, come: str, stage: int, m: object) -> None:
        """What a neighbour made is here: made on this rank, or received."""
        local = self.home[source] == self.home[stage]
        wanted = (made, source, m) if local else (come, stage, m)
        self._need(wanted in self.there)

    def _send(self, rank: int) -> bool:
        """Whether the rank's send met a receive; any from this rank will do."""
        token = self._next(rank)
        if token is None or not token.kind.is_send:
            return False
        stage, m, onward = token.stage, token.microbatch, token.kind.value == "SEND_F"
        self._need(("out" if onward else "grad", stage, m) in self.there)
        target = stage + 1 if onward else stage - 1
        peer = self.home[target]
        self._need(peer != rank)
        other = self._next(peer)
        if other is None or not other.kind.is_receive:
            return False
        of_output = other.kind.value == "RECV_F"
        if self.home[other.stage - 1 if of_output else other.stage + 1] != rank:
            return False
        self._need((of_output, other.stage, other.microbatch) == (onward, target, m))
        self._make("in" if onward else "back", target, m)
        self.at[rank] += 1
        self.at[peer] += 1
        return True

    def _make(self, what: str, stage: int, m: int | None) -> None:
        self._need((what, stage, m) not in self.there)
        self.there.add((what, stage, m))

    def _need(self, right: bool) -> None:
        if not right:
            raise _WrongError
