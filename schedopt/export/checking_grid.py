"""The check of a CSV for torch's lockstep runtime, where columns are moments.

``PipelineScheduleMulti`` (torch 2.13, ``schedules.py``) lets all ranks take column t
together and exchanges what it made behind it; a token whose input stands in the same or
a later column of another rank computes on what happens to be there, and no message says
so. The runtime that schedopt writes for, ``_PipelineScheduleRuntime``, needs no grid.
"""

from __future__ import annotations

from schedopt.export.checking import faults
from schedopt.export.checking_rows import CheckedRows, Fault, FaultRule
from schedopt.export.torch_tokens import Token, parse_rows


def lockstep_faults(text: str) -> tuple[Fault, ...]:
    """What is wrong with a grid of compute tokens; best nothing.

    Raises
    ------
    FormatError
        If a cell is no token.
    """
    rows = parse_rows(text)
    found = faults(rows, lists_transfers=False)
    if found:
        return found
    checked = CheckedRows.of(rows, None, None, lists_transfers=False)
    column = {
        Token.parse(cell): position
        for line in text.splitlines()
        for position, cell in enumerate(line.split(","))
        if cell.strip()
    }
    return tuple(
        place._replace(position=column[place.token]).fault(
            FaultRule.LOCKSTEP,
            f"its input is made by {maker} in column {column[maker]}, which must be"
            " before its own; put idle cells before it",
        )
        for place in checked.places
        if (maker := checked.maker_of_input(place.token)) is not None
        and column[maker] >= column[place.token]
    )
