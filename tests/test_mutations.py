"""Corrupted schedules: the verifier must reject each, for the reason it was corrupted.

A corruption is made only where it can be shown here, without the verifier, that the
result breaks the rule: by the op graph's own edges, by overlapping times, or by adding
up buffers one by one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from kfac_instances import random_training
from strategies import random_instance, random_order

from schedopt.build import build_graph
from schedopt.formats import ScheduleFile, instance_sha256, schedule_document
from schedopt.instance import Backward, CommunicationMode, Instance, Placement
from schedopt.opgraph import OpGraph
from schedopt.ops import Op, OpKind
from schedopt.schedule import Order, Schedule
from schedopt.simulate import simulate
from schedopt.verify import Rule, verify_file, violations

CASES = 200
TRAININGS = 40
LEAST_CORRUPTIONS = 2_000


@dataclass(frozen=True)
class Case:
    """A valid schedule of a random instance, and the seed it came from."""

    seed: int
    instance: Instance
    graph: OpGraph
    order: Order
    schedule: Schedule
    rng: random.Random

    def corrupted_by(self, kind: Callable[[Case], Iterator[Any]]) -> Iterator[Any]:
        """The corruptions of a kind; the same whichever tests ran before."""
        rng = random.Random(f"{self.seed} {kind.__name__}")
        return kind(replace(self, rng=rng))

    def end(self, op: Op) -> int:
        return self.schedule.end(op)

    @property
    def start(self) -> dict[Op, int]:
        return dict(self.schedule.start)

    def duration(self, op: Op) -> int:
        return self.graph.data[op].duration

    def some(self, items: Iterator[Any] | list[Any], count: int = 2) -> list[Any]:
        found = list(items)
        return self.rng.sample(found, min(count, len(found)))

    def neighbours(self) -> Iterator[tuple[Op, Op]]:
        """Ops that follow each other on a stream."""
        for sequence in self.order.sequences.values():
            yield from pairwise(sequence)

    def edges(self) -> Iterator[tuple[Op, Op, int]]:
        """The precedences between present ops."""
        for before, after, lag in self.graph.edges:
            if before in self.schedule.start and after in self.schedule.start:
                yield before, after, lag

    def document(self, **changes: object) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "method": "random",
            "status": "feasible",
            "objective": "makespan",
            "value_ticks": self.schedule.makespan,
            "lower_bound_ticks": 1,
            "wall_seconds": None,
            "seed": 0,
            "versions": {},
            "memory_edges": self.order.memory_edges,
        }
        return schedule_document(self.instance, self.schedule, **(arguments | changes))

    @property
    def tick(self) -> float:
        """One tick in the user's unit."""
        return 1 / self.graph.units.ticks_per_unit


@cache
def cases() -> tuple[Case, ...]:
    found = []
    for seed in range(CASES):
        rng = random.Random(seed)
        instance = random_instance(rng, max_ops=22, zeros=seed % 6 == 0)
        graph = build_graph(instance)
        # Buffers held for no time (the exception of with_memory_edges) are left out.
        if seed % 6 == 0 and instance.communication.mode is not CommunicationMode.LAG:
            instance = random_instance(rng, max_ops=22)
            graph = build_graph(instance)
        order = random_order(graph, rng, within_memory=True)
        found.append(Case(seed, instance, graph, order, simulate(graph, order), rng))
    return (*found, *map(_training, range(CASES, CASES + TRAININGS)))


def _training(seed: int) -> Case:
    """A schedule within memory of several steps, of second-order work, or of both."""
    rng = random.Random(seed)
    while True:
        instance = random_training(rng, max_ops=60)
        graph = build_graph(instance)
        order = random_order(graph, rng, within_memory=True)
        schedule = simulate(graph, order)
        if all(
            device.limit is None or peak <= device.limit
            for device, peak in zip(graph.devices, schedule.peak_memory, strict=True)
        ):
            return Case(seed, instance, graph, order, schedule, rng)


# -- corrupted times: (graph, starts) -----------------------------------------

Times = Iterator[tuple[OpGraph, Mapping[Op, Any]]]


def swapped(case: Case) -> Times:
    """An op and one that needs it change places."""
    start = case.start
    tied = [
        (a, b)
        for a, b, lag in case.edges()
        if start[a] < start[b] and case.duration(a) + lag > 0
    ]
    for a, b in case.some(tied):
        yield case.graph, {**start, a: start[b], b: start[a]}


def too_early_by_a_tick(case: Case) -> Times:
    """An op starts a tick before what it needs is there."""
    start = case.start
    tight = [
        (b, case.end(a) + lag) for a, b, lag in case.edges() if case.end(a) + lag > 0
    ]
    for b, ready in case.some(tight, 3):
        yield case.graph, {**start, b: ready - 1}


def lag_cut_by_a_tick(case: Case) -> Times:
    """A transfer of pure latency is a tick too short."""
    start = case.start
    lags = [(a, b, lag) for a, b, lag in case.edges() if lag > 0]
    for a, b, lag in case.some(lags, 3):
        yield case.graph, {**start, b: case.end(a) + lag - 1}


def predecessor_late(case: Case) -> Times:
    """An op starts so late that what needs it starts a tick too early."""
    start = case.start
    for a, b, lag in case.some(case.edges()):
        late = start[b] - lag - case.duration(a) + 1
        yield case.graph, {**start, a: max(late, 0)}


def slower_op(case: Case) -> Times:
    """An op lasts longer than there is time before what needs it."""
    start = case.start
    for a, b, lag in case.some(case.edges()):
        yield _with_duration(case.graph, a, start[b] - lag - start[a] + 1), start


def overlapping(case: Case) -> Times:
    """An op starts strictly inside the one before it on its stream."""
    long = [(a, b) for a, b in case.neighbours() if case.duration(a) >= 2]
    for a, b in case.some(long, 3):
        inside = case.rng.randint(1, case.duration(a) - 1)
        yield case.graph, {**case.start, b: case.schedule.start[a] + inside}


def at_the_same_time(case: Case) -> Times:
    """Two ops that take time start together on a stream."""
    both = [
        (a, b)
        for a, b in case.neighbours()
        if case.duration(a) > 0 and case.duration(b) > 0
    ]
    for a, b in case.some(both):
        yield case.graph, {**case.start, b: case.schedule.start[a]}


def everything_at_once(case: Case) -> Times:
    """All ops start at 0."""
    if any(case.duration(a) and case.duration(b) for a, b in case.neighbours()):
        yield case.graph, dict.fromkeys(case.start, 0)


def dropped(case: Case) -> Times:
    """An op that belongs to no alternative is missing."""
    fixed = [op for op in case.start if case.graph.data[op].literal is None]
    for gone in case.some(fixed):
        yield case.graph, {op: t for op, t in case.start.items() if op != gone}


def no_alternative(case: Case) -> Times:
    """All ops of a present alternative are missing."""
    for literal in case.some(sorted(_true_literals(case))):
        data = case.graph.data
        yield (
            case.graph,
            {op: t for op, t in case.start.items() if data[op].literal != literal},
        )


def both_alternatives(case: Case) -> Times:
    """The ops of a second alternative of a choice are there as well."""
    true = _true_literals(case)
    others = sorted(
        literal
        for choice in case.graph.choices
        for literal in choice.literals
        if literal not in true
    )
    late = max(map(case.end, case.start))
    for literal in case.some(others):
        added = {
            op: late + 100 * place
            for place, (op, data) in enumerate(case.graph.data.items())
            if data.literal == literal
        }
        yield case.graph, {**case.start, **added}


def half_an_alternative(case: Case) -> Times:
    """I without W, or W without I."""
    data = case.graph.data
    sizes = Counter(item.literal for item in data.values())
    halves = [
        op for op in case.start if data[op].literal and sizes[data[op].literal] > 1
    ]
    for gone in case.some(halves):
        yield case.graph, {op: t for op, t in case.start.items() if op != gone}


def negative(case: Case) -> Times:
    """An op starts before 0."""
    for op in case.some(sorted(case.start)):
        yield case.graph, {**case.start, op: -case.rng.randint(1, 50)}


def fractional(case: Case) -> Times:
    """A start is no integer, though it may be a whole number."""
    for op in case.some(sorted(case.start), 1):
        yield case.graph, {**case.start, op: case.schedule.start[op] + 0.5}
        yield case.graph, {**case.start, op: float(case.schedule.start[op])}


def unknown(case: Case) -> Times:
    """An op of a stage, microbatch, step or kind that the instance does not have."""
    late = max(map(case.end, case.start))
    op = case.rng.choice(sorted(case.start))
    for stranger in (
        op._replace(stage=len(case.instance.stages)),
        op._replace(microbatch=max(case.instance.microbatches, 2)),  # copies are two
        op._replace(step=case.instance.steps),
        op._replace(part="nothing"),
    ):
        yield case.graph, {**case.start, stranger: late}


def limit_below_the_peak(case: Case) -> Times:
    """A device has one grain less than the schedule needs."""
    for device, peak in enumerate(_peaks_by_hand(case)):
        devices = list(case.graph.devices)
        if peak > 0:
            devices[device] = devices[device]._replace(limit=peak - 1)
            yield replace(case.graph, devices=tuple(devices)), case.start


def one_buffer_too_many(case: Case) -> Times:
    """An op that allocates starts earlier, when there is no room for it."""
    found = []
    for buffer in case.graph.buffers:
        maker = buffer.maker
        limit = case.graph.devices[buffer.device].limit
        if limit is None or maker not in case.start or case.duration(maker) == 0:
            continue
        for time in set(case.start.values()):
            # At `time` the maker runs, so all that it uses stays alive; no other op
            # moves. What was alive still is, and the buffer is too.
            level = _level_by_hand(case, buffer.device, time)
            if time < case.schedule.start[maker] and level + buffer.size > limit:
                found.append((maker, time))
    for maker, time in case.some(sorted(found), 3):
        yield case.graph, {**case.start, maker: time}


def larger_buffer(case: Case) -> Times:
    """A buffer at a device's peak is one grain too large for its limit."""
    found = []
    for index, buffer in enumerate(case.graph.buffers):
        limit = case.graph.devices[buffer.device].limit
        if limit is None or not _is_alive(case, index, _opening(case, index)):
            continue
        level = _level_by_hand(case, buffer.device, _opening(case, index))
        found.append((index, buffer.size + limit - level + 1))
    for index, size in case.some(found):
        buffers = list(case.graph.buffers)
        buffers[index] = buffers[index]._replace(size=size)
        yield replace(case.graph, buffers=tuple(buffers)), case.start


def _with_duration(graph: OpGraph, op: Op, duration: int) -> OpGraph:
    digraph = graph.digraph.copy()
    digraph.nodes[op]["data"] = graph.data[op]._replace(duration=duration)
    return replace(graph, digraph=digraph)


def _true_literals(case: Case) -> set[str]:
    literals = {case.graph.data[op].literal for op in case.start}
    return {literal for literal in literals if literal is not None}


def _opening(case: Case, index: int) -> int:
    return case.schedule.start.get(case.graph.buffers[index].maker, 0)


def _is_alive(case: Case, index: int, time: int) -> bool:
    buffer = case.graph.buffers[index]
    if buffer.maker not in case.schedule.start:
        return False
    users = [op for op in buffer.users if op in case.schedule.start] or [buffer.maker]
    return _opening(case, index) <= time < max(map(case.end, users))


def _level_by_hand(case: Case, device: int, time: int) -> int:
    return case.graph.devices[device].static + sum(
        buffer.size
        for index, buffer in enumerate(case.graph.buffers)
        if buffer.device == device and _is_alive(case, index, time)
    )


def _peaks_by_hand(case: Case) -> list[int]:
    return [
        max(_level_by_hand(case, device, time) for time in set(case.start.values()))
        for device in range(len(case.graph.devices))
    ]


OF_TIMES: dict[Callable[[Case], Times], Rule] = {
    swapped: Rule.PRECEDENCE,
    too_early_by_a_tick: Rule.PRECEDENCE,
    lag_cut_by_a_tick: Rule.PRECEDENCE,
    predecessor_late: Rule.PRECEDENCE,
    slower_op: Rule.PRECEDENCE,
    overlapping: Rule.STREAM,
    at_the_same_time: Rule.STREAM,
    everything_at_once: Rule.STREAM,
    dropped: Rule.PRESENT,
    no_alternative: Rule.CHOICE,
    both_alternatives: Rule.CHOICE,
    half_an_alternative: Rule.TOGETHER,
    negative: Rule.TIME,
    fractional: Rule.TIME,
    unknown: Rule.KNOWN,
    limit_below_the_peak: Rule.MEMORY,
    one_buffer_too_many: Rule.MEMORY,
    larger_buffer: Rule.MEMORY,
}


# -- corrupted files: documents -----------------------------------------------

Documents = Iterator[dict[str, Any]]


def _with(case: Case, **fields: object) -> dict[str, Any]:
    return {**case.document(), **fields}


def _with_row(case: Case, **fields: object) -> dict[str, Any]:
    document = case.document()
    case.rng.choice(document["ops"]).update(fields)
    return document


def doubled_row(case: Case) -> Documents:
    """An op stands in two rows, at the same time or at another."""
    document = case.document()
    row = case.rng.choice(document["ops"])
    yield {**document, "ops": [*document["ops"], row]}
    late = {**row, "start": row["start"] + 1000, "end": row["end"] + 1000}
    yield {**document, "ops": [*document["ops"], late]}


def row_on_another_device(case: Case) -> Documents:
    document = case.document()
    row = case.rng.choice(document["ops"])
    row["device"] += 1
    yield document


def row_on_another_stream(case: Case) -> Documents:
    for streams in (["copy@0"], ["compute@99"], ["compute", "compute"], ["p2p@0>99"]):
        yield _with_row(case, streams=streams)


def row_that_ends_a_tick_late(case: Case) -> Documents:
    document = case.document()
    row = case.rng.choice(document["ops"])
    row["end"] = (round(row["end"] / case.tick) + 1) * case.tick
    yield document


def row_of_another_alternative(case: Case) -> Documents:
    yield _with_row(case, alternative="another")
    document = case.document()
    for row in document["ops"]:
        if row.pop("alternative", None) is not None:
            yield document
            return


def row_whose_name_is_another(case: Case) -> Documents:
    yield _with_row(case, op="0F999")
    yield _with_row(case, step=3)


def row_between_ticks(case: Case) -> Documents:
    document = case.document()
    row = case.rng.choice(document["ops"])
    row["start"] += case.tick / 2
    yield document


def row_of_another_microbatch(case: Case) -> Documents:
    document = case.document()
    row = case.rng.choice(document["ops"])
    stranger = max(case.instance.microbatches, 2)  # a copy's number is 0 or 1
    op = Op.parse(row["op"])._replace(microbatch=stranger)
    row.update(op=str(op), microbatch=op.microbatch)
    yield document


def row_missing(case: Case) -> Documents:
    document = case.document()
    fixed = [row for row in document["ops"] if "alternative" not in row]
    for gone in case.some(fixed, 1):
        yield {**document, "ops": [row for row in document["ops"] if row is not gone]}


def second_order_row_missing(case: Case) -> Documents:
    document = case.document()
    for gone in case.some(_second_order_rows(document), 4):
        yield {**document, "ops": [row for row in document["ops"] if row is not gone]}


def second_order_row_too_long(case: Case) -> Documents:
    """By more than all roundings of its kind together."""
    for place in case.some(range(len(_second_order_rows(case.document()))), 4):
        document = case.document()
        row = _second_order_rows(document)[place]
        row["end"] = (round(row["end"] / case.tick) + 1000) * case.tick
        yield document


def _second_order_rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    if "kfac" not in document["instance"]:
        return []
    kinds = {"CURVATURE_A", "CURVATURE_B", "INVERSION", "PRECONDITION", "STEP"}
    return [row for row in document["ops"] if row["kind"] in kinds]


def makespan_off_by_a_tick(case: Case) -> Documents:
    for wrong in (case.schedule.makespan + 1, case.schedule.makespan - 1):
        yield _with(case, makespan=wrong * case.tick)
    yield _with(case, makespan=None)


def device_span_off_by_a_tick(case: Case) -> Documents:
    for wrong in (case.schedule.device_span + 1, case.schedule.device_span - 1):
        yield _with(case, device_span=wrong * case.tick)


def value_of_another_schedule(case: Case) -> Documents:
    yield _with(case, value=(case.schedule.makespan - 1) * case.tick)
    if case.schedule.makespan != case.schedule.device_span:
        yield _with(case, objective="device-span")


def bound_above_the_value(case: Case) -> Documents:
    document = case.document(lower_bound_ticks=case.schedule.makespan + 1)
    yield {**document, "gap": 0.0}


def steady_state_of_one_op(case: Case) -> Documents:
    """A periodic schedule that leaves out all ops but one, and counts them wrongly."""
    document = case.document()
    first = document["ops"][0]["op"]
    steady = {"cycle": 1, "microbatches": 2, "starts": {first: 0}}
    yield document | {"steady": steady}


def wrong_gap(case: Case) -> Documents:
    gap = case.document()["gap"]
    yield _with(case, gap=gap / 2)
    yield _with(case, gap=None)
    yield case.document(lower_bound_ticks=None) | {"gap": 0.0}


def wrong_bubble_ratio(case: Case) -> Documents:
    right = case.document()["bubble_ratio"]
    for name, ratio in right.items():
        wrong = ratio + (0.001 if ratio < 0.5 else -0.001)
        yield _with(case, bubble_ratio={**right, name: wrong})
    yield _with(case, bubble_ratio=None)


def wrong_peak_memory(case: Case) -> Documents:
    right = case.document()["peak_memory"]
    device = case.rng.randrange(len(right))
    grain = 1 / case.graph.units.grains_per_unit
    yield _with(
        case, peak_memory=[p + grain * (d == device) for d, p in enumerate(right)]
    )
    yield _with(case, peak_memory=right[1:])


def optimal_with_a_gap(case: Case) -> Documents:
    yield case.document(status="optimal")
    yield case.document(status="optimal", lower_bound_ticks=None)


def feasible_without_a_gap(case: Case) -> Documents:
    yield case.document(lower_bound_ticks=case.schedule.makespan)


def schedule_of_the_infeasible(case: Case) -> Documents:
    for status in ("infeasible", "unknown"):
        yield case.document(status=status)


def memory_edge_not_kept(case: Case) -> Documents:
    first = min(case.start, key=case.schedule.start.__getitem__)
    last = max(case.start, key=case.end)
    if case.end(last) > case.schedule.start[first]:
        yield case.document(memory_edges=[(last, first)])
    yield _with(case, memory_edges=[["0F999", str(last)]])
    yield _with(case, memory_edges=[[str(last)]])


def wrong_hash(case: Case) -> Documents:
    document = case.document()
    digest = document["instance"]["sha256"]
    document["instance"]["sha256"] = digest[1:] + digest[0]
    if document["instance"]["sha256"] != digest:
        yield document


def changed_instance(case: Case) -> Documents:
    document = case.document()
    document["instance"]["microbatches"] += 1
    document["instance"]["microbatch_scale"] = []
    yield document
    other = case.document()
    other["instance"]["time_unit"] = "ms"
    yield other


def hashed_instance_with_one_more_microbatch(case: Case) -> Documents:
    """The hash is right, and the schedule is of another instance."""
    larger = replace(
        case.instance,
        microbatches=case.instance.microbatches + 1,
        microbatch_scale=(),
    )
    document = case.document()
    if any(data.literal is None for data in case.graph.data.values()):
        embedded = schedule_document(
            larger,
            None,
            method="",
            status="unknown",
            objective="makespan",
            value_ticks=None,
            lower_bound_ticks=None,
            wall_seconds=None,
            seed=None,
            versions={},
        )["instance"]
        assert embedded["sha256"] == instance_sha256(larger)
        yield {**document, "instance": embedded}


def runtime_that_wants_another_order(case: Case) -> Documents:
    """torch takes the last stage's forwards in the order of their numbers."""
    instance = case.instance
    refused = (
        instance.placement is Placement.BIDIRECTIONAL
        or instance.recompute
        or instance.steps > 1
        or instance.kfac is not None
        or any(stage.overlap is not None for stage in instance.stages)
    )
    if refused:
        return
    ruled = replace(case, instance=replace(instance, runtime="torch-csv"))
    forward = Op(OpKind.FORWARD, len(instance.stages) - 1, 0)
    for j, k in pairwise(range(instance.microbatches)):
        first, second = (case.start[forward._replace(microbatch=n)] for n in (j, k))
        if first > second:
            yield ruled.document()
        elif first < second:  # the two change their numbers
            other = {j: k, k: j}
            renamed = {
                op._replace(microbatch=other.get(op.microbatch, op.microbatch)): start
                for op, start in case.start.items()
            }
            if renamed.keys() <= case.graph.data.keys():
                schedule = Schedule(case.graph, renamed)
                yield replace(ruled, schedule=schedule).document()


OF_FILES: dict[Callable[[Case], Documents], Rule] = {
    doubled_row: Rule.ROW,
    row_on_another_device: Rule.ROW,
    row_on_another_stream: Rule.ROW,
    row_that_ends_a_tick_late: Rule.ROW,
    row_of_another_alternative: Rule.ROW,
    row_whose_name_is_another: Rule.ROW,
    row_between_ticks: Rule.TIME,
    row_of_another_microbatch: Rule.KNOWN,
    row_missing: Rule.PRESENT,
    second_order_row_missing: Rule.KFAC_WORK,
    second_order_row_too_long: Rule.KFAC_WORK,
    makespan_off_by_a_tick: Rule.MAKESPAN,
    device_span_off_by_a_tick: Rule.DEVICE_SPAN,
    value_of_another_schedule: Rule.VALUE,
    bound_above_the_value: Rule.LOWER_BOUND,
    steady_state_of_one_op: Rule.CYCLE,
    wrong_gap: Rule.GAP,
    wrong_bubble_ratio: Rule.BUBBLE_RATIO,
    wrong_peak_memory: Rule.PEAK_MEMORY,
    optimal_with_a_gap: Rule.STATUS,
    feasible_without_a_gap: Rule.STATUS,
    schedule_of_the_infeasible: Rule.STATUS,
    memory_edge_not_kept: Rule.MEMORY_EDGE,
    wrong_hash: Rule.INSTANCE,
    changed_instance: Rule.INSTANCE,
    hashed_instance_with_one_more_microbatch: Rule.PRESENT,
    runtime_that_wants_another_order: Rule.MICROBATCH_ORDER,
}


# -- the tests ----------------------------------------------------------------


def _file_cases() -> tuple[Case, ...]:
    """A third of the cases: files take longer to read than times to judge."""
    return cases()[::3]


def test_the_schedules_themselves_are_valid() -> None:
    for case in cases():
        assert violations(case.graph, case.start) == ()
        assert verify_file(ScheduleFile.model_validate(case.document())) == ()


@pytest.mark.parametrize("corrupt", OF_TIMES, ids=lambda kind: kind.__name__)
def test_corrupted_times_are_rejected(corrupt: Callable[[Case], Times]) -> None:
    made = 0
    for case in cases():
        for graph, starts in case.corrupted_by(corrupt):
            made += 1
            found = violations(graph, starts)
            assert OF_TIMES[corrupt] in {violation.rule for violation in found}
            assert all(violation.detail for violation in found)
    assert made >= 30


@pytest.mark.parametrize("corrupt", OF_FILES, ids=lambda kind: kind.__name__)
def test_corrupted_files_are_rejected(corrupt: Callable[[Case], Documents]) -> None:
    made = 0
    for case in _file_cases():
        for document in case.corrupted_by(corrupt):
            made += 1
            found = verify_file(ScheduleFile.model_validate(document))
            assert OF_FILES[corrupt] in {violation.rule for violation in found}
    assert made >= 30


def test_there_are_enough_corruptions() -> None:
    of_times = [1 for k in OF_TIMES for case in cases() for _ in case.corrupted_by(k)]
    of_files = [
        1 for k in OF_FILES for case in _file_cases() for _ in case.corrupted_by(k)
    ]
    assert len(of_times) + len(of_files) >= LEAST_CORRUPTIONS
    assert set(OF_TIMES.values()) | set(OF_FILES.values()) == set(Rule)


def test_the_cases_are_of_all_sorts() -> None:
    instances = [case.instance for case in cases()]
    assert {i.placement for i in instances} == set(Placement)
    assert {i.backward for i in instances} == set(Backward)
    assert {i.communication.mode for i in instances} == set(CommunicationMode)
    kinds = Counter(op.kind for case in cases() for op in case.start)
    assert set(kinds) == set(OpKind)
    assert sum(bool(case.order.memory_edges) for case in cases()) >= 5
    full = [
        device.limit == peak
        for case in cases()
        for device, peak in zip(
            case.graph.devices, case.schedule.peak_memory, strict=True
        )
    ]
    assert sum(full) >= 30
