"""Where ops may be put in the order of their microbatches without losing an optimum."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import chain, count

from schedopt.opgraph import Buffer, OpGraph
from schedopt.ops import Op, OpKind

Slot = tuple[Op, ...]
"""The alternatives of one role of one microbatch; exactly one of them is present."""

Microbatch = tuple[int, int]
"""(training step, microbatch)."""

ENTRY_KINDS = frozenset({OpKind.BACKWARD, OpKind.BACKWARD_INPUT})
"""What begins a backward: the gradient for the previous stage leaves at its end."""

Mark = Callable[[Op], object]
"""What else must be equal in ops that are exchanged, such as limits on their times."""


def fifo_classes(
    graph: OpGraph, mark: Mark | None = None
) -> tuple[tuple[Slot, ...], ...]:
    """Sequences of slots that may be required to start in this order.

    Microbatches are interchangeable if exchanging their numbers maps the op graph onto
    itself: same durations, streams, lags and buffers, and no edge, buffer or choice
    between different microbatches. Then calling the k-th start of each (stage, kind)
    the k-th of them keeps every precedence (the k-th smallest start of a successor is
    no earlier than the k-th smallest end of its predecessor) and every memory level
    (levels depend on counts only). B and I form one class; W of a choice stands in
    none, since which microbatches are split differs. Other choices forbid all this:
    what is recomputed, say, belongs to one microbatch (see ``_forms_are_free``).

    Parameters
    ----------
    mark
        Where ops are limited by more than the graph says (``cpsat.projection``), what
        interchangeable ops must agree in besides.
    """
    classes = []
    for group in equal_microbatches(graph, mark):
        if len(group) < 2 or not _forms_are_free(graph, group[0]):
            continue
        roles: dict[object, dict[Microbatch, list[Op]]] = {}
        for microbatch in group:
            for op in graph.microbatches[microbatch]:
                role = _role(graph, op)
                if role is not None:
                    roles.setdefault(role, {}).setdefault(microbatch, []).append(op)
        classes += [
            tuple(tuple(slots[microbatch]) for microbatch in group)
            for slots in roles.values()
        ]
    return tuple(classes)


def equal_microbatches(
    graph: OpGraph, mark: Mark | None = None
) -> tuple[tuple[Microbatch, ...], ...]:
    """Groups of interchangeable microbatches of a step; see ``fifo_classes``."""
    return _equal(graph) if mark is None else _equal_by(graph, mark)


@lru_cache(maxsize=4)
def _equal(graph: OpGraph) -> tuple[tuple[Microbatch, ...], ...]:
    return _equal_by(graph, None)


def _equal_by(graph: OpGraph, mark: Mark | None) -> tuple[tuple[Microbatch, ...], ...]:
    tangled = _tangled(graph)
    number = _literal_numbers(graph)
    name = {op: _name(op) for op in graph.ops}
    lines: dict[Microbatch, list[object]] = {}
    for microbatch, ops in graph.microbatches.items():
        lines[microbatch] = [
            (
                name[op],
                graph.data[op].duration,
                graph.data[op].streams,
                number.get(graph.data[op].literal),
                frozenset([(name[after], lag) for after, lag in graph.successors(op)]),
                None if mark is None else mark(op),
            )
            for op in ops
        ]
    for buffer in graph.buffers:
        names = tuple([name[op] for op in (buffer.maker, *buffer.users)])
        lines[_microbatch(buffer.maker)].append((buffer.device, buffer.size, names))
    ops_of = _ops_of_literals(graph)
    for choice in graph.choices:
        of_choice = {_microbatch(op) for n in choice.literals for op in ops_of[n]}
        for microbatch in of_choice:
            lines[microbatch].append({number[name] for name in choice.literals})
    groups: dict[tuple[object, ...], list[Microbatch]] = {}
    for microbatch, line in lines.items():
        if microbatch not in tangled:
            signature = (microbatch[0], *map(_frozen, line))
            groups.setdefault(signature, []).append(microbatch)
    return tuple(tuple(sorted(group)) for group in groups.values())


def _name(op: Op) -> tuple[OpKind, int, str]:
    """What an op is called within its microbatch."""
    return op.kind, op.stage, op.part


def _frozen(part: object) -> object:
    return frozenset(part) if isinstance(part, set) else part


def _ops_of_literals(graph: OpGraph) -> dict[str, list[Op]]:
    found: dict[str, list[Op]] = {name: [] for name in graph.literals}
    for op, data in graph.data.items():
        if data.literal is not None:
            found[data.literal].append(op)
    return found


def _literal_numbers(graph: OpGraph) -> dict[str | None, int | None]:
    """Each literal's place among those of its microbatch; None if it has no ops."""
    found: dict[str | None, int | None] = dict.fromkeys(graph.literals)
    for ops in graph.microbatches.values():
        fresh = count()
        for op in ops:
            literal = graph.data[op].literal
            if literal is not None and found[literal] is None:
                found[literal] = next(fresh)
    return found


def _microbatch(op: Op) -> Microbatch:
    return (op.step, op.microbatch)


def _role(graph: OpGraph, op: Op) -> object | None:
    """The class of ops that ``op`` may be relabelled within; None if it may not."""
    if graph.data[op].literal is None:
        return (op.stage, op.kind, op.part)
    return (op.stage, "backward") if op.kind in ENTRY_KINDS else None


def _tangled(graph: OpGraph) -> set[Microbatch]:
    """Microbatches that share an edge, a buffer or a choice with another one."""
    ops_of = _ops_of_literals(graph)
    sharing: dict[str, set[Microbatch]] = {name: set() for name in graph.literals}
    for choice in graph.choices:
        here = {_microbatch(op) for name in choice.literals for op in ops_of[name]}
        for name in choice.literals:
            sharing[name] |= here
    found = set().union(*(group for group in sharing.values() if len(group) > 1))
    joined = ((edge.before, edge.after) for edge in graph.edges)
    used = ((b.maker, user) for b in graph.buffers for user in b.users)
    for op, other in chain(joined, used):
        if op.microbatch != other.microbatch or op.step != other.step:
            found |= {_microbatch(op), _microbatch(other)}
    return found


def _forms_are_free(graph: OpGraph, microbatch: Microbatch) -> bool:
    """Whether each of the microbatch's choices is between backward forms of a stage.

    A form then belongs to the k-th backward of its stage, whichever microbatch that is:
    the alternatives hold the same streams (so they end in the order in which they
    start), wait and are waited for alike, and whether a buffer of other ops lives does
    not hang on the form. W follows its own I only.
    """
    family: dict[int, dict[str, list[Op]]] = {}
    for op in graph.microbatches[microbatch]:
        literal = graph.data[op].literal
        if literal is not None:
            family.setdefault(op.stage, {}).setdefault(literal, []).append(op)
    literals = [name for forms in family.values() for name in forms]
    if len(set(literals)) < len(literals):
        return False  # one decision for several stages
    choices = [set(c.literals) for c in graph.choices]
    for forms in family.values():
        if [c for c in choices if c & set(forms)] != [set(forms)]:
            return False
        if not _forms_agree(graph, forms):
            return False
    buffers = [b for b in graph.buffers if _microbatch(b.maker) == microbatch]
    return all(
        _buffers_agree(graph, forms, buffers) for forms in family.values() if forms
    )


def _forms_agree(graph: OpGraph, forms: dict[str, list[Op]]) -> bool:
    """Whether a stage's alternatives are B, or I and W, and stand in the same place."""
    places = set()
    for ops in forms.values():
        entries = [op for op in ops if op.kind in ENTRY_KINDS]
        if len(entries) != 1:
            return False
        (entry,) = entries
        rest = [op for op in ops if op != entry]
        for op in rest:
            alone = [before for before, _ in graph.predecessors(op)] == [entry]
            if op.kind is not OpKind.BACKWARD_WEIGHT or not alone:
                return False
            if any(True for _ in graph.successors(op)):
                return False
        after = {(op, lag) for op, lag in graph.successors(entry) if op not in rest}
        before = frozenset(graph.predecessors(entry))
        places.add((graph.data[entry].streams, before, frozenset(after)))
    return len(places) == 1


def _buffers_agree(
    graph: OpGraph, forms: dict[str, list[Op]], buffers: list[Buffer]
) -> bool:
    """Whether every count of a stage's starts and ends says which buffers are alive."""
    made: dict[Op, list[object]] = {
        op: [] for ops in forms.values() for op in ops if op.kind in ENTRY_KINDS
    }
    for buffer in buffers:
        own = {graph.data[user].literal for user in buffer.users} & set(forms)
        maker = graph.data[buffer.maker].literal
        weights = [u for u in buffer.users if u.kind is OpKind.BACKWARD_WEIGHT]
        if maker in forms:
            if buffer.maker not in made:
                return False  # made by a W
            if own == {maker} and weights == list(buffer.users):
                continue  # from I to its W: the two stay together
            made[buffer.maker].append((buffer.device, buffer.size, buffer.users))
        if not own:
            continue
        others = [u for u in buffer.users if graph.data[u].literal not in forms]
        if maker in forms or own != set(forms) or (weights and others):
            return False
    return len({tuple(sorted(map(repr, found))) for found in made.values()}) == 1
