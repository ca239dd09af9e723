"""Traces of torch's profiler with the ranges of its pipeline runtime.

``torch.distributed.pipelining`` wraps every op in ``record_function("PP:<op>")`` (since
torch 2.9; read in 2.13, ``schedules.py``, and run on traces of two gloo processes). A
range also holds the wait for its RECV, so an op's own time is from the start of the
first operator inside the range to the range's end. On CUDA the range is CPU time; there
the ``gpu_user_annotation`` of the same name is used (read only, not run).
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from schedopt.errors import FormatError
from schedopt.formats.limits import Limits
from schedopt.importers.drafts import Draft, Imported, Wanted, imported
from schedopt.importers.files import is_number, read_json, wrong
from schedopt.instance import Number
from schedopt.runtimes.measured import mebibytes, split_memory, tidy

_RANGE = re.compile(r"PP:(?P<stage>\d{1,6})(?P<kind>[FIWB])(?P<microbatch>\d{1,6})")
# What is sent to the stage after, or received from it, shows that there is one.
_TO_NEXT_STAGE = re.compile(r"PP:(?P<stage>\d{1,6})(SEND_F|RECV_B)\d{1,6}")
_KINDS = {"F": "forward", "B": "backward", "I": "backward_input"}
_KINDS["W"] = "backward_weight"
_CPU_RANGE, _GPU_RANGE, _OPERATOR = "user_annotation", "gpu_user_annotation", "cpu_op"


@dataclass(frozen=True, slots=True)
class _Span:
    """An event with a duration, microseconds."""

    name: str
    thread: tuple[object, object]
    start: float
    end: float


class _Sample(NamedTuple):
    """One execution of an op: microseconds, and bytes if memory was recorded."""

    time: float
    change: int
    peak: int


@dataclass(frozen=True, slots=True)
class _Rank:
    """What one trace says: samples of each (stage, kind), without the first step.

    ``stages`` is how many the pipeline has at least, as far as the trace shows.
    """

    path: Path
    rank: int | None
    samples: Mapping[tuple[int, str], list[_Sample]]
    stages: int
    microbatches: int
    has_memory: bool
    steps: int


def read(paths: Sequence[Path], wanted: Wanted, limits: Limits) -> Imported:
    """The instance of a pipeline from one Chrome trace per rank (``.json[.gz]``).

    Times are medians over microbatches and steps, of which the first is dropped if
    there are more. The rank is ``distributedInfo.rank``, or else a trace's place in
    ``paths``.

    Raises
    ------
    FormatError
        If a file is no such trace, or stages are missing or on two ranks.
    """
    ranks = [_read_rank(path, limits) for path in paths]
    homes = _homes(ranks)
    samples = {key: found for rank in ranks for key, found in rank.samples.items()}
    has_memory = all(rank.has_memory for rank in ranks)
    stages = [_stage(stage, samples, has_memory) for stage in range(len(homes))]
    notes = list(_idle_notes(stages, paths[0]))
    if any(rank.steps == 1 for rank in ranks):
        notes.append("only one step was traced: its times include warming up")
    if not has_memory:
        notes.append(
            "no memory events: sizes are 0; trace with profile_memory=True to have them"
        )
    draft = Draft(
        name="torch-trace",
        source=(
            f"torch.profiler traces of {len(ranks)} rank{'s' * (len(ranks) > 1)}"
            f" ({', '.join(path.name for path in paths[:4])}"
            f"{', ...' if len(paths) > 4 else ''}); medians of net times, without the"
            " wait for RECV"
        ),
        stages=stages,
        time_unit="us",
        backward=_backward(stages, paths[0]),
        devices=max(homes.values()) + 1,
        device_of_stage=[homes[stage] for stage in range(len(homes))],
        microbatches=max(rank.microbatches for rank in ranks),
        notes=notes,
    )
    return imported(draft, wanted, paths[0])


def _read_rank(path: Path, limits: Limits) -> _Rank:
    document = read_json(path, limits)
    events = document.get("traceEvents")
    if not isinstance(events, list):
        raise wrong(path, "traceEvents", events, "must be the list of a Chrome trace")
    spans: dict[str, list[_Span]] = {_CPU_RANGE: [], _GPU_RANGE: [], _OPERATOR: []}
    for number, event in enumerate(events):
        if not isinstance(event, dict):
            raise wrong(path, f"traceEvents[{number}]", event, "must be a mapping")
        category = event.get("cat")
        if isinstance(category, str) and category in spans and event.get("ph") == "X":
            spans[category].append(_span(event, number, path))
    ranges = [span for span in spans[_CPU_RANGE] if _RANGE.fullmatch(span.name)]
    if not ranges:
        msg = (
            f"{path}: has no PP: ranges; trace steps of torch's pipeline runtime with"
            " torch 2.9 or later"
        )
        raise FormatError(msg)
    ranges.sort(key=lambda span: span.start)
    memory = _Memory(events, path)
    on_gpu = _gpu_times(spans[_GPU_RANGE])
    operators = _Operators(spans[_OPERATOR])
    runs: dict[str, list[_Sample]] = defaultdict(list)
    for span in ranges:
        time = operators.net_time(span)
        gpu = on_gpu.get(span.name, [])
        if len(runs[span.name]) < len(gpu):
            time = gpu[len(runs[span.name])]
        runs[span.name].append(_Sample(time, *memory.within(span)))
    samples: dict[tuple[int, str], list[_Sample]] = defaultdict(list)
    microbatches = 0
    for name, found in runs.items():
        match = _RANGE.fullmatch(name)
        if match is None:
            continue
        microbatches = max(microbatches, int(match["microbatch"]) + 1)
        samples[int(match["stage"]), match["kind"]] += found[1:] or found
    neighbours = map(_TO_NEXT_STAGE.fullmatch, (s.name for s in spans[_CPU_RANGE]))
    following = [int(match["stage"]) + 1 for match in neighbours if match]
    return _Rank(
        path=path,
        stages=1 + max([stage for stage, _ in samples] + following),
        rank=_rank_of(document, path),
        samples=samples,
        microbatches=microbatches,
        has_memory=memory.recorded,
        steps=min(map(len, runs.values())),
    )


def _span(event: Mapping[str, Any], number: int, path: Path) -> _Span:
    for field in ("ts", "dur"):
        value = event.get(field)
        if not is_number(value) or (field == "dur" and float(value or 0) < 0):
            place = f"traceEvents[{number}].{field}"
            raise wrong(path, place, value, "must be a number of microseconds")
    start = float(event["ts"])
    thread = (str(event.get("pid")), str(event.get("tid")))
    return _Span(str(event.get("name")), thread, start, start + float(event["dur"]))


def _rank_of(document: Mapping[str, Any], path: Path) -> int | None:
    about = document.get("distributedInfo")
    rank = about.get("rank") if isinstance(about, dict) else None
    if rank is None:
        return None
    if not isinstance(rank, int) or isinstance(rank, bool) or not 0 <= rank < 10**6:
        raise wrong(path, "distributedInfo.rank", rank, "must be a rank's number")
    return rank


class _Operators:
    """The operators of each thread by start, to find the first in a range."""

    def __init__(self, spans: Iterable[_Span]) -> None:
        self._starts: dict[tuple[object, object], list[float]] = defaultdict(list)
        for span in spans:
            self._starts[span.thread].append(span.start)
        for starts in self._starts.values():
            starts.sort()

    def net_time(self, span: _Span) -> float:
        """From the first operator in the range to its end; 0 if it runs none."""
        starts = self._starts.get(span.thread, [])
        first = bisect_left(starts, span.start)
        if first == len(starts) or starts[first] > span.end:
            return 0.0
        return span.end - starts[first]


class _Memory:
    """The memory events of a trace: of the GPU if there are any, else of the CPU."""

    def __init__(self, events: Iterable[Mapping[str, Any]], path: Path) -> None:
        found: dict[bool, list[tuple[float, int]]] = {True: [], False: []}
        for number, event in enumerate(events):
            if event.get("name") != "[memory]":
                continue
            args = event.get("args")
            size = args.get("Bytes") if isinstance(args, dict) else None
            if not isinstance(size, int) or not is_number(event.get("ts")):
                place = f"traceEvents[{number}].args.Bytes"
                raise wrong(path, place, size, "must be a whole number of bytes")
            kind = args.get("Device Type", 0) if isinstance(args, dict) else 0
            found[kind != 0].append((float(event["ts"]), size))
        self._events = sorted(found[True] or found[False], key=lambda pair: pair[0])
        self._times = [time for time, _ in self._events]
        self.recorded = bool(self._events)

    def within(self, span: _Span) -> tuple[int, int]:
        """How the level changes over a range, and how far it rises within, bytes."""
        level = peak = 0
        first = bisect_left(self._times, span.start)
        for _, size in self._events[first : bisect_right(self._times, span.end)]:
            level += size
            peak = max(peak, level)
        return level, peak


def _gpu_times(spans: Iterable[_Span]) -> dict[str, list[float]]:
    """Durations on the device by name, in order of time; the longest stream's."""
    by_name: dict[str, list[_Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start):
        if _RANGE.fullmatch(span.name):
            by_name[span.name].append(span)
    times: dict[str, list[float]] = {}
    for name, found in by_name.items():
        streams: dict[tuple[object, object], list[float]] = defaultdict(list)
        for span in found:
            streams[span.thread].append(span.end - span.start)
        times[name] = max(streams.values(), key=sum)
    return times


def _homes(ranks: Sequence[_Rank]) -> dict[int, int]:
    """The device of each stage; all stages from 0 on must be there, each once."""
    homes: dict[int, tuple[int, Path]] = {}
    numbers: dict[int, Path] = {}
    for place, rank in enumerate(ranks):
        number = place if rank.rank is None else rank.rank
        if number in numbers:
            msg = (
                f"{rank.path}: is of rank {number}, as {numbers[number]} is; give one"
                " trace per rank"
            )
            raise FormatError(msg)
        numbers[number] = rank.path
        for stage in {stage for stage, _ in rank.samples}:
            if stage in homes:
                msg = (
                    f"{rank.path}: stage {stage} runs on rank {number}, and in"
                    f" {homes[stage][1]} on rank {homes[stage][0]}; a stage lives on"
                    " one rank"
                )
                raise FormatError(msg)
            homes[stage] = (number, rank.path)
    stages = max(rank.stages for rank in ranks)
    missing = set(range(stages)) - set(homes)
    if missing:
        msg = (
            f"{ranks[0].path}: no trace has stage {min(missing)} of the {stages}"
            " stages; give the traces of all ranks"
        )
        raise FormatError(msg)
    # Ranks may be those of a larger job: what counts is their order.
    device_of = {number: device for device, number in enumerate(sorted(numbers))}
    return {stage: device_of[number] for stage, (number, _) in homes.items()}


def _stage(
    stage: int,
    samples: Mapping[tuple[int, str], list[_Sample]],
    has_memory: bool,
) -> dict[str, Number]:
    known = {kind: samples[stage, kind] for kind in _KINDS if (stage, kind) in samples}
    fields: dict[str, Number] = {
        _KINDS[kind]: tidy(median(sample.time for sample in found))
        for kind, found in known.items()
    }
    if has_memory and "F" in known:
        kept = max(0, _middle(sample.change for sample in known["F"]))
        fields["activation"] = mebibytes(kept)
        if "I" in known:
            split = split_memory(
                kept,
                _middle(sample.change for sample in known["I"]),
                _middle(sample.peak for sample in known["I"]),
            )
            fields["activation_until_input"] = mebibytes(split.activation_until_input)
            fields["input_gradient"] = mebibytes(split.input_gradient)
    return fields


def _idle_notes(stages: Sequence[Mapping[str, Number]], path: Path) -> Iterator[str]:
    """What took no time though it computes; only I of stage 0 does nothing in torch.

    A range counts the operators of its own thread. On a GPU autograd runs backwards on
    another one, and what the trace lacks of the GPU would be taken for no work.

    Raises
    ------
    FormatError
        If F or B takes none.
    """
    for number, stage in enumerate(stages):
        for kind, field in _KINDS.items():
            if stage.get(field) != 0 or (number == 0 and kind == "I"):
                continue
            found = f"stage {number}: no operator runs in the ranges of {kind}"
            if kind in "FB":
                advice = "trace with the activities CPU and, on a GPU, CUDA"
                msg = f"{path}: {found}; {advice}"
                raise FormatError(msg)
            yield f"{found}: it takes no time here"


def _middle(sizes: Iterable[int]) -> int:
    return round(median(sizes))


def _backward(stages: Sequence[Mapping[str, Number]], path: Path) -> str:
    for number, stage in enumerate(stages):
        if "forward" not in stage:
            msg = f"{path}: stage {number} has no F range; trace whole steps"
            raise FormatError(msg)
    whole = all("backward" in stage for stage in stages)
    split = all(
        {"backward_input", "backward_weight"} <= stage.keys() for stage in stages
    )
    if whole and split:
        return "choose"
    if not whole and not split:
        number, stage = next(
            pair for pair in enumerate(stages) if "backward" not in pair[1]
        )
        lacks = " and no ".join(k for k in "BIW" if _KINDS[k] not in stage)
        msg = (
            f"{path}: stage {number} has no {lacks} range; all stages need B, or all"
            " need I and W: trace whole steps"
        )
        raise FormatError(msg)
    return "whole" if whole else "split"
