"""The line that the zero-bubble runtime logs when it plans its schedule.

``sail-sg/zero-bubble-pipeline-parallelism`` (a Megatron fork) measures F, B (the
backward for the input, here I) and W on every rank, and prints before it plans::

    rank 6 Performing ILP with: f=([18522], ...), b=(...), w=(...), c=601,
     f_mem=(...), b_mem=(...), w_mem=(...), mem_limit=(...)

Read in its source (``update_schedule`` and ``ScheduleTimers``), not run: a value per
device and chunk, microseconds and 10^6 bytes; f_mem + b_mem + w_mem = 0; F of the next
stage waits for c. A log has the line twice: first with all times 1000, before anything
was measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schedopt.errors import FormatError
from schedopt.formats.limits import Limits
from schedopt.importers.drafts import Draft, Imported, Wanted, imported
from schedopt.importers.files import is_number, read_text, wrong
from schedopt.instance import Number, Placement, place
from schedopt.runtimes.measured import mebibytes, tidy

_TIMES = ("f", "b", "w")
_HEADER = "Performing ILP with:"
_KEYS = ("f", "b", "w", "c", "f_mem", "b_mem", "w_mem", "mem_limit")
_VALUE = re.compile(r"\s*(?P<value>[(\[][\d\s.,eE+()\[\]-]*[)\]]|-?\d[\d.eE+-]*)")
_UNMEASURED = 1000
_MEGABYTE = 10**6

Row = list[Number]


def read(paths: Sequence[Path], wanted: Wanted, limits: Limits) -> Imported:
    """The instance of the last such line in a log.

    Of two chunks per device the second ones are placed back from the last device to the
    first, as ZB-V does; ``--placement looped`` has them in the first ones' order.

    Raises
    ------
    FormatError
        If there is no such line, or its values are of no pipeline.
    """
    if len(paths) != 1:
        msg = f"{paths[1]}: one log file is read at a time; give one"
        raise FormatError(msg)
    (path,) = paths
    text = read_text(path, limits)
    start = text.rfind(_HEADER)
    if start < 0:
        msg = (
            f'{path}: has no line with "{_HEADER}"; run the zero-bubble runtime with'
            " --zero-bubble-pipeline-timers-start-iter and -end-iter, and log all ranks"
        )
        raise FormatError(msg)
    line = text.count("\n", 0, start) + 1
    values = _values(text[start + len(_HEADER) :], line, path)
    times = {key: _table(values[key], key, line, path) for key in _TIMES}
    sizes = {key: _table(values[key], key, line, path) for key in _KEYS[4:7]}
    devices, chunks = len(times["f"]), len(times["f"][0])
    for key, table in [*times.items(), *sizes.items()]:
        if [len(row) for row in table] != [chunks] * devices:
            rule = f"must have {chunks} chunks for each of {devices} devices, as f has"
            raise wrong(path, f"line {line}: {key}", values[key], rule)
    if all(v == _UNMEASURED for table in times.values() for row in table for v in row):
        raise wrong(
            path,
            f"line {line}: f, b, w",
            _UNMEASURED,
            "the last such line is the one before anything was measured; let the run"
            " go on past --zero-bubble-pipeline-timers-end-iter",
        )
    if not is_number(values["c"]) or values["c"] < 0:
        raise wrong(
            path, f"line {line}: c", values["c"], "must be a number, at least 0"
        )
    homes = _homes(devices, chunks, wanted.placement)
    position = [
        (device, homes[:stage].count(device)) for stage, device in enumerate(homes)
    ]
    stages = [
        _stage(times, sizes, device, chunk, f"line {line}", path)
        for device, chunk in position
    ]
    draft = Draft(
        name="zero-bubble-log",
        source=(
            f"zero-bubble runtime's log {path.name}, line {line}: measured F, B, W and"
            " memory of each rank"
        ),
        stages=stages,
        time_unit="us",
        backward="split",
        devices=devices,
        device_of_stage=homes,
        memory_limits=_limits(values["mem_limit"], devices, line, path),
        latency=tidy(values["c"]),
    )
    return imported(draft, wanted, path)


def _values(text: str, line: int, path: Path) -> dict[str, Any]:
    """The value of each key, in their order; other ranks may print in between."""
    found: dict[str, Any] = {}
    position = 0
    for key in _KEYS:
        match = re.compile(rf"(?<!\w){key}=").search(text, position)
        if match is None:
            msg = f"{path}: line {line}: {key} is missing; expected {key}=... there"
            raise FormatError(msg)
        value = _VALUE.match(text, match.end())
        if value is None and key == "mem_limit":
            found[key] = None
            break
        shown = text[match.end() :].split("\n", 1)[0]
        if value is None:
            rule = "must be a number or numbers in brackets"
            raise wrong(path, f"line {line}: {key}", shown, rule)
        position = value.end()
        plain = value["value"].replace("(", "[").replace(")", "]")
        try:
            found[key] = json.loads(re.sub(r",\s*\]", "]", plain))
        except (ValueError, RecursionError):
            rule = "must be a number or numbers in brackets"
            raise wrong(path, f"line {line}: {key}", shown, rule) from None
    return found


def _table(value: object, key: str, line: int, path: Path) -> list[Row]:
    """Numbers by device and chunk; a plain list has one chunk."""
    rows = value if isinstance(value, list) else [value]
    table: list[Row] = []
    for row in rows:
        table.append([])
        for cell in row if isinstance(row, list) else [row]:
            if not is_number(cell) or (key in _TIMES and cell < 0):
                rule = "must be a number, and a time at least 0"
                raise wrong(path, f"line {line}: {key}", cell, rule)
            table[-1].append(cell)
    if not table or not all(table):
        raise wrong(path, f"line {line}: {key}", value, "must not be empty")
    return table


def _homes(devices: int, chunks: int, placement: Placement | None) -> tuple[int, ...]:
    if placement is None:
        placement = Placement.V if chunks == 2 else Placement.LOOPED
    if placement not in (Placement.V, Placement.LOOPED):
        placement = Placement.LOOPED
    return place(placement, devices * chunks, devices)


def _stage(
    times: dict[str, list[Row]],
    sizes: dict[str, list[Row]],
    device: int,
    chunk: int,
    place: str,
    path: Path,
) -> dict[str, Number]:
    kept = sizes["f_mem"][device][chunk]
    freed = -sizes["b_mem"][device][chunk]
    if kept < 0:
        raise wrong(path, f"{place}: f_mem", kept, "must be at least 0")
    stage = {
        "forward": tidy(times["f"][device][chunk]),
        "backward_input": tidy(times["b"][device][chunk]),
        "backward_weight": tidy(times["w"][device][chunk]),
        "activation": mebibytes(kept * _MEGABYTE),
        "activation_until_input": mebibytes(min(max(freed, 0), kept) * _MEGABYTE),
        "input_gradient": mebibytes(max(-freed, 0) * _MEGABYTE),
    }
    return {name: value for name, value in stage.items() if value or name in _NEEDED}


_NEEDED = ("forward", "backward_input", "backward_weight")


def _limits(value: object, devices: int, line: int, path: Path) -> list[Number]:
    if value is None:
        return []
    row = value if isinstance(value, list) else [value] * devices
    sizes = [size for size in row if is_number(size) and size >= 0]
    if len(row) != devices or len(sizes) != devices:
        rule = f"must be a size, at least 0, for each of the {devices} devices"
        raise wrong(path, f"line {line}: mem_limit", value, rule)
    return [mebibytes(size * _MEGABYTE) for size in sizes]
