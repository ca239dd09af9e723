"""Trainings with K-FAC as runtimes see them: packed into hand-made schedules."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from schedopt.export import Program, program_of
from schedopt.export.kfac_rows import KfacRows
from schedopt.export.torch_tokens import Token, TokenKind
from schedopt.instance import (
    Backward,
    Device,
    Instance,
    Kfac,
    KfacModule,
    Placement,
    StageCost,
    StepBarrier,
    place,
)
from schedopt.ops import Op
from schedopt.refresh.settings import Minimise
from schedopt.solve.frames import frame_named
from schedopt.solve.refresh import solve_refresh
from schedopt.solve.refresh_solution import RefreshParameters


def training(  # what the trainings differ in
    devices: int = 2,
    microbatches: int = 3,
    *,
    curvature: int = 1,
    inversion: int = 1,
    stages: int | None = None,
    placement: Placement = Placement.LINEAR,
    backward: Backward = Backward.WHOLE,
    barrier: StepBarrier = StepBarrier.EVERYONE,
    recompute: frozenset[int] = frozenset(),
) -> Instance:
    """Equal stages of three layers; ``curvature`` and ``inversion`` multiply costs."""
    count = stages or devices
    modules = tuple(
        KfacModule(
            name=name,
            count=layers,
            curvature_a=curvature * a,
            curvature_b=curvature * b,
            inversion_a=inversion * inverse_a,
            inversion_b=inversion * inverse_b,
            saved_input=1,
            saved_gradient=1,
            factor_a=1,
            factor_b=1,
        )
        for name, layers, a, b, inverse_a, inverse_b in (
            ("attention", 2, 1, 2, 3, 4),
            ("mlp", 1, 2, 1, 5, 3),
        )
    )
    stage = StageCost(
        forward=12,
        backward=20,
        backward_input=11,
        backward_weight=9,
        activation=8,
        precondition=3,
        optimizer_step=1,
        modules=modules,
    )
    return Instance(
        name="second order",
        stages=(stage,) * count,
        devices=tuple(Device(name=f"gpu{device}") for device in range(devices)),
        microbatches=microbatches,
        placement=placement,
        device_of_stage=place(placement, count, devices),
        backward=backward,
        recompute=recompute,
        memory_unit="B",
        resolution=1,
        kfac=Kfac(step_barrier=barrier),
    )


@cache
def packed(
    pipeline: str, instance: Instance, wrap: bool = False, seconds: float = 8
) -> Program:
    """The shortest interval in the frame of a hand-made schedule, two refreshes."""
    frame = frame_named(pipeline, instance).frame
    parameters = RefreshParameters(
        minimise=Minimise.INTERVAL, wrap=wrap, time_limit_s=seconds, workers=1
    )
    cycle = solve_refresh(frame, parameters).cycle
    assert cycle is not None
    return program_of(cycle.instance(), cycle.schedule)


def interval_of(program: Program) -> int:
    """Steps from refresh to refresh."""
    assert program.instance.kfac is not None
    return program.instance.kfac.interval


def slot_of(rows: KfacRows, op: Op) -> tuple[int, int, int]:
    """The step, the rank and the position at which an op stands."""
    token = Token(op.stage, TokenKind.UNSHARD, rows.slots[op.stage].index(op))
    for step, of_step in enumerate(rows.steps):
        for rank, row in enumerate(of_step):
            if token in row:
                return step, rank, row.index(token)
    raise AssertionError(op)


def moved(rows: KfacRows, op: Op, position: int) -> KfacRows:
    """The rows with an op's slot at another position of its row."""
    step, rank, here = slot_of(rows, op)
    changed = [list(map(list, of_step)) for of_step in rows.steps]
    row = changed[step][rank]
    row.insert(position, row.pop(here))
    steps = tuple(tuple(map(tuple, of_step)) for of_step in changed)
    return replace(rows, steps=steps)
