"""K-FAC without a pipeline: the whole model, the whole batch, nothing in slots.

Every inverse is computed from the batch of its step at once, in another way than in the
slots; which one a step uses is what the schedule says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from schedopt.execute.job import Job
from schedopt.execute.kfac_plan import DAMPING
from schedopt.execute.models import Batch, loss_of, stage_of
from schedopt.execute.pipelined import LEARNING_RATE


class Made(NamedTuple):
    """What something is of: ``what`` is factor, inverse, gradient or parameter."""

    what: str
    step: int
    stage: int
    name: str


def layers_in(stage: nn.Module, names: tuple[str, ...]) -> dict[str, nn.Linear]:
    """The linear layers of a stage by the names of the schedule, in model order."""
    found = [module for module in stage.modules() if isinstance(module, nn.Linear)]
    return dict(zip(names, found, strict=False))


@dataclass
class _Seen:
    """What came into a layer, and the gradient of what went out."""

    inputs: Tensor | None = None
    gradient: Tensor | None = field(default=None)


class KfacReference:
    """The unpipelined model, trained with K-FAC."""

    def __init__(self, job: Job, device: torch.device) -> None:
        assert job.kfac is not None
        self.plan = job.kfac
        self.microbatches = job.microbatches
        self.stages = [
            stage_of(job, stage).to(device) for stage in range(len(job.device_of_stage))
        ]
        self.layers = [
            layers_in(stage, names)
            for stage, names in zip(self.stages, self.plan.layers, strict=True)
        ]
        self.made: dict[Made, Tensor] = {}

    def step(self, number: int, batch: Batch) -> list[Tensor]:
        """One training step; the loss of each microbatch."""
        with self._seeing() as seen:
            output = batch.inputs
            for stage in self.stages:
                output = stage(output)
            loss_of(output, batch.target).backward()
        with torch.no_grad():
            if number in self.plan.refreshed:
                self._refresh(number, seen)
            for stage, module in enumerate(self.stages):
                self._precondition(number, stage)
                for name, parameter in enumerate(module.parameters()):
                    gradient = parameter.grad
                    assert gradient is not None
                    key = Made("gradient", number, stage, str(name))
                    self.made[key] = gradient.clone()
                    parameter.sub_(LEARNING_RATE * gradient)
                    key = Made("parameter", number, stage, str(name))
                    self.made[key] = parameter.clone()
                    parameter.grad = None
            return [
                loss_of(part, target)
                for part, target in zip(
                    output.chunk(self.microbatches),
                    batch.target.chunk(self.microbatches),
                    strict=True,
                )
            ]

    @contextmanager
    def _seeing(self) -> Iterator[dict[tuple[int, str], _Seen]]:
        seen: dict[tuple[int, str], _Seen] = {}
        handles = []
        for stage, of_stage in enumerate(self.layers):
            for name, layer in of_stage.items():
                here = seen[stage, name] = _Seen()

                def look(
                    _: nn.Module,
                    inputs: tuple[Tensor, ...],
                    __: Tensor,
                    here: _Seen = here,
                ) -> None:
                    here.inputs = inputs[0].detach()

                def look_back(
                    _: nn.Module,
                    __: object,
                    gradients: tuple[Tensor, ...],
                    here: _Seen = here,
                ) -> None:
                    here.gradient = gradients[0]

                handles.append(layer.register_forward_hook(look))
                handles.append(layer.register_full_backward_hook(look_back))
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def _refresh(self, number: int, seen: dict[tuple[int, str], _Seen]) -> None:
        for (stage, name), here in seen.items():
            assert here.inputs is not None
            assert here.gradient is not None
            inputs = here.inputs.flatten(0, -2)
            inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
            # The batch's loss is the mean of its microbatches'.
            gradients = here.gradient.flatten(0, -2) * self.microbatches
            rows = len(inputs)
            factor_a = torch.einsum("ni,nj->ij", inputs, inputs)
            factor_b = torch.einsum("ni,nj->ij", gradients, gradients)
            per_row = rows / self.microbatches
            means = {
                "A": factor_a / rows,
                "B": factor_b * per_row**2 / rows,
            }
            totals = {"A": factor_a, "B": factor_b}
            for side, mean in means.items():
                part = f"{name}.{side}"
                identity = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
                inverse = torch.linalg.inv(mean + DAMPING * identity)
                self.made[Made("factor", number, stage, part)] = totals[side]
                self.made[Made("inverse", number, stage, part)] = inverse

    def _precondition(self, number: int, stage: int) -> None:
        in_use = self.plan.in_use[number][stage]
        for name, layer in self.layers[stage].items():
            if f"{name}.A" not in in_use or f"{name}.B" not in in_use:
                continue
            inputs, outputs = (
                self.made[Made("inverse", in_use[part], stage, part)]
                for part in (f"{name}.A", f"{name}.B")
            )
            assert layer.weight.grad is not None
            assert layer.bias.grad is not None
            whole = torch.column_stack([layer.weight.grad, layer.bias.grad])
            whole = outputs @ whole @ inputs
            layer.weight.grad = whole[:, :-1].clone()
            layer.bias.grad = whole[:, -1].clone()
