"""A rank's side of a pipeline in torch's runtime, and how its results are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

from schedopt.execute.job import Job
from schedopt.execute.models import (
    COMPARED,
    Batch,
    batch_of,
    boundary_of,
    loss_of,
    stage_of,
)
from schedopt.execute.sleeping import Timeline

LEARNING_RATE = 0.05  # between steps, so that the second one has other weights


class Pipelined:
    """A rank's stages, and torch's runtime with the rows loaded."""

    def __init__(
        self,
        job: Job,
        rank: int,
        device: torch.device,
        csv: Path,
        dtype: torch.dtype = COMPARED,
    ) -> None:
        self.job = job
        self.device = device
        self.dtype = dtype
        self.timeline = Timeline()
        count = len(job.device_of_stage)
        self.modules = {
            stage: stage_of(job, stage, self.timeline, dtype).to(device)
            for stage, owner in enumerate(job.device_of_stage)
            if owner == rank
        }
        stages = []
        for number, module in self.modules.items():
            ends = boundary_of(job, number, dtype)
            # Shapes and types are enough, and torch 2.11 keeps what it is given.
            inputs, outputs = (end.to("meta") for end in ends)
            stages.append(
                PipelineStage(
                    module,
                    number,
                    count,
                    device,
                    input_args=inputs,
                    output_args=outputs,
                )
            )
        self.stages = stages
        self.runtime = _PipelineScheduleRuntime(
            stages, job.microbatches, loss_fn=loss_of, scale_grads=True
        )
        self.runtime._load_csv(  # noqa: SLF001 (there is no public way to load rows)
            str(csv), format="compute_comms" if job.has_comms else "compute_only"
        )
        self.is_first = 0 in self.modules
        self.is_last = count - 1 in self.modules

    def batch(self, step: int) -> Batch:
        """A step's data on this device."""
        batch = batch_of(self.job, step, self.dtype)
        return Batch(batch.inputs.to(self.device), batch.target.to(self.device))

    def step(self, batch: Batch, run: Callable[..., Any] | None = None) -> list[Tensor]:
        """One training step; the losses if the last stage is here.

        ``run`` is what takes the step; None: the runtime's own ``step``.
        """
        run = run or self.runtime.step
        losses: list[Tensor] = []
        given = (batch.inputs,) if self.is_first else ()
        # Outputs that are returned would be kept until the step ends.
        if self.is_last:
            run(*given, target=batch.target, losses=losses, return_outputs=False)
        else:
            run(*given, return_outputs=False)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return losses


def mean_of(losses: list[Tensor]) -> float:
    """The mean loss; NaN of none."""
    return float(torch.stack(losses).mean()) if losses else float("nan")


def loss_difference(losses: list[Tensor], plain: list[Tensor]) -> float:
    """The largest absolute difference; infinite if they are not equally many."""
    if len(losses) != len(plain):
        return float("inf")
    return float((torch.stack(losses) - torch.stack(plain)).abs().max())


def distance(one: Tensor | None, other: Tensor | None) -> float:
    """The largest absolute difference; infinite if one is there and one is not."""
    if one is None or other is None:
        return 0.0 if one is other else float("inf")
    return float((one - other).abs().max())
