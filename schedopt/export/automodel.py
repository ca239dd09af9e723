"""The files for NeMo Automodel: compute-only rows and the configuration beside them.

Automodel (``components/distributed/pipelining``: ``config.py``, ``functional.py``,
``recv_buffer_pool.py``; read, not executed) loads ``pp_schedule_csv`` into torch's CSV
runtime and takes the placement from ``pp_schedule``. With one stage per rank that is
``GPipe`` here and not ``1f1b``, which would place the stages alike: for ``1f1b``,
Automodel pools receive buffers in a ring as deep as 1F1B needs, and the rows may have
more microbatches in flight, whose data would be overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping

from schedopt.export.program import Program
from schedopt.export.torch_files import csv_file
from schedopt.export.torch_placement import Shape, shape_of

_NAMES = {
    Shape.ONE_EACH: "GPipe",
    Shape.LOOPED: "PipelineScheduleMulti",
    Shape.V: "ZBVZeroBubble",
}


def files(program: Program) -> Mapping[str, str]:
    """The rows, and the part of the recipe's YAML that belongs to them.

    Raises
    ------
    ExportError
        If Automodel cannot place the stages so, or torch cannot run the rows.
    """
    stem = program.file_stem
    text = _CONFIGURATION.format(
        ranks=len(program.rows),
        stages=len(program.device_of_stage),
        microbatches=program.microbatches,
        name=_NAMES[shape_of(program, "automodel")],
        stem=stem,
    )
    return {**csv_file(program), f"{stem}.automodel.yaml": text}


_CONFIGURATION = """\
# Merge into the recipe's configuration. The model must be cut into {stages} stages:
# by layers_per_stage, or by module_fqns_per_model_part with {stages} lists.
step_scheduler:
  local_batch_size: {microbatches}  # {microbatches} x pp_microbatch_size
distributed:
  pp_size: {ranks}
  pipeline:
    pp_schedule: {name}  # decides where the stages are, not their order
    pp_schedule_csv: {stem}.csv
    pp_microbatch_size: 1
"""
