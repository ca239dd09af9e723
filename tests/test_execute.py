"""torch executes exported schedules, and its gradients are those of the plain model.

Each test that needs ranks starts them once and gives them all of its schedules.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import schedopt
from schedopt.baselines import BASELINES
from schedopt.build import build_graph
from schedopt.cli import executing as command
from schedopt.cli.saving import save_schedule
from schedopt.errors import ExecutionError, ExportError
from schedopt.execute import Execution, Job, Model, execute, execute_jobs, job_of
from schedopt.export import Program, program_of
from schedopt.formats import Limits
from schedopt.instance import Backward, Device, Placement
from schedopt.measure.model_file import load_model, save_model
from schedopt.measure.sizes import GptModel
from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op
from schedopt.schedule import Order
from schedopt.simulate import simulate
from tests.cli_helpers import Run, refused, runner
from tests.executed_schedules import instance, jobs

pytest.importorskip("torch")

QUICKEST = "gpipe"


def program(name: str, ranks: int, stages: int | None = None) -> Program:
    given = replace(instance(ranks, stages or ranks), runtime="")
    run = schedopt.run_baseline(BASELINES[name], given)
    return program_of(run.derived, run.schedule)


def with_row(job: Job, rank: int, row: str, name: str = "changed") -> Job:
    """The job with another row for one rank: past the checker, as a file can be."""
    rows = job.csv.splitlines()
    rows[rank] = row
    return replace(job, name=name, csv="\n".join(rows))


def permuted(job: Job) -> Job:
    """The last stage's forwards in another order."""
    row = job.csv.splitlines()[-1]
    assert row.startswith("1F0,1F1,1F2,1F3,1B0")
    return with_row(job, 1, row.replace("1F0,1F1", "1F1,1F0"), "permuted")


def disagreeing(executions: Sequence[Execution]) -> list[str]:
    return [
        f"{execution.job.name}: {execution.outcome.gradient}"
        for execution in executions
        if not execution.agrees
    ]


def check_all(todo: list[Job]) -> None:
    assert len({job.name for job in todo}) == len(todo)
    executions = execute_jobs(todo)
    assert disagreeing(executions) == []
    for job, execution in zip(todo, executions, strict=True):
        outcome = execution.outcome
        assert outcome.job == job
        assert len(outcome.losses) == 2  # two steps, and the weights move between them
        assert outcome.losses[0] != outcome.losses[1]
        per_block = 6 if job.model is Model.MLP else 12
        ends = 0 if job.model is Model.MLP else 5  # embedding, last norm, head
        assert outcome.gradients == per_block * len(job.device_of_stage) + ends


def test_schedules_of_two_ranks() -> None:
    todo = jobs(2, each=2)
    assert len(todo) >= 36
    check_all(todo)


@pytest.mark.slow
def test_schedules_of_four_ranks() -> None:
    todo = jobs(4)
    assert len(todo) >= 24  # with those of two ranks, 60
    check_all(todo)


def gpt(**changes: object) -> GptModel:
    """The smallest one that has everything."""
    sizes = {"stages": 2, "layers": 3, "hidden": 8, "heads": 2, "sequence": 4}
    others = {"microbatch_size": 2, "vocabulary": 11, "mlp_ratio": 2}
    flags = {"dtype": "float32", "checkpointing": False, "compiled": False}
    return GptModel(**{**sizes, **others, **flags, **changes})  # type: ignore[arg-type]


def test_the_measured_gpt_is_compared_in_float64_and_traced_in_its_own_type(
    tmp_path: Path,
) -> None:
    kinds = {
        "tokens": (program("zb-h1", 2), gpt()),
        "v": (program("zb-v", 2, 4), gpt(stages=4, layers=4, dtype="bfloat16")),
        "states": (program("1f1b", 2), gpt(vocabulary=0, dtype="float64")),
        "recomputed": (program("1f1b", 2), gpt(checkpointing=True, dtype="float16")),
    }
    todo = [
        replace(job_of(made, Model.GPT, gpt=model, trace=tmp_path / name), name=name)
        for name, (made, model) in kinds.items()
    ]
    for name in kinds:
        (tmp_path / name).mkdir()
    seen: list[tuple[int, int]] = []
    executions = execute_jobs(todo, progress=lambda *done: seen.append(done))
    assert disagreeing(executions) == []
    assert seen[-1] == (28, 28)  # of each, 2 steps compared and 5 traced
    for job, execution in zip(todo, executions, strict=True):
        assert job.gpt is not None
        ends = 5 if job.gpt.vocabulary else 0  # two embeddings, the norm, the output
        assert execution.outcome.gradients == 12 * job.gpt.layers + ends
        ran = [
            traced_ops(tmp_path / job.name / f"rank{rank}.json.gz") for rank in (0, 1)
        ]
        assert ran == [row.split(",") * 5 for row in job.csv.splitlines()]


def traced_ops(path: Path) -> list[str]:
    """The ops of a trace in the order of their starts."""
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    found = [
        (event["ts"], event["name"].removeprefix("PP:"))
        for event in events
        if event.get("cat") == "user_annotation"
        and re.fullmatch(r"PP:\d+[FBIW]\d+", event["name"])
    ]
    return [name for _, name in sorted(found)]


# -- what is wrong is noticed --------------------------------------------------


def test_wrong_gradients_are_noticed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(program("gpipe", 2))
    good, wrong = execute_jobs([replace(job, name="as it was"), permuted(job)])
    assert good.agrees
    assert not wrong.agrees
    assert wrong.outcome.gradient.value > 1e-3
    # The mean loss does not show it.
    for loss, plain in good.outcome.losses:
        assert abs(loss - plain) < 1e-12
    loss, plain = wrong.outcome.losses[0]
    assert abs(loss - plain) < 1e-12

    path = schedule_file(tmp_path)
    monkeypatch.setattr(command, "execute_job", lambda *_, **__: wrong)
    ran = runner(capsys)("execute", path)
    complaints = [x for x in ran.err.splitlines() if x.startswith("schedopt: ")]
    assert ran.code == 1
    assert len(complaints) == 1
    assert "gradients differ by up to" in complaints[0]
    assert "verdict           WRONG" in ran.out


def test_the_checker_refuses_what_would_give_wrong_gradients() -> None:
    made = program("gpipe", 2)
    first, last = made.rows
    swapped = replace(made, rows=(first, (last[1], last[0], *last[2:])))
    with pytest.raises(ExportError, match="1F0"):
        job_of(swapped)


def test_a_rank_that_fails_ends_all_and_is_named() -> None:
    job = job_of(program("gpipe", 2))
    early = with_row(job, 1, "1F1,1B1,1F0,1B0,1F2,1B2,1F3,1B3")
    began = time.monotonic()
    with pytest.raises(ExecutionError) as caught:
        execute_jobs([replace(job, name="fine"), early], timeout_s=600)
    assert time.monotonic() - began < 300  # the other rank would wait for ten minutes
    message = str(caught.value)
    assert message.startswith("changed, step 0: rank 1 failed: RuntimeError: Loss for")
    assert "\n" not in message


def test_rows_that_torch_refuses_are_said_in_one_line() -> None:
    job = job_of(program("zb-h1", 2))
    row = job.csv.splitlines()[1]
    early = with_row(job, 1, row.replace("1I0,", "").replace("1W0", "1W0,1I0"))
    with pytest.raises(ExecutionError) as caught:
        execute(early)
    message = str(caught.value)
    assert re.match(r"changed, step 0: rank \d failed: AssertionError: .*1W0", message)
    assert "\n" not in message


def test_a_rank_that_is_killed_is_named() -> None:
    def killing(done: int, _: int) -> None:
        if not done:
            _, *ranks = sorted(map(int, ranks_of_this_process()))
            assert len(ranks) == 2
            os.kill(ranks[0], signal.SIGKILL)

    job = job_of(program("gpipe", 2), Model.SLEEP, steps=100)
    with pytest.raises(ExecutionError, match=r"rank 0 failed: died of signal 9"):
        execute(job, progress=killing)


def test_a_rank_without_a_stage_is_named() -> None:
    job = replace(job_of(program("gpipe", 2)), device_of_stage=(0, 0))
    with pytest.raises(ExecutionError, match="rank 1 failed: IndexError"):
        execute(job)


# -- sleeping ------------------------------------------------------------------


def test_sleeping_stages_run_each_op_for_its_time() -> None:
    todo = [
        job_of(program("zb-h1", 2), Model.SLEEP, steps=2),
        job_of(program("interleaved-1f1b", 2, 4), Model.SLEEP, steps=2),
        mixed_job(),
    ]
    executions = execute_jobs(todo)
    assert disagreeing(executions) == []
    for job, execution in zip(todo, executions, strict=True):
        outcome, fidelity = execution.outcome, execution.fidelity
        assert fidelity is not None
        rows = [row.split(",") for row in job.csv.splitlines()]
        for step in range(job.steps):
            spans = outcome.spans(step)
            for rank, row in enumerate(rows):
                slept = [span for span in spans if span.rank == rank]
                # In the order of the row; on stage 0 torch's I does nothing.
                assert [s.op for s in slept] == [t for t in row if t[:2] != "0I"]
                for span in slept:
                    took = span.end_s - span.start_s
                    assert took >= job.sleep_s[span.op] - 1e-6
        # No step is shorter than its longest chain of sleeps.
        assert min(outcome.step_s) >= fidelity.predicted_s - 1e-6


def mixed_job() -> Job:
    """Whole and split backwards on both stages."""
    given = replace(instance(2, 2, backward=Backward.CHOOSE), runtime="")
    rows = (
        "0F0,0F1,0F2,0F3,0B0,0I1,0W1,0B2,0I3,0W3",
        "1F0,1I0,1F1,1B1,1W0,1F2,1B2,1F3,1I3,1W3",
    )
    order = Order(
        {
            Stream(StreamKind.COMPUTE, rank): tuple(map(Op.parse, row.split(",")))
            for rank, row in enumerate(rows)
        }
    )
    schedule = simulate(build_graph(given), order)
    return job_of(program_of(given, schedule), Model.SLEEP, steps=2)


# -- the command ---------------------------------------------------------------


def schedule_file(folder: Path, name: str = QUICKEST) -> Path:
    given = replace(
        instance(2, 2), runtime="", devices=(Device(name="a"), Device(name="b"))
    )
    run = schedopt.run_baseline(BASELINES[name], given)
    path = folder / "schedule.json"
    save_schedule(path, run.derived, run.graph, run.schedule, name)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


def test_the_command_prints_what_it_found(run: Run, tmp_path: Path) -> None:
    path = schedule_file(tmp_path, "zb-h1")
    ran = run("execute", path, "--model", "sleep", "--comms", "own", "--json")
    assert ran.code == 0
    document = ran.json
    assert document["agrees"] is True
    assert document["comms"] == "own"
    assert document["max_gradient_difference"] <= 1e-12
    assert len(document["step_seconds"]) == 4
    predicted = document["predicted_step_seconds"]
    measured = document["measured_step_seconds"]
    assert document["relative_error"] == pytest.approx(measured / predicted - 1)
    warned = "than predicted" in ran.err
    assert warned == (abs(document["relative_error"]) > 0.06)


def test_a_model_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "gpt.model.json"
    for model in (gpt(), gpt(vocabulary=0, dtype="bfloat16", checkpointing=True)):
        save_model(path, model)
        assert load_model(path, Limits()) == model


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "schedopt/instance/v1"}, ["schema", "schedopt/model/v1"]),
        ({"heads": 3}, ["heads = 3", "must divide hidden (8)"]),
        ({"hidden": 0}, ["hidden = 0", "at least 1"]),
        ({"dtype": "int8"}, ["dtype", "float32"]),
        ({"width": 8}, ["width", "unknown field"]),
        ({"compiled": True}, ["compiled", "without --compile"]),
        ({"stages": 3}, ["schedule.json", "has 2 stages, and the model 3"]),
    ],
)
def test_a_wrong_model_is_refused(
    run: Run, tmp_path: Path, change: dict[str, object], words: list[str]
) -> None:
    path = tmp_path / "gpt.model.json"
    save_model(path, gpt())
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    refused(run("execute", schedule_file(tmp_path), "--config", path), *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "gpt"), "needs --config"),
        (("--model", "mlp", "--config", "x.json"), "not mlp"),
        (("--model", "sleep", "--trace", "traces"), "nothing to trace"),
    ],
)
def test_options_that_do_not_go_together(
    run: Run, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    ran = run("execute", schedule_file(tmp_path), *options)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err


def test_traces_of_two_executions_do_not_mix(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    (folder / "rank2.json.gz").touch()
    ran = run("execute", schedule_file(tmp_path), "--trace", folder)
    refused(ran, "traces", "rank2.json.gz of another execution")


def test_nccl_without_enough_gpus_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as on a machine without any
    ran = run("execute", schedule_file(tmp_path), "--backend", "nccl")
    refused(ran, "schedule.json", "nccl needs one GPU", "use the backend gloo")


def test_a_schedule_of_one_device(tmp_path: Path) -> None:
    given = replace(
        instance(1, 2, Placement.LINEAR, Backward.SPLIT, microbatches=3), runtime=""
    )
    run = schedopt.run_baseline(BASELINES["zb-h1"], given)
    execution = execute(job_of(program_of(run.derived, run.schedule), blocks=2))
    assert execution.agrees
    assert execution.outcome.gradients == 24 * len(run.derived.stages) + 5


def ranks_of_this_process() -> list[str]:
    """The launcher that this process started, and the ranks that it forked."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if b"schedopt.execute.launcher" in (stat.parent / "cmdline").read_bytes():
                parents[stat.parent.name] = (
                    stat.read_text().rpartition(")")[2].split()[1]
                )
        except OSError:  # it has ended meanwhile
            continue
    launchers = {pid for pid, parent in parents.items() if parent == str(os.getpid())}
    return [pid for pid, parent in parents.items() if {pid, parent} & launchers]


def test_an_interrupt_ends_every_rank() -> None:
    seen = []

    def interrupted(*_: int) -> None:
        seen.extend(ranks_of_this_process())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(job_of(program("gpipe", 2)), progress=interrupted)
    assert len(seen) == 3
    for _ in range(100):  # a killed process is there for a moment
        left = [pid for pid in seen if _command(pid)]
        if not left:
            return
        time.sleep(0.1)
    pytest.fail(f"still there: {left}")


def test_all_ranks_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """Even if it is killed."""
    code = (
        "import os, signal\n"
        "from schedopt.execute import execute, job_of\n"
        "from tests.test_execute import program, ranks_of_this_process\n"
        "def killed(*_):\n"
        "    print(*ranks_of_this_process(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "execute(job_of(program('gpipe', 2)), progress=killed)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path)},  # its files are left, too
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == -signal.SIGKILL, found.stderr
    seen = found.stdout.split()
    assert len(seen) == 3
    for _ in range(600):
        left = [p for p in seen if _command(p)]
        if not left:
            return
        time.sleep(0.1)
    pytest.fail(f"still there: {left}")


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
