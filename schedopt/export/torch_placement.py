"""Which named schedule of torch puts the stages where a program has them.

torchtitan and NeMo Automodel cut the model and place its stages by the name of a
schedule, whatever CSV is given (torchtitan ``distributed/pipeline_parallel.py``,
Automodel ``components/distributed/pipelining/functional.py``; read): names of
single-stage schedules give every rank one stage, ``ZBVZeroBubble`` gives it two as a V,
the names of the other multi-stage schedules give it stages in a loop.
"""

from __future__ import annotations

from enum import StrEnum

from schedopt.errors import ExportError
from schedopt.export.program import Program
from schedopt.instance import Placement, place


class Shape(StrEnum):
    """How the stages lie on the ranks."""

    ONE_EACH = "one stage per rank"
    LOOPED = "looped"
    V = "v"


def shape_of(program: Program, runtime: str) -> Shape:
    """How the program's stages lie on the ranks.

    Raises
    ------
    ExportError
        If that is none of the three shapes that the runtime has.
    """
    ranks, placed = len(program.rows), program.device_of_stage
    stages = len(placed)
    if ranks == 1:
        msg = f"one device is no pipeline to {runtime}; export torch-csv instead"
        raise ExportError(msg)
    if placed == tuple(range(ranks)):
        return Shape.ONE_EACH
    if stages % ranks == 0 and placed == place(Placement.LOOPED, stages, ranks):
        return Shape.LOOPED
    if stages == 2 * ranks and placed == place(Placement.V, stages, ranks):
        return Shape.V
    own = place(Placement.LOOPED, stages, ranks)
    stage = next((s for s in range(stages) if placed[s] != own[s]), stages - 1)
    msg = (
        f"{stage}F0 is on device {placed[stage]}: {runtime} places one stage per"
        " device, or equally many looped, or two per device as a V; solve with"
        " --placement looped or v, or export torch-csv, which takes any placement"
    )
    raise ExportError(msg)
