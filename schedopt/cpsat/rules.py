"""The rules of the problem, one function each; the tuple ``PROBLEM`` is the model.

``REDUNDANT`` rules follow from the others and help the search; ``SYMMETRY`` rules keep
at least one optimum. Objectives tie ``x.objective`` to the schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from itertools import pairwise

from ortools.sat.python import cp_model

from schedopt.cpsat.variables import HintOf, Variables
from schedopt.instance import Objective
from schedopt.opgraph import Buffer, OpGraph, StreamKind
from schedopt.ops import Op
from schedopt.structure import Slot, fifo_classes

Rule = Callable[[cp_model.CpModel, Variables], None]


def one_alternative_of_each_choice(model: cp_model.CpModel, x: Variables) -> None:
    """Exactly one literal of each choice is true."""
    for choice in x.scope.graph.choices:
        model.add_exactly_one(x.literal[name] for name in choice.literals)


def one_op_at_a_time(model: cp_model.CpModel, x: Variables) -> None:
    """A stream runs one op at a time."""
    for ops in x.scope.graph.streams.values():
        model.add_no_overlap([x.op[op].interval for op in ops])


def await_predecessors(model: cp_model.CpModel, x: Variables) -> None:
    """An op starts no earlier than each present predecessor's end plus the lag."""
    for before, after, lag in x.scope.graph.edges:
        rule = model.add(x.op[after].start >= x.op[before].end + lag)
        present = x.present(before) + x.present(after)
        if present:
            rule.only_enforce_if(present)


def fit_in_memory(model: cp_model.CpModel, x: Variables) -> None:
    """The buffers alive on a device, and its static memory, stay within its limit."""
    for room, buffers in _limited_buffers(x):
        if room < 0:
            model.add_bool_or([])  # the static memory alone is too much
            continue
        model.add_cumulative(
            [_lifetime(model, x, buffer) for buffer in buffers],
            [buffer.size for buffer in buffers],
            room,
        )


def fit_in_memory_by_levels(model: cp_model.CpModel, x: Variables) -> None:
    """The same rule as ``fit_in_memory``, as a reservoir of allocations and releases.

    It propagates more where memory is tight, and costs more elsewhere; it needs buffers
    with one maker and one user, both present.
    """
    for room, buffers in _limited_buffers(x):
        if room < 0:
            model.add_bool_or([])
            continue
        change: dict[tuple[Op, bool], int] = {}
        for buffer in buffers:
            (user,) = buffer.users
            start, end = (buffer.maker, False), (user, True)
            change[start] = change.get(start, 0) + buffer.size
            change[end] = change.get(end, 0) - buffer.size
        model.add_reservoir_constraint(
            [x.op[op].end if at_end else x.op[op].start for op, at_end in change],
            list(change.values()),
            0,
            room,
        )


_MOST_CHANGES = 100
"""Memory changes of a device up to which levels pay; precedences are quadratic."""


def levels_apply(graph: OpGraph) -> bool:
    """Whether ``fit_in_memory_by_levels`` can state the memory rule, and pays."""
    changes: dict[int, set[tuple[Op, bool]]] = {}
    for buffer in graph.buffers:
        ops = (buffer.maker, *buffer.users)
        if len(ops) != 2 or any(graph.data[op].literal is not None for op in ops):
            return False
        ends = changes.setdefault(buffer.device, set())
        ends |= {(buffer.maker, False), (buffer.users[0], True)}
    return all(len(ends) <= _MOST_CHANGES for ends in changes.values())


def microbatches_in_order(model: cp_model.CpModel, x: Variables) -> None:
    """Interchangeable microbatches pass each (stage, kind) in their numbers' order.

    See ``schedopt.structure.fifo_classes`` for why this loses no optimum.
    """
    for slots in _in_order(x):
        for slot, following in pairwise(slots):
            for op in slot:
                for other in following:
                    _keep_order(model, x, op, other)


def bounded_in_flight(model: cp_model.CpModel, x: Variables) -> None:
    """Of equal buffers made and released in order, limit // size are alive at most.

    What one op allocates is alive in full until its first user's end, and what later
    users still need until theirs; each of these sizes gives a capacity K, and the maker
    K places on waits for that user.
    """
    graph = x.scope.graph
    position = {
        slot[0]: (slots, index)
        for slots in _in_order(x)
        for index, slot in enumerate(slots)
        if len(slot) == 1
    }
    for maker, uses in _uses(graph, position).items():
        slots, index = position[maker]
        memory = graph.devices[graph.data[maker].device]
        if memory.limit is None:
            continue
        for user, size in uses:
            capacity = (memory.limit - memory.static) // size
            if index + capacity < len(slots):
                later = slots[index + capacity][0]
                model.add(x.op[later].start >= x.op[user].end)


def makespan_is_last_end(model: cp_model.CpModel, x: Variables) -> None:
    """The objective is no less than any present op's end plus its tail."""
    for op, var in x.op.items():
        rule = model.add(x.objective >= var.end + x.scope.tail[op])
        if var.literal is not None:
            rule.only_enforce_if(var.literal)


def device_span_is_longest(model: cp_model.CpModel, x: Variables) -> None:
    """The objective is no less than the span of any device's compute stream."""
    for stream, ops in x.scope.graph.streams.items():
        if stream.kind is not StreamKind.COMPUTE:
            continue
        first = x.auxiliary(f"first start {stream}", _first_start(ops))
        last = x.auxiliary(f"last end {stream}", _last_end(x, ops))
        for op in ops:
            for rule in (
                model.add(first <= x.op[op].start),
                model.add(last >= x.op[op].end),
            ):
                present = x.present(op)
                if present:
                    rule.only_enforce_if(present)
        model.add(x.objective >= last - first)


PROBLEM: tuple[Rule, ...] = (
    one_alternative_of_each_choice,
    one_op_at_a_time,
    await_predecessors,
    fit_in_memory,
)
REDUNDANT: tuple[Rule, ...] = (bounded_in_flight,)
SYMMETRY: tuple[Rule, ...] = (microbatches_in_order,)
OBJECTIVES: Mapping[Objective, Rule] = {
    Objective.MAKESPAN: makespan_is_last_end,
    Objective.DEVICE_SPAN: device_span_is_longest,
}


def _in_order(x: Variables) -> tuple[tuple[Slot, ...], ...]:
    """The slots that may be required to start in order.

    A scope limits its ops by heads and tails that its graph need not imply; only
    microbatches that agree in them too are interchangeable.
    """
    scope = x.scope
    if scope.is_in_order:
        return fifo_classes(scope.graph)
    return fifo_classes(scope.graph, lambda op: (scope.head[op], scope.tail[op]))


def _limited_buffers(x: Variables) -> list[tuple[int, list[Buffer]]]:
    """Room and buffers of each device that has a limit and could exceed it."""
    per_device: dict[int, list[Buffer]] = {}
    for buffer in x.scope.graph.buffers:
        per_device.setdefault(buffer.device, []).append(buffer)
    limited = []
    for device, memory in enumerate(x.scope.graph.devices):
        if memory.limit is None:
            continue
        buffers = per_device.get(device, [])
        room = memory.limit - memory.static
        if sum(buffer.size for buffer in buffers) > room:
            limited.append((room, buffers))
    return limited


def _uses(graph: OpGraph, ordered: Container[Op]) -> dict[Op, list[tuple[Op, int]]]:
    """For each maker its users, and how much stays alive until that user's end.

    Only makers and users that pass in order, on the maker's own device, are listed.
    """
    held: dict[Op, dict[Op, int]] = {}
    for buffer in graph.buffers:
        on_device = buffer.device == graph.data[buffer.maker].device
        if len(buffer.users) != 1 or not on_device or buffer.size == 0:
            continue
        (user,) = buffer.users
        if buffer.maker in ordered and user in ordered:
            sizes = held.setdefault(buffer.maker, {})
            sizes[user] = sizes.get(user, 0) + buffer.size
    return {
        maker: [
            (
                user,
                sum(
                    size
                    for other, size in sizes.items()
                    if other == user or graph.digraph.has_edge(user, other)
                ),
            )
            for user in sizes
        ]
        for maker, sizes in held.items()
    }


def _lifetime(
    model: cp_model.CpModel, x: Variables, buffer: Buffer
) -> cp_model.IntervalVar:
    """The interval from the maker's start to the last present user's end."""
    maker = x.op[buffer.maker]
    users = [x.op[user] for user in buffer.users]
    certain = all(user.literal is None for user in users)
    closed: cp_model.LinearExpr | cp_model.IntVar
    if len(users) == 1 and certain:
        closed = users[0].end
    else:
        variable = x.auxiliary(f"end of {buffer.name}", _last_use(x, buffer))
        # Without present users it lives to its maker's end.
        opened = model.add(variable >= maker.end)
        if maker.literal is not None:
            opened.only_enforce_if(maker.literal)
        for user in users:
            rule = model.add(variable >= user.end)
            if user.literal is not None:
                rule.only_enforce_if(user.literal)
        closed = variable
    length = x.auxiliary(f"life of {buffer.name}", _life(x, buffer))
    if maker.literal is None:
        return model.new_interval_var(maker.start, length, closed, buffer.name)
    # An absent buffer's length is free; nothing else reads it.
    return model.new_optional_interval_var(
        maker.start, length, closed, maker.literal, buffer.name
    )


def _keep_order(model: cp_model.CpModel, x: Variables, before: Op, after: Op) -> None:
    """``after`` starts no earlier than ``before`` ends, if they share a stream."""
    data = x.scope.graph.data
    shared = set(data[before].streams) & set(data[after].streams)
    moment = x.op[before].end if shared else x.op[before].start
    rule = model.add(x.op[after].start >= moment)
    present = x.present(before) + x.present(after)
    if present:
        rule.only_enforce_if(present)


def _last_use(x: Variables, buffer: Buffer) -> HintOf:
    def hint(start: Mapping[Op, int]) -> int:
        ends = [start[op] + x.op[op].duration for op in buffer.users if op in start]
        if buffer.maker in start:
            ends.append(start[buffer.maker] + x.op[buffer.maker].duration)
        return max(ends, default=0)

    return hint


def _life(x: Variables, buffer: Buffer) -> HintOf:
    last_use = _last_use(x, buffer)

    def hint(start: Mapping[Op, int]) -> int:
        if buffer.maker not in start:
            return 0
        return last_use(start) - start[buffer.maker]

    return hint


def _first_start(ops: tuple[Op, ...]) -> HintOf:
    return lambda start: min((start[op] for op in ops if op in start), default=0)


def _last_end(x: Variables, ops: tuple[Op, ...]) -> HintOf:
    return lambda start: max(
        (start[op] + x.op[op].duration for op in ops if op in start), default=0
    )
