"""A runtime's rules in the op graph's own terms, so that nothing above knows runtimes.

Each rule changes the graph that the pipeline builder makes: durations, ops that become
one, literals that become one, precedences. What a runtime can never execute is refused
where instances are read (``schedopt.formats.instance_runtime``) and not looked at here.

**Microbatches in order.** Where all microbatches are equal and no form of backward is
chosen for several stages at once, a runtime's order of microbatches costs nothing: any
schedule can be renamed to keep it (docs/problem.md). No precedence is added then, as it
would hide that the microbatches are equal; schedules are renamed when they are found
(``schedopt.build.renaming``). Elsewhere precedences keep the microbatches in the order
of their numbers, which is stricter than *one* order: the user numbers them. So it is
with the last stage of DeepSpeed, where F and B of one microbatch stand together: a
precedence has to say which microbatch comes next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations, pairwise

import networkx as nx

from schedopt.build import pipeline
from schedopt.instance import Backward, Instance
from schedopt.opgraph import Buffer, Choice, OpData, OpGraph
from schedopt.ops import Op, OpKind
from schedopt.runtimes import (
    FirstStage,
    Forms,
    MicrobatchOrder,
    Recompute,
    RuntimeProfile,
    profile_of,
)

ENTRIES = (OpKind.BACKWARD, OpKind.BACKWARD_INPUT)
PAIR = "I+W"
"""Part of the op that is I and W of stage 0 where a whole B is an alternative to it."""


def ruled_graph(instance: Instance) -> OpGraph:
    """The op graph of an instance with a runtime: no schedule of it breaks its rules.

    Only where equal microbatches may be renamed, their order is not in the graph.
    """
    profile = profile_of(instance.runtime)
    graph = pipeline.build_graph(_with_costs(instance, profile))
    draft = _Draft(graph)
    if profile.recompute is Recompute.IN_WHOLE and instance.recompute:
        _recompute_inside(draft, instance, profile)
    if profile.first_stage is FirstStage.ADJACENT:
        _join_first_stage(draft, instance)
    if instance.backward is Backward.CHOOSE:
        _share_forms(draft, profile)
    for before, after in _order_edges(draft, instance, profile):
        draft.edges.setdefault((before, after), 0)
    return draft.graph()


def has_equal_microbatches(instance: Instance) -> bool:
    """Whether all microbatches cost the same."""
    return len(set(instance.microbatch_scale)) <= 1


def ops_as_built(instance: Instance, ops: Iterable[Op]) -> Iterator[Op]:
    """A sequence of ordinary ops by the ops that the instance's graph has for them.

    R is part of the backward where the runtime recomputes inside it; I and W of stage 0
    are one op where the runtime needs them adjacent.
    """
    if not instance.runtime:
        yield from ops
        return
    profile = profile_of(instance.runtime)
    inside = profile.recompute is Recompute.IN_WHOLE
    joined = profile.first_stage is FirstStage.ADJACENT
    part = _pair_part(instance)
    for op in ops:
        if inside and op.kind is OpKind.RECOMPUTE:
            continue
        if joined and op.stage == 0 and op.kind is OpKind.BACKWARD_WEIGHT:
            continue
        if joined and op.stage == 0 and op.kind is OpKind.BACKWARD_INPUT:
            yield op._replace(kind=OpKind.BACKWARD, part=part)
        else:
            yield op


class _Draft:
    """An op graph that is being changed."""

    def __init__(self, graph: OpGraph) -> None:
        self.data: dict[Op, OpData] = dict(graph.data)
        self.edges = {(before, after): lag for before, after, lag in graph.edges}
        self.buffers = list(graph.buffers)
        self.choices = list(graph.choices)
        self._base = graph

    def graph(self) -> OpGraph:
        digraph: nx.DiGraph[Op] = nx.DiGraph()
        digraph.add_nodes_from((op, {"data": data}) for op, data in self.data.items())
        digraph.add_edges_from(
            (before, after, {"lag": lag}) for (before, after), lag in self.edges.items()
        )
        return OpGraph(
            digraph,
            tuple(self.buffers),
            tuple(self.choices),
            self._base.devices,
            self._base.units,
        )

    def ops(self, kinds: Iterable[OpKind], stage: int | None = None) -> list[Op]:
        """The ops of some kinds, in canonical order."""
        wanted = frozenset(kinds)
        return [
            op
            for op in self.data
            if op.kind in wanted and (stage is None or op.stage == stage)
        ]

    def remove(self, gone: set[Op]) -> None:
        """Take ops out, with their edges and all that their buffers say of them."""
        self.data = {op: data for op, data in self.data.items() if op not in gone}
        self.edges = {
            pair: lag for pair, lag in self.edges.items() if not gone.intersection(pair)
        }
        self.buffers = [
            buffer._replace(users=tuple(u for u in buffer.users if u not in gone))
            for buffer in self.buffers
            if buffer.maker not in gone
        ]


# -- costs ------------------------------------------------------------------------


def _with_costs(instance: Instance, profile: RuntimeProfile) -> Instance:
    """The instance with stage 0 as it costs there; the runtime itself is left out.

    Where I does nothing on stage 0, all of the backward's work is in W, nothing of the
    activation is freed before W ends, and I makes no gradient.
    """
    stages = instance.stages
    if (
        profile.first_stage is FirstStage.ALL_IN_WEIGHT
        and instance.backward is not Backward.WHOLE
    ):
        first = replace(
            stages[0],
            backward_input=0,
            backward_weight=stages[0].whole_backward,
            backward=stages[0].whole_backward,
            activation_until_input=0,
            input_gradient=0,
        )
        stages = (first, *stages[1:])
    return replace(instance, stages=stages, runtime="")


# -- ops that become one ----------------------------------------------------------


def _recompute_inside(
    draft: _Draft, instance: Instance, profile: RuntimeProfile
) -> None:
    """R becomes the first part of the op that needs it.

    That is B, and on stage 0 W where W is the whole backward. What R makes is made by
    that op, and the checkpoint is kept to its end: during R both are alive, so the
    highest level is that of R directly before B.
    """
    in_weight = profile.first_stage is FirstStage.ALL_IN_WEIGHT
    _keep_whole(draft, profile.whole_only(instance.recompute))
    inside = {
        recompute: _runs_inside(draft, recompute, in_weight)
        for recompute in draft.ops([OpKind.RECOMPUTE])
    }
    for recompute, ops in inside.items():
        extra = draft.data[recompute].duration
        for op in ops:
            data = draft.data[op]
            draft.data[op] = data._replace(duration=data.duration + extra)
    _bypass(draft, list(inside))
    buffers: list[Buffer] = []
    for buffer in draft.buffers:
        if buffer.maker in inside:
            makers = inside[buffer.maker]
            buffers += [buffer._replace(maker=op, users=(op,)) for op in makers]
        else:
            users = (op for user in buffer.users for op in inside.get(user, [user]))
            buffers.append(buffer._replace(users=tuple(dict.fromkeys(users))))
    draft.buffers = buffers
    draft.remove(set(inside))


def _runs_inside(draft: _Draft, recompute: Op, in_weight: bool) -> list[Op]:
    """The ops, each an alternative to the other, that R is the first part of."""
    kinds = [OpKind.BACKWARD]
    if in_weight and recompute.stage == 0:
        kinds.append(OpKind.BACKWARD_WEIGHT)
    found = [recompute._replace(kind=kind) for kind in kinds]
    return [op for op in found if op in draft.data]


def _bypass(draft: _Draft, ops: list[Op]) -> None:
    """What waits for an op waits for what the op waits for, too."""
    wanted = set(ops)
    before: dict[Op, list[tuple[Op, int]]] = {}
    after: dict[Op, list[tuple[Op, int]]] = {}
    for (one, other), lag in draft.edges.items():
        if other in wanted:
            before.setdefault(other, []).append((one, lag))
        if one in wanted:
            after.setdefault(one, []).append((other, lag))
    for op in ops:
        for one, lag in before.get(op, ()):
            for other, more in after.get(op, ()):
                pair = (one, other)
                draft.edges[pair] = max(draft.edges.get(pair, 0), lag + more)


def _keep_whole(draft: _Draft, stages: frozenset[int]) -> None:
    """Leave no choice of form at some stages: their backward is whole."""
    names = {
        data.literal
        for op, data in draft.data.items()
        if op.stage in stages and op.kind in (*ENTRIES, OpKind.BACKWARD_WEIGHT)
    } - {None}
    draft.choices = [c for c in draft.choices if not names.intersection(c.literals)]
    draft.remove(
        {
            op
            for op, data in draft.data.items()
            if data.literal in names and op.kind is not OpKind.BACKWARD
        }
    )
    for op, data in draft.data.items():
        if data.literal in names:
            draft.data[op] = data._replace(literal=None)


def _pair_part(instance: Instance) -> str:
    return PAIR if instance.backward is Backward.CHOOSE else ""


def _join_first_stage(draft: _Draft, instance: Instance) -> None:
    """I and W of stage 0 become one op: a B that takes as long as both together.

    Nothing but W waits for I on stage 0, and no other op stands between the two, so the
    one op loses nothing in time. It holds what I or W holds from its start to its end.
    Level by level that is more than the two hold while W runs, but no more than they
    hold while I runs, and no other op of the device starts in between: the same orders
    fit. (Incoming transfers that hold buffers may start in between; there the one op is
    the stricter.)
    """
    part = _pair_part(instance)
    new: dict[Op, Op] = {}
    data: dict[Op, OpData] = {}
    for op, given in draft.data.items():
        if op.stage or op.kind not in (OpKind.BACKWARD_INPUT, OpKind.BACKWARD_WEIGHT):
            data[op] = given
            continue
        pair = op._replace(kind=OpKind.BACKWARD, part=part)
        new[op] = pair
        known = data.get(pair)
        duration = given.duration + (0 if known is None else known.duration)
        data[pair] = given._replace(duration=duration)
    draft.data = data
    edges: dict[tuple[Op, Op], int] = {}
    for (before, after), lag in draft.edges.items():
        key = (new.get(before, before), new.get(after, after))
        if key[0] != key[1]:
            edges[key] = max(edges.get(key, 0), lag)
    draft.edges = edges
    draft.buffers = [
        buffer._replace(
            maker=new.get(buffer.maker, buffer.maker),
            users=tuple(dict.fromkeys(new.get(user, user) for user in buffer.users)),
        )
        for buffer in draft.buffers
    ]


# -- literals that become one -----------------------------------------------------


def _share_forms(draft: _Draft, profile: RuntimeProfile) -> None:
    """One decision per microbatch or per schedule, where the runtime has no more."""
    if profile.forms not in (Forms.PER_MICROBATCH, Forms.PER_SCHEDULE):
        return
    new: dict[str, str] = {}
    shared: dict[str, dict[str, None]] = {}
    for op, data in draft.data.items():
        if data.literal is None:
            continue
        number = str(op.microbatch) if profile.forms is Forms.PER_MICROBATCH else ""
        form = data.literal.rpartition(":")[2]
        new[data.literal] = f"B{number}:{form}"
        shared.setdefault(f"backward {number}".strip(), {})[f"B{number}:{form}"] = None
    draft.data = {
        op: data._replace(literal=data.literal and new[data.literal])
        for op, data in draft.data.items()
    }
    draft.choices = [Choice(name, tuple(forms)) for name, forms in shared.items()]


# -- precedences ------------------------------------------------------------------


def _order_edges(
    draft: _Draft, instance: Instance, profile: RuntimeProfile
) -> Iterator[tuple[Op, Op]]:
    """What keeps microbatches in order where they cannot be renamed instead."""
    last = len(instance.stages) - 1
    equal = has_equal_microbatches(instance)
    if profile.last_stage_paired:
        forwards = _by_microbatch(draft.ops([OpKind.FORWARD], last))
        entries = _by_microbatch(draft.ops(ENTRIES, last))
        for before, after in zip(entries, forwards[1:], strict=False):
            yield from ((one, other) for one in before for other in after)
    match profile.order:
        case MicrobatchOrder.LAST_FORWARDS if not equal:
            yield from pairwise(draft.ops([OpKind.FORWARD], last))
        case MicrobatchOrder.FIFO if not equal or draft.choices:
            for stage in range(last + 1):
                yield from pairwise(draft.ops([OpKind.FORWARD], stage))
                entries = _by_microbatch(draft.ops(ENTRIES, stage))
                for before, after in pairwise(entries):
                    yield from ((one, other) for one in before for other in after)
                if not equal:
                    yield from pairwise(draft.ops([OpKind.RECOMPUTE], stage))
                    yield from _weights_in_order(draft, stage)


def _weights_in_order(draft: _Draft, stage: int) -> Iterator[tuple[Op, Op]]:
    """W after W; where a microbatch may have none, every W after all before it."""
    weights = draft.ops([OpKind.BACKWARD_WEIGHT], stage)
    optional = any(draft.data[op].literal for op in weights)
    yield from combinations(weights, 2) if optional else pairwise(weights)


def _by_microbatch(ops: list[Op]) -> list[list[Op]]:
    """The alternatives of each microbatch, in the order of their numbers."""
    found: dict[int, list[Op]] = {}
    for op in ops:
        found.setdefault(op.microbatch, []).append(op)
    return [found[number] for number in sorted(found)]
