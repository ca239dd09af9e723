"""A job is executed by torch, and compared with the plain model and the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schedopt.execute.choices import Backend
from schedopt.execute.job import Job
from schedopt.execute.outcome import Outcome
from schedopt.execute.processes import Progress, run_ranks, torch_version

TOLERANCE = 1e-12
"""How far losses and gradients in float64 may be from the plain model's."""

KFAC_TOLERANCE = 1e-10
"""The same where K-FAC inverts factors, and for factors, inverses and parameters."""

FIDELITY = 0.06
"""How far, as a share, a measured step may be from the predicted one without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """A step's time, predicted and measured, seconds."""

    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """The measured time over the predicted one, less 1."""
        return self.measured_s / self.predicted_s - 1 if self.predicted_s else 0.0

    @property
    def is_close(self) -> bool:
        """Whether the error is within ``FIDELITY``."""
        return abs(self.error) <= FIDELITY


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What torch made of a job."""

    outcome: Outcome
    torch: str
    backend: Backend
    tolerance: float = TOLERANCE

    @property
    def job(self) -> Job:
        """What was executed."""
        return self.outcome.job

    @property
    def agrees(self) -> bool:
        """Whether losses and gradients are those of the plain model."""
        return self.outcome.agrees(self.tolerance)

    @property
    def fidelity(self) -> Fidelity | None:
        """How the measured step compares with the predicted one; of ``sleep`` only."""
        if self.job.predicted_s is None:
            return None
        return Fidelity(
            predicted_s=self.job.predicted_s, measured_s=self.outcome.measured_s
        )


def execute(
    job: Job,
    *,
    backend: Backend = Backend.GLOO,
    timeout_s: float = 60.0,
    progress: Progress | None = None,
) -> Execution:
    """Execute one job, each rank in a process of its own.

    Raises
    ------
    ExecutionError
        If torch is not installed or a rank fails.
    """
    (execution,) = execute_jobs(
        [job], backend=backend, timeout_s=timeout_s, progress=progress
    )
    return execution


def execute_jobs(
    jobs: Sequence[Job],
    *,
    backend: Backend = Backend.GLOO,
    timeout_s: float = 60.0,
    progress: Progress | None = None,
) -> list[Execution]:
    """Execute jobs for equally many ranks, one after the other in the same processes.

    Starting the processes, which takes seconds, is paid once.

    Raises
    ------
    ExecutionError
        If torch is not installed or a rank fails.
    """
    version = torch_version()
    outcomes = run_ranks(jobs, backend=backend, timeout_s=timeout_s, progress=progress)
    return [
        Execution(
            outcome=outcome,
            torch=version,
            backend=backend,
            tolerance=TOLERANCE if outcome.job.kfac is None else KFAC_TOLERANCE,
        )
        for outcome in outcomes
    ]
