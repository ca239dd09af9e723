"""Schedule files become schedules and programs again, once the verifier passes them."""

from __future__ import annotations

import os

from schedopt.build import build_graph
from schedopt.errors import FormatError
from schedopt.export.program import Program, program_of
from schedopt.formats import Limits, ScheduleFile, load_schedule, starts_from
from schedopt.schedule import Schedule
from schedopt.verify import verify_file

_LIMITS = Limits()


def load_program(path: str | os.PathLike[str], limits: Limits = _LIMITS) -> Program:
    """What a runtime executes of a schedule file.

    Raises
    ------
    FormatError
        If it is no schedule file, has no schedule, or the verifier refuses it.
    InstanceError
        If its instance breaks a rule.
    """
    file = load_schedule(path, limits)
    where = os.fspath(path)
    if not file.ops:
        msg = f"{where}: there is no schedule in it (status {file.status})"
        raise FormatError(msg)
    found = verify_file(file)
    if found:
        msg = f"{where}: the verifier refuses it: {found[0]}"
        raise FormatError(msg)
    return program_of(file.instance, schedule_in(file, where))


def schedule_in(file: ScheduleFile, where: str) -> Schedule:
    """The file's times on its instance's op graph; its rules are not checked here.

    Raises
    ------
    FormatError
        If the file names an op that the instance does not have; ``where`` names it.
    """
    graph = build_graph(file.instance)
    rows = starts_from(file, graph.units.ticks_per_unit)
    for number, row in enumerate(rows):
        if row.op not in graph.data:
            msg = f"{where}: ops[{number}].op = {row.op}: is not an op of its instance"
            raise FormatError(msg)
    return Schedule(graph, {row.op: row.start for row in rows})
