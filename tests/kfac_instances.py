"""Small instances with K-FAC work and several training steps, shared by the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from schedopt.build import build_graph, least_peaks
from schedopt.instance import (
    Backward,
    Communication,
    CommunicationMode,
    Device,
    FactorBarrier,
    Instance,
    Inversion,
    Kfac,
    KfacModule,
    Number,
    Placement,
    StageCost,
    StepBarrier,
    place,
)

# Two equal layers and one of its own; all costs differ, and some are odd.
MODULES = (
    KfacModule(
        name="qk",
        count=2,
        curvature_a=1,
        curvature_b=2,
        inversion_a=3,
        inversion_b=4,
        saved_input=1,
        saved_gradient=2,
        factor_a=1,
        factor_b=2,
    ),
    KfacModule(
        name="o",
        curvature_a=3,
        curvature_b=5,
        inversion_a=7,
        inversion_b=9,
        saved_input=3,
        saved_gradient=4,
        factor_a=5,
        factor_b=6,
    ),
)

STAGE = StageCost(
    forward=6,
    backward=11,
    backward_input=6,
    backward_weight=5,
    activation=20,
    activation_until_input=2,
    input_gradient=1,
    static_memory=3,
    precondition=8,
    optimizer_step=2,
    gradient_bytes=6,
    modules=MODULES,
)

KFAC = Kfac()


def training(
    devices: int = 2,
    microbatches: int = 3,
    *,
    stages: int | None = None,
    placement: Placement | Sequence[int] = Placement.LINEAR,
    backward: Backward = Backward.WHOLE,
    stage: StageCost = STAGE,
    kfac: Kfac | None = KFAC,
    speeds: Sequence[Number] = (),
    memory_limit: Number | None = None,
    **changes: Any,
) -> Instance:
    """Equal stages, in seconds and bytes; a tick is a second unless changed."""
    count = stages or devices
    if isinstance(placement, Placement):
        where = place(placement, count, devices)
    else:
        where = tuple(placement)
        placement = Placement.EXPLICIT
    return replace(
        Instance(
            name="training",
            stages=(stage,) * count,
            devices=tuple(
                Device(
                    name=f"device {d}",
                    speed=speeds[d] if speeds else 1,
                    memory_limit=memory_limit,
                )
                for d in range(devices)
            ),
            microbatches=microbatches,
            placement=placement,
            device_of_stage=where,
            backward=backward,
            communication=Communication(latency=1),
            time_unit="s",
            memory_unit="B",
            resolution=1,
            kfac=kfac,
        ),
        **changes,
    )


def random_training(rng: Random, *, max_ops: int = 200) -> Instance:
    """A small training of any shape: steps, K-FAC or none, limits, odd costs."""
    while True:
        instance = _draw(rng)
        if instance.kfac and not any(stage.modules for stage in instance.stages):
            continue
        if len(build_graph(instance).ops) <= max_ops:
            return _limited(rng, instance)


def _draw(rng: Random) -> Instance:
    devices = rng.randint(1, 4)
    placement = rng.choice(list(Placement))
    stages = devices
    if placement is not Placement.BIDIRECTIONAL:
        stages += rng.choice((0, 0, 0, 1, devices))
    where: Placement | tuple[int, ...] = placement
    if placement is Placement.EXPLICIT:
        where = tuple(rng.randrange(devices) for _ in range(stages))
    microbatches = rng.randint(1, 4)
    backward = rng.choice(list(Backward))
    mode = rng.choice(list(CommunicationMode))
    with_kfac = rng.random() < 0.8
    interval, refreshes = rng.randint(1, 2), rng.choice((1, 1, 2))
    steps = rng.randint(1, 2) if with_kfac else 2
    if with_kfac:
        steps = max(steps, (refreshes - 1) * interval + 1)
    kfac = Kfac(
        interval=interval,
        refreshes=refreshes,
        inversion=rng.choice(list(Inversion)),
        step_barrier=rng.choice(list(StepBarrier)),
        factor_barrier=rng.choice(list(FactorBarrier)),
        replicas=rng.choice((1, 1, 2)),
        latency=rng.choice((0, 1)),
        bandwidth=rng.choice((None, 2)),
    )
    overlap = backward is not Backward.SPLIT and rng.random() < 0.2
    recompute = frozenset(s for s in range(stages) if rng.random() < 0.5)
    scales = tuple(rng.choice((1, 1.5, 2)) for _ in range(microbatches))
    instance = training(
        devices,
        microbatches,
        stages=stages,
        placement=where,
        backward=backward,
        kfac=kfac if with_kfac else None,
        steps=steps,
        speeds=[rng.choice((1, 1, 2)) for _ in range(devices)],
        communication=Communication(
            mode=mode,
            latency=rng.choice((0, 1, 2)),
            bandwidth=rng.choice((None, 2)),
            transfer_buffers=mode is not CommunicationMode.LAG and rng.random() < 0.5,
        ),
        recompute=recompute if rng.random() < 0.3 else frozenset(),
        microbatch_scale=scales if rng.random() < 0.2 else (),
        resolution=rng.choice((1, 0.1)),
    )
    costs = tuple(_stage(rng, overlap) for _ in range(stages))
    return replace(instance, stages=costs)


def _stage(rng: Random, overlap: bool) -> StageCost:
    modules = tuple(
        KfacModule(
            name=f"m{number}",
            count=rng.choice((1, 1, 2)),
            curvature_a=rng.randint(1, 3),
            curvature_b=rng.randint(1, 3),
            inversion_a=rng.randint(1, 7),
            inversion_b=rng.randint(1, 7),
            saved_input=rng.randint(0, 2),
            saved_gradient=rng.randint(0, 2),
            factor_a=rng.randint(0, 2),
            factor_b=rng.randint(0, 2),
        )
        for number in range(rng.choice((0, 1, 1, 2)))
    )
    return StageCost(
        forward=rng.randint(1, 6),
        backward=rng.randint(4, 9),
        backward_input=rng.randint(2, 6),
        backward_weight=rng.randint(2, 6),
        activation=rng.randint(10, 14),
        activation_until_input=rng.choice((0, 2)),
        input_gradient=rng.choice((0, 1)),
        static_memory=rng.randint(0, 2),
        output_bytes=rng.randint(0, 3),
        checkpoint=rng.choice((None, 1)),
        overlap=rng.randint(9, 13) if overlap else None,
        precondition=rng.randint(0, 5),
        optimizer_step=rng.randint(0, 3),
        gradient_bytes=rng.randint(0, 4),
        modules=modules,
    )


def _limited(rng: Random, instance: Instance) -> Instance:
    """Sometimes limits a little above what any schedule needs."""
    if rng.random() < 0.6:
        return instance
    peaks = least_peaks(build_graph(instance))
    per_unit = round(1 / instance.resolution)
    devices = tuple(
        replace(device, memory_limit=peak / per_unit + rng.choice((0, 4, 8, 16)))
        for device, peak in zip(instance.devices, peaks, strict=True)
    )
    return replace(instance, devices=devices)
