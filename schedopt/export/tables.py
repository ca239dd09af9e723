"""The program as plain data: JSON with each rank's ops, or a flat CSV of all ops."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping

from schedopt.export.program import Program
from schedopt.opgraph import StreamKind
from schedopt.ops import Op

COLUMNS = ("op", "kind", "stage", "microbatch", "device", "start", "end", "unit")


def program_json(program: Program) -> Mapping[str, str]:
    """Each rank's compute ops in order, with times in the instance's unit.

    Ops on other streams (transfers) are listed apart. Times begin with 0 at the first
    start.
    """
    schedule = program.schedule.shifted_to_zero()
    graph = schedule.graph
    on_ranks = {op for row in program.rows for op in row}
    content = {
        "name": program.name,
        "time_unit": graph.units.time,
        "makespan": graph.units.time_of(schedule.makespan),
        "microbatches": program.microbatches,
        "device_of_stage": list(program.device_of_stage),
        "ranks": [
            {
                "rank": rank,
                "device": graph.devices[rank].name,
                "ops": [_entry(program, op) for op in row],
            }
            for rank, row in enumerate(program.rows)
        ],
        "transfers": [
            {**_entry(program, op), "streams": [str(s) for s in graph.data[op].streams]}
            for op in _by_start(program)
            if op not in on_ranks
        ],
    }
    text = json.dumps(content, indent=1) + "\n"
    return {f"{program.file_stem}.program.json": text}


def ops_csv(program: Program) -> Mapping[str, str]:
    """One line per op, by start; times in the instance's unit from the first start.

    A transfer belongs to the device that sends.
    """
    graph = program.schedule.graph
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for op in _by_start(program):
        entry = _entry(program, op)
        writer.writerow(
            (
                *(entry[name] for name in ("op", "kind", "stage", "microbatch")),
                graph.data[op].device,
                entry["start"],
                entry["end"],
                graph.units.time,
            )
        )
    return {f"{program.file_stem}.ops.csv": text.getvalue()}


def _entry(program: Program, op: Op) -> dict[str, str | int | float]:
    schedule = program.schedule
    first = min(schedule.start.values(), default=0)
    units = schedule.graph.units
    return {
        "op": str(op),
        "kind": op.kind.value,
        "stage": op.stage,
        "microbatch": op.microbatch,
        "start": units.time_of(schedule.start[op] - first),
        "end": units.time_of(schedule.end(op) - first),
    }


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
