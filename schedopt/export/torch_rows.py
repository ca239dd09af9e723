"""The compute-only CSV of ``torch.distributed.pipelining``.

One row per rank, no header, no empty line at the end; a cell is
``<stage><KIND><microbatch>`` with kinds F, B, I and W (torch 2.13,
``schedules.py::_PipelineScheduleRuntime._load_csv``; read, not copied).
"""

from __future__ import annotations

from schedopt.export.program import Program


def compute_only_csv(program: Program) -> str:
    """The rows of a program as torch reads them."""
    return "\n".join(",".join(map(str, row)) for row in program.rows)
