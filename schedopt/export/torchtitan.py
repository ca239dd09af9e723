"""The files for torchtitan: compute-only rows and the flags that belong to them.

torchtitan (``distributed/pipeline_parallel.py``, ``config``; read, not executed) loads
``pipeline_parallel_schedule_csv`` into torch's CSV runtime, but takes the placement
from the name in ``pipeline_parallel_schedule``: a name that does not fit the rows fails
within the first step, or not at all. So both are written together.
"""

from __future__ import annotations

from collections.abc import Mapping

from schedopt.export.program import Program
from schedopt.export.torch_files import csv_file
from schedopt.export.torch_placement import Shape, shape_of

_NAMES = {
    Shape.ONE_EACH: "1F1B",
    Shape.LOOPED: "PipelineScheduleMulti",
    Shape.V: "ZBVZeroBubble",
}


def files(program: Program) -> Mapping[str, str]:
    """The rows, and a file of flags, one per line.

    Raises
    ------
    ExportError
        If torchtitan cannot place the stages so, or torch cannot run the rows.
    """
    stem = program.file_stem
    flags = {
        "pipeline_parallel_degree": len(program.rows),
        "pipeline_parallel_schedule": _NAMES[shape_of(program, "torchtitan")],
        "pipeline_parallel_schedule_csv": f"{stem}.csv",
        "num_pp_microbatches": program.microbatches,
    }
    text = "".join(f"--parallelism.{name} {value}\n" for name, value in flags.items())
    return {**csv_file(program), f"{stem}.torchtitan.args": text}
