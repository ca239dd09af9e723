"""A plain table of stages: a header with an instance's field names, a row per stage.

The columns are the numbers of a stage in ``schedopt/instance/v1`` (``forward``,
``backward``, ``backward_input``, ``activation``, ...), and ``device`` where the
placement is not linear; ``modules``, a list, is none. Units are the instance's
(``--time-unit``, ``--memory-unit``).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from schedopt.errors import FormatError
from schedopt.formats.complaints import listed
from schedopt.formats.instance_model import CostFields
from schedopt.formats.limits import Limits
from schedopt.importers.drafts import Draft, Imported, Wanted, imported
from schedopt.importers.files import number_of, read_text, wrong
from schedopt.instance import Number
from schedopt.nearest import nearest

_COSTS = tuple(name for name in CostFields.model_fields if name != "modules")
_DEVICE = "device"
_KNOWN = (*_COSTS, _DEVICE)


def read(paths: Sequence[Path], wanted: Wanted, limits: Limits) -> Imported:
    """The instance of a table; empty cells are fields that are not given.

    Raises
    ------
    FormatError
        If the file is no such table; the message names the line and the column.
    """
    if len(paths) != 1:
        msg = f"{paths[1]}: one table is read at a time; give one"
        raise FormatError(msg)
    (path,) = paths
    rows = _rows(read_text(path, limits), path)
    _, header = next(rows, (0, []))
    columns = _columns(header, path)
    stages: list[dict[str, Number]] = []
    homes: list[int] = []
    for line, cells in rows:
        stage = _stage(dict(zip(columns, cells, strict=True)), line, path)
        if _DEVICE in columns:
            home = stage.pop(_DEVICE, None)
            if not isinstance(home, int):
                rule = "must be a device's number, such as 0"
                raise wrong(path, f"line {line}: {_DEVICE}", home, rule)
            homes.append(home)
        stages.append(stage)
    idle = _first_idle(homes)
    if not stages:
        msg = f"{path}: has no stages under its header; give one row per stage"
        raise FormatError(msg)
    if idle is not None:
        msg = (
            f"{path}: column {_DEVICE}: no stage is on device {idle}; number the"
            " devices from 0 without gaps"
        )
        raise FormatError(msg)
    draft = Draft(
        name=path.stem,
        source=f"table of stage costs {path.name}",
        stages=stages,
        time_unit=wanted.time_unit or "us",
        memory_unit=wanted.memory_unit or "MiB",
        devices=max(homes) + 1 if homes else None,
        device_of_stage=homes or None,
    )
    return imported(draft, wanted, path)


def _first_idle(homes: Sequence[int]) -> int | None:
    """The lowest device below the highest one that has no stage."""
    used = sorted(set(homes))
    return next((n for n, device in enumerate(used) if n != device), None)


def _rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line number and the cells of every line that is not empty."""
    reader = csv.reader(text.splitlines(), strict=True, skipinitialspace=True)
    width = 0
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            width = width or len(cells)
            if len(cells) != width:
                rule = f"must have {width} cells, as the header has"
                raise wrong(path, f"line {reader.line_num}", ",".join(cells), rule)
            yield reader.line_num, cells
    except csv.Error as error:
        msg = f"{path}: line {reader.line_num}: no comma-separated values: {error}"
        raise FormatError(msg) from None


def _columns(header: Sequence[str], path: Path) -> list[str]:
    for index, column in enumerate(header):
        if column not in _KNOWN:
            near = nearest(column, _KNOWN, cutoff=0.5)
            hint = f"did you mean {near}?" if near else f"known: {listed(_KNOWN)}"
            raise wrong(path, "line 1", column, f"is an unknown column; {hint}")
        if column in header[:index]:
            raise wrong(path, "line 1", column, "is a second column of this name")
    if "forward" not in header:
        msg = f"{path}: line 1: has no column forward; the first line names the columns"
        raise FormatError(msg)
    return list(header)


def _stage(cells: dict[str, str], line: int, path: Path) -> dict[str, Number]:
    stage: dict[str, Number] = {}
    for column, text in cells.items():
        if not text:
            continue
        value = number_of(text)
        if value is None:
            rule = "must be a finite number, at least 0"
            raise wrong(path, f"line {line}: {column}", text, rule)
        stage[column] = value
    if "forward" not in stage:
        msg = f"{path}: line {line}: forward is empty; every stage needs it"
        raise FormatError(msg)
    return stage
