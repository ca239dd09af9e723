"""Stages whose ops take known times: they sleep, so that no processor is needed.

Autograd decides what a backward runs by the inputs whose gradients are asked for. A
stage that multiplies its input by a weight therefore has one sleeping node on the
input's side, which ``I`` runs, and one on the weight's side, which ``W`` runs; where a
microbatch has a whole backward, one node behind both sleeps for it.
"""

from __future__ import annotations

import re
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from schedopt.execute.job import Job
from schedopt.ops import Op, OpKind


class Span(NamedTuple):
    """When an op ran, seconds of the machine's monotonic clock."""

    op: str
    start_s: float
    end_s: float


class Timeline(list[Span]):
    """What slept when, in order of the ends."""

    def sleep(self, op: str, seconds: float) -> None:
        """Sleep for an op, and note it."""
        start = time.monotonic()
        if seconds > 0:
            time.sleep(seconds)
        self.append(Span(op, start, time.monotonic()))


class _SleepInBackward(torch.autograd.Function):
    """The identity; its backward sleeps for an op."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, timeline: Timeline, op: str, seconds: float
    ) -> Tensor:
        ctx.slept = timeline, op, seconds
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        timeline, op, seconds = ctx.slept
        timeline.sleep(op, seconds)
        return gradients[0], None, None, None


class SleepingStage(nn.Module):
    """Multiplies its input by a weight per column, and sleeps as the job says.

    torch does not say which microbatch a forward is for: they come in the order of the
    stage's row.
    """

    def __init__(
        self, job: Job, stage: int, timeline: Timeline | None, width: int
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(width))
        self._job = job
        self._stage = stage
        self._timeline = timeline
        self._microbatches = forward_order(job, stage)
        self._forwards = 0

    def forward(self, value: Tensor) -> Tensor:
        """One microbatch; without a timeline, any number of them at once."""
        if self._timeline is None:
            return value * self.weight
        number = self._forwards % len(self._microbatches)
        self._forwards += 1
        microbatch = self._microbatches[number]
        return self._sleeping(value, microbatch, self._timeline)

    def _sleeping(self, value: Tensor, microbatch: int, timeline: Timeline) -> Tensor:
        forward, backward, before, weight = (
            str(Op(kind, self._stage, microbatch))
            for kind in (
                OpKind.FORWARD,
                OpKind.BACKWARD,
                OpKind.BACKWARD_INPUT,
                OpKind.BACKWARD_WEIGHT,
            )
        )
        slept = self._job.sleep_s
        timeline.sleep(forward, slept[forward])
        # On stage 0 the input needs no gradient: W is the whole backward there.
        whole = next((op for op in (backward, weight) if op in slept), backward)
        if backward in slept or self._stage == 0:
            again = Op(OpKind.RECOMPUTE, self._stage, microbatch)
            seconds = slept[whole] + slept.get(str(again), 0.0)
            return _after(value * self.weight, timeline, whole, seconds)
        return _after(value, timeline, before, slept[before]) * _after(
            self.weight, timeline, weight, slept[weight]
        )


def forward_order(job: Job, stage: int) -> list[int]:
    """The microbatches of a stage in the order of its forwards."""
    found = re.findall(rf"(?:^|,)\s*{stage}F(\d+)\b", job.csv, re.MULTILINE)
    return [int(microbatch) for microbatch in found]


def _after(value: Tensor, timeline: Timeline, op: str, seconds: float) -> Tensor:
    slept: Tensor = _SleepInBackward.apply(value, timeline, op, seconds)
    return slept
