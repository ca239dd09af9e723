"""What one rank does of a training with K-FAC: it executes the slots, and compares."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, distributed

from schedopt.execute.job import Job
from schedopt.execute.kfac_plan import DAMPING
from schedopt.execute.kfac_reference import KfacReference, Made, layers_in
from schedopt.execute.outcome import Difference, KfacOutcome, StepOutcome
from schedopt.execute.pipelined import (
    LEARNING_RATE,
    Pipelined,
    distance,
    loss_difference,
    mean_of,
)
from schedopt.export.torch_kfac_slots import KfacSlots, SlotOp


class _Observed:
    """A rank's K-FAC, and copies of all that its slots make."""

    def __init__(self, job: Job, pipelined: Pipelined, table: Path) -> None:
        assert job.kfac is not None
        self.made: dict[Made, Tensor] = {}
        self.modules = pipelined.modules
        self.slots = KfacSlots(
            pipelined.runtime,
            pipelined.stages,
            table,
            {
                stage: layers_in(module, job.kfac.layers[stage])
                for stage, module in pipelined.modules.items()
            },
            update=self._descend,
            damping=DAMPING,
            forever=job.kfac.forever,
            observe=self._observe,
        )

    def _descend(self, stage: int) -> None:
        for parameter in self.modules[stage].parameters():
            assert parameter.grad is not None
            parameter.sub_(LEARNING_RATE * parameter.grad)
            parameter.grad = None

    def _observe(self, op: SlotOp) -> None:
        step, stage = op.step, op.stage
        if op.kind == "INVERSION":
            factor = self.slots.factor(stage, op.part)
            assert factor.total is not None
            assert factor.inverse is not None
            self.made[Made("factor", step, stage, op.part)] = factor.total
            self.made[Made("inverse", step, stage, op.part)] = factor.inverse
        what = {"PRECONDITION": "gradient", "STEP": "parameter"}.get(op.kind)
        if what is None:
            return
        for name, parameter in enumerate(self.modules[stage].parameters()):
            value = parameter.grad if what == "gradient" else parameter
            key = Made(what, step, stage, str(name))
            self.made[key] = value.detach().clone()


def execute_kfac(
    job: Job, rank: int, device: torch.device, csv: Path
) -> Iterator[StepOutcome]:
    """Train with a job's schedule and without, and compare, step by step."""
    assert job.kfac is not None
    pipelined = Pipelined(job, rank, device, csv)
    table = csv.with_suffix("") / job.kfac.table
    observed = _Observed(job, pipelined, table)
    reference = KfacReference(job, device)
    for number in range(job.steps):
        batch = pipelined.batch(number)
        distributed.barrier()
        start = time.monotonic()

        def run(*arguments: object, number: int = number, **named: object) -> None:
            observed.slots.step(number, *arguments, **named)

        losses = pipelined.step(batch, run)
        end = time.monotonic()
        plain = reference.step(number, batch)
        has_loss = pipelined.is_last
        found = _differences(observed.made, reference.made)
        observed.made.clear()
        yield StepOutcome(
            loss=mean_of(losses) if has_loss else None,
            plain_loss=mean_of(plain) if has_loss else None,
            loss_difference=loss_difference(losses, plain) if has_loss else 0.0,
            gradient=found["gradient"][1],
            gradients=found["gradient"][0],
            start_s=start,
            end_s=end,
            spans=[],
            kfac=KfacOutcome(
                factor=found["factor"][1],
                factors=found["factor"][0],
                inverse=found["inverse"][1],
                parameter=found["parameter"][1],
                most_waiting=observed.slots.most_waiting,
                left_waiting=len(observed.slots.waiting),
                slots=observed.slots.executed,
            ),
        )


def _differences(
    made: dict[Made, Tensor], right: dict[Made, Tensor]
) -> dict[str, tuple[int, Difference]]:
    """How many of each sort were compared, and the largest difference."""
    found = {}
    for what in ("factor", "inverse", "gradient", "parameter"):
        keys = [key for key in made if key.what == what]
        largest = Difference.largest(
            Difference(
                distance(made[key], right.get(key)),
                f"{what} {key.name} of stage {key.stage} in step {key.step}",
            )
            for key in keys
        )
        found[what] = len(keys), largest
    return found
