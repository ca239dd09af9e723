"""Where solving begins: the hand-made schedules that this instance can run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf

from schedopt.baselines import BASELINES, Baseline, BaselineRun, run_baseline
from schedopt.build import Form, form_of, ops_as_built
from schedopt.build.runtime_rules import PAIR
from schedopt.errors import NotApplicableError, OrderError
from schedopt.instance import Backward, Instance, Objective
from schedopt.opgraph import OpGraph, Stream
from schedopt.ops import Op, OpKind
from schedopt.schedule import Order, Schedule
from schedopt.simulate import best_times, dispatch, simulate, with_memory_edges


@dataclass(frozen=True, slots=True)
class Start:
    """A schedule to begin with.

    ``published`` says whether it is the hand-made schedule itself, and not a
    translation of it (a whole backward run as I and W).
    """

    name: str
    schedule: Schedule
    published: bool


def starts(instance: Instance, graph: OpGraph, objective: Objective) -> Iterator[Start]:
    """Schedules from hand-made ones that fit, and one that fits if any does."""
    own = form_of(instance)
    for baseline in BASELINES.values():
        found = _start(baseline, instance, graph, own, objective)
        if found is not None:
            yield found
    serial = one_by_one(instance, graph)
    if serial is not None:
        yield Start("one microbatch at a time", serial, published=False)


def _start(
    baseline: Baseline,
    instance: Instance,
    graph: OpGraph,
    own: Form,
    objective: Objective,
) -> Start | None:
    """A baseline's schedule on the instance's own graph; None if there is none."""
    try:
        run = _run_in_form(baseline, instance, own)
        if run is None:
            return None
        published = run.form.backward is own.backward or own.backward is Backward.CHOOSE
        if published:
            schedule = _on(graph, _named_as_built(run, own, graph), objective)
        else:
            schedule = _split(instance, graph, run.schedule, objective)
    except (NotApplicableError, OrderError):
        return None
    return Start(baseline.name, schedule, published) if _fits(schedule) else None


def _run_in_form(
    baseline: Baseline, instance: Instance, own: Form
) -> BaselineRun | None:
    """The baseline, if its stages are the instance's and its backwards can be run."""
    form = baseline.form(instance)
    if (form.placement, form.chunks) != (own.placement, own.chunks):
        return None
    if own.backward is Backward.WHOLE and form.backward is not Backward.WHOLE:
        return None
    run = run_baseline(baseline, instance)
    return run if run.derived.stages == instance.stages else None


def _on(graph: OpGraph, schedule: Schedule, objective: Objective) -> Schedule:
    """The same order on the instance's own graph."""
    if objective is Objective.MAKESPAN:
        return Schedule(graph, schedule.start)
    return best_times(
        graph, with_memory_edges(Schedule(graph, schedule.start)), objective
    )


def _named_as_built(run: BaselineRun, own: Form, graph: OpGraph) -> Schedule:
    """The run's schedule, with one op for I and W where the graph names it apart."""
    schedule = run.schedule
    if not (own.backward is Backward.CHOOSE and run.form.backward is Backward.SPLIT):
        return schedule
    start = {}
    for op, time in schedule.start.items():
        pair = op._replace(part=PAIR)
        start[pair if pair in graph.data else op] = time
    return Schedule(graph, start)


def _split(
    instance: Instance, graph: OpGraph, schedule: Schedule, objective: Objective
) -> Schedule:
    """A whole-backward order with every B run as I and, right after it, W."""
    sequences: dict[Stream, tuple[Op, ...]] = {}
    for stream, ops in schedule.order.sequences.items():
        parts = [part for op in ops if op.kind.is_compute for part in _parts(op)]
        if parts:
            sequences[stream] = tuple(ops_as_built(instance, parts))
    return best_times(graph, dispatch(graph, sequences), objective)


def _parts(op: Op) -> tuple[Op, ...]:
    if op.kind is OpKind.BACKWARD:
        return (
            op._replace(kind=OpKind.BACKWARD_INPUT),
            op._replace(kind=OpKind.BACKWARD_WEIGHT),
        )
    return (op,)


@dataclass(frozen=True, slots=True)
class _Way:
    """How a microbatch passes where it is alone.

    ``early`` are the R that run on the way down, ``split`` the I that run although the
    backward could be whole. With ``weights_last`` all W of a microbatch follow its last
    I. With ``close_recompute`` an early R comes before its F's transfer, and another
    one after that of its gradient.
    """

    early: Collection[Op]
    split: Collection[Op] = ()
    weights_last: bool = False
    close_recompute: bool = False


def one_by_one(instance: Instance, graph: OpGraph) -> Schedule | None:
    """Every microbatch alone, from its first forward to its last backward.

    Every op by itself, every backward whole where that is allowed: nothing is alive
    while an op runs but what must be. Curvature follows what makes its data; inversions
    (the first copy's, where one copy is to be chosen) and what ends a step come after
    the last microbatch. Close together if that fits; else, where several streams hold
    memory, one op at a time on all devices, with as little waiting as the limits need.
    It fits wherever any schedule of pipeline work without recomputation does, and with
    it almost always. Where some I or R take no time, another way can hold less, which
    is then tried; what fits only because memory is held for no time need not be found.
    """
    for way in _ways(instance, graph):
        found = _passing(way, instance, graph)
        if found is not None:
            return found
    return None


def _ways(instance: Instance, graph: OpGraph) -> Iterator[_Way]:
    """The usual way first; the others differ from it where ops take no time."""
    early = _worth_recomputing_early(graph)
    yield _Way(early)
    instant = {op for op, data in graph.data.items() if data.duration == 0}
    recomputed = any(op.kind is OpKind.RECOMPUTE for op in instant)
    inputs = {op for op in instant if op.kind is OpKind.BACKWARD_INPUT and not op.part}
    free = instance.backward is Backward.CHOOSE and not instance.runtime
    splits = [inputs, ()] if inputs and free else [()]
    for split in splits:
        for last, close in product((False, True), repeat=2):
            is_another = split or last or close
            if is_another and last <= bool(inputs) and close <= recomputed:
                yield _Way(early, split, last, close)


def _passing(way: _Way, instance: Instance, graph: OpGraph) -> Schedule | None:
    """Every microbatch alone in some way, if that fits."""
    chosen = instance.backward is Backward.CHOOSE
    split = {(op.step, op.stage, op.microbatch) for op in way.split}

    def is_left_out(op: Op) -> bool:
        if (op.step, op.stage, op.microbatch) in split and not op.part:
            return op.kind is OpKind.BACKWARD
        return _is_left_out(op, graph, chosen=chosen)

    present = [op for op in graph.ops if not is_left_out(op)]
    late = {op for op in present if op.kind is OpKind.RECOMPUTE and op not in way.early}

    def turn(op: Op) -> tuple[float, ...]:
        if op.kind in _BESIDE:
            return op.step, *_turn_beside(op, late, way)
        return op.step, *_turn(op, way)

    present.sort(key=turn)
    sequences: dict[Stream, list[Op]] = {}
    for op in present:
        for stream in graph.data[op].streams:
            sequences.setdefault(stream, []).append(op)
    order = Order({stream: tuple(ops) for stream, ops in sequences.items()})
    close = simulate(graph, order)
    if _fits(close):
        return close
    serial = _one_at_a_time(graph, present)
    if not _fits(serial):
        return None
    try:
        replayed = simulate(graph, with_memory_edges(serial))
    except OrderError:  # it fits only for what is held for no time
        return None
    return replayed if _fits(replayed) else None


def _worth_recomputing_early(graph: OpGraph) -> set[Op]:
    """The R whose activation is smaller than the checkpoint that it replaces."""
    gain: dict[Op, int] = {}
    for buffer in graph.buffers:
        for op in {buffer.maker, *buffer.users}:
            if op.kind is OpKind.RECOMPUTE:
                made = op == buffer.maker
                gain[op] = gain.get(op, 0) + (-buffer.size if made else buffer.size)
    return {op for op, size in gain.items() if size > 0}


def _is_left_out(op: Op, graph: OpGraph, *, chosen: bool) -> bool:
    """Whether it is an alternative to what is taken."""
    if op.kind is OpKind.INVERSION:
        return op.microbatch > 0 and graph.data[op].literal is not None
    if op.kind in (OpKind.BACKWARD_INPUT, OpKind.BACKWARD_WEIGHT):
        return chosen or bool(op.part)
    return bool(op.part) and op.kind not in _BESIDE


_BESIDE = (
    OpKind.CURVATURE_A,
    OpKind.CURVATURE_B,
    OpKind.SYNC_CURVATURE,
    OpKind.INVERSION,
    OpKind.REDUCE_GRAD,
    OpKind.PRECONDITION,
    OpKind.GATHER_GRAD,
    OpKind.STEP,
)
"""K-FAC work and what ends a step: from the third on in this order, after the rest."""


def _turn(op: Op, way: _Way) -> tuple[float, ...]:
    """Down the stages and back; R before the gradient comes, W right after I."""
    if op in way.early:
        return op.microbatch, 0, op.stage, 0.5 if way.close_recompute else 2
    match op.kind:
        case OpKind.FORWARD | OpKind.SEND_FORWARD:
            return op.microbatch, 0, op.stage, op.kind is OpKind.SEND_FORWARD
        case OpKind.RECOMPUTE:
            return op.microbatch, 1, -op.stage, _WITH_GRADIENT * way.close_recompute
        case OpKind.SEND_BACKWARD:  # to the stage before
            return op.microbatch, 1, 1 - op.stage, 1
        case OpKind.BACKWARD_WEIGHT:
            return op.microbatch, 1 + way.weights_last, -op.stage, 3
        case _:
            return op.microbatch, 1, -op.stage, 2


_WITH_GRADIENT = 1.2
"""Between the transfer of the gradient and the backward."""


def _turn_beside(op: Op, late: Collection[Op], way: _Way) -> tuple[float, ...]:
    """Curvature A right after F, or R, be it early or late; B after the backward."""
    match op.kind:
        case OpKind.CURVATURE_A:
            if op._replace(kind=OpKind.RECOMPUTE, part="") in late:
                after = 1 + way.close_recompute * (_WITH_GRADIENT - 1) * 2
                return op.microbatch, 1, -op.stage, after
            return op.microbatch, 0, op.stage, 3
        case OpKind.CURVATURE_B:
            return op.microbatch, 1, -op.stage, 4
        case _:
            return inf, _BESIDE.index(op.kind), op.stage, 0


def _one_at_a_time(graph: OpGraph, ops: Sequence[Op]) -> Schedule:
    start: dict[Op, int] = {}
    free = 0
    for op in ops:
        ready = [
            start[before] + graph.data[before].duration + lag
            for before, lag in graph.predecessors(op)
            if before in start
        ]
        start[op] = max([free, *ready])
        free = start[op] + graph.data[op].duration
    return Schedule(graph, start)


def _fits(schedule: Schedule) -> bool:
    return all(
        device.limit is None or peak <= device.limit
        for device, peak in zip(
            schedule.graph.devices, schedule.peak_memory, strict=True
        )
    )
