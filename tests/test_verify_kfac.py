"""The verifier counts K-FAC work from the instance's numbers, whatever was built."""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from kfac_instances import STAGE, random_training, training
from strategies import random_order

import schedopt.build.kfac as builder
import schedopt.verify.kfac as verifier
from schedopt.baselines import BASELINES, run_baseline
from schedopt.build import build_graph
from schedopt.formats import (
    ScheduleFile,
    schedule_document,
    schedule_from_document,
)
from schedopt.instance import Instance, Inversion, Kfac, Placement
from schedopt.opgraph import OpGraph
from schedopt.ops import Op, OpKind
from schedopt.schedule import Schedule
from schedopt.simulate import simulate
from schedopt.verify import Rule, Violation, Work, kfac_violations, verify_file

UP_AND_DOWN = Placement.BIDIRECTIONAL
INSTANCES = {
    "linear": training(),
    "two-way": training(2, 2, placement=UP_AND_DOWN),
    "odd two-way": training(3, 4, placement=UP_AND_DOWN),
    "whole": training(
        2, 2, placement=UP_AND_DOWN, kfac=Kfac(inversion=Inversion.WHOLE)
    ),
    "refreshes": training(2, 2, kfac=Kfac(interval=2, refreshes=2), steps=4),
    "replicas": training(2, 2, kfac=Kfac(replicas=3), resolution=1e-3),
    "speeds": training(2, 2, speeds=(1, 3), placement=UP_AND_DOWN, resolution=1e-3),
    "scales": training(2, 2, microbatch_scale=(1, 2.5), resolution=0.1),
    "modules of one stage": replace(
        training(2, 2), stages=(STAGE, replace(STAGE, modules=()))
    ),
}


def works_of(graph: OpGraph, schedule: Schedule) -> list[Work]:
    data = graph.data
    return [Work(op, data[op].device, data[op].duration) for op in schedule.start]


def file_of(instance: Instance) -> ScheduleFile:
    """The file of some schedule on the graph that is built now."""
    graph = build_graph(instance)
    schedule = simulate(graph, random_order(graph, random.Random(0)))
    document = schedule_document(
        instance,
        schedule,
        method="random",
        status="feasible",
        objective="makespan",
        value_ticks=schedule.makespan,
        lower_bound_ticks=0,
        wall_seconds=None,
        seed=0,
        versions={},
    )
    return schedule_from_document(json.loads(json.dumps(document)), "file")


def kfac_rule(file: ScheduleFile) -> list[Violation]:
    return [v for v in verify_file(file) if v.rule is Rule.KFAC_WORK]


@pytest.mark.parametrize("name", INSTANCES)
def test_the_work_that_is_built_is_right(name: str) -> None:
    assert verify_file(file_of(INSTANCES[name])) == ()


@pytest.mark.parametrize("seed", range(60))
def test_no_training_is_wrongly_refused(seed: int) -> None:
    rng = random.Random(seed)
    instance = random_training(rng)
    graph = build_graph(instance)
    schedule = simulate(graph, random_order(graph, rng))
    assert kfac_violations(instance, works_of(graph, schedule)) == ()


@pytest.mark.parametrize("name", ["1f1b", "chimera", "zb-h1", "gems"])
def test_baselines_with_owners_of_inversions(name: str) -> None:
    instance = INSTANCES["whole"]
    run = run_baseline(BASELINES[name], instance)
    works = works_of(run.graph, run.schedule)
    assert kfac_violations(run.derived, works) == ()
    if name == "chimera":  # the copies take turns
        owners = [
            (work.op.stage, work.device)
            for work in works
            if work.op.kind is OpKind.INVERSION
        ]
        assert (
            sorted(owners) == [(0, 0)] * 3 + [(0, 1)] * 3 + [(1, 0)] * 3 + [(1, 1)] * 3
        )


# -- a builder that is wrong --------------------------------------------------


def scaled(kind: OpKind, factor: Fraction) -> Callable[..., None]:
    """The builder's own way to add an op, with another duration for a kind."""
    right = builder._Builder._compute

    def compute(
        self: Any, op: Op, duration: Fraction, device: int, literal: str | None = None
    ) -> None:
        here = duration * factor if op.kind is kind else duration
        right(self, op, here, device, literal)

    return compute


@pytest.mark.parametrize(
    ("name", "kind", "factor"),
    [
        # KFAC.md: inversions halved where there is nothing to share, as in GPipe.
        ("linear", OpKind.INVERSION, Fraction(1, 2)),
        # Not halved where there is.
        ("two-way", OpKind.INVERSION, Fraction(2)),
        ("whole", OpKind.INVERSION, Fraction(1, 2)),
        ("replicas", OpKind.INVERSION, Fraction(3)),
        ("scales", OpKind.CURVATURE_A, Fraction(2, 7)),
        ("linear", OpKind.CURVATURE_B, Fraction(1, 3)),
        ("refreshes", OpKind.CURVATURE_A, Fraction(2)),
        ("speeds", OpKind.CURVATURE_A, Fraction(3)),
        ("two-way", OpKind.PRECONDITION, Fraction(2)),
        ("linear", OpKind.PRECONDITION, Fraction(1, 2)),
    ],
)
def test_a_wrong_constant_of_the_builder_is_seen(
    name: str, kind: OpKind, factor: Fraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder._Builder, "_compute", scaled(kind, factor))
    found = verify_file(file_of(INSTANCES[name]))
    assert found
    assert {v.rule for v in found} == {Rule.KFAC_WORK}
    assert all(v.detail.startswith(kind.value) for v in found)


def test_the_message_says_what_there_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = scaled(OpKind.INVERSION, Fraction(1, 2))
    monkeypatch.setattr(builder._Builder, "_compute", wrong)
    found = kfac_rule(file_of(INSTANCES["linear"]))
    # 2 x 3 + 7 of factors A: halves are rounded to 2, 2 and 4; B 2 x 4 + 9 to 8.
    assert [v.detail for v in found] == [
        f"INVERSION of factors {side} of stage {stage} in step 0: they take 8 s at"
        f" speed 1 together, should be {right} s"
        for stage in (0, 1)
        for side, right in (("A", 13), ("B", 17))
    ]


def test_a_sum_cannot_hide_that_a_layer_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = builder.factors_of

    def without_one(instance: Instance, stage: int) -> list[builder.Factor]:
        found = list(right(instance, stage))
        first = replace(found[0].module, inversion_a=6, curvature_a=2)
        return [found[0]._replace(module=first), found[1], *found[3:]]

    monkeypatch.setattr(builder, "factors_of", without_one)
    details = {v.detail for v in kfac_rule(file_of(INSTANCES["linear"]))}
    assert (
        "INVERSION of factors A of stage 0 in step 0: there are 2 ops, should be 3"
        in (details)
    )
    assert len(details) == 4  # curvature and inversion of side A of both stages


def test_refreshes_at_other_steps_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = builder._Builder.refresh
    monkeypatch.setattr(
        builder._Builder, "refresh", lambda self, step: right(self, step and step - 1)
    )
    monkeypatch.setattr(builder._Builder, "_after_refresh", lambda *_: None)
    details = [v.detail for v in kfac_rule(file_of(INSTANCES["refreshes"]))]
    steps = {detail.rpartition("step ")[2] for detail in details}
    assert steps == {
        *(f"1: there are {ops} ops, should be 0" for ops in (3, 6)),
        *(f"2: there are 0 ops, should be {ops}" for ops in (3, 6)),
    }


def test_half_of_the_work_on_the_wrong_device_is_seen() -> None:
    instance = INSTANCES["two-way"]
    graph = build_graph(instance)
    works = works_of(graph, simulate(graph, random_order(graph, random.Random(0))))
    for kind in (OpKind.CURVATURE_A, OpKind.INVERSION, OpKind.PRECONDITION):
        moved = [
            work._replace(device=1 - work.device) if work.op.kind is kind else work
            for work in works
        ]
        found = kfac_violations(instance, moved)
        assert {v.ops[0].kind for v in found} == {kind}
        assert all("should be on" in v.detail for v in found)


# -- a file that is wrong -----------------------------------------------------


def test_a_row_that_is_too_short_is_seen() -> None:
    file = file_of(INSTANCES["linear"])
    row = next(row for row in file.ops if row.kind is OpKind.INVERSION)
    rows = [
        one.model_copy(update={"end": one.start}) if one is row else one
        for one in file.ops
    ]
    found = verify_file(file.model_copy(update={"ops": rows}))
    assert {v.rule for v in found} == {Rule.ROW, Rule.KFAC_WORK}


def test_a_missing_preconditioning_is_seen() -> None:
    file = file_of(INSTANCES["refreshes"])
    rows = [row for row in file.ops if row.op != "3@1PRECONDITION0"]
    found = kfac_rule(file.model_copy(update={"ops": rows}))
    assert [v.detail for v in found] == [
        "PRECONDITION of stage 1 in step 3: there are 0 ops, should be 1"
    ]


def test_rounding_is_no_fault_and_a_tick_more_is() -> None:
    instance = INSTANCES["two-way"]  # its halves lie between two ticks
    graph = build_graph(instance)
    works = works_of(graph, simulate(graph, random_order(graph, random.Random(0))))
    assert kfac_violations(instance, works) == ()

    def longer(ticks: int) -> tuple[Violation, ...]:
        return kfac_violations(
            instance,
            [
                work._replace(ticks=work.ticks + ticks)
                if work.op.kind is OpKind.STEP
                else work
                for work in works
            ],
        )

    assert longer(1)
    assert longer(-1)


def test_without_k_fac_there_is_nothing_to_count() -> None:
    instance = training(2, 2, kfac=None, steps=2)
    assert verify_file(file_of(instance)) == ()
    assert kfac_violations(instance, [Work(Op.parse("0INVERSION0:o.A"), 0, 5)]) == ()


def test_the_verifier_does_not_ask_the_builder() -> None:
    source = Path(verifier.__file__).read_text(encoding="utf-8")
    modules = [
        node.module or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
    ]
    assert not [name for name in modules if "build" in name or "opgraph" in name]
    assert ".copies_of(" not in source
    assert ".device_of(" not in source
