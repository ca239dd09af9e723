"""The trace against the trace event format, and against the schedule it is of.

The rules are those of the format's document ("Trace Event Format", JSON object form)
and of what viewers do with it: spans of one thread nest or are disjoint, both ends of a
flow lie inside a slice of their thread, and counters are numbers.
"""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from export_helpers import baseline_program, pipeline
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kfac_instances import training
from strategies import random_instance, random_schedule

from schedopt.build import build_graph
from schedopt.export.chrome_trace import chrome_trace
from schedopt.export.program import Program, program_of
from schedopt.export.slack import slack_of
from schedopt.instance import (
    Backward,
    Communication,
    CommunicationMode,
    Kfac,
    Placement,
)
from schedopt.opgraph import StreamKind
from schedopt.ops import Op
from schedopt.schedule import Order, Schedule
from schedopt.simulate import simulate, with_memory_edges

Event = dict[str, Any]
PER_MICROSECOND = {"s": 1e-6, "ms": 1e-3, "us": 1.0, "ns": 1e3}
seeds = st.integers(0, 2**32)
examples = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def events_of(program: Program) -> list[Event]:
    (text,) = chrome_trace(program).values()
    trace = json.loads(text)
    assert trace["displayTimeUnit"] in ("ms", "ns")
    assert set(trace) == {"displayTimeUnit", "otherData", "traceEvents"}
    return list(trace["traceEvents"])


def check_format(events: Sequence[Event]) -> None:
    """Whether every event is one of the format, and all of them fit together."""
    fields = {
        "M": {"ph", "name", "pid", "tid", "args"},
        "X": {"ph", "name", "cat", "ts", "dur", "pid", "tid", "cname", "args"},
        "s": {"ph", "name", "cat", "id", "ts", "pid", "tid"},
        "f": {"ph", "name", "cat", "id", "ts", "pid", "tid", "bp"},
        "C": {"ph", "name", "ts", "pid", "tid", "args"},
    }
    for event in events:
        assert set(event) == fields[event["ph"]]
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        for number in ("ts", "dur"):
            assert event.get(number, 0) >= 0
            assert math.isfinite(event.get(number, 0))
    slices = of_phase(events, "X")
    named = {
        (e["pid"], e["tid"])
        for e in of_phase(events, "M")
        if e["name"] == "thread_name"
    }
    assert {(e["pid"], e["tid"]) for e in slices} <= named
    check_nesting(slices)
    check_flows(events, slices)
    for event in of_phase(events, "C"):
        assert all(isinstance(value, int | float) for value in event["args"].values())


def check_nesting(slices: Sequence[Event]) -> None:
    tracks: defaultdict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in slices:
        tracks[event["pid"], event["tid"]].append(event)
    for track in tracks.values():
        track.sort(key=lambda e: (e["ts"], e["ts"] + e["dur"]))
        end = 0.0
        for event in track:  # one stream: not even nested
            assert event["ts"] >= end - 1e-6
            end = event["ts"] + event["dur"]


def check_flows(events: Sequence[Event], slices: Sequence[Event]) -> None:
    starts = {event["id"]: event for event in of_phase(events, "s")}
    ends = {event["id"]: event for event in of_phase(events, "f")}
    assert len(starts) == len(of_phase(events, "s"))
    assert set(starts) == set(ends)
    for number, start in starts.items():
        end = ends[number]
        assert (start["name"], start["cat"]) == (end["name"], end["cat"])
        assert end["bp"] == "e"
        assert start["ts"] <= end["ts"]
        assert (start["pid"], start["tid"]) != (end["pid"], end["tid"])
        for endpoint in (start, end):
            assert slices_at(endpoint, slices)


def slices_at(endpoint: Event, slices: Sequence[Event]) -> list[Event]:
    """The slices that a viewer may tie an end of a flow to."""
    return [
        event
        for event in slices
        if (event["pid"], event["tid"]) == (endpoint["pid"], endpoint["tid"])
        and event["ts"] <= endpoint["ts"] <= event["ts"] + event["dur"]
    ]


def of_phase(events: Sequence[Event], phase: str) -> list[Event]:
    return [event for event in events if event["ph"] == phase]


def random_program(seed: int, **options: Any) -> Program:
    rng = random.Random(seed)
    instance = random_instance(rng, **options)
    instance = replace(instance, time_unit=rng.choice(list(PER_MICROSECOND)))
    graph = build_graph(instance)
    if not options.get("zeros"):
        # A cost of 1 on a device of speed 2 is rounded to none, and memory edges have
        # an exception for ops that allocate in no time.
        assume(all(data.duration for data in graph.data.values()))
    return program_of(instance, random_schedule(graph, rng))


@given(seeds, st.booleans())
@examples
def test_any_schedule_is_a_valid_trace_with_its_own_busy_times(
    seed: int, zeros: bool
) -> None:
    program = random_program(seed, zeros=zeros)
    schedule = program.schedule.shifted_to_zero()
    graph = schedule.graph
    per_unit = PER_MICROSECOND[graph.units.time]

    events = events_of(program)

    check_format(events)
    busy: defaultdict[int, float] = defaultdict(float)
    found: defaultdict[str, int] = defaultdict(int)
    for event in of_phase(events, "X"):
        op = Op.parse(event["name"])
        assert event["ts"] * per_unit == pytest.approx(
            graph.units.time_of(schedule.start[op])
        )
        assert event["args"]["stage"] == op.stage
        assert event["args"]["microbatch"] == op.microbatch
        if op.kind.is_compute:
            busy[event["pid"]] += event["dur"] * per_unit
        found[event["name"]] += 1
    assert found == {str(op): len(graph.data[op].streams) for op in schedule.start}
    for device, row in enumerate(program.rows):
        work = sum(graph.data[op].duration for op in row)
        assert busy[device] == pytest.approx(graph.units.time_of(work), abs=1e-6)


@given(seeds)
@examples
def test_counters_are_the_memory_profiles(seed: int) -> None:
    program = random_program(seed)
    schedule = program.schedule.shifted_to_zero()
    units = schedule.graph.units

    events = of_phase(events_of(program), "C")

    for device, memory in enumerate(schedule.graph.devices):
        mine = [e for e in events if e["pid"] == device]
        levels = [e["args"][units.memory] for e in mine if e["name"] == "memory"]
        assert max(levels) == units.memory_of(schedule.peak_memory[device])
        steps = schedule.memory_profiles[device]
        assert levels[-1] == units.memory_of(steps[-1][1] if steps else memory.static)
        limits = {e["args"][units.memory] for e in mine if e["name"] == "memory limit"}
        assert limits == (
            set() if memory.limit is None else {units.memory_of(memory.limit)}
        )


@pytest.mark.parametrize("mode", list(CommunicationMode))
def test_arrows_are_the_hand_overs(mode: CommunicationMode) -> None:
    """Lag: producer to consumer. Link: by the transfer. Blocking: it is on both."""
    instance = pipeline(
        devices=3,
        microbatches=4,
        communication=Communication(mode=mode, latency=2),
    )
    program = baseline_program("1f1b", instance)
    events = events_of(program)
    slices = of_phase(events, "X")

    pairs = []
    ends = {event["id"]: event for event in of_phase(events, "f")}
    for start in of_phase(events, "s"):
        # An end at the border of two slices is inside by its nudge.
        (before,) = slices_at(start, slices)
        (after,) = slices_at(ends[start["id"]], slices)
        pairs.append((before["name"], after["name"]))

    hand_overs = 2 * 2 * 4
    match mode:
        case CommunicationMode.LAG:
            assert len(pairs) == hand_overs
            assert ("0F0", "1F0") in pairs
            assert ("2B3", "1B3") in pairs
        case CommunicationMode.LINK:
            assert len(pairs) == 2 * hand_overs
            assert ("0F0", "0SEND_F0") in pairs
            assert ("0SEND_F0", "1F0") in pairs
        case CommunicationMode.BLOCKING:
            assert pairs == []
            on = [e["pid"] for e in slices if e["name"] == "1SEND_B2"]
            assert sorted(on) == [0, 1]


def test_names_colours_and_order_of_tracks() -> None:
    instance = pipeline(
        devices=3,
        microbatches=4,
        backward=Backward.SPLIT,
        communication=Communication(mode=CommunicationMode.LINK, latency=2),
    )
    events = events_of(baseline_program("zb-h1", instance))

    names = {
        (e["pid"], e["tid"]): e["args"]["name"]
        for e in of_phase(events, "M")
        if e["name"] == "thread_name"
    }
    assert names == {
        (0, 0): "compute",
        (0, 1): "to gpu1",
        (1, 0): "compute",
        (1, 1): "to gpu0",
        (1, 2): "to gpu2",
        (2, 0): "compute",
        (2, 1): "to gpu1",
    }
    colours = {(e["cat"], e["cname"]) for e in of_phase(events, "X")}
    assert len({colour for _, colour in colours}) == 4  # F, I, W, transfers
    assert len(colours) == 5


@given(seeds)
@examples
def test_slack_is_how_much_later_an_op_can_start(seed: int) -> None:
    """Lengthened by its slack an op costs nothing, by one tick more it does."""
    program = random_program(seed)
    order = with_memory_edges(program.schedule)
    schedule = simulate(program.schedule.graph, order)
    slack = slack_of(schedule)
    rng = random.Random(seed)
    assert all(value >= 0 for value in slack.values())
    assert min(slack.values()) == 0

    check_slack(schedule, order, slack, rng.sample(sorted(slack), min(3, len(slack))))


@pytest.mark.parametrize("kfac", [Kfac(), None])
def test_slices_say_their_step_and_part_where_there_are_several(
    kfac: Kfac | None,
) -> None:
    instance = training(2, 2, placement=Placement.BIDIRECTIONAL, kfac=kfac, steps=2)
    events = events_of(baseline_program("chimera", instance))
    check_format(events)
    slices = [event for event in events if event["ph"] == "X"]
    for event in slices:
        op = Op.parse(event["name"])
        assert (event["args"]["step"], event["args"]["part"]) == (op.step, op.part)
    assert {event["args"]["step"] for event in slices} == {0, 1}
    one = baseline_program("chimera", replace(instance, kfac=None, steps=1))
    assert all("step" not in event.get("args", {}) for event in events_of(one))


def test_slack_counts_waits_for_memory() -> None:
    found = 0
    for seed in range(150):
        rng = random.Random(seed)
        instance = random_instance(rng, modes=[CommunicationMode.LINK])
        graph = build_graph(instance)
        order = with_memory_edges(random_schedule(graph, rng))
        if order.memory_edges:
            found += 1
            schedule = simulate(graph, order)
            slack = slack_of(schedule)
            check_slack(schedule, with_memory_edges(schedule), slack, sorted(slack))
    assert found > 1


def check_slack(
    schedule: Schedule, order: Order, slack: Mapping[Op, int], ops: Sequence[Op]
) -> None:
    for op in ops:
        for more, longer in ((0, False), (1, True)):
            stretched = lengthened(schedule.graph, op, slack[op] + more)
            again = simulate(stretched, order)
            assert (again.makespan > schedule.makespan) == longer


def lengthened(graph: Any, op: Op, ticks: int) -> Any:
    """The graph with a longer op."""
    digraph = graph.digraph.copy()
    data = digraph.nodes[op]["data"]
    digraph.nodes[op]["data"] = data._replace(duration=data.duration + ticks)
    return replace(graph, digraph=digraph)


def test_streams_that_are_empty_have_no_track() -> None:
    events = events_of(baseline_program("1f1b", pipeline(devices=2, microbatches=2)))

    threads = {(e["pid"], e["tid"]) for e in events}

    assert threads == {(0, 0), (1, 0)}
    assert StreamKind.COMPUTE.value in {
        e["args"].get("name") for e in of_phase(events, "M")
    }
