"""The identity of work: op kinds, ops and their short notation.

The notation is that of ``torch.distributed.pipelining``, extended:
``[step@]<stage><KIND><microbatch>[:part]``, so ``2F0`` is the forward of microbatch 0
on stage 2 and ``1@2F0:layer3`` a part of it in training step 1.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from schedopt.errors import FormatError


class OpKind(StrEnum):
    """What an op does; the value is its spelling in notation and files."""

    FORWARD = "F"
    BACKWARD = "B"
    BACKWARD_INPUT = "I"
    BACKWARD_WEIGHT = "W"
    RECOMPUTE = "R"
    OVERLAP = "OVERLAP_F_B"
    SEND_FORWARD = "SEND_F"
    SEND_BACKWARD = "SEND_B"
    CURVATURE_A = "CURVATURE_A"
    CURVATURE_B = "CURVATURE_B"
    SYNC_CURVATURE = "SYNC_CURVATURE"
    INVERSION = "INVERSION"
    REDUCE_GRAD = "REDUCE_GRAD"
    PRECONDITION = "PRECONDITION"
    GATHER_GRAD = "GATHER_GRAD"
    STEP = "STEP"

    @property
    def is_compute(self) -> bool:
        """Whether the op computes (as opposed to moving data)."""
        return self not in _MOVES_DATA

    @property
    def is_pipeline(self) -> bool:
        """Whether the op is a microbatch's pass through a stage, or a transfer of it.

        The others are second-order work, collectives and optimizer's steps.
        """
        return self in _PIPELINE


_MOVES_DATA = frozenset(
    {
        OpKind.SEND_FORWARD,
        OpKind.SEND_BACKWARD,
        OpKind.SYNC_CURVATURE,
        OpKind.REDUCE_GRAD,
        OpKind.GATHER_GRAD,
    }
)

_PIPELINE = frozenset(
    {
        OpKind.FORWARD,
        OpKind.BACKWARD,
        OpKind.BACKWARD_INPUT,
        OpKind.BACKWARD_WEIGHT,
        OpKind.RECOMPUTE,
        OpKind.OVERLAP,
        OpKind.SEND_FORWARD,
        OpKind.SEND_BACKWARD,
    }
)

_NOTATION = re.compile(
    r"(?:(?P<step>\d+)@)?(?P<stage>\d+)(?P<kind>[A-Z_]+?)(?P<microbatch>\d+)"
    r"(?::(?P<part>.+))?"
)


class Op(NamedTuple):
    """One piece of work, by what names it; durations belong to the op graph.

    An ``OVERLAP_F_B`` op is named by its forward; its ``part`` is its backward, so
    ``0OVERLAP_F_B2:0B1`` runs 0F2 and 0B1 together. The work of a stage that belongs to
    no microbatch (inversion, preconditioning, optimizer step) carries as its
    ``microbatch`` which copy of the stage does it: 0, or 1 on the way up of a
    bidirectional pipeline. K-FAC ops name their module and side as the ``part``:
    ``2CURVATURE_A3:ffn.1``, ``2INVERSION0:ffn.1.A``.
    """

    kind: OpKind
    stage: int
    microbatch: int
    step: int = 0
    part: str = ""

    def __str__(self) -> str:
        step = f"{self.step}@" if self.step else ""
        part = f":{self.part}" if self.part else ""
        return f"{step}{self.stage}{self.kind.value}{self.microbatch}{part}"

    @classmethod
    def parse(cls, text: str) -> Op:
        """Read the short notation, the inverse of ``str(op)``.

        Raises
        ------
        FormatError
            If the text is not an op.

        Examples
        --------
        >>> Op.parse("2F0")
        Op(kind=<OpKind.FORWARD: 'F'>, stage=2, microbatch=0, step=0, part='')
        """
        match = _NOTATION.fullmatch(text)
        if match is None or match["kind"] not in _KINDS:
            msg = f"{text!r} is not an op: expected e.g. 2F0, 1I3, 0W2 or 1@2B0"
            raise FormatError(msg)
        return cls(
            _KINDS[match["kind"]],
            int(match["stage"]),
            int(match["microbatch"]),
            int(match["step"] or 0),
            match["part"] or "",
        )


_KINDS = {kind.value: kind for kind in OpKind}
