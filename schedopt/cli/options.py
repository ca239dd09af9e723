"""The options and arguments that commands share."""

from __future__ import annotations

import math
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from schedopt.errors import RuntimeNameError
from schedopt.formats.limits import Limits
from schedopt.instance import Objective
from schedopt.refresh.settings import Freedom, Minimise
from schedopt.runtimes import profile_of

# The defaults of SolveParameters, whose module is slow to import; a test compares them.
TIME_LIMIT_S = 60.0
BOUND_TIME_LIMIT_S = 10.0
WORKERS = 2
SEED = 0


def positive(value: float | None) -> float | None:
    """An option's value if it is a positive number or not given."""
    if value is not None and (not math.isfinite(value) or value <= 0):
        msg = "must be a positive number"
        raise typer.BadParameter(msg)
    return value


def _runtime(value: str | None) -> str | None:
    try:
        return None if value is None else profile_of(value).name
    except RuntimeNameError as error:
        raise typer.BadParameter(str(error)) from None


class PlacementChoice(StrEnum):
    """Where ``solve`` places the stages."""

    LINEAR = "linear"
    LOOPED = "looped"
    V = "v"
    ANY = "any"


InstancePath = Annotated[
    Path, typer.Argument(metavar="INSTANCE", help="Instance file, JSON or YAML.")
]
InstancePaths = Annotated[
    list[Path], typer.Argument(metavar="INSTANCE...", help="Instance files.")
]
SchedulePath = Annotated[
    Path, typer.Argument(metavar="SCHEDULE", help="Schedule file.")
]
SchedulePaths = Annotated[
    list[Path], typer.Argument(metavar="SCHEDULE...", help="Schedule files.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="SCHEDULE", help="Write the schedule to this file."
    ),
]
TimeLimit = Annotated[
    float,
    typer.Option(
        metavar="S", callback=positive, help="Wall time for everything, seconds."
    ),
]
Workers = Annotated[
    int, typer.Option(metavar="N", min=1, help="Processes that may be busy at once.")
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="K", min=0, max=2**31 - 1, help="Seed of every random choice."
    ),
]
ObjectiveOption = Annotated[
    Objective | None,
    typer.Option(
        "--objective", help="What is minimised.  [default: what the instance says]"
    ),
]
PlacementOption = Annotated[
    PlacementChoice | None,
    typer.Option(
        "--placement",
        help="Place the stages so; any: search for the best placement, all at equal"
        " memory.  [default: what the instance says]",
    ),
]
RuntimeOption = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        metavar="NAME",
        callback=_runtime,
        help="Keep the rules of this runtime, and say what they cost.",
    ),
]
MinimiseOption = Annotated[
    Minimise | None,
    typer.Option(
        "--minimise",
        help="With --objective refresh: the largest age of an inverse at use first, the"
        " interval k first, or peak memory at the least interval.  [default: age]",
    ),
]
FreedomOption = Annotated[
    Freedom | None,
    typer.Option(
        "--freedom",
        help="With --objective refresh: what the pipeline's forwards and backwards may"
        " do: keep their times, keep their order, or change it.  [default: frozen]",
    ),
]
FrontOption = Annotated[
    bool,
    typer.Option(
        "--front",
        help="With --objective refresh: steps may be longer; the shortest step time of"
        " each refresh interval.",
    ),
]
IntervalOption = Annotated[
    int | None,
    typer.Option(
        "--interval",
        metavar="K",
        min=1,
        help="With --front: the interval whose schedule is written and drawn."
        "  [default: the one with the shortest steps]",
    ),
]
Wrap = Annotated[
    bool,
    typer.Option(
        "--wrap",
        help="With --objective refresh: work may use the next cycle's gaps.",
    ),
]
PipelineOption = Annotated[
    str | None,
    typer.Option(
        "--pipeline",
        metavar="NAME|SCHEDULE",
        help="With --objective refresh: the hand-made schedule, or the file of one,"
        " whose gaps are filled.  [default: each of those with the shortest step]",
    ),
]
StepsOption = Annotated[
    tuple[int, int] | None,
    typer.Option(
        "--steps-to-target",
        metavar="FIRST SECOND",
        help="With --objective refresh: steps that a first-order and this second-order"
        " optimizer need; prints the time of both.",
    ),
]
Reproducible = Annotated[
    bool,
    typer.Option(
        "--reproducible",
        help="Deterministic limits instead of wall time: the same result, always.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Gantt = Annotated[
    bool | None,
    typer.Option(
        help="Draw the schedule as text.  [default: if its ops can be told apart]",
    ),
]
MaxOps = Annotated[
    int,
    typer.Option(
        metavar="N", min=1, help="Refuse an instance or a schedule with more ops."
    ),
]
MaxBytes = Annotated[
    int, typer.Option(metavar="N", min=1, help="Refuse a larger file, bytes.")
]

DEFAULT_LIMITS = Limits()


class TableRows(StrEnum):
    """What a row of a table of results is."""

    METHOD = "method"
    INSTANCE = "instance"
    RUN = "run"


class TableStyle(StrEnum):
    """How a table is printed."""

    TEXT = "text"
    CSV = "csv"
    MARKDOWN = "markdown"
    JSON = "json"


class SchemaName(StrEnum):
    """The two file formats."""

    INSTANCE = "instance"
    SCHEDULE = "schedule"


def file_stem(name: str) -> str:
    """An instance's name as a file name can have it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:100] or "instance"
