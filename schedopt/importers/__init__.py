"""From what others measured to an instance: one module per format.

Each has ``read(paths, wanted, limits)``, which returns the document of an instance and
notes on what the file did not say. Malformed input is refused in one line that names
the file, the line or field, the value and the rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from schedopt.formats.limits import Limits

if TYPE_CHECKING:
    from schedopt.importers.drafts import Imported, Wanted


class Format(StrEnum):
    """The formats that are read."""

    TORCH_TRACE = "torch-trace"
    ZERO_BUBBLE_LOG = "zero-bubble-log"
    PIPEDREAM_GRAPH = "pipedream-graph"
    PP_TIMERS = "pp-timers"
    STAGE_CSV = "stage-csv"


class _Importer(Protocol):
    def read(
        self, paths: Sequence[Path], wanted: Wanted, limits: Limits
    ) -> Imported: ...


def read(
    form: Format, paths: Sequence[Path], wanted: Wanted, limits: Limits
) -> Imported:
    """The instance that measured files describe.

    Raises
    ------
    FormatError
        If a file is not of the format, or files do not go together.
    """
    module = import_module(f"schedopt.importers.{form.value.replace('-', '_')}")
    return cast("_Importer", module).read(paths, wanted, limits)
