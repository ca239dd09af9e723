"""The schedules that the tests have torch execute: hand-made, found, and drawn."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import schedopt
from schedopt.baselines import BASELINES
from schedopt.build import build_graph
from schedopt.errors import NotApplicableError
from schedopt.execute import Comms, Job, Model, job_of
from schedopt.export import Program, program_of
from schedopt.instance import Backward, Device, Instance, Placement, StageCost, place
from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op
from schedopt.schedule import Order
from schedopt.simulate import simulate
from tests.torch_schedules import FORMS, SHAPES, Drawn, drawn

MICROBATCHES = 4
HAND_MADE = tuple(
    name
    for name, baseline in BASELINES.items()
    if baseline.placement is not Placement.BIDIRECTIONAL  # which torch cannot execute
)
FOUND = (
    (Placement.LINEAR, Backward.SPLIT),
    (Placement.V, Backward.CHOOSE),
    (Placement.LOOPED, Backward.WHOLE),
)


def instance(
    ranks: int,
    stages: int,
    placement: Placement = Placement.LINEAR,
    backward: Backward = Backward.SPLIT,
    *,
    microbatches: int = MICROBATCHES,
) -> Instance:
    """Uneven stages; a device has memory for as many activations as there are ranks."""
    return Instance(
        name=f"{placement.value} {backward.value} {stages} on {ranks}",
        stages=tuple(
            StageCost(
                forward=10 + stage % 3,
                backward_input=9 + stage % 2,
                backward_weight=7,
                activation=1,
            )
            for stage in range(stages)
        ),
        devices=tuple(
            Device(name=f"gpu{d}", memory_limit=-(-stages // ranks) * ranks)
            for d in range(ranks)
        ),
        microbatches=microbatches,
        placement=placement,
        device_of_stage=place(placement, stages, ranks),
        backward=backward,
        memory_unit="B",
        resolution=1,
        runtime="torch-csv",
    )


def hand_made(ranks: int) -> Iterator[tuple[str, Program]]:
    """Every published schedule that has one home per stage, in its own form."""
    for name in HAND_MADE:
        for stages in (ranks, 2 * ranks):
            given = replace(instance(ranks, stages), runtime="")
            try:
                run = schedopt.run_baseline(BASELINES[name], given)
            except NotApplicableError:
                continue
            yield f"{name}, {run.form}", program_of(run.derived, run.schedule)
            break


def found(ranks: int) -> Iterator[tuple[str, Program]]:
    """What the optimizer finds, with torch's rules."""
    parameters = schedopt.SolveParameters(time_limit_s=3, workers=1)
    for placement, backward in FOUND:
        stages = ranks if placement is Placement.LINEAR else 2 * ranks
        given = instance(ranks, stages, placement, backward)
        solution = schedopt.solve(given, parameters)
        assert solution.schedule is not None
        yield f"optimizer, {given.name}", program_of(given, solution.schedule)


def recomputing(ranks: int) -> Iterator[tuple[str, Program]]:
    """One forward, one backward, with every stage recomputed."""
    given = instance(ranks, ranks, backward=Backward.WHOLE)
    given = replace(given, recompute=frozenset(range(ranks)), runtime="")
    run = schedopt.run_baseline(BASELINES["1f1b"], given)
    yield "1f1b, recomputed", program_of(run.derived, run.schedule)


def random_ones(ranks: int, each: int = 1) -> Iterator[tuple[str, Program]]:
    """Random feasible rows of every shape and form."""
    rng = random.Random(ranks)
    for shape, form in product(SHAPES, FORMS):
        for number in range(each):
            case = _drawn_for(rng, shape, form, ranks)
            yield f"random {shape} {form} {number}", _program(case)


def _drawn_for(rng: random.Random, shape: str, form: str, ranks: int) -> Drawn:
    while True:
        case = drawn(rng, shape, form)
        if len(case.rows) == ranks and case.microbatches > 1:
            return case


def _program(case: Drawn) -> Program:
    """The drawn rows as a schedule of an instance, and what is exported of that."""
    stages, ranks = len(case.rank_of_stage), len(case.rows)
    given = replace(
        instance(ranks, stages, microbatches=case.microbatches),
        placement=Placement.EXPLICIT,
        device_of_stage=case.rank_of_stage,
        backward=Backward.CHOOSE,
        runtime="",
    )
    rows = [tuple(Op.parse(str(token)) for token in row) for row in case.rows]
    order = Order({Stream(StreamKind.COMPUTE, r): row for r, row in enumerate(rows)})
    return program_of(given, simulate(build_graph(given), order))


def jobs(ranks: int, *, each: int = 1) -> list[Job]:
    """All of them for so many ranks; models and who lists the transfers alternate."""
    programs = [
        *hand_made(ranks),
        *found(ranks),
        *recomputing(ranks),
        *random_ones(ranks, each),
    ]
    return [
        replace(
            job_of(
                program,
                Model.MLP if number % 3 == 2 else Model.TRANSFORMER,
                comms=Comms.OWN if number % 2 else Comms.TORCH,
                seed=number,
            ),
            name=name,
        )
        for number, (name, program) in enumerate(programs)
    ]
