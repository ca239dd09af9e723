"""Layer profiles of PipeDream, cut into contiguous stages.

``graph.txt`` (msr-fiddle/pipedream, ``graph/graph.py``) has a line per layer::

    node4 -- Conv2d(...) -- forward_compute_time=3.1, backward_compute_time=5.5,
        activation_size=822083584.0, parameter_size=1792.0 -- stage_id=0

(one line; ``-- stage_id`` only after partitioning; an activation may be a list
``[a; b]``) and a line ``node4 -- node5`` per edge. Milliseconds and bytes per batch.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import networkx as nx

from schedopt.errors import FormatError
from schedopt.formats.limits import Limits
from schedopt.importers.drafts import Draft, Imported, Wanted, imported
from schedopt.importers.files import number_of, read_text, wrong
from schedopt.instance import Number
from schedopt.runtimes.measured import mebibytes, tidy

_NODE = re.compile(
    r"(?P<node>\S+) -- (?P<operator>.*)"
    r" -- forward_compute_time=(?P<forward_compute_time>[^,]*),"
    r" backward_compute_time=(?P<backward_compute_time>[^,]*),"
    r" activation_size=(?P<activation_size>\[.*?\]|[^,]*),"
    r" parameter_size=(?P<parameter_size>\S*)"
    r"(?: -- stage_id=(?P<stage_id>\S+))?"
)
_EDGE = re.compile(r"(?P<before>\S+) -- (?P<after>\S+)")
# Weights, their gradients and Adam's two moments, all in the parameters' precision.
_STATIC_PER_PARAMETER_BYTE = 4
_NANOSECONDS = 10**6  # in a millisecond


@dataclass(frozen=True, slots=True)
class _Layer:
    """A node: milliseconds and bytes for one batch."""

    operator: str
    forward: Number
    backward: Number
    activation: Number
    parameters: Number
    stage: int | None
    line: int


def read(paths: Sequence[Path], wanted: Wanted, limits: Limits) -> Imported:
    """The instance of a profile, cut into ``wanted.stages`` contiguous stages.

    Layers are taken in topological order; the largest forward + backward of a stage is
    as small as it can be, and then the sum of their squares. Without a number of stages
    the file's ``stage_id`` say where the cuts are. Inputs are dropped: their time is
    data loading.

    Raises
    ------
    FormatError
        If the file is no such graph, or cannot be cut so.
    """
    if len(paths) != 1:
        msg = f"{paths[1]}: one graph is read at a time; give one"
        raise FormatError(msg)
    (path,) = paths
    graph = _graph(read_text(path, limits), path)
    layers = [_layer_of(graph, node) for node in graph]
    sizes = (
        _given_sizes(layers, path)
        if wanted.stages is None
        else _balanced_sizes(layers, wanted.stages, path)
    )
    draft = Draft(
        name=f"pipedream-{path.resolve().parent.name}-s{len(sizes)}",
        source=(
            f"PipeDream profile {path.resolve().parent.name}/{path.name}:"
            f" {len(layers)} layers in topological order, cut into {len(sizes)}"
            f" contiguous stages ({', '.join(map(str, sizes))} layers);"
            " activation: outputs of the stage's layers and what it receives;"
            " static_memory: 4 x parameters (weights, gradients, Adam's moments)"
        ),
        stages=list(_stages(graph, layers, sizes)),
        time_unit="ms",
        backward="whole",
    )
    return imported(draft, wanted, path)


def _graph(text: str, path: Path) -> nx.DiGraph[str]:
    """The layers in topological order, without inputs."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line:
            continue
        if match := _NODE.fullmatch(line):
            if "layer" in graph.nodes.get(match["node"], {}):
                rule = "is a second line of this node; remove one"
                raise wrong(path, f"line {number}", match["node"], rule)
            graph.add_node(match["node"], layer=_layer(match, number, path))
        elif match := _EDGE.fullmatch(line):
            graph.add_edge(match["before"], match["after"], line=number)
        else:
            rule = (
                "is neither a node (name -- operator -- forward_compute_time=...,"
                " backward_compute_time=..., activation_size=..., parameter_size=...)"
                " nor an edge (name -- name)"
            )
            raise wrong(path, f"line {number}", line, rule)
    for before, after, line in graph.edges(data="line"):
        for node in (before, after):
            if "layer" not in graph.nodes[node]:
                rule = "is an edge's end without a line of its own; add the node"
                raise wrong(path, f"line {line}", node, rule)
    inputs = [n for n in graph if _layer_of(graph, n).operator.startswith("Input")]
    graph.remove_nodes_from(inputs)
    if not graph:
        msg = f"{path}: has no layers but inputs"
        raise FormatError(msg)
    try:
        order = list(nx.lexicographical_topological_sort(graph, key=_natural))
    except nx.NetworkXUnfeasible:
        cycle = nx.find_cycle(graph)
        msg = f"{path}: {' -> '.join(edge[0] for edge in cycle[:5])} ... is a cycle"
        raise FormatError(msg) from None
    ordered: nx.DiGraph[str] = nx.DiGraph()
    ordered.add_nodes_from((node, graph.nodes[node]) for node in order)
    ordered.add_edges_from(graph.edges)
    return ordered


def _natural(node: Hashable) -> tuple[int, str]:
    """node9 before node10."""
    digits = re.search(r"\d{1,9}$", str(node))
    return (int(digits[0]) if digits else 0, str(node))


def _layer_of(graph: nx.DiGraph[str], node: str) -> _Layer:
    layer: _Layer = graph.nodes[node]["layer"]
    return layer


def _layer(match: re.Match[str], line: int, path: Path) -> _Layer:
    def number(field: str, text: str) -> Number:
        value = number_of(text.strip())
        if value is None:
            rule = "must be a finite number, at least 0"
            raise wrong(path, f"line {line}: {field}", text, rule)
        return value

    sizes = match["activation_size"].strip("[]").split(";")
    stage = match["stage_id"]
    if stage is not None and not re.fullmatch(r"\d{1,6}", stage):
        raise wrong(path, f"line {line}: stage_id", stage, "must be a stage's number")
    return _Layer(
        match["operator"],
        number("forward_compute_time", match["forward_compute_time"]),
        number("backward_compute_time", match["backward_compute_time"]),
        sum(number("activation_size", size) for size in sizes),
        number("parameter_size", match["parameter_size"]),
        None if stage is None else int(stage),
        line,
    )


def _given_sizes(layers: Sequence[_Layer], path: Path) -> list[int]:
    """How many layers each ``stage_id`` has; they must follow each other."""
    sizes: list[int] = []
    for layer in layers:
        if layer.stage is None:
            msg = (
                f"{path}: line {layer.line}: has no stage_id; give --stages, and the"
                " layers are cut into so many"
            )
            raise FormatError(msg)
        if layer.stage == len(sizes):
            sizes.append(0)
        elif layer.stage != len(sizes) - 1:
            rule = (
                "is not the stage of the layer before it or the next; stages must be"
                " contiguous in topological order: give --stages to cut anew"
            )
            raise wrong(path, f"line {layer.line}: stage_id", layer.stage, rule)
        sizes[-1] += 1
    return sizes


def _balanced_sizes(layers: Sequence[_Layer], stages: int, path: Path) -> list[int]:
    if not 1 <= stages <= len(layers):
        most = len(layers)
        msg = f"{path}: has {most} layers; --stages {stages} must be 1 to {most}"
        raise FormatError(msg)
    loads = [round((la.forward + la.backward) * _NANOSECONDS) for la in layers]
    least, most = max(loads), sum(loads)
    while least < most:
        middle = (least + most) // 2
        if len(_filled(loads, stages, middle)) <= stages:
            most = middle
        else:
            least = middle + 1
    return _evenest(loads, stages, least)


def _filled(loads: Sequence[int], stages: int, limit: int) -> list[int]:
    """Stages filled one after the other up to a limit, with a layer left for each."""
    sizes, load = [0], 0
    for index, more in enumerate(loads):
        still_needed = stages - len(sizes)
        is_full = load + more > limit or len(loads) - index <= still_needed
        if sizes[-1] and is_full:
            sizes.append(0)
            load = 0
        sizes[-1] += 1
        load += more
    return sizes


def _evenest(loads: Sequence[int], stages: int, limit: int) -> list[int]:
    """Of all cuts with no stage above a limit, the one of the least sum of squares."""
    sums = [0, *accumulate(loads)]
    least: dict[int, int] = {0: 0}
    begins: list[dict[int, int]] = []
    for _ in range(stages):
        reached: dict[int, int] = {}
        begins.append({})
        for end in range(1, len(sums)):
            for begin in range(end - 1, -1, -1):
                load = sums[end] - sums[begin]
                if load > limit:
                    break
                total = least.get(begin)
                if total is not None and load**2 + total < reached.get(
                    end, load**2 + total + 1
                ):
                    reached[end] = load**2 + total
                    begins[-1][end] = begin
        least = reached
    ends = [len(loads)]
    for begin_of in reversed(begins):
        ends.append(begin_of[ends[-1]])
    return [end - begin for begin, end in pairwise(reversed(ends))]


def _stages(
    graph: nx.DiGraph[str], layers: Sequence[_Layer], sizes: Sequence[int]
) -> Iterator[dict[str, Number]]:
    place = {node: index for index, node in enumerate(graph)}
    last_use = [
        max((place[after] for after in graph.successors(node)), default=-1)
        for node in graph
    ]
    begin, received = 0, 0.0
    for size in sizes:
        end = begin + size
        mine = layers[begin:end]
        # What is made up to the cut and used after it.
        sent = sum(
            layers[index].activation for index in range(end) if last_use[index] >= end
        )
        yield {
            "forward": tidy(sum(layer.forward for layer in mine)),
            "backward": tidy(sum(layer.backward for layer in mine)),
            "activation": mebibytes(received + sum(layer.activation for layer in mine)),
            "static_memory": mebibytes(
                _STATIC_PER_PARAMETER_BYTE * sum(layer.parameters for layer in mine)
            ),
            "output_bytes": round(sent),
        }
        begin, received = end, sent
