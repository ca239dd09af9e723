"""The program as plain data: JSON with each rank's ops, or a flat CSV of all ops."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from schedopt.export.program import Program
from schedopt.opgraph import StreamKind
from schedopt.ops import Op
from schedopt.schedule import Schedule

COLUMNS = ("op", "kind", "stage", "microbatch", "device", "start", "end", "unit")
"""Of the CSV; ``step`` and ``part`` follow ``microbatch`` where there are such ops."""

_OF_A_TRAINING = ("step", "part")


def program_json(program: Program) -> Mapping[str, str]:
    """Each rank's compute ops in order, with times in the instance's unit.

    Ops on other streams are listed apart: transfers, and collectives where there are
    some. Times begin with 0 at the first start. Where there are several training steps
    or second-order work every op also has its ``step`` and ``part``.
    """
    schedule = program.schedule
    graph = schedule.graph
    entry_of = _entries(program)
    on_ranks = {op for row in program.rows for op in row}
    transfers: list[dict[str, Any]] = []
    collectives: list[dict[str, Any]] = []
    for op in _by_start(program):
        if op not in on_ranks:
            streams = [str(stream) for stream in graph.data[op].streams]
            beside = transfers if op.kind.is_pipeline else collectives
            beside.append(entry_of(op) | {"streams": streams})
    content: dict[str, object] = {
        "name": program.name,
        "time_unit": graph.units.time,
        "makespan": graph.units.time_of(schedule.makespan),
        "microbatches": program.microbatches,
        "device_of_stage": list(program.device_of_stage),
        "ranks": [
            {
                "rank": rank,
                "device": graph.devices[rank].name,
                "ops": [entry_of(op) for op in row],
            }
            for rank, row in enumerate(program.rows)
        ],
        "transfers": transfers,
    }
    if collectives:
        content["collectives"] = collectives
    text = json.dumps(content, indent=1) + "\n"
    return {f"{program.file_stem}.program.json": text}


def ops_csv(program: Program) -> Mapping[str, str]:
    """One line per op, by start; times in the instance's unit from the first start.

    A transfer belongs to the device that sends, a collective to that of copy 0.
    """
    graph = program.schedule.graph
    text = io.StringIO()
    names = list(COLUMNS)
    if is_training(program.schedule):
        names[names.index("device") : names.index("device")] = _OF_A_TRAINING
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    entry_of = _entries(program)
    for op in _by_start(program):
        place = {"device": graph.data[op].device, "unit": graph.units.time}
        writer.writerow(entry_of(op) | place)
    return {f"{program.file_stem}.ops.csv": text.getvalue()}


def _entries(program: Program) -> Callable[[Op], dict[str, Any]]:
    """What is said of an op; of a training's also step and part."""
    schedule = program.schedule
    first = min(schedule.start.values(), default=0)
    units = schedule.graph.units
    training = is_training(schedule)

    def entry_of(op: Op) -> dict[str, Any]:
        entry = {
            "op": str(op),
            "kind": op.kind.value,
            "stage": op.stage,
            "microbatch": op.microbatch,
        }
        if training:
            entry |= {"step": op.step, "part": op.part}
        return entry | {
            "start": units.time_of(schedule.start[op] - first),
            "end": units.time_of(schedule.end(op) - first),
        }

    return entry_of


def is_training(schedule: Schedule) -> bool:
    """Whether there is more than one plain step: several of them, or second-order work.

    Only then does a table need step and part to tell ops apart.
    """
    return any(op.step or not op.kind.is_pipeline for op in schedule.start)


def _by_start(program: Program) -> list[Op]:
    """All ops by start; at the same time by device, compute first."""
    schedule = program.schedule
    data = schedule.graph.data
    position = {op: index for index, op in enumerate(schedule.graph.ops)}

    def key(op: Op) -> tuple[int, int, bool, int, int]:
        return (
            schedule.start[op],
            data[op].device,
            data[op].streams[0].kind is not StreamKind.COMPUTE,
            schedule.end(op),
            position[op],
        )

    return sorted(schedule.start, key=key)
