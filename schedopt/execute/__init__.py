"""Exported schedules are executed by torch, and judged against the plain model.

Every rank is a process of its own with torch's ``_PipelineScheduleRuntime``; only those
processes import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schedopt.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _HOME)
