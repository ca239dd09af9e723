"""What an execution is predicted to take, and how its outcome is judged: no torch."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

import schedopt
from schedopt.baselines import BASELINES
from schedopt.cli import executing as command
from schedopt.cli.saving import save_schedule
from schedopt.errors import ExecutionError, ExportError
from schedopt.execute import Comms, Job, Model, execute, job_of
from schedopt.execute import processes as execute_processes
from schedopt.execute.outcome import Difference, Outcome, StepOutcome
from schedopt.execute.prediction import as_torch_runs, predict
from schedopt.export import Program, program_of
from schedopt.instance import (
    Backward,
    Communication,
    Device,
    Instance,
    Placement,
    StageCost,
)
from schedopt.schedule import Schedule
from tests.cli_helpers import refused, runner

TWO = Instance(
    name="two",
    stages=(
        StageCost(forward=10, backward_input=9, backward_weight=5, activation=1),
        StageCost(forward=20, backward_input=8, backward_weight=4, activation=1),
    ),
    devices=(Device(name="a"), Device(name="b", speed=2)),
    microbatches=2,
    placement=Placement.LINEAR,
    device_of_stage=(0, 1),
    backward=Backward.SPLIT,
    communication=Communication(latency=100),
    time_unit="ms",
    resolution=1,
)


def made(instance: Instance, name: str = "zb-h1") -> Program:
    run = schedopt.run_baseline(BASELINES[name], instance)
    return program_of(run.derived, run.schedule)


def test_the_first_stage_has_its_backward_in_w_and_transfers_take_no_time() -> None:
    prediction = predict(made(TWO))
    assert prediction.op_s["0F0"] == pytest.approx(0.010)
    assert prediction.op_s["0I0"] == 0
    assert prediction.op_s["0W0"] == pytest.approx(0.014)
    assert prediction.op_s["1F1"] == pytest.approx(0.010)  # twice as fast
    assert prediction.op_s["1I1"] == pytest.approx(0.004)
    # By hand. a: F0 0-10, F1 10-20, W0 24-38, W1 38-52; b: F0 10-20, I0 20-24,
    # F1 24-34, I1 34-38, W0 38-40, W1 40-42, or with W0 before F1 two later.
    assert prediction.step_s == pytest.approx(0.052)


def test_a_whole_backward_stays_as_it_is() -> None:
    whole = replace(TWO, backward=Backward.WHOLE)
    assert as_torch_runs(whole).stages == whole.stages
    assert predict(made(whole, "1f1b")).op_s["0B0"] == pytest.approx(0.014)


def test_a_given_whole_backward_is_what_w_of_stage_0_takes() -> None:
    first = replace(TWO.stages[0], backward=30)
    split = replace(TWO, stages=(first, TWO.stages[1]))
    assert predict(made(split)).op_s["0W0"] == pytest.approx(0.030)


def test_sleeps_are_scaled() -> None:
    job = job_of(made(TWO), Model.SLEEP, sleep_scale=10)
    assert job.sleep_s["1F0"] == pytest.approx(0.1)
    assert job.predicted_s == pytest.approx(0.52)
    by_default = job_of(made(TWO), Model.SLEEP)
    lasting = [seconds for seconds in by_default.sleep_s.values() if seconds]
    assert sum(lasting) / len(lasting) == pytest.approx(0.05)
    assert by_default.steps == 4


def test_no_time_at_all_is_no_error() -> None:
    nothing = StageCost(forward=0, backward_input=0, backward_weight=0)
    job = job_of(made(replace(TWO, stages=(nothing, nothing))), Model.SLEEP)
    assert job.predicted_s == 0


def test_jobs_survive_their_file() -> None:
    for comms in Comms:
        job = job_of(made(TWO), Model.SLEEP, comms=comms)
        assert Job.from_document(json.loads(json.dumps(job.document()))) == job
        assert job.ranks == 2
        assert ("SEND_F" in job.csv) == job.has_comms == (comms is Comms.OWN)


def test_a_device_without_a_stage_is_refused() -> None:
    alone = replace(TWO, stages=TWO.stages[:1], device_of_stage=(0,))
    with pytest.raises(ExportError, match="device 1 has no stage"):
        job_of(made(alone))


def test_the_rows_are_those_that_are_exported() -> None:
    """Equal microbatches get the numbers that torch needs."""
    program = made(replace(TWO, microbatches=3), "gpipe")
    names = {0: 2, 1: 0, 2: 1}
    start = {
        op._replace(microbatch=names[op.microbatch]): time
        for op, time in program.schedule.start.items()
    }
    other = program_of(program.instance, Schedule(program.schedule.graph, start))
    assert str(other.rows[1][0]) == "1F2"
    assert job_of(other).csv == job_of(program).csv


# -- judging -------------------------------------------------------------------


def step(
    gradient: float = 0.0,
    loss: float | None = None,
    loss_difference: float = 0.0,
    times: tuple[float, float] = (0.0, 1.0),
) -> StepOutcome:
    return StepOutcome(
        loss=loss,
        plain_loss=loss,
        loss_difference=loss_difference,
        gradient=Difference(gradient, f"at {gradient}"),
        gradients=3,
        start_s=times[0],
        end_s=times[1],
        spans=[("0F0", times[0] + 0.25, times[0] + 0.5)],
    )


def outcome(*ranks: tuple[StepOutcome, ...]) -> Outcome:
    return Outcome(job_of(made(TWO)), ranks)


def test_the_worst_of_all_steps_and_ranks_counts() -> None:
    found = outcome((step(1e-13), step(3e-13)), (step(2e-13), step(0, 1.0, 5e-13)))
    assert found.gradient == Difference(3e-13, "at 3e-13")
    assert found.loss_difference == 5e-13
    assert found.losses == ((1.0, 1.0),)
    assert found.gradients == 6
    assert found.agrees(1e-12)
    assert not found.agrees(4e-13)  # the loss
    assert not outcome((step(1e-11),)).agrees(1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_never_agrees(value: float) -> None:
    found = outcome((step(1e-13), step(value), step(1e-14)))
    assert not found.agrees(1e-12)
    assert not outcome((step(0, 1.0, value),)).agrees(1e-12)
    assert found.gradient.where == f"at {value}"


def test_a_step_lasts_from_the_first_start_to_the_last_end() -> None:
    found = outcome(
        (step(times=(0, 9)), step(times=(10.5, 12)), step(times=(20, 23))),
        (step(times=(0, 5)), step(times=(10, 11)), step(times=(21, 22))),
    )
    assert found.step_s == (9, 2, 3)
    assert found.measured_s == 2.5  # without the first
    spans = found.spans(1)
    assert [(s.rank, s.op, s.start_s, s.end_s) for s in spans] == [
        (0, "0F0", 0.5, 0.75),
        (1, "0F0", 0.0, 0.25),
    ]


# -- without torch -------------------------------------------------------------


def test_without_torch_one_line_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = schedopt.run_baseline(BASELINES["zb-h1"], TWO)
    path = tmp_path / "schedule.json"
    save_schedule(path, run.derived, run.graph, run.schedule, "zb-h1")
    monkeypatch.setattr(execute_processes.util, "find_spec", lambda _: None)
    refused(runner(capsys)("execute", path), "needs torch", "schedopt[torch]")
    with pytest.raises(ExecutionError, match="needs torch"):
        execute(job_of(made(TWO)))


def test_what_cannot_be_executed_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "torch_version", lambda: "2.13.0")
    path = tmp_path / "schedule.json"
    both = replace(TWO, placement=Placement.BIDIRECTIONAL)
    run = schedopt.run_baseline(BASELINES["chimera"], both)
    save_schedule(path, run.derived, run.graph, run.schedule, "chimera")
    refused(runner(capsys)("execute", path), "schedule.json", "bidirectional")
    text = path.read_text().replace('"makespan": ', '"makespan": 1', 1)
    path.write_text(text)
    refused(runner(capsys)("execute", path), "the verifier refuses it: makespan")


# -- the published figures -----------------------------------------------------


def test_the_published_steps_took_what_was_predicted() -> None:
    folder = Path(__file__).parent.parent / "results" / "runtime-fidelity"
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    table = (folder / "table.md").read_text(encoding="utf-8")
    assert len(records) >= 14
    assert {record["devices"] for record in records} == {2, 4}
    for record in records:
        measured = sorted(record["steps_s"][1:])[1]
        assert record["measured_s"] == measured
        error = measured / record["predicted_s"] - 1
        assert record["error"] == pytest.approx(error)
        assert abs(error) <= 0.06
        assert record["max_gradient_difference"] <= 1e-12
        assert len(record["rows"]) == record["devices"]
        assert f"| {record['schedule']} | {record['stages']} |" in table
        assert f"| {100 * error:+.1f} |" in table
