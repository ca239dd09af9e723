"""What the ranks found, and what it says together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, NamedTuple

from schedopt.execute.job import Job


class Difference(NamedTuple):
    """The largest absolute difference, and where it is.

    Infinite where the one has a gradient and the other none; NaN is kept.
    """

    value: float
    where: str

    @classmethod
    def largest(cls, found: Iterable[Difference]) -> Difference:
        """The largest of them; a NaN is larger than any number."""
        worst = cls(0.0, "")
        for one in found:
            if math.isnan(worst.value):
                break
            if not one.value <= worst.value:
                worst = one
        return worst


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """One training step on one rank.

    Attributes
    ----------
    loss, plain_loss : float or None
        Mean over the microbatches, pipelined and unpipelined; None on ranks without the
        last stage.
    loss_difference : float
        The largest over the microbatches.
    gradient : Difference
        The largest over the gradients of the rank's stages.
    gradients : int
        How many tensors were compared.
    start_s, end_s : float
        When the step started and ended; seconds of the machine's monotonic clock.
    spans : list of [op, start, end]
        What slept when, on the same clock.
    """

    loss: float | None
    plain_loss: float | None
    loss_difference: float
    gradient: Difference
    gradients: int
    start_s: float
    end_s: float
    spans: Sequence[tuple[str, float, float]]

    def document(self) -> dict[str, Any]:
        """As the ranks write it; ``from_document`` reads it."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> StepOutcome:
        """The inverse of ``document``."""
        return cls(**{**document, "gradient": Difference(*document["gradient"])})


class SpanOnRank(NamedTuple):
    """When an op slept, seconds from the step's start."""

    rank: int
    op: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A job as all ranks executed it: ``steps[rank][step]``."""

    job: Job
    steps: tuple[tuple[StepOutcome, ...], ...]

    @property
    def loss_difference(self) -> float:
        """The largest absolute difference of a microbatch's loss, over all steps."""
        return Difference.largest(
            Difference(step.loss_difference, "") for step in self._all()
        ).value

    @property
    def gradient(self) -> Difference:
        """The largest absolute difference of a gradient, over all steps and stages."""
        return Difference.largest(step.gradient for step in self._all())

    @property
    def gradients(self) -> int:
        """How many gradients were compared in each step."""
        return sum(rank[0].gradients for rank in self.steps)

    @property
    def losses(self) -> tuple[tuple[float, float], ...]:
        """Each step's loss, pipelined and unpipelined."""
        return tuple(
            (step.loss, step.plain_loss)
            for step in self._all()
            if step.loss is not None and step.plain_loss is not None
        )

    def agrees(self, tolerance: float) -> bool:
        """Whether losses and gradients differ by no more than ``tolerance``."""
        return self.gradient.value <= tolerance and self.loss_difference <= tolerance

    @property
    def step_s(self) -> tuple[float, ...]:
        """Each step's time, from the first rank's start to the last one's end."""
        return tuple(
            max(step.end_s for step in ranks) - min(step.start_s for step in ranks)
            for ranks in zip(*self.steps, strict=True)
        )

    @property
    def measured_s(self) -> float:
        """The median step time without the first step, which sets connections up."""
        return median(self.step_s[1:] or self.step_s)

    def spans(self, step: int) -> tuple[SpanOnRank, ...]:
        """What slept when in a step, from the first op's start."""
        found = [
            (rank, span)
            for rank, steps in enumerate(self.steps)
            for span in steps[step].spans
        ]
        first = min((start for _, (_, start, _) in found), default=0.0)
        return tuple(
            SpanOnRank(rank, op, start - first, end - first)
            for rank, (op, start, end) in found
        )

    def _all(self) -> Iterable[StepOutcome]:
        return (step for rank in self.steps for step in rank)
