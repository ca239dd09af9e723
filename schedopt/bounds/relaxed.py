"""Graphs with choices, relaxed to graphs without: whatever is chosen can do no better.

Where a microbatch's backward at a stage is either B or I and W, take I and W with the
shorter of what both forms need: I' = min(I, B) and W' = min(W, B - I'). A schedule of
the choice becomes one of the relaxation: a B is cut into I' and, right after it, W';
the gradient leaves no later, what I frees is freed no later, and what I would allocate
for W is left out. So every bound of the relaxation bounds the choice. Where B is no
shorter than I and W together, and I allocates nothing, the relaxation is the split form
itself.
"""

from __future__ import annotations

from schedopt.opgraph import OpData, OpGraph
from schedopt.ops import Op, OpKind


def without_choices(graph: OpGraph) -> OpGraph | None:
    """The graph itself if it has no choices, else its relaxation if there is one."""
    if not graph.choices:
        return graph
    split: list[str] = []
    data: dict[Op, OpData] = {}
    by_literal: dict[str, list[Op]] = {}
    for op, found in graph.data.items():
        if found.literal is not None:
            by_literal.setdefault(found.literal, []).append(op)
    for choice in graph.choices:
        forms = {
            frozenset(op.kind for op in by_literal.get(name, ())): name
            for name in choice.literals
        }
        if set(forms) != {_WHOLE, _SPLIT} or len(choice.literals) != 2:
            return None
        wholes = by_literal[forms[_WHOLE]]
        parts = {op[:3]: op for op in by_literal[forms[_SPLIT]]}
        if not len(parts) == len(by_literal[forms[_SPLIT]]) == 2 * len(wholes):
            return None
        for whole in wholes:  # several where one decision is for several stages
            names = {kind: (kind, *whole[1:3]) for kind in _SPLIT}
            if not parts.keys() >= set(names.values()):
                return None
            pair = {kind: parts[name] for kind, name in names.items()}
            data |= _shortened(graph, whole, pair)
        split.append(forms[_SPLIT])
    chosen = graph.select(split)
    digraph = chosen.digraph.copy()
    for op, shorter in data.items():
        digraph.nodes[op]["data"] = shorter
    buffers = tuple(
        buffer
        for buffer in chosen.buffers
        if buffer.maker.kind is not OpKind.BACKWARD_INPUT
    )
    return OpGraph(digraph, buffers, (), graph.devices, graph.units)


_WHOLE = frozenset({OpKind.BACKWARD})
_SPLIT = frozenset({OpKind.BACKWARD_INPUT, OpKind.BACKWARD_WEIGHT})


def _shortened(graph: OpGraph, whole: Op, parts: dict[OpKind, Op]) -> dict[Op, OpData]:
    """I and W with no more work than either form needs."""
    first, second = parts[OpKind.BACKWARD_INPUT], parts[OpKind.BACKWARD_WEIGHT]
    longest = graph.data[whole].duration
    one, two = graph.data[first], graph.data[second]
    duration = min(one.duration, longest)
    rest = min(two.duration, longest - duration)
    return {
        first: one._replace(duration=duration, literal=None),
        second: two._replace(duration=rest, literal=None),
    }
