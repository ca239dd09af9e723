"""The files for ``torch.distributed.pipelining``: rows, and a script that runs them.

The rows have passed the check of this package (``checking``) when they are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from schedopt.errors import ExportError
from schedopt.export.checking import faults
from schedopt.export.lowering import lower
from schedopt.export.program import Program
from schedopt.export.torch_rows import compute_rows
from schedopt.export.torch_tokens import Rows, text_of

SCRIPT_NAME = "run_torch.py"


def compute_only(program: Program) -> Mapping[str, str]:
    """Compute-only rows; torch adds the transfers when it loads them.

    Raises
    ------
    ExportError
        If torch has no token for an op, or would get something wrong silently.
    """
    return {**csv_file(program), SCRIPT_NAME: script_text()}


def with_transfers(program: Program) -> Mapping[str, str]:
    """Rows with every transfer in its place, for torch's format ``compute_comms``.

    Raises
    ------
    ExportError
        As ``compute_only``.
    """
    text = text_of(_checked(lower(program).rows, program))
    return {f"{program.file_stem}.csv": text, SCRIPT_NAME: script_text()}


def csv_file(program: Program) -> Mapping[str, str]:
    """The compute-only rows by themselves.

    Raises
    ------
    ExportError
        As ``compute_only``.
    """
    text = text_of(_checked(compute_rows(program), program))
    return {f"{program.file_stem}.csv": text}


def script_text() -> str:
    """The script that is written beside the rows; it needs torch and nothing else."""
    return files("schedopt.export").joinpath("torch_script.py").read_text("utf-8")


def _checked(rows: Rows, program: Program) -> Rows:
    found = faults(
        rows,
        microbatches=program.microbatches,
        rank_of_stage=program.device_of_stage,
    )
    if found:
        raise ExportError(str(found[0]))
    return rows
