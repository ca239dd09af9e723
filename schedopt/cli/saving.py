"""Schedules leave the tool here, and only after the verifier has passed them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from schedopt.errors import FormatError
from schedopt.formats import (
    Limits,
    schedule_document,
    schedule_from_document,
    write_schedule_document,
)
from schedopt.instance import Instance
from schedopt.opgraph import OpGraph
from schedopt.refresh.cycle import Cycle
from schedopt.schedule import Schedule
from schedopt.simulate import with_memory_edges
from schedopt.solve.solution import Solution, Status
from schedopt.verify import verify_file
from schedopt.version import own_version

_ANY_SIZE = Limits(max_ops=10**9)  # what is in memory already is not too large


def check_writable(path: Path | None) -> None:
    """Refuse an output that cannot be written before any work is done.

    Raises
    ------
    FormatError
        If the folder is not there, or the file cannot be written.
    """
    if path is None:
        return
    folder = path.parent
    if path.is_dir():
        msg = f"{path}: is a directory; name a file in it"
    elif not folder.is_dir():
        msg = f"{path}: there is no folder {folder}; make it first"
    elif not os.access(path if path.exists() else folder, os.W_OK):
        msg = f"{path}: cannot be written: permission denied"
    else:
        return
    raise FormatError(msg)


def free_path(name: str) -> Path:
    """A path in the current folder that no file has, by the name if it is free."""
    path = Path(name)
    suffixes = "".join(path.suffixes[-2:])
    stem = name.removesuffix(suffixes)
    number = 2
    while path.exists():
        path = Path(f"{stem}-{number}{suffixes}")
        number += 1
    return path


def save_solution(path: Path, solution: Solution) -> None:
    """Write what solving found; it must have a schedule."""
    if solution.schedule is None:
        msg = "a solution without a schedule is not written"
        raise ValueError(msg)
    reproducible = solution.parameters.reproducible
    document = schedule_document(
        solution.instance,
        solution.schedule,
        method=solution.method,
        status=solution.status,
        objective=solution.objective,
        value_ticks=solution.value,
        lower_bound_ticks=solution.lower_bound,
        wall_seconds=None if reproducible else solution.wall_seconds,
        seed=solution.parameters.seed,
        versions=solution.versions,
        reason=solution.reason,
        trace=() if reproducible else solution.trace,
        memory_edges=with_memory_edges(solution.schedule).memory_edges,
        steady=solution.periodic,
        graph=solution.graph,
    )
    _write_verified(path, document)


def save_schedule(
    path: Path, instance: Instance, graph: OpGraph, schedule: Schedule, method: str
) -> None:
    """Write a schedule of which only its times are known: no bound, no search."""
    objective = instance.objective.of_finite
    document = schedule_document(
        instance,
        schedule,
        method=method,
        status=Status.FEASIBLE,
        objective=objective,
        value_ticks=schedule.value(objective),
        lower_bound_ticks=None,
        wall_seconds=None,
        seed=None,
        versions={"schedopt": own_version()},
        memory_edges=with_memory_edges(schedule).memory_edges,
        graph=graph,
    )
    _write_verified(path, document)


def save_cycle(path: Path, cycle: Cycle, method: str) -> None:
    """Write two refreshes of a cycle, and all steps that they reach."""
    schedule = cycle.schedule
    save_schedule(path, cycle.instance(), schedule.graph, schedule, method)


def _write_verified(path: Path, document: dict[str, Any]) -> None:
    """Write a document that, read back, breaks no rule and claims nothing wrong.

    Raises
    ------
    FormatError
        If it does; nothing is written.
    """
    found = verify_file(schedule_from_document(document, str(path), _ANY_SIZE))
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        msg = f"{path}: not written, the verifier refuses it: {found[0]}{more}"
        raise FormatError(msg)
    write_schedule_document(path, document)
