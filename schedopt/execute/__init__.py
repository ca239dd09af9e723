"""Exported schedules are executed by torch, and judged against the plain model.

Every rank is a process of its own with torch's ``_PipelineScheduleRuntime``; only those
processes import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schedopt.execute.choices import Backend, Comms, Model
    from schedopt.execute.executing import Execution, Fidelity, execute, execute_jobs
    from schedopt.execute.job import Job, job_of

# Where each public name lives; the command line needs the choices only, and at once.
_HOME = {
    "Backend": "choices",
    "Comms": "choices",
    "Execution": "executing",
    "Fidelity": "executing",
    "Job": "job",
    "Model": "choices",
    "execute": "executing",
    "execute_jobs": "executing",
    "job_of": "job",
}

__all__ = [
    "Backend",
    "Comms",
    "Execution",
    "Fidelity",
    "Job",
    "Model",
    "execute",
    "execute_jobs",
    "job_of",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
