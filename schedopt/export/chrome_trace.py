"""A trace for Perfetto and chrome://tracing: the schedule on the viewer's time axis.

The trace event format (Google, "Trace Event Format", JSON object form): a process per
device and a track (thread) per stream; ops are complete events ``X`` with times in
microseconds from the first start; ``s``/``f`` flows are arrows wherever an op waits for
one on another track; ``C`` counters have the level of each device's memory and its
limit. Endpoints of flows lie a little inside their slices, because a viewer ties an
arrow to the slice that is open at its time. ``cname`` colours are those of the old
viewer; Perfetto has its own, by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from schedopt.export.program import Program
from schedopt.export.slack import slack_of
from schedopt.export.tables import is_training
from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import OpKind
from schedopt.schedule import Schedule

Event = dict[str, Any]
MICROSECONDS = {
    "s": Fraction(10**6),
    "ms": Fraction(10**3),
    "us": Fraction(1),
    "ns": Fraction(1, 10**3),
}
_COLOUR_NAMES = {
    OpKind.FORWARD: "rail_response",
    OpKind.BACKWARD: "rail_idle",
    OpKind.BACKWARD_INPUT: "rail_idle",
    OpKind.BACKWARD_WEIGHT: "rail_load",
    OpKind.RECOMPUTE: "yellow",
    OpKind.OVERLAP: "rail_animation",
    OpKind.SEND_FORWARD: "grey",
    OpKind.SEND_BACKWARD: "grey",
    OpKind.CURVATURE_A: "olive",
    OpKind.CURVATURE_B: "olive",
    OpKind.SYNC_CURVATURE: "grey",
    OpKind.INVERSION: "generic_work",
    OpKind.REDUCE_GRAD: "grey",
    OpKind.PRECONDITION: "good",
    OpKind.GATHER_GRAD: "grey",
    OpKind.STEP: "startup",
}
_OUTPUTS = (OpKind.FORWARD, OpKind.SEND_FORWARD)
_FACTORS = (OpKind.CURVATURE_A, OpKind.CURVATURE_B, OpKind.SYNC_CURVATURE)
_INSIDE = 0.001  # of a slice's length, from its edge to the end of an arrow


def chrome_trace(program: Program) -> Mapping[str, str]:
    """The trace as ``<name>.trace.json``, one event per line."""
    schedule = program.schedule.shifted_to_zero()
    events = [
        json.dumps(event, separators=(",", ":")) for event in trace_events(schedule)
    ]
    units = schedule.graph.units
    about = {
        "instance": program.name,
        "makespan": units.time_of(schedule.makespan),
        "time_unit": units.time,
    }
    text = (
        '{"displayTimeUnit":"ms","otherData":'
        + json.dumps(about, separators=(",", ":"))
        + ',"traceEvents":[\n'
        + ",\n".join(events)
        + "\n]}\n"
    )
    return {f"{program.file_stem}.trace.json": text}


def trace_events(schedule: Schedule) -> Iterator[Event]:
    """The events of a schedule whose first start is 0."""
    tracks = _tracks(schedule)
    yield from _names(schedule, tracks)
    yield from _slices(schedule, tracks)
    yield from _arrows(schedule, tracks)
    yield from _counters(schedule)


def _tracks(schedule: Schedule) -> dict[Stream, tuple[int, int]]:
    """Each stream's process and thread; a device's compute stream is thread 0."""
    found = {}
    for device in range(len(schedule.graph.devices)):
        streams = sorted(
            (s for s in schedule.order.sequences if s.device == device),
            key=lambda s: (s.kind is not StreamKind.COMPUTE, s.kind.value, s.peer or 0),
        )
        compute = Stream(StreamKind.COMPUTE, device)
        ordered = [compute, *(s for s in streams if s != compute)]
        found.update(
            {stream: (device, thread) for thread, stream in enumerate(ordered)}
        )
    return found


def _names(
    schedule: Schedule, tracks: Mapping[Stream, tuple[int, int]]
) -> Iterator[Event]:
    devices = schedule.graph.devices
    for device, memory in enumerate(devices):
        for name, args in (
            ("process_name", {"name": memory.name}),
            ("process_sort_index", {"sort_index": device}),
        ):
            yield {"ph": "M", "name": name, "pid": device, "tid": 0, "args": args}
    for stream, (process, thread) in tracks.items():
        title = stream.kind.value
        if stream.peer is not None:
            title = f"to {devices[stream.peer].name}"
        for name, args in (
            ("thread_name", {"name": title}),
            ("thread_sort_index", {"sort_index": thread}),
        ):
            yield {"ph": "M", "name": name, "pid": process, "tid": thread, "args": args}


def _slices(
    schedule: Schedule, tracks: Mapping[Stream, tuple[int, int]]
) -> Iterator[Event]:
    slack = slack_of(schedule)
    data = schedule.graph.data
    units = schedule.graph.units
    training = is_training(schedule)
    for op in sorted(schedule.start, key=lambda op: (schedule.start[op], str(op))):
        for stream in data[op].streams:
            process, thread = tracks[stream]
            yield {
                "ph": "X",
                "name": str(op),
                "cat": op.kind.value,
                "ts": _microseconds(schedule, schedule.start[op]),
                "dur": _microseconds(schedule, data[op].duration),
                "pid": process,
                "tid": thread,
                "cname": _COLOUR_NAMES[op.kind],
                "args": {
                    "stage": op.stage,
                    "microbatch": op.microbatch,
                    "kind": op.kind.value,
                    **({"step": op.step, "part": op.part} if training else {}),
                    f"slack, {units.time}": units.time_of(slack[op]),
                    "critical": slack[op] == 0,
                },
            }


def _arrows(
    schedule: Schedule, tracks: Mapping[Stream, tuple[int, int]]
) -> Iterator[Event]:
    """From each op to those on other tracks that wait for it."""
    data = schedule.graph.data
    waits = (
        edge
        for edge in schedule.graph.edges
        if edge.before in schedule.start
        and edge.after in schedule.start
        and set(data[edge.before].streams).isdisjoint(data[edge.after].streams)
    )
    for number, (before, after, _) in enumerate(waits, start=1):
        common = {
            "name": _passed_on_by(before.kind),
            "cat": "transfer",
            "id": number,
        }
        for phase, op, share in (("s", before, 1 - _INSIDE), ("f", after, _INSIDE)):
            process, thread = tracks[data[op].streams[0]]
            start = _microseconds(schedule, schedule.start[op])
            length = _microseconds(schedule, data[op].duration)
            event = {
                "ph": phase,
                **common,
                "ts": start + share * length if length else start,
                "pid": process,
                "tid": thread,
            }
            yield event | ({"bp": "e"} if phase == "f" else {})


def _passed_on_by(kind: OpKind) -> str:
    """What the ops that wait for an op of this kind get."""
    if kind in _OUTPUTS:
        return "output"
    return "factor" if kind in _FACTORS else "gradient"


def _counters(schedule: Schedule) -> Iterator[Event]:
    units = schedule.graph.units
    end = schedule.makespan
    for device, memory in enumerate(schedule.graph.devices):
        level = {"ph": "C", "name": "memory", "pid": device, "tid": 0}
        steps = dict(schedule.memory_profiles[device])
        for time, grains in ({0: memory.static} | steps).items():
            yield level | {
                "ts": _microseconds(schedule, time),
                "args": {units.memory: units.memory_of(grains)},
            }
        if memory.limit is None:
            continue
        for time in (0, end):
            yield level | {
                "name": "memory limit",
                "ts": _microseconds(schedule, time),
                "args": {units.memory: units.memory_of(memory.limit)},
            }


def _microseconds(schedule: Schedule, ticks: int) -> int | float:
    units = schedule.graph.units
    exact = ticks * MICROSECONDS[units.time] / units.ticks_per_unit
    return exact.numerator if exact.denominator == 1 else float(exact)
