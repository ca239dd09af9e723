"""Frames so small that a refresh of them can be solved as intervals."""

from __future__ import annotations

import random

from schedopt.errors import NotApplicableError
from schedopt.instance import (
    Backward,
    Communication,
    Device,
    FactorBarrier,
    Instance,
    Inversion,
    Kfac,
    KfacModule,
    Placement,
    StageCost,
    StepBarrier,
)
from schedopt.refresh.frame import Frame
from tests.refresh_trainings import frame_under

MOST_OPS = 36  # of a refresh
SCHEDULES = ("gpipe", "1f1b", "chimera", "chimera", "chimera", "zb-h1")


def tiny_frame(rng: random.Random) -> Frame:
    """One to four devices, every kind of setting, some ops without duration."""
    while True:
        schedule = rng.choice(SCHEDULES)
        try:
            frame = frame_under(schedule, _instance(rng, schedule == "chimera"))
        except NotApplicableError:  # too few microbatches
            continue
        ops = len(frame.with_refresh.ops) - len(frame.start)
        if 0 < ops <= MOST_OPS and any(frame.idle):
            return frame


def _instance(rng: random.Random, two_way: bool) -> Instance:
    devices = rng.choice((2, 2, 4)) if two_way else rng.randint(1, 3)
    equal = rng.random() < 0.5
    least = rng.choice((0, 1, 1, 1))
    stage = _stage(rng, least)
    return Instance(
        name="tiny",
        stages=tuple(stage if equal else _stage(rng, least) for _ in range(devices)),
        devices=tuple(
            Device(name=f"gpu{d}", speed=1 if equal else rng.choice((1, 1, 2)))
            for d in range(devices)
        ),
        microbatches=rng.randint(1, 2 if devices == 4 else 3),
        placement=Placement.BIDIRECTIONAL if two_way else Placement.LINEAR,
        device_of_stage=tuple(range(devices)),
        backward=Backward.WHOLE,
        communication=Communication(latency=rng.choice((0, 0, 2))),
        memory_unit="B",
        resolution=1,
        kfac=Kfac(
            inversion=rng.choice(list(Inversion)),
            step_barrier=rng.choice(list(StepBarrier)),
            factor_barrier=rng.choice(list(FactorBarrier)),
            replicas=rng.choice((1, 1, 1, 2)),
            latency=rng.choice((0, 0, 0, 1, 2)),
            bandwidth=rng.choice((None, None, 2_000_000)),  # 2 bytes a tick
        ),
    )


def _stage(rng: random.Random, least: int) -> StageCost:
    inputs, weights = rng.randint(2, 9), rng.randint(2, 9)
    names = ("attention", "mlp")[: rng.choice((0, 1, 1, 1, 2))]
    return StageCost(
        forward=rng.randint(2, 12),
        backward=inputs + weights,
        backward_input=inputs,
        backward_weight=weights,
        activation=rng.randint(8, 12),
        precondition=rng.choice((0, 0, 2, 5)),
        optimizer_step=rng.choice((0, 0, 1)),
        gradient_bytes=rng.choice((0, 4)),
        modules=tuple(_module(rng, name, least) for name in names),
    )


def _module(rng: random.Random, name: str, least: int) -> KfacModule:
    return KfacModule(
        name=name,
        count=rng.choice((1, 1, 2)),
        curvature_a=rng.randint(least, 4),
        curvature_b=rng.randint(least, 4),
        inversion_a=rng.randint(least, 7),
        inversion_b=rng.randint(least, 7),
        saved_input=rng.randint(0, 2),
        saved_gradient=rng.randint(0, 2),
        factor_a=rng.randint(0, 2),
        factor_b=rng.randint(0, 1),
    )
