"""The JSON and the CSV of a program, read back."""

from __future__ import annotations

import csv
import json

from export_helpers import baseline_program, pipeline
from kfac_instances import training

from schedopt.export.tables import COLUMNS, ops_csv, program_json
from schedopt.instance import Communication, CommunicationMode, Kfac, Placement
from schedopt.ops import Op, OpKind

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


# -- several steps, second-order work -----------------------------------------

TWO_WAY = training(2, 2, placement=Placement.BIDIRECTIONAL, kfac=Kfac(), steps=2)
STEPS_ONLY = training(2, 2, kfac=None, steps=2)


def test_the_columns_of_a_training_tell_its_ops_apart() -> None:
    for name, instance in (("chimera", TWO_WAY), ("1f1b", STEPS_ONLY)):
        program = baseline_program(name, instance)
        (text,) = ops_csv(program).values()
        rows = list(csv.DictReader(text.splitlines()))
        at = COLUMNS.index("device")
        assert tuple(rows[0]) == (*COLUMNS[:at], "step", "part", *COLUMNS[at:])
        assert len(rows) == len(program.schedule.start)
        for row in rows:
            named = Op(
                OpKind(row["kind"]),
                int(row["stage"]),
                int(row["microbatch"]),
                int(row["step"]),
                row["part"],
            )
            assert named == Op.parse(row["op"])
            assert named in program.schedule.start


def test_collectives_are_no_transfers() -> None:
    program = baseline_program("chimera", TWO_WAY)
    (text,) = program_json(program).values()
    content = json.loads(text)
    assert content["transfers"] == []  # they are lags here
    kinds = {entry["kind"] for entry in content["collectives"]}
    assert kinds == {"SYNC_CURVATURE", "REDUCE_GRAD", "GATHER_GRAD"}
    for entry in content["collectives"]:
        assert sorted(entry["streams"]) == ["collective@0", "collective@1"]
    on_ranks = [entry for rank in content["ranks"] for entry in rank["ops"]]
    for entry in on_ranks + content["collectives"]:
        op = Op.parse(entry["op"])
        assert (entry["step"], entry["part"]) == (op.step, op.part)
    assert len(on_ranks) + len(content["collectives"]) == len(program.schedule.start)


def test_one_plain_step_says_nothing_of_steps_parts_and_collectives() -> None:
    program = baseline_program("1f1b", training(2, 2, kfac=None))
    (text,) = program_json(program).values()
    content = json.loads(text)
    assert "collectives" not in content
    first = content["ranks"][0]["ops"][0]
    assert list(first) == ["op", "kind", "stage", "microbatch", "start", "end"]
    (text,) = ops_csv(program).values()
    assert tuple(text.splitlines()[0].split(",")) == COLUMNS
