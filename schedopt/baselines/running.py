"""Running a hand-made schedule on an instance, at equal memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from weakref import WeakValueDictionary

from schedopt.baselines.base import Baseline, BaselineRun, Words
from schedopt.baselines.gaps import Room, held_by_device, words_with_gaps
from schedopt.baselines.levels import exceed_a_limit
from schedopt.build import (
    Form,
    build_graph,
    derive,
    in_microbatch_order,
    ops_as_built,
)
from schedopt.errors import InstanceError, NotApplicableError, OrderError
from schedopt.formats import with_runtime
from schedopt.instance import Instance
from schedopt.opgraph import OpGraph, Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.schedule import Order, Schedule
from schedopt.simulate import dispatch, simulate
from schedopt.verify import Rule, runtime_violations, violations

# Several schedules have the same form. A graph is shared for as long as some run of a
# comparison holds it, and the last ones a little longer; large graphs are not hoarded.
_graphs: WeakValueDictionary[Instance, OpGraph] = WeakValueDictionary()
_latest: deque[OpGraph] = deque(maxlen=2)


def run_baseline(baseline: Baseline, instance: Instance) -> BaselineRun:
    """The published form if it fits, else a capped form that does.

    Capped are first the schedule's own forms, from the largest down; where none fits,
    microbatches are left out of its words (``schedopt.baselines.gaps``). If nothing
    fits, the published form is returned with ``fits`` false.

    Raises
    ------
    NotApplicableError
        If the schedule does not exist for this instance; one line says why.
    """
    form = baseline.form(instance)
    derived = derive(instance, form)
    words = baseline.words(derived)  # before the graph: it may not apply
    if derived.runtime:
        return _under_rules(baseline, form, derived, words)
    return _run(baseline, form, derived, words)


def _under_rules(
    baseline: Baseline, form: Form, derived: Instance, words: Words
) -> BaselineRun:
    """The run where a runtime's rules hold, with microbatches in its order.

    Raises
    ------
    NotApplicableError
        If the runtime cannot execute the form, or the order.
    """
    try:
        derived = with_runtime(derived, derived.runtime)
        run = _run(baseline, form, derived, words)
    except (InstanceError, OrderError) as error:
        msg = f"the rules of {derived.runtime} exclude it: {error}"
        raise NotApplicableError(msg) from None
    schedule = in_microbatch_order(derived, run.schedule)
    broken = [
        *runtime_violations(derived.runtime, schedule.start),
        *(v for v in violations(run.graph, schedule.start) if v.rule != Rule.MEMORY),
    ]
    if broken:
        msg = f"the rules of {derived.runtime} exclude it: {broken[0].detail}"
        raise NotApplicableError(msg)
    return replace(run, schedule=schedule)


def _run(
    baseline: Baseline, form: Form, derived: Instance, words: Words
) -> BaselineRun:
    """The published form, or one that holds less, on a derived instance."""
    graph = _graph_of(derived)
    schedule = _replay(graph, _as_built(words, derived), derived.steps)
    cap = None
    fits = _fits(schedule)
    if not fits:
        capped = _of_family(baseline, derived, graph) or _with_gaps(
            baseline, derived, graph, words
        )
        if capped is not None:
            words, schedule = capped
            cap = max(held_by_device(words))
            fits = True
    return BaselineRun(
        baseline=baseline,
        form=form,
        derived=derived,
        graph=graph,
        schedule=schedule,
        cap=cap,
        fits=fits,
    )


def _graph_of(derived: Instance) -> OpGraph:
    graph = _graphs.get(derived)
    if graph is None:
        graph = _graphs[derived] = build_graph(derived)
        _latest.append(graph)
    return graph


_Found = tuple[Words, Schedule]


def _of_family(baseline: Baseline, derived: Instance, graph: OpGraph) -> _Found | None:
    """The largest member of the schedule's own family that fits."""
    if baseline.family is None:
        return None
    sizes = baseline.family.sizes(derived)

    def words_of(size: int) -> Words:
        assert baseline.family is not None
        words = baseline.family.words(derived, size)
        return _as_built(words, derived)

    fitting = _largest(sizes, lambda size: not exceed_a_limit(graph, words_of(size)))
    for size in reversed(sizes[: sizes.index(fitting) + 1] if fitting else ()):
        words = words_of(size)
        schedule = _replay(graph, words, derived.steps)
        if _fits(schedule):  # transfers may hold more than the words say
            return words, schedule
    return None


def _largest(sizes: range, fits: Callable[[int], bool]) -> int | None:
    """The largest size that fits, where all smaller ones do too."""
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        if fits(sizes[middle]):
            low = middle + 1
        else:
            high = middle
    return sizes[low - 1] if low else None


def _with_gaps(
    baseline: Baseline, derived: Instance, graph: OpGraph, published: Words
) -> _Found | None:
    """The published order with slots left empty until it fits."""
    make = baseline.with_gaps
    if make is None:
        return None

    def words_of(longer: Instance) -> Words:
        as_published = make is baseline.words and longer == derived
        words = published if as_published else make(longer)
        return _as_built(words, longer)

    room = Room(
        [None if d.limit is None else d.limit - d.static for d in graph.devices],
        [None] * len(graph.devices),
    )
    while True:
        words = words_with_gaps(words_of, derived, graph, room)
        if words is None:
            return None
        schedule = _replay(graph, words, derived.steps)
        if _fits(schedule):
            return words, schedule
        # What transfers hold shows in the replay only: leave out more slots.
        counts = _fewer(held_by_device(words), schedule)
        if counts is None:
            return None
        room = room._replace(counts=counts)


def _fewer(held: list[int], schedule: Schedule) -> list[int | None] | None:
    """How many microbatches to allow on each device after a replay that did not fit.

    An eighth less where a limit was exceeded; where that is no microbatch, one
    everywhere. None if there was no more than one everywhere.
    """
    over = [
        device.limit is not None and peak > device.limit
        for device, peak in zip(
            schedule.graph.devices, schedule.peak_memory, strict=True
        )
    ]
    if max(held) <= 1:
        return None
    if any(many and count <= 1 for many, count in zip(over, held, strict=True)):
        return [1] * len(held)
    return [
        count - max(1, count // 8) if many else count
        for many, count in zip(over, held, strict=True)
    ]


def _replay(graph: OpGraph, words: Words, steps: int) -> Schedule:
    """The words in every training step; all else as early as it can run beside them."""
    owners = _owners(graph)
    sequences = {
        Stream(StreamKind.COMPUTE, device): tuple(
            op
            for step in range(steps)
            for op in (
                *(op._replace(step=step) for op in word),
                *owners.get((step, device), ()),
            )
        )
        for device, word in enumerate(words)
        if word
    }
    if sum(map(len, sequences.values())) == len(graph.ops):
        return simulate(graph, Order(sequences))  # nothing to dispatch
    return simulate(graph, dispatch(graph, sequences))


def _owners(graph: OpGraph) -> dict[tuple[int, int], list[Op]]:
    """Who runs the inversions that one copy of a stage runs, by step and device.

    The copies take turns. Words say nothing of K-FAC: these come after all of a step's.
    """
    owners: dict[tuple[int, int], list[Op]] = {}
    optional: dict[str, Op] = {
        data.literal: op
        for op, data in graph.data.items()
        if data.literal is not None and op.kind is OpKind.INVERSION
    }
    for number, choice in enumerate(
        c for c in graph.choices if c.literals[0] in optional
    ):
        op = optional[choice.literals[number % len(choice.literals)]]
        owners.setdefault((op.step, graph.data[op].device), []).append(op)
    return owners


def _as_built(words: Words, instance: Instance) -> Words:
    """The ops that the instance's graph has: R right before the backward, if any."""
    stages = instance.recompute
    if stages:
        words = tuple(
            tuple(op for work in word for op in _recomputed_first(work, stages))
            for word in words
        )
    if not instance.runtime:
        return words
    return tuple(tuple(ops_as_built(instance, word)) for word in words)


def _recomputed_first(op: Op, stages: frozenset[int]) -> tuple[Op, ...]:
    backward = op.kind in (OpKind.BACKWARD, OpKind.BACKWARD_INPUT)
    if backward and op.stage in stages:
        return (op._replace(kind=OpKind.RECOMPUTE), op)
    return (op,)


def _fits(schedule: Schedule) -> bool:
    return all(
        device.limit is None or peak <= device.limit
        for device, peak in zip(
            schedule.graph.devices, schedule.peak_memory, strict=True
        )
    )
