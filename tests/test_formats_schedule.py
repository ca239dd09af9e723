"""Schedules: writing, reading back to the tick, and one line for each mistake."""

from __future__ import annotations

import copy
import json
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_formats_instance import FULL, SMALL, edited, read

from schedopt.build.pipeline import build_graph
from schedopt.errors import FormatError, InstanceError
from schedopt.formats import (
    Limits,
    ScheduleFile,
    instance_document,
    instance_sha256,
    load_schedule,
    parse_stream,
    schedule_document,
    schedule_from_document,
    schedule_schema,
    starts_from,
    stream_text,
    write_schedule_document,
    write_text_atomically,
)
from schedopt.instance import Instance
from schedopt.opgraph import OpGraph, Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.schedule import Schedule

PER_UNIT = 10**6


class Point(NamedTuple):
    seconds: float
    value: int | None
    lower_bound: int | None
    member: str


def one_after_the_other(graph: OpGraph, pause: int = 1) -> Schedule:
    """A schedule that runs the ops in canonical order with a pause between them.

    It breaks precedences; a file does not care.
    """
    start: dict[Op, int] = {}
    now = 0
    for op in graph.ops:
        start[op] = now
        now += graph.data[op].duration + pause
    return Schedule(graph, start)


def document_of(
    instance: Instance, schedule: Schedule | None, **changes: Any
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "method": "cpsat",
        "status": "unknown" if schedule is None else "feasible",
        "objective": "makespan",
        "value_ticks": None if schedule is None else schedule.makespan,
        "lower_bound_ticks": 7_500_000,
        "wall_seconds": 1.25,
        "seed": 3,
        "versions": {"schedopt": "0.1.0"},
    }
    return schedule_document(instance, schedule, **(options | changes))


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    instance = read(SMALL)
    return document_of(instance, one_after_the_other(build_graph(instance)))


def load(document: object) -> ScheduleFile:
    return schedule_from_document(document, "s.json")


def complaint(document: object, limits: Limits | None = None) -> str:
    with pytest.raises((FormatError, InstanceError)) as caught:
        schedule_from_document(document, "s.json", limits or Limits())
    text = str(caught.value)
    assert text.splitlines() == [text]
    return text.removeprefix("s.json: ")


class TestRoundTrip:
    def test_through_a_file(self, tmp_path: Path, small: dict[str, Any]) -> None:
        instance = read(SMALL)
        schedule = one_after_the_other(build_graph(instance))
        path = tmp_path / "s.json"
        write_schedule_document(path, small)
        assert json.loads(path.read_text()) == small
        file = load_schedule(path)
        assert file.instance == instance
        rows = starts_from(file, PER_UNIT)
        assert {row.op: row.start for row in rows} == dict(schedule.start)
        assert {row.op: row.end for row in rows} == {
            op: schedule.end(op) for op in schedule.start
        }
        for row in rows:
            assert row.streams == schedule.graph.data[row.op].streams
            assert row.device == schedule.graph.data[row.op].device

    def test_fields(self, small: dict[str, Any]) -> None:
        # Of 2 stages and 4 microbatches: 24 ops of 248 units, 23 pauses of a tick.
        assert small["makespan"] == small["value"] == 248.000023
        assert small["lower_bound"] == 7.5
        assert small["gap"] == (248.000023 - 7.5) / 248.000023
        assert small["peak_memory"] == [0, 0]
        assert small["bubble_ratio"]["makespan"] == 1 - 248 / (2 * 248.000023)
        assert small["instance"]["sha256"] == instance_sha256(read(SMALL))
        assert small["ops"][0] == {
            "op": "0F0",
            "kind": "F",
            "stage": 0,
            "microbatch": 0,
            "step": 0,
            "device": 0,
            "streams": ["compute"],
            "start": 0,
            "end": 10,
        }

    def test_rows_are_sorted_by_start_device_and_notation(self) -> None:
        graph = build_graph(read(SMALL))
        document = document_of(
            read(SMALL), Schedule(graph, dict.fromkeys(graph.ops, 0))
        )
        rows = [(row["start"], row["device"], row["op"]) for row in document["ops"]]
        assert rows == sorted(rows)
        assert len(rows) == len(graph.ops) == 24

    def test_without_a_schedule(self) -> None:
        document = document_of(
            read(SMALL), None, status="infeasible", reason="device 0 is too small"
        )
        file = load(document)
        assert (file.status, file.ops, file.value) == ("infeasible", [], None)
        assert (file.makespan, file.bubble_ratio, file.gap) == (None, None, None)
        assert file.reason == "device 0 is too small"
        jsonschema.validate(document, schedule_schema())

    def test_alternatives_parts_transfers_edges_and_trace(self) -> None:
        instance = read(FULL)
        graph = build_graph(instance)
        schedule = one_after_the_other(graph)
        edges = [(graph.ops[0], graph.ops[5])]
        trace = [Point(0.5, None, 10, "load"), Point(1.5, 20, 10, "search")]
        document = document_of(
            instance, schedule, memory_edges=edges, trace=trace, lower_bound_ticks=1
        )
        jsonschema.validate(document, schedule_schema())
        file = load(document)
        assert file.memory_edges == [[str(graph.ops[0]), str(graph.ops[5])]]
        assert [point.bound for point in file.trace] == [0.01, 0.01]
        assert [point.value for point in file.trace] == [None, 0.02]
        by_op = {row.op: row for row in starts_from(file, 1000)}
        assert {op: row.start for op, row in by_op.items()} == dict(schedule.start)
        assert {op: row.streams for op, row in by_op.items()} == {
            op: data.streams for op, data in graph.data.items()
        }
        assert {op: row.alternative for op, row in by_op.items()} == {
            op: data.literal or "" for op, data in graph.data.items()
        }
        # The instance has all of them, or the test would show nothing.
        assert any(row.alternative for row in by_op.values())
        assert any(op.part for op in by_op)
        assert any(op.kind is OpKind.SEND_FORWARD for op in by_op)

    def test_alternative_of_a_graph_with_its_choices_made(self) -> None:
        instance = read({**SMALL, "backward": "choose"})
        graph = build_graph(instance)
        chosen = {choice.literals[0] for choice in graph.choices}
        schedule = one_after_the_other(graph.select(chosen))
        plain = document_of(instance, schedule)
        assert not any("alternative" in row for row in plain["ops"])
        full = document_of(instance, schedule, graph=graph)
        found = {row["alternative"] for row in full["ops"] if "alternative" in row}
        assert found == chosen

    def test_schema_accepts_it(self, small: dict[str, Any]) -> None:
        schema = schedule_schema()
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(small, schema)

    @settings(deadline=None)
    @given(ticks=st.integers(0, 2**51), exponent=st.integers(0, 9))
    def test_ticks_survive(self, ticks: int, exponent: int) -> None:
        instance = read({**SMALL, "resolution": float(f"1e-{exponent}")})
        graph = build_graph(instance)
        schedule = Schedule(graph, {graph.ops[0]: ticks})
        document = json.loads(
            json.dumps(
                document_of(instance, schedule, value_ticks=0, lower_bound_ticks=0)
            )
        )
        (row,) = starts_from(load(document), 10**exponent)
        assert row.start == ticks

    def test_sums_may_be_larger_than_any_one_cost(self) -> None:
        stage = {"forward": 10**14, "backward": 10**14, "activation": 10**15}
        instance = read({**SMALL, "resolution": 1, "stages": {"count": 2, **stage}})
        graph = build_graph(instance)
        schedule = Schedule(graph, dict.fromkeys(graph.ops, 3 * 10**15))
        file = load(document_of(instance, schedule, value_ticks=10**14))
        assert max(file.peak_memory) == 4 * 10**15
        assert {row.end for row in file.ops} == {31 * 10**14}

    def test_a_time_that_a_float_cannot_keep_is_refused(self) -> None:
        graph = build_graph(read(SMALL))
        schedule = Schedule(graph, {graph.ops[0]: 10**18 + 1})
        with pytest.raises(
            FormatError, match="resolution = 1e-06: a time of 10000000000"
        ):
            document_of(read(SMALL), schedule)

    def test_file_is_not_changed_by_reading(self, small: dict[str, Any]) -> None:
        before = copy.deepcopy(small)
        load(small)
        assert small == before


class TestStreams:
    @pytest.mark.parametrize(
        ("stream", "text"),
        [
            (Stream(StreamKind.COMPUTE, 2), "compute"),
            (Stream(StreamKind.COMPUTE, 3), "compute@3"),
            (Stream(StreamKind.P2P, 2, 3), "p2p@2>3"),
            (Stream(StreamKind.COLLECTIVE, 2), "collective@2"),
            (Stream(StreamKind.COPY, 0), "copy@0"),
        ],
    )
    def test_both_ways(self, stream: Stream, text: str) -> None:
        assert stream_text(stream, 2) == text
        assert parse_stream(text, 2) == stream

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "gpu",
            "p2p",
            "p2p@2",
            "compute@1>2",
            "copy",
            "compute@",
            "compute@-1",
            "compute@\u0661",
            "p2p@1>2>3",
            "compute@99999999999",
        ],
    )
    def test_no_stream(self, text: str) -> None:
        with pytest.raises(FormatError, match="is not a stream: expected"):
            parse_stream(text, 2)


MISTAKES = [
    ("ops/3/strat", 1, "ops[3].strat = 1: is an unknown field; did you mean start?"),
    ("instance/nmae", 1, "instance.nmae = 1: is an unknown field; did you mean name?"),
    ("valu", 1, "valu = 1: is an unknown field; did you mean value?"),
    ("instance/schema", "x", 'instance.schema = "x": must be schedopt/instance/v1'),
    ("versions", {"": "1"}, 'versions."" = "": must not be empty'),
    ("method", ..., "method: is missing; add it (what made the schedule)"),
    ("ops/0/end", ..., "ops[0].end: is missing; add it (when it ends)"),
    ("ops", {}, "ops = a mapping of 0: must be a list"),
    ("ops/0", "0F0", 'ops[0] = "0F0": must be a mapping of fields'),
    ("status", "best", 'status = "best": must be optimal, feasible, infeasible or unk'),
    (
        "objective",
        "t",
        'objective = "t": must be makespan, device-span, period or refresh',
    ),
    ("value", "9", 'value = "9": must be a number: write 9 without quotes'),
    ("gap", 1.5, "gap = 1.5: must be at most 1"),
    ("seed", -1, "seed = -1: must be at least 0"),
    ("wall_seconds", float("nan"), "wall_seconds = NaN: must be a finite number"),
    ("versions", {"a": 1}, "versions.a = 1: must be text; put it in quotes"),
    ("versions", [], "versions = a list of 0: must be a mapping of fields"),
    ("bubble_ratio", {"makespan": 0}, "bubble_ratio.device_span: is missing; add it"),
    ("trace", [{"value": 1}], "trace[0].seconds: is missing; add it"),
    ("ops/2/kind", "X", 'ops[2].kind = "X": must be F, B, I, W, R, OVERLAP_F_B'),
    ("ops/2/start", -1, "ops[2].start = -1: must be at least 0"),
    ("ops/0/op", "1F0", 'ops[0].op = "1F0": contradicts kind, stage, microbatch, step'),
    ("ops/0/kind", "B", 'ops[0].op = "0F0": contradicts kind, stage, microbatch, step'),
    ("ops/0/part", "x", 'part, which make 0F0:x'),
    ("ops/0/step", 1, "which make 1@0F0"),
    ("ops/0/end", -0.0, "must be at least start, 0"),
    ("ops/0/device", 2, "ops[0].device = 2: there is no such device; they are numb"),
    ("ops/0/streams", [], "ops[0].streams = a list of 0: must name at least one st"),
    ("ops/0/streams", ["gpu"], "ops[0].streams[0]: 'gpu' is not a stream: expected e."),
    ("ops/0/streams", ["p2p@0>2"], 'streams[0] = "p2p@0>2": there is no such device'),
    ("peak_memory", [1], "peak_memory = a list of 1: must have one size for each of t"),
    ("value", None, "value = null: must be a number: status is feasible"),
    ("value", 7, "lower_bound = 7.5: must be at most value, 7"),
    ("status", "optimal", "lower_bound = 7.5: must equal value, 248.000023: status is"),
    ("status", "unknown", "value = 248.000023: must be null: status is unknown (and 1"),
    ("ops", [], "ops = a list of 0: needs ops: status is feasible"),
    ("memory_edges", [["0F0"]], "memory_edges[0] = a list of 1: must be a pair of ops"),
    ("memory_edges", [["0F0", "9F9"]], 'memory_edges[0][1] = "9F9": is not among ops;'),
    ("instance/sha256", "0" * 64, "is not the hash of the embedded instance, which"),
    ("instance/sha256", "abc", 'instance.sha256 = "abc": must be 64 digits from 0 '),
    ("instance/sha256", ..., "instance.sha256: is missing; add it (hash of the instan"),
    ("instance/microbatches", 5, "is not the hash of the embedded instance, which was"),
    ("instance/stages/0/forward", -1, "instance.stages[0].forward = -1: must be at"),
    ("instance/placement", [0, 7], "instance.placement[1] = 7: there is no such de"),
    ("schema", "schedopt/instance/v1", "is not a format known here; expected sched"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "expected"), MISTAKES)
def test_mistake(small: dict[str, Any], path: str, value: Any, expected: str) -> None:
    if path == "ops/0/end" and value == 0:
        small = edited(small, "ops/0/end", -0.0)
        small["ops"][0]["start"] = 0.5
        expected = "ops[0].end = -0.0: must be at least start, 0.5"
    else:
        small = edited(small, path, value)
    assert expected in complaint(small)


def test_doubled_op(small: dict[str, Any]) -> None:
    document = copy.deepcopy(small)
    document["ops"].append(document["ops"][2])
    expected = f'ops[24].op = "{document["ops"][2]["op"]}": is also ops[2]; remove one'
    assert complaint(document) == expected


@pytest.mark.parametrize(
    ("field", "rule"),
    [("stage", "they are numbered 0 to 1"), ("microbatch", "are numbered 0 to 3")],
)
def test_op_of_no_stage_or_microbatch(
    small: dict[str, Any], field: str, rule: str
) -> None:
    document = edited(small, f"ops/0/{field}", 4)
    document["ops"][0]["op"] = "4F0" if field == "stage" else "0F4"
    shown = complaint(document)
    assert shown.startswith(f"ops[0].{field} = 4: there is no such {field};")
    assert rule in shown


def test_which_error_is_raised(small: dict[str, Any]) -> None:
    for path, error in (
        ("instance/stages/0/forward", InstanceError),
        ("instance/microbatches", InstanceError),
        ("ops/0/start", FormatError),
    ):
        with pytest.raises(error):
            load(edited(small, path, -1))


def test_too_many_ops(small: dict[str, Any]) -> None:
    assert complaint(small, Limits(max_ops=23)) == (
        "ops = a list of 24: are more than the 23 allowed; raise the cap with --max-ops"
    )


def test_an_instance_file_is_no_schedule() -> None:
    assert complaint(instance_document(read(SMALL))).startswith(
        'schema = "schedopt/instance/v1": is not a format known here; expected'
    )


class TestAtomicWriting:
    def test_replaces_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "f.txt"
        write_text_atomically(path, "one")
        write_text_atomically(path, "zwei €\n")
        assert path.read_bytes() == "zwei €\n".encode()
        assert os.listdir(tmp_path) == ["f.txt"]  # noqa: PTH208 (names, not paths)

    def test_usual_mode(self, tmp_path: Path) -> None:
        plain, atomic = tmp_path / "plain", tmp_path / "atomic"
        plain.write_text("x")
        write_text_atomically(atomic, "x")
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (plain, atomic)]
        assert modes[0] == modes[1]

    def test_failure_keeps_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "f.txt"
        path.write_text("old")

        def full_disk(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(FormatError, match=r"f\.txt: cannot be written: No space"):
            write_text_atomically(path, "new")
        assert path.read_text() == "old"
        assert [entry.name for entry in tmp_path.iterdir()] == ["f.txt"]

    def test_interruption_keeps_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "f.txt"
        path.write_text("old")

        def interrupted(_descriptor: int) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_text_atomically(path, "new")
        assert path.read_text() == "old"
        assert [entry.name for entry in tmp_path.iterdir()] == ["f.txt"]

    def test_follows_a_link(self, tmp_path: Path) -> None:
        target = tmp_path / "target"
        target.write_text("old")
        (tmp_path / "link").symlink_to(target)
        write_text_atomically(tmp_path / "link", "new")
        assert target.read_text() == "new"
        assert (tmp_path / "link").is_symlink()

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("no/f.txt", "No such file or directory"),
            (".", "directory"),
            ("a\0", "null"),
        ],
    )
    def test_impossible(self, tmp_path: Path, name: str, reason: str) -> None:
        with pytest.raises(FormatError, match=rf"cannot be written: .*{reason}"):
            write_text_atomically(f"{tmp_path}/{name}", "x")
        assert list(tmp_path.iterdir()) == []

    def test_device_is_written_to(self) -> None:
        write_text_atomically("/dev/null", "x")
        assert Path("/dev/null").is_char_device()
