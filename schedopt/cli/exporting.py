"""``export``: a schedule becomes the files that its runtime reads."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.table import Table

from schedopt.cli.exits import DONE
from schedopt.cli.output import print_json, print_lines, print_rich
from schedopt.errors import ExportError
from schedopt.export.formats import FORMATS, export, format_of
from schedopt.export.stored import load_program
from schedopt.formats import Limits


def export_schedule(
    name: str, path: Path, folder: Path, limits: Limits, *, as_json: bool
) -> int:
    """Write a schedule's files into a folder, which is made if it is not there.

    Raises
    ------
    SchedOptError
        If the verifier refuses the schedule, or its runtime would; nothing is written.
    """
    format_of(name)
    program = load_program(path, limits)
    try:
        made = export(program, name, folder)
    except ExportError as error:
        msg = f"{path}: {error}"
        raise ExportError(msg) from None
    written = made.save(folder)
    if as_json:
        print_json(
            {
                "format": name,
                "schedule": str(path),
                "files": [str(target) for target in written],
                "notes": list(made.notes),
                "next": made.next_step,
            }
        )
    else:
        lines = [("wrote" if n == 0 else "", str(t)) for n, t in enumerate(written)]
        lines += [("note", note) for note in made.notes]
        if made.next_step:
            lines.append(("next", made.next_step))
        print_lines(lines)
    return DONE


def list_formats(*, as_json: bool) -> int:
    """Print every format with what it is for and how it was tried."""
    if as_json:
        print_json(
            [
                {
                    "name": entry.name,
                    "summary": entry.summary,
                    "runtime": entry.profile,
                    "evidence": entry.evidence.value,
                }
                for entry in FORMATS.values()
            ]
        )
        return DONE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in ("format", "tried", "rules of", "what it is for"):
        table.add_column(title, no_wrap=title == "format")
    for entry in FORMATS.values():
        table.add_row(
            entry.name, entry.evidence.value, entry.profile or "-", entry.summary
        )
    print_rich(table)
    return DONE
