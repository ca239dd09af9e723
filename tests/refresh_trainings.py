"""Trainings with K-FAC work and the hand-made schedules that they repeat."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path

from schedopt.baselines import BASELINES, run_baseline
from schedopt.build import derive
from schedopt.formats import load_instance
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
from schedopt.refresh.frame import Frame, frame_of, pipeline_alone

INSTANCES = Path(__file__).resolve().parent.parent / "instances" / "pipefisher" / "kfac"
SCHEDULES = (
    "gpipe",
    "1f1b",
    "chimera",
    "interleaved-1f1b",
    "breadth-first",
    "zb-h1",
    "zb-v",
    "v-half",
)


def frame_under(schedule: str, instance: Instance) -> Frame:
    """The frame in which a hand-made schedule repeats, in the schedule's form."""
    baseline = BASELINES[schedule]
    instance = derive(instance, baseline.form(instance))
    run = run_baseline(baseline, pipeline_alone(instance))
    return frame_of(run.schedule, instance)


@cache
def published_frame(
    model: str, schedule: str, devices: int, blocks: int, **kfac: object
) -> Frame:
    """A row of the table: P100, microbatches of 32 sequences, one per device.

    ``kfac`` changes the settings of its K-FAC work.
    """
    way = "-chimera" if schedule == "chimera" else ""
    name = f"pipefisher-bert-{model}-p100-b32-d{devices}-x{blocks}{way}-kfac.yaml"
    instance = load_instance(INSTANCES / name)
    assert instance.kfac is not None
    return frame_under(schedule, replace(instance, kfac=replace(instance.kfac, **kfac)))


def random_frame(rng: random.Random) -> Frame:
    """A small training under a hand-made schedule, with every kind of setting."""
    schedule = rng.choice(SCHEDULES)
    devices = rng.choice((2, 4)) if schedule == "chimera" else rng.randint(2, 4)
    microbatches = devices * rng.choice((1, 1, 2))
    equal = rng.random() < 0.7
    stage = _stage(rng)
    instance = Instance(
        name="random",
        stages=tuple(stage if equal else _stage(rng) for _ in range(devices)),
        devices=tuple(
            Device(name=f"gpu{d}", speed=1 if equal else rng.choice((1, 1, 2)))
            for d in range(devices)
        ),
        microbatches=microbatches,
        placement=Placement.LINEAR,
        device_of_stage=tuple(range(devices)),
        backward=Backward.WHOLE,
        communication=Communication(latency=rng.choice((0, 0, 2))),
        recompute=frozenset(range(devices)) if rng.random() < 0.15 else frozenset(),
        memory_unit="B",
        resolution=1,
        kfac=Kfac(
            inversion=rng.choice(list(Inversion)),
            step_barrier=rng.choice(list(StepBarrier)),
            factor_barrier=rng.choice(list(FactorBarrier)),
            replicas=rng.choice((1, 1, 2)),
            latency=rng.choice((0, 0, 1)),
        ),
    )
    if schedule == "chimera" and microbatches == devices and rng.random() < 0.5:
        instance = replace(instance, microbatches=devices - 1)
    return frame_under(schedule, instance)


def _stage(rng: random.Random) -> StageCost:
    inputs, weights = rng.randint(6, 12), rng.randint(6, 12)
    return StageCost(
        forward=rng.randint(6, 18),
        backward=inputs + weights,
        backward_input=inputs,
        backward_weight=weights,
        activation=8,
        precondition=rng.choice((0, 2, 5)),
        optimizer_step=rng.choice((0, 1)),
        gradient_bytes=4,
        modules=tuple(
            KfacModule(
                name=name,
                count=2,
                curvature_a=rng.randint(1, 4),
                curvature_b=rng.randint(1, 4),
                inversion_a=rng.randint(1, 6),
                inversion_b=rng.randint(1, 6),
                saved_input=1,
                saved_gradient=1,
                factor_a=1,
                factor_b=1,
            )
            for name in ("attention", "mlp")[: rng.randint(1, 2)]
        ),
    )
