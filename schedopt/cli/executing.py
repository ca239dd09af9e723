"""``execute``: torch runs a schedule, and its results are judged."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schedopt.cli.exits import DONE, REFUSED
from schedopt.cli.output import complain, console, print_json, print_lines
from schedopt.cli.saving import check_writable
from schedopt.errors import ExecutionError, ExportError, FormatError
from schedopt.execute import Backend, Comms, Execution, Job, Model, job_of
from schedopt.execute import execute as execute_job
from schedopt.execute.executing import FIDELITY
from schedopt.execute.job import trace_name
from schedopt.execute.outcome import Outcome
from schedopt.execute.processes import TORCH, torch_version
from schedopt.export import load_program
from schedopt.formats import Limits
from schedopt.measure.model_file import load_model
from schedopt.measure.sizes import GptModel
from schedopt.report.quantities import count_text, seconds_text, share_text

EVERY_S = 10.0  # between two lines of progress where there is no terminal


def execute(  # noqa: PLR0913 (one argument per option)
    path: Path,
    limits: Limits,
    *,
    model: Model,
    config: Path | None,
    comms: Comms,
    backend: Backend,
    blocks: int,
    seed: int,
    steps: int | None,
    trace: Path | None,
    traced_steps: int,
    sleep_scale: float | None,
    timeout_s: float,
    as_json: bool,
) -> int:
    """Execute a schedule with torch and compare it with the plain model."""
    version = torch_version()
    if not version.startswith(f"{TORCH}."):
        complain(
            f"warning: torch {version} is installed, and its private runtime is known"
            f" as of {TORCH} here; pip install 'schedopt[torch]' brings that one"
        )
    job = _job(
        path,
        limits,
        model=model,
        comms=comms,
        blocks=blocks,
        seed=seed,
        gpt=None if config is None else _measured_model(config, limits),
        steps=steps,
        trace=trace,
        traced_steps=traced_steps,
        sleep_scale=sleep_scale,
    )
    if trace is not None:
        _make_trace_folder(trace, job.ranks)
    try:
        with _showing(job, backend) as progress:
            execution = execute_job(
                job, backend=backend, timeout_s=timeout_s, progress=progress
            )
    except ExecutionError as error:
        msg = f"{path}: {error}"
        raise ExecutionError(msg) from None
    if as_json:
        print_json(execution_document(execution))
    else:
        print_lines(execution_lines(execution, trace))
    return _judged(path, execution)


def _job(path: Path, limits: Limits, **choices: Any) -> Job:
    program = load_program(path, limits)
    try:
        return job_of(program, **choices)
    except ExportError as error:
        msg = f"{path}: {error}"
        raise ExportError(msg) from None


def _measured_model(path: Path, limits: Limits) -> GptModel:
    model = load_model(path, limits)
    if model.compiled:
        msg = (
            f"{path}: compiled = true: execute does not compile stages; measure without"
            " --compile"
        )
        raise ExecutionError(msg)
    return model


def _make_trace_folder(folder: Path, ranks: int) -> None:
    """Make it, and refuse one whose ``rank*.json.gz`` would be of two executions."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder}: the folder cannot be made: {error.strerror}"
        raise FormatError(msg) from None
    check_writable(folder / trace_name(0))
    written = {trace_name(rank) for rank in range(ranks)}
    others = sorted({path.name for path in folder.glob("rank*.json.gz")} - written)
    if others:
        msg = (
            f"{folder}: has {others[0]} of another execution; remove it or name another"
            " folder"
        )
        raise FormatError(msg)


@contextmanager
def _showing(job: Job, backend: Backend) -> Iterator[Callable[[int, int], None]]:
    """How far it has come: a live line on a terminal, else a line now and then."""
    out = console(stderr=True)
    started = last = time.monotonic()

    def line(state: str) -> str:
        clock = seconds_text(time.monotonic() - started).rjust(8)
        return f"{clock}  {job.name}: {job.model.value}, {state}"

    with out.status(line(f"starting {_processes(job, backend)}")) as status:

        def progress(done: int, of: int) -> None:
            nonlocal last
            about = ""
            if job.predicted_s is not None:
                about = f", {job.predicted_s:.1f} s each as predicted"
            text = line(f"{done} of {count_text(of, 'step')} done{about}")
            if out.is_terminal:
                status.update(text)
            elif time.monotonic() - last > EVERY_S:
                last = time.monotonic()
                out.print(text)

        yield progress


def _processes(job: Job, backend: Backend) -> str:
    if backend is Backend.NCCL:
        return f"{count_text(job.ranks, 'GPU')}, one process each, nccl"
    return f"{count_text(job.ranks, 'process', 'processes')} on the CPU, gloo"


def _judged(path: Path, execution: Execution) -> int:
    """The exit code; complains about other gradients, and warns of another time."""
    outcome, fidelity = execution.outcome, execution.fidelity
    if not execution.agrees:
        worst = outcome.worst
        if not outcome.is_as_planned:
            complain(
                f"{path}: second-order work was left out, or its data waited for longer"
                " than the rows have it; that is a fault of schedopt"
            )
            return REFUSED
        if worst.value <= execution.tolerance:
            what = f"losses differ by {outcome.loss_difference:.3g}"
        elif math.isinf(worst.value):
            what = f"a gradient is missing ({worst.where})"
        else:
            sort = "gradients differ" if outcome.job.kfac is None else "results differ"
            what = f"{sort} by up to {worst.value:.3g} ({worst.where})"
        complain(
            f"{path}: {what} from the unpipelined model's, more than"
            f" {execution.tolerance:g}; do not train with this schedule"
        )
        return REFUSED
    if fidelity is not None and not fidelity.is_close:
        complain(
            f"warning: {path}: a step took {share_text(fidelity.error)} more than"
            f" predicted, over {share_text(FIDELITY)}; a busy machine or a small"
            " --sleep-scale do that"
        )
    return DONE


def execution_lines(
    execution: Execution, trace: Path | None = None
) -> list[tuple[str, str]]:
    """What was executed and how it compares, as labelled lines."""
    job, outcome, fidelity = execution.job, execution.outcome, execution.fidelity
    stages = count_text(len(job.device_of_stage), "stage")
    microbatches = count_text(job.microbatches, "microbatch", "microbatches")
    comms = "own transfers" if job.has_comms else "transfers by torch"
    loss, plain = outcome.losses[-1]
    lines = [
        ("schedule", f"{job.name}, {stages}, {microbatches}, {comms}"),
        ("runtime", f"torch {execution.torch}, {_processes(job, execution.backend)}"),
        ("model", f"{_model_text(job)}, float64, {count_text(job.steps, 'step')}"),
        ("loss", f"{loss:.9g}, unpipelined {plain:.9g}"),
        ("losses differ", f"by {_small(outcome.loss_difference)} at most"),
        (
            "gradients differ",
            f"by {_small(outcome.gradient.value)} at most, {outcome.gradients} compared"
            " in every step",
        ),
    ]
    if job.kfac is not None:
        lines += _kfac_lines(outcome)
    if fidelity is not None:
        lines += [
            ("step predicted", f"{fidelity.predicted_s:.3f} s"),
            (
                "step measured",
                f"{fidelity.measured_s:.3f} s ({fidelity.error:+.1%}), median of"
                f" {len(outcome.step_s[1:]) or 1}",
            ),
        ]
    if job.trace is not None:
        steps = count_text(job.traced_steps, "step")
        files = count_text(job.ranks, "file")
        lines.append(("traced", f"{steps} in {job.dtype}, {files} in {trace}"))
    verdict = "same as the unpipelined model" if execution.agrees else "WRONG"
    lines.append(("verdict", verdict))
    if trace is not None and execution.agrees:
        names = shlex.quote(str(trace)) + "/rank*.json.gz"
        lines.append(("next", f"schedopt import torch-trace {names} -o traced.yaml"))
    return lines


def _kfac_lines(outcome: Outcome) -> list[tuple[str, str]]:
    waiting = ", ".join(map(str, outcome.most_waiting))
    return [
        (
            "factors differ",
            f"by {_small(outcome.factor.value)} at most, {outcome.factors} compared",
        ),
        ("inverses differ", f"by {_small(outcome.inverse.value)} at most"),
        ("parameters differ", f"by {_small(outcome.parameter.value)} at most"),
        ("data waiting", f"{waiting} tensors at most, by rank, as the schedule has it"),
    ]


def _kfac_document(outcome: Outcome) -> dict[str, Any] | None:
    if outcome.job.kfac is None:
        return None
    return {
        "factors": outcome.factors,
        "max_factor_difference": _finite(outcome.factor.value),
        "max_inverse_difference": _finite(outcome.inverse.value),
        "max_parameter_difference": _finite(outcome.parameter.value),
        "most_waiting_tensors": list(outcome.most_waiting),
        "as_planned": outcome.is_as_planned,
    }


def _model_text(job: Job) -> str:
    if job.gpt is None:
        return job.model.value
    return f"{job.model.value}, {count_text(job.gpt.layers, 'layer')}"


def execution_document(execution: Execution) -> dict[str, Any]:
    """The same as a JSON document; times in seconds."""
    job, outcome, fidelity = execution.job, execution.outcome, execution.fidelity
    return {
        "name": job.name,
        "ranks": job.ranks,
        "stages": len(job.device_of_stage),
        "microbatches": job.microbatches,
        "comms": (Comms.OWN if job.has_comms else Comms.TORCH).value,
        "torch": execution.torch,
        "backend": execution.backend.value,
        "model": job.model.value,
        "seed": job.seed,
        "trace": job.trace,
        "losses": [
            {"pipelined": _finite(loss), "unpipelined": _finite(plain)}
            for loss, plain in outcome.losses
        ],
        "gradients": outcome.gradients,
        "max_loss_difference": _finite(outcome.loss_difference),
        "max_gradient_difference": _finite(outcome.gradient.value),
        "max_gradient_difference_at": outcome.gradient.where,
        "kfac": _kfac_document(outcome),
        "tolerance": execution.tolerance,
        "agrees": execution.agrees,
        "step_seconds": list(outcome.step_s),
        "predicted_step_seconds": None if fidelity is None else fidelity.predicted_s,
        "measured_step_seconds": outcome.measured_s,
        "relative_error": None if fidelity is None else fidelity.error,
    }


def _small(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _finite(value: float) -> float | None:
    """JSON has no infinity: nothing stands for a value that is not there."""
    return value if math.isfinite(value) else None
