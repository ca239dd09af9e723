"""The compute-only rows of ``torch.distributed.pipelining``.

One row per rank, no header, no empty line at the end; a cell is
``<stage><KIND><microbatch>`` with kinds F, B, I and W (torch 2.13,
``schedules.py::_PipelineScheduleRuntime._load_csv``; read, not copied).

On stage 0 torch's I does nothing and its W is the whole backward: there is no input to
give a gradient to. The tokens stay as they are.
"""

from __future__ import annotations

from schedopt.errors import ExportError
from schedopt.export.program import Program
from schedopt.export.torch_tokens import Rows, Token, text_of
from schedopt.ops import Op, OpKind


def compute_rows(program: Program) -> Rows:
    """The tokens of each rank's compute ops.

    A recomputation ``R`` has no token: torch recomputes inside the backward of a stage
    that is wrapped in ``torch.utils.checkpoint``, so R is left out.

    Raises
    ------
    ExportError
        If torch has no token for an op.
    """
    return tuple(
        tuple(_token(op, device) for op in row if op.kind is not OpKind.RECOMPUTE)
        for device, row in enumerate(program.rows)
    )


def compute_only_csv(program: Program) -> str:
    """The rows of a program as torch reads them."""
    return text_of(compute_rows(program))


def _token(op: Op, device: int) -> Token:
    token = Token.of(op)
    if token is not None and not op.step and not op.part:
        return token
    if op.kind is OpKind.OVERLAP:
        why = (
            "torch runs an overlapped forward and backward one after the other unless a"
            " function of yours is registered for it; take `overlap` out of the stages"
            " and solve again"
        )
    else:
        why = "torch has no token for it"
    msg = f"{op} on device {device}: {why}"
    raise ExportError(msg)
