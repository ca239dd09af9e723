"""What one rank does: it executes jobs one after the other, compares, and traces.

It writes a line for each step into a file of its own, or what went wrong.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.profiler import ProfilerActivity, profile

from schedopt.errors import ExecutionError, SchedOptError
from schedopt.execute.choices import Backend
from schedopt.execute.job import Job, trace_name
from schedopt.execute.kfac_rank import execute_kfac
from schedopt.execute.models import Batch, loss_of, stage_of
from schedopt.execute.outcome import Difference, StepOutcome
from schedopt.execute.pipelined import (
    LEARNING_RATE,
    Pipelined,
    distance,
    loss_difference,
    mean_of,
)


class _Plain:
    """The same model in one piece; one pass over the whole batch."""

    def __init__(self, job: Job, device: torch.device) -> None:
        self.microbatches = job.microbatches
        self.stages = [
            stage_of(job, stage).to(device) for stage in range(len(job.device_of_stage))
        ]

    def step(self, batch: Batch) -> list[Tensor]:
        """One training step; the loss of each microbatch."""
        output = batch.inputs
        for stage in self.stages:
            output = stage(output)
        loss_of(output, batch.target).backward()
        with torch.no_grad():
            return [
                loss_of(part, target)
                for part, target in zip(
                    output.chunk(self.microbatches),
                    batch.target.chunk(self.microbatches),
                    strict=True,
                )
            ]


def execute(
    job: Job, rank: int, device: torch.device, csv: Path
) -> Iterator[StepOutcome]:
    """Train with a job's schedule and without, and compare, step by step."""
    pipelined = Pipelined(job, rank, device, csv)
    plain = _Plain(job, device)
    for number in range(job.steps):
        batch = pipelined.batch(number)
        pipelined.timeline.clear()
        distributed.barrier()
        start = time.monotonic()
        losses = pipelined.step(batch)
        end = time.monotonic()
        yield _compared(pipelined, plain, losses, plain.step(batch), (start, end))
        _descend(pipelined.modules.values(), plain.stages)


def trace(
    job: Job, rank: int, device: torch.device, csv: Path, target: Path
) -> Iterator[int]:
    """Train in the model's own type, and write torch's trace; the steps done so far."""
    pipelined = Pipelined(job, rank, device, csv, getattr(torch, job.dtype))
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, profile_memory=True) as profiler:
        for number in range(job.traced_steps):
            batch = pipelined.batch(number)
            distributed.barrier()
            pipelined.step(batch)
            _descend(pipelined.modules.values())
            if number + 1 < job.traced_steps:
                yield number + 1
    profiler.export_chrome_trace(str(target))
    yield job.traced_steps


def _compared(
    pipelined: Pipelined,
    plain: _Plain,
    losses: list[Tensor],
    plain_losses: list[Tensor],
    times: tuple[float, float],
) -> StepOutcome:
    pairs = [
        (f"stage {stage}, {name}", one, other)
        for stage, module in pipelined.modules.items()
        for (name, one), other in zip(
            module.named_parameters(), plain.stages[stage].parameters(), strict=True
        )
    ]
    has_loss = pipelined.is_last
    return StepOutcome(
        loss=mean_of(losses) if has_loss else None,
        plain_loss=mean_of(plain_losses) if has_loss else None,
        loss_difference=loss_difference(losses, plain_losses) if has_loss else 0.0,
        gradient=Difference.largest(
            Difference(distance(one.grad, other.grad), where)
            for where, one, other in pairs
        ),
        gradients=len(pairs),
        start_s=times[0],
        end_s=times[1],
        spans=list(pipelined.timeline),
    )


def _descend(*models: Iterable[nn.Module]) -> None:
    """A step down the gradient, and the gradients are forgotten."""
    with torch.no_grad():
        for model in models:
            for module in model:
                for parameter in module.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(LEARNING_RATE * parameter.grad)
                    parameter.grad = None


def _cause_text(error: BaseException) -> str:
    """What began it, without the tensors that torch lists around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, SchedOptError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _device(backend: Backend, rank: int, ranks: int) -> torch.device:
    if backend is Backend.GLOO:
        return torch.device("cpu")
    if torch.cuda.device_count() < ranks:
        msg = (
            f"nccl needs one GPU for each of {ranks} devices, and torch sees"
            f" {torch.cuda.device_count()}; use the backend gloo"
        )
        raise ExecutionError(msg)
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def run_rank(plan: dict[str, Any], rank: int, folder: Path) -> int:
    """Execute the plan's jobs as one rank.

    Returns the exit code. The rank's file has a line once it is ready, one for each
    step of each job, and one for what went wrong.
    """
    torch.set_num_threads(1)
    with (folder / f"rank-{rank}.jsonl").open("w", encoding="utf-8") as out:
        try:
            for line in _lines(plan, rank, folder):
                out.write(json.dumps(line) + "\n")
                out.flush()
        except Exception as error:  # noqa: BLE001 (whatever it is, the parent tells)
            line = {"error": _cause_text(error), "at_s": time.monotonic()}
            out.write(json.dumps(line) + "\n")
            return 1
    return 0


def _lines(plan: dict[str, Any], rank: int, folder: Path) -> Iterator[dict[str, Any]]:
    jobs = [Job.from_document(document) for document in plan["jobs"]]
    ranks = plan["ranks"]
    device = _device(Backend(plan["backend"]), rank, ranks)
    distributed.init_process_group(
        plan["backend"],
        store=distributed.FileStore(str(folder / "store"), ranks),
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=plan["timeout_s"]),
    )
    yield {"ready": True}
    for number, job in enumerate(jobs):
        csv = folder / f"job-{number}.csv"
        executed = (
            execute(job, rank, device, csv)
            if job.kfac is None
            else execute_kfac(job, rank, device, csv)
        )
        for step in executed:
            yield {"job": number, "step": step.document()}
        if job.trace is not None:
            target = Path(job.trace) / trace_name(rank)
            for done in trace(job, rank, device, csv, target):
                yield {"job": number, "traced": done}
    distributed.barrier()
    distributed.destroy_process_group()
