"""torch executes trainings with K-FAC, slot by slot, and gets what no pipeline gets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import schedopt
from schedopt.cli.saving import save_schedule
from schedopt.errors import ExecutionError, ExportError
from schedopt.execute import Execution, Job, Model, execute, execute_jobs, job_of
from schedopt.execute.executing import KFAC_TOLERANCE
from schedopt.execute.job import kfac_job
from schedopt.execute.kfac_plan import DAMPING
from schedopt.export import Program
from schedopt.export.kfac_rows import KfacRows, check, kfac_rows
from schedopt.instance import Backward, Placement, StepBarrier
from schedopt.ops import Op, OpKind
from tests.cli_helpers import runner
from tests.kfac_programs import interval_of, moved, packed, slot_of, training

pytest.importorskip("torch")


def two_ranks() -> dict[str, Program]:
    gpipe = packed("gpipe", training())
    wrapped = packed("1f1b", training(2, 4, curvature=2), wrap=True)
    assert interval_of(gpipe) == 2
    assert interval_of(wrapped) == 3  # without wrapping it is 4
    return {
        "gpipe": gpipe,
        "1f1b, wrapped": wrapped,
        "1f1b, recomputed": packed("1f1b", training(recompute=frozenset({1}))),
    }


def late_inversion(program: Program) -> KfacRows:
    """An inversion right behind the preconditioning that should have used it."""
    rows = kfac_rows(program)
    for op in rows.slots[0]:
        if op.kind is not OpKind.INVERSION or op.step:
            continue
        step, rank, _ = slot_of(rows, op)
        preconditioning = Op(OpKind.PRECONDITION, 0, 0, step)
        at = slot_of(rows, preconditioning)
        if at[:2] == (step, rank) and step:
            changed = moved(rows, op, at[2])
            check(changed)  # its data is there: no rule is broken
            return changed
    raise AssertionError


def late_shares(program: Program) -> KfacRows:
    """The inputs of stage 0 wait until the end of their step."""
    rows = kfac_rows(program)
    row = rows.steps[0][0]
    last = max(place for place, token in enumerate(row) if token.kind.is_compute)
    for op in rows.slots[0]:
        step, _, position = slot_of(rows, op)
        if op.kind is OpKind.CURVATURE_A and not step and position < last:
            rows = moved(rows, op, last)
    check(rows)
    return rows


def check_all(executions: list[Execution]) -> None:
    for execution in executions:
        outcome = execution.outcome
        job, plan = outcome.job, outcome.job.kfac
        assert plan is not None
        assert execution.tolerance == KFAC_TOLERANCE
        assert outcome.worst.value <= KFAC_TOLERANCE, (job.name, outcome.worst)
        assert execution.agrees
        assert len(outcome.losses) == job.steps == plan.steps
        assert len(set(outcome.losses)) == job.steps  # the weights move
        every = 2 * 3 * len(job.device_of_stage) * len(plan.refreshed)
        if plan.forever:  # the last refresh may go on in steps that are not executed
            assert every - 12 < outcome.factors <= every
        else:
            assert outcome.factors == every
        assert outcome.most_waiting == plan.most_waiting
        for rank in outcome.steps:
            for number, step in enumerate(rank):
                assert step.kfac is not None
                if number + 1 == job.steps and not plan.forever:
                    assert step.kfac.left_waiting == 0


def test_two_ranks() -> None:
    programs = two_ranks()
    jobs = [replace(job_of(made), name=name) for name, made in programs.items()]
    wrapped = kfac_rows(programs["1f1b, wrapped"])
    forever = replace(kfac_job(wrapped, Model.MLP, steps=9), name="forever")
    late = replace(kfac_job(late_inversion(programs["gpipe"])), name="late")
    kept = kfac_job(late_shares(programs["1f1b, wrapped"]))
    *right, late_one, kept_long = execute_jobs([*jobs, forever, late, kept])
    check_all(right)

    assert not late_one.agrees
    outcome = late_one.outcome
    assert outcome.factors == 24
    assert outcome.gradient.value > 1e-6
    assert any(step.gradient.where.endswith("step 1") for step in outcome.steps[0])

    assert not kept_long.agrees
    assert kept_long.outcome.worst.value <= KFAC_TOLERANCE
    assert kept.kfac is not None
    assert kept_long.outcome.most_waiting[0] > kept.kfac.most_waiting[0]


def test_four_ranks() -> None:
    split = training(4, 4, backward=Backward.SPLIT, barrier=StepBarrier.DEVICE)
    looped = training(4, 4, stages=8, placement=Placement.LOOPED)
    programs = {
        "1f1b": packed("1f1b", training(4, 4, curvature=2, inversion=2)),
        "interleaved": packed("interleaved-1f1b", looped),
        "zb-h1": packed("zb-h1", split, wrap=True),
    }
    jobs = [replace(job_of(made), name=name) for name, made in programs.items()]
    check_all(execute_jobs(jobs))


def test_a_slot_before_its_data_stops_the_rank() -> None:
    """Rows that were changed behind the checker's back."""
    rows = kfac_rows(packed("gpipe", training()))
    op = Op(OpKind.CURVATURE_B, 1, 2, 0, "mlp")
    early = moved(rows, op, 0)
    with pytest.raises(ExportError, match="needs 1B2 or 1I2 before it"):
        check(early)
    slot = rows.slots[1].index(op)
    said = rf"rank 1 failed: .*slot 1UNSHARD{slot}, {re.escape(str(op))}: its data is"
    with pytest.raises(ExecutionError, match=said):
        execute(kfac_job(early))


def test_what_repeats_comes_of_two_refreshes() -> None:
    program = packed("gpipe", training())
    assert program.instance.kfac is not None
    kfac = replace(program.instance.kfac, refreshes=1)
    rows = kfac_rows(program)
    instance = replace(program.instance, kfac=kfac)
    alone = replace(rows, program=replace(program, instance=instance))
    with pytest.raises(ExportError, match="unroll two refreshes"):
        kfac_job(alone, steps=5)


def test_models_without_named_layers_are_refused() -> None:
    with pytest.raises(ExportError, match="models transformer and mlp"):
        job_of(packed("gpipe", training()), Model.SLEEP)


def test_a_job_survives_json() -> None:
    job = job_of(packed("gpipe", training()))
    assert Job.from_document(json.loads(json.dumps(job.document()))) == job


MODEL = """
import torch
from schedopt.execute.job import Job
from schedopt.execute.models import batch_of, loss_of as loss, stage_of

JOB = Job(name="", csv="", device_of_stage=(0, 1), microbatches=3)


def stage(index, count):
    return stage_of(JOB, index)


def batch(step):
    found = batch_of(JOB, step)
    return found.inputs, found.target


def optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.05)
"""


def test_the_exported_script_trains_as_the_command_line_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = packed("gpipe", training())
    path = tmp_path / "training.json"
    schedule = program.schedule
    save_schedule(path, program.instance, schedule.graph, schedule, "test")
    run = runner(capsys)
    document = run("execute", str(path), "--json").json
    assert document["agrees"]
    assert document["kfac"]["factors"] == 24
    assert document["kfac"]["max_factor_difference"] <= KFAC_TOLERANCE
    assert document["kfac"]["as_planned"]

    assert run("export", "torch-kfac", str(path), "-o", str(tmp_path)).code == 0
    (tmp_path / "model.py").write_text(MODEL)
    script = f"run_torch_kfac.py second-order.kfac.json --damping {DAMPING}"
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", *script.split()),
            *("--model", "model.py", "--steps", "4", "--device", "cpu"),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(schedopt.__file__).parent.parent),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    losses = [float(line.split()[-1]) for line in ran.stdout.splitlines()]
    unpipelined = [loss["unpipelined"] for loss in document["losses"]]
    assert losses == pytest.approx(unpipelined, abs=1e-8)
