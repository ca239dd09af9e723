"""Programs to export, and generated modules imported without their runtimes."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from strategies import ops

from schedopt.baselines import BASELINES, run_baseline
from schedopt.build import build_graph
from schedopt.export.program import Program, program_of
from schedopt.instance import (
    Backward,
    Communication,
    Device,
    Instance,
    Placement,
    StageCost,
    place,
)
from schedopt.opgraph import Stream, StreamKind
from schedopt.schedule import Order
from schedopt.simulate import simulate


def pipeline(
    *,
    devices: int,
    microbatches: int,
    stages_per_device: int = 1,
    placement: Placement = Placement.LINEAR,
    backward: Backward = Backward.WHOLE,
    communication: Communication | None = None,
) -> Instance:
    """A pipeline of unequal stages without memory limits."""
    stages = devices * stages_per_device
    return Instance(
        name=f"{devices} devices, {placement.value}",
        stages=tuple(
            StageCost(
                forward=10 + stage % 3,
                backward_input=11 + stage % 2,
                backward_weight=9,
                activation=3 + stage,
            )
            for stage in range(stages)
        ),
        devices=tuple(Device(name=f"gpu{device}") for device in range(devices)),
        microbatches=microbatches,
        placement=placement,
        device_of_stage=place(placement, stages, devices),
        backward=backward,
        communication=communication or Communication(latency=1),
    )


def baseline_program(name: str, instance: Instance) -> Program:
    """A published schedule of the instance."""
    run = run_baseline(BASELINES[name], instance)
    return program_of(run.derived, run.schedule)


WHOLE = ("gpipe", "1f1b")
SPLIT = ("zb-h1", "zb-h2")
V_SPLIT = ("zb-v", "v-half", "v-min")


def programs(placement: Placement, backward: Backward) -> list[Program]:
    """Published schedules, and for looped placement a breadth-first one."""
    two = placement in (Placement.V, Placement.LOOPED)
    instance = pipeline(
        devices=4,
        microbatches=8,
        stages_per_device=2 if two else 1,
        placement=placement,
        backward=backward,
    )
    names = {
        (Placement.LINEAR, Backward.WHOLE): WHOLE,
        (Placement.LINEAR, Backward.SPLIT): SPLIT,
        (Placement.V, Backward.SPLIT): V_SPLIT,
        (Placement.LOOPED, Backward.WHOLE): ("interleaved-1f1b", "breadth-first"),
    }[placement, backward]
    return [baseline_program(name, instance) for name in names]


def written(program: Program, *texts: str) -> Program:
    """The instance of a program with other rows."""
    sequences = {
        Stream(StreamKind.COMPUTE, device): ops(text)
        for device, text in enumerate(texts)
    }
    graph = build_graph(program.instance)
    return program_of(program.instance, simulate(graph, Order(sequences)))


@contextmanager
def modules(stubs: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Modules of these names with these contents can be imported meanwhile."""
    before = dict(sys.modules)
    for dotted, content in stubs.items():
        parts = dotted.split(".")
        for depth in range(1, len(parts) + 1):
            name = ".".join(parts[:depth])
            if name in stubs or name not in sys.modules:
                sys.modules[name] = ModuleType(name)
            if depth > 1:
                parent = sys.modules[".".join(parts[: depth - 1])]
                setattr(parent, parts[depth - 1], sys.modules[name])
        vars(sys.modules[dotted]).update(content)
    try:
        yield
    finally:
        for name in set(sys.modules) - set(before):
            del sys.modules[name]
        sys.modules.update(before)


def import_text(text: str, stubs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a generated module defines, with stubs in the place of its runtime."""
    ast.parse(text)
    assert max(map(len, text.splitlines())) <= 88
    content: dict[str, Any] = {"__name__": "generated"}
    with modules(stubs):
        exec(
            compile(text, "generated", "exec", dont_inherit=True), content
        )  # our own text
    return content
