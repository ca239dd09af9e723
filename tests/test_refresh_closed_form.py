"""PipeFisher's closed forms: the values printed before, and real step times."""

from __future__ import annotations

import csv
import importlib.util
import sys
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from schedopt.baselines import BASELINES, run_baseline
from schedopt.errors import NotApplicableError
from schedopt.formats import load_instance
from schedopt.instance import (
    Backward,
    Communication,
    Device,
    Instance,
    Kfac,
    KfacModule,
    Link,
    Placement,
    StageCost,
    place,
)
from schedopt.refresh.closed_form import performance_model

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "results" / "pipefisher"
INSTANCES = ROOT / "instances" / "pipefisher" / "kfac"


@cache
def study() -> ModuleType:
    """The command that writes the tables."""
    path = STUDY / "closed_form.py"
    spec = importlib.util.spec_from_file_location("pipefisher_closed_form", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for it
    spec.loader.exec_module(module)
    return module


# -- the printed values ----------------------------------------------------------------

PRINTED = list(csv.DictReader((STUDY / "printed.csv").read_text().splitlines()))


def test_all_values_are_there() -> None:
    counts = Counter((row["quantity"], row["recompute"]) for row in PRINTED)
    assert counts == {
        ("ratio", "none"): 36,
        ("ratio", "full"): 36,
        ("throughput", "none"): 8,
        ("throughput-preconditioned", "none"): 8,
    }
    cases = {tuple(row.values())[:-2] for row in PRINTED}
    assert len(cases) == len(PRINTED)
    assert all(row["source"] for row in PRINTED)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("quantity", ["ratio", "throughput"])
def test_every_printed_value_comes_out(quantity: str, blocks: int) -> None:
    rows = [row for row in PRINTED if row["quantity"].startswith(quantity)]
    assert len(rows) == {"ratio": 72, "throughput": 16}[quantity]
    found = []
    for row in rows:
        way = "-chimera" if row["schedule"] == "chimera" else ""
        name = (
            f"pipefisher-{row['model']}-{row['gpu']}-b{row['microbatch_size']}"
            f"-d{row['devices']}-x{blocks}{way}-kfac"
        )
        instance = load_instance(INSTANCES / f"{name}.yaml")
        if row["recompute"] == "full":
            everywhere = frozenset(range(len(instance.stages)))
            instance = replace(instance, recompute=everywhere)
        model = performance_model(instance)
        if quantity == "ratio":
            assert model.ratio is not None
            found.append(f"{float(model.ratio):.2f}")
            continue
        # Sequences per millisecond; three blocks on a stage take three times as long.
        rate = model.throughput(
            int(row["microbatch_size"]), precondition=row["quantity"] != quantity
        )
        found.append(f"{float(1000 * blocks * rate):.1f}")
    assert found == [row["printed"] for row in rows]


def test_the_tables_are_as_the_command_writes_them() -> None:
    results = study().results()
    agreements = [agrees for result in results for agrees in result.agreements()]
    assert agreements == [True] * 88
    assert study().table_csv(results) == (STUDY / "closed_form.csv").read_text()
    assert study().page(results) == (STUDY / "closed_form.md").read_text()


# -- against the schedules themselves --------------------------------------------------


def pipeline(placement: Placement, devices: int, microbatches: int) -> Instance:
    """Equal stages; F = 3, B = 5, R = 2, K-FAC work of two layers."""
    module = KfacModule(
        name="layer",
        count=2,
        curvature_a=1,
        curvature_b=2,
        inversion_a=3,
        inversion_b=4,
        saved_input=1,
        saved_gradient=5,
        factor_a=6,
        factor_b=7,
    )
    stage = StageCost(
        forward=3,
        backward=5,
        recompute=2,
        activation=11,
        static_memory=13,
        modules=(module,),
        precondition=4,
    )
    return Instance(
        name="equal",
        stages=(stage,) * devices,
        devices=tuple(Device(name=f"device {d}") for d in range(devices)),
        microbatches=microbatches,
        placement=placement,
        device_of_stage=place(placement, devices, devices),
        backward=Backward.WHOLE,
        kfac=Kfac(),
    )


ONE_WAY = [("gpipe", 1, 1), ("gpipe", 3, 2), ("1f1b", 4, 4), ("1f1b", 4, 9)]
TWO_WAY = [("chimera", 2, 2), ("chimera", 4, 4), ("chimera", 8, 8)]


def makespan(method: str, instance: Instance) -> Fraction:
    """What the hand-made schedule takes without second-order work."""
    plain = replace(instance.stages[0], modules=(), precondition=0)
    without = replace(instance, stages=(plain,) * len(instance.stages), kfac=None)
    run = run_baseline(BASELINES[method], without)
    assert run.schedule is not None
    return Fraction(run.schedule.makespan, 10**6)


@pytest.mark.parametrize(("method", "devices", "microbatches"), ONE_WAY + TWO_WAY)
def test_a_step_takes_as_long_as_the_schedule(
    method: str, devices: int, microbatches: int
) -> None:
    two_way = method == "chimera"
    placement = Placement.BIDIRECTIONAL if two_way else Placement.LINEAR
    instance = pipeline(placement, devices, microbatches)
    assert performance_model(instance).pipeline == makespan(method, instance)
    # Recomputed within a backward that takes 5 + 2; an R may start before its gradient.
    recomputed = replace(instance, recompute=frozenset(range(devices)))
    longer = replace(instance.stages[0], backward=7)
    within = replace(instance, stages=(longer,) * devices)
    model = performance_model(recomputed)
    assert model.pipeline == makespan(method, within)
    assert model.pipeline >= makespan(method, recomputed)


def test_the_formulas_by_hand() -> None:
    # N = D = 4: T_pipe = 7 (3 + 5), T_bubble = 56 - 32; N x 6 + 14 of K-FAC work.
    model = performance_model(pipeline(Placement.LINEAR, 4, 4))
    assert (model.pipeline, model.bubble, model.kfac) == (56, 24, 38)
    assert model.ratio == Fraction(38, 24)
    assert model.least_interval == 2
    assert model.step == 60
    assert model.throughput(30, precondition=False) == Fraction(120, 56)
    assert model.throughput(30, precondition=True) == 2
    # 4 x 11 + 4 x 10 + 2 x 26 + 13
    assert model.memory == 149
    # T_pipe = 4 x 3 + 6 x 5.
    two_way = performance_model(pipeline(Placement.BIDIRECTIONAL, 4, 4))
    assert (two_way.pipeline, two_way.bubble, two_way.kfac) == (42, 10, 38)
    assert two_way.memory == 149 + 13


def test_more_microbatches_than_devices_two_way() -> None:
    # N + D / 2 - 1 = 9 of each.
    model = performance_model(pipeline(Placement.BIDIRECTIONAL, 4, 8))
    assert (model.forwards, model.backwards) == (9, 9)
    assert (model.pipeline, model.bubble) == (72, 8)


def test_recomputation_fills_and_frees() -> None:
    instance = replace(
        pipeline(Placement.LINEAR, 4, 4), recompute=frozenset({0, 1, 2, 3})
    )
    model = performance_model(instance)
    assert (model.pipeline, model.bubble) == (7 * 10, 30)
    assert model.memory == 149 - 3 * 11


def test_replicas_share_inversion_and_preconditioning() -> None:
    instance = replace(pipeline(Placement.LINEAR, 4, 4), kfac=Kfac(replicas=2))
    model = performance_model(instance)
    assert (model.kfac, model.step) == (24 + 7, 56 + 2)


def test_without_a_bubble_there_is_no_ratio() -> None:
    alone = pipeline(Placement.LINEAR, 1, 4)
    model = performance_model(alone)
    assert (model.bubble, model.ratio, model.least_interval) == (0, None, None)
    idle = replace(alone.stages[0], modules=())
    assert performance_model(replace(alone, stages=(idle,))).least_interval == 1


def test_without_second_order_work_every_step_is_a_refresh() -> None:
    instance = pipeline(Placement.LINEAR, 4, 4)
    plain = replace(instance.stages[0], modules=(), precondition=0)
    model = performance_model(replace(instance, stages=(plain,) * 4, kfac=None))
    assert (model.kfac, model.ratio, model.least_interval) == (0, 0, 1)
    assert model.step == model.pipeline


LINEAR = pipeline(Placement.LINEAR, 4, 4)
TWO = pipeline(Placement.BIDIRECTIONAL, 4, 4)


@pytest.mark.parametrize(
    ("instance", "named"),
    [
        (replace(LINEAR, placement=Placement.LOOPED), "placement: looped"),
        (replace(LINEAR, stages=LINEAR.stages * 2), "8 stages on 4 devices"),
        (replace(LINEAR, backward=Backward.SPLIT), "backward: split"),
        (replace(LINEAR, recompute=frozenset({2})), "recompute: [2]"),
        (replace(TWO, microbatches=3), "3 microbatches"),
        (pipeline(Placement.BIDIRECTIONAL, 3, 4), "3 devices"),
        (
            replace(
                LINEAR,
                stages=(*LINEAR.stages[:3], replace(LINEAR.stages[3], forward=4)),
            ),
            "stages[3]",
        ),
        (
            replace(
                LINEAR, devices=(*LINEAR.devices[:3], Device(name="fast", speed=2))
            ),
            "devices[3].speed: 2",
        ),
        (replace(LINEAR, microbatch_scale=(1, 1, 2, 1)), "microbatch_scale[2]: 2"),
        (replace(LINEAR, communication=Communication(latency=1)), "communication"),
        (replace(LINEAR, communication=Communication(bandwidth=1)), "communication"),
        (
            replace(
                LINEAR,
                communication=Communication(
                    links=(Link(source=0, target=1, latency=1),)
                ),
            ),
            "communication",
        ),
    ],
)
def test_what_the_model_does_not_describe_is_refused(
    instance: Instance, named: str
) -> None:
    with pytest.raises(NotApplicableError) as caught:
        performance_model(instance)
    assert named in str(caught.value)
    assert "equal" in str(caught.value)
    assert "\n" not in str(caught.value)
