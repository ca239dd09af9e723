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


@dataclass(frozen=True, slots=True, kw_only=True)
class KfacOutcome:
    """What a rank's second-order work came to in one training step.

    Attributes
    ----------
    factor, inverse, parameter : Difference
        The largest over the factors that were inverted in the step, their inverses, and
        the parameters after the optimizer's steps.
    factors : int
        How many factors were compared.
    most_waiting, left_waiting : int
        How many inputs and output gradients waited for their curvature: at most, since
        the training began, and at the end of the step.
    slots : int
        How many slots were executed since the training began.
    """

    factor: Difference
    inverse: Difference
    parameter: Difference
    factors: int
    most_waiting: int
    left_waiting: int
    slots: int

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> KfacOutcome:
        """The inverse of ``dataclasses.asdict``, after JSON."""
        differences = ("factor", "inverse", "parameter")
        return cls(
            **{
                **document,
                **{name: Difference(*document[name]) for name in differences},
            }
        )


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
    kfac : KfacOutcome or None
        What the second-order work came to, if there is any. Gradients are then the
        preconditioned ones.
    """

    loss: float | None
    plain_loss: float | None
    loss_difference: float
    gradient: Difference
    gradients: int
    start_s: float
    end_s: float
    spans: Sequence[tuple[str, float, float]]
    kfac: KfacOutcome | None = None

    def document(self) -> dict[str, Any]:
        """As the ranks write it; ``from_document`` reads it."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> StepOutcome:
        """The inverse of ``document``."""
        return cls(
            **{
                **document,
                "gradient": Difference(*document["gradient"]),
                "kfac": document["kfac"]
                and KfacOutcome.from_document(document["kfac"]),
            }
        )


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
        """Whether nothing differs by more, and all second-order work was done."""
        values = (self.worst.value, self.loss_difference)
        return all(value <= tolerance for value in values) and self.is_as_planned

    # -- second-order work ----------------------------------------------------

    @property
    def factor(self) -> Difference:
        """The largest difference of a factor A or B that was inverted."""
        return Difference.largest(kfac.factor for kfac in self._kfac())

    @property
    def inverse(self) -> Difference:
        """The largest difference of an inverse."""
        return Difference.largest(kfac.inverse for kfac in self._kfac())

    @property
    def parameter(self) -> Difference:
        """The largest difference of a parameter after a step."""
        return Difference.largest(kfac.parameter for kfac in self._kfac())

    @property
    def worst(self) -> Difference:
        """The largest difference of anything but a loss."""
        found = [self.gradient]
        if self.job.kfac is not None:
            found += [self.factor, self.inverse, self.parameter]
        return Difference.largest(found)

    @property
    def factors(self) -> int:
        """How many factors were inverted and compared, in all steps."""
        return sum(kfac.factors for kfac in self._kfac())

    @property
    def most_waiting(self) -> tuple[int, ...]:
        """For each rank how many inputs and output gradients waited at once."""
        return tuple(rank[-1].kfac.most_waiting for rank in self.steps if rank[-1].kfac)

    @property
    def is_as_planned(self) -> bool:
        """Whether every slot ran, and data waited just as the rows have it."""
        plan = self.job.kfac
        if plan is None:
            return True
        slots = tuple(rank[-1].kfac.slots for rank in self.steps if rank[-1].kfac)
        return self.most_waiting == plan.most_waiting and slots == plan.slots

    def _kfac(self) -> Iterable[KfacOutcome]:
        return (step.kfac for step in self._all() if step.kfac is not None)

    # -- times ----------------------------------------------------------------

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
