"""The JSON and the CSV of a program, read back."""

from __future__ import annotations

import csv
import json

from export_helpers import baseline_program, pipeline

from schedopt.export.tables import COLUMNS, ops_csv, program_json
from schedopt.instance import Communication, CommunicationMode, Placement
from schedopt.ops import Op

LINKS = Communication(mode=CommunicationMode.LINK, latency=2.5)
INSTANCE = pipeline(devices=3, microbatches=4, communication=LINKS)


def test_json_has_the_rows_and_the_transfers() -> None:
    program = baseline_program("1f1b", INSTANCE)
    schedule = program.schedule
    per_unit = schedule.graph.units.ticks_per_unit

    ((name, text),) = program_json(program).items()
    content = json.loads(text)

    assert name == "3-devices-linear.program.json"
    assert [[e["op"] for e in rank["ops"]] for rank in content["ranks"]] == [
        list(map(str, row)) for row in program.rows
    ]
    assert len(content["transfers"]) == 2 * 2 * 4
    first = content["transfers"][0]
    assert (first["op"], first["streams"]) == ("0SEND_F0", ["p2p@0>1"])
    entries = [e for rank in content["ranks"] for e in rank["ops"]]
    for entry in entries + content["transfers"]:
        op = Op.parse(entry["op"])
        assert (entry["kind"], entry["stage"]) == (op.kind.value, op.stage)
        assert entry["start"] * per_unit == schedule.start[op]
        assert entry["end"] * per_unit == schedule.end(op)
    assert content["makespan"] * per_unit == schedule.makespan
    assert content["device_of_stage"] == [0, 1, 2]
    assert [rank["device"] for rank in content["ranks"]] == ["gpu0", "gpu1", "gpu2"]


def test_csv_has_a_line_per_op() -> None:
    program = baseline_program("1f1b", INSTANCE)
    schedule = program.schedule
    graph = schedule.graph

    ((name, text),) = ops_csv(program).items()
    rows = list(csv.DictReader(text.splitlines()))

    assert name == "3-devices-linear.ops.csv"
    assert tuple(rows[0]) == COLUMNS
    assert {row["op"] for row in rows} == set(map(str, schedule.start))
    assert len(rows) == len(schedule.start)
    starts = [float(row["start"]) for row in rows]
    assert starts == sorted(starts)
    for row in rows:
        op = Op.parse(row["op"])
        assert int(row["device"]) == graph.data[op].device
        assert row["kind"] == op.kind.value
        assert (int(row["stage"]), int(row["microbatch"])) == (op.stage, op.microbatch)
        assert float(row["start"]) * graph.units.ticks_per_unit == schedule.start[op]
        assert float(row["end"]) * graph.units.ticks_per_unit == schedule.end(op)
        assert row["unit"] == "us"


def test_a_stage_on_two_devices_is_written_where_each_of_its_ops_runs() -> None:
    two_way = pipeline(devices=2, microbatches=4, placement=Placement.BIDIRECTIONAL)
    program = baseline_program("chimera", two_way)
    (text,) = program_json(program).values()
    content = json.loads(text)
    # Even microbatches run down, odd ones up.
    for rank, row in enumerate(content["ranks"]):
        stages = {(op["stage"], op["microbatch"] % 2) for op in row["ops"]}
        assert stages == {(rank, 0), (1 - rank, 1)}
    assert content["device_of_stage"] == [0, 1]
    (text,) = ops_csv(program).values()
    for line in csv.DictReader(text.splitlines()):
        odd = int(line["microbatch"]) % 2
        assert int(line["device"]) == (int(line["stage"]) + odd) % 2
