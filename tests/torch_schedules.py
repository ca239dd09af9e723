"""Random feasible rows of compute tokens, made by a walk that knows no scheduler."""

from __future__ import annotations

import random
from typing import NamedTuple

from schedopt.export.torch_tokens import Rows, Token, TokenKind
from schedopt.instance import Placement, place

FORMS = ("whole", "split", "mixed")
SHAPES = ("plain", "looped", "v", "explicit")


class Drawn(NamedTuple):
    """Rows, where the stages live, and how many microbatches there are."""

    rows: Rows
    rank_of_stage: tuple[int, ...]
    microbatches: int


def placed(rng: random.Random, shape: str, ranks: int) -> tuple[int, ...]:
    """The rank of each stage; every rank has one at least."""
    match shape:
        case "plain":
            return tuple(range(ranks))
        case "looped":
            return place(Placement.LOOPED, ranks * rng.randint(2, 3), ranks)
        case "v":
            return place(Placement.V, ranks * 2, ranks)
        case _:
            extra = [rng.randrange(ranks) for _ in range(rng.randint(1, 2 * ranks))]
            stages = [*range(ranks), *extra]
            rng.shuffle(stages)
            return tuple(stages)


def drawn(rng: random.Random, shape: str, form: str) -> Drawn:
    """Rows in which the last stage's forwards ascend and everything else is free."""
    ranks, microbatches = rng.randint(2, 5), rng.randint(1, 6)
    rank_of_stage = placed(rng, shape, ranks)
    last = len(rank_of_stage) - 1
    needs: dict[Token, list[Token]] = {}
    for stage in range(last + 1):
        for microbatch in range(microbatches):
            forward = Token(stage, TokenKind.FORWARD, microbatch)
            needs[forward] = []
            if stage:
                needs[forward].append(Token(stage - 1, TokenKind.FORWARD, microbatch))
            if stage == last and microbatch:
                needs[forward].append(Token(stage, TokenKind.FORWARD, microbatch - 1))
            split = form == "split" or (form == "mixed" and rng.random() < 0.5)
            kind = TokenKind.BACKWARD_INPUT if split else TokenKind.BACKWARD
            needs[Token(stage, kind, microbatch)] = [forward]
            if split:
                weight = Token(stage, TokenKind.BACKWARD_WEIGHT, microbatch)
                needs[weight] = [Token(stage, kind, microbatch)]
    for token, before in needs.items():
        if token.kind.is_backward and token.stage < last:
            before.extend(
                t
                for t in needs
                if t.kind.is_backward
                and t.stage == token.stage + 1
                and t.microbatch == token.microbatch
            )
    rows: list[list[Token]] = [[] for _ in range(ranks)]
    left = dict(needs)
    while left:
        free = [t for t, before in left.items() if not any(b in left for b in before)]
        token = rng.choice(free)
        del left[token]
        rows[rank_of_stage[token.stage]].append(token)
    return Drawn(tuple(map(tuple, rows)), rank_of_stage, microbatches)
