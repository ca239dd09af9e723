"""``import``: what others measured becomes an instance."""

from __future__ import annotations

from pathlib import Path

from schedopt.cli.exits import DONE, WRONG_USAGE
from schedopt.cli.instance_saving import (
    checked_instance,
    save_instance,
    solve_command,
)
from schedopt.cli.output import complain, print_json, print_lines
from schedopt.cli.saving import check_writable
from schedopt.formats import Limits, instance_document
from schedopt.formats.complaints import listed
from schedopt.importers import Format, read
from schedopt.importers.drafts import Wanted
from schedopt.report.summary import instance_lines

_MEASURED_IN = {
    Format.TORCH_TRACE: "torch-csv",
    Format.ZERO_BUBBLE_LOG: "zero-bubble",
}
"""The runtime that a format's files come from, whose rules are the next step's."""


def import_instance(
    form: Format,
    paths: list[Path],
    output: Path,
    wanted: Wanted,
    limits: Limits,
    *,
    as_json: bool,
) -> int:
    """Read measured files, write the instance and say what it is."""
    for option, given, forms in (
        ("--stages", wanted.stages, (Format.PIPEDREAM_GRAPH,)),
        ("--time-unit", wanted.time_unit, (Format.STAGE_CSV,)),
        ("--memory-unit", wanted.memory_unit, (Format.STAGE_CSV,)),
    ):
        if given is not None and form not in forms:
            complain(f"{option} is for {listed(forms)} only; {form} says it itself")
            return WRONG_USAGE
    check_writable(output)
    found = read(form, paths, wanted, limits)
    instance = checked_instance(found.document, str(paths[0]), limits)
    save_instance(output, found.document, limits)
    if as_json:
        document = instance_document(instance)
        print_json({"file": str(output), "notes": list(found.notes), **document})
        return DONE
    lines = [*instance_lines(instance), ("source", instance.source)]
    lines += [("note", note) for note in found.notes]
    next_step = solve_command(output, _MEASURED_IN.get(form, ""))
    lines += [("written", str(output)), ("next", next_step)]
    print_lines(lines)
    return DONE
