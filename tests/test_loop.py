"""Profile, solve, execute, import the trace, solve again: one loop on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from schedopt.formats import load_instance, load_schedule
from schedopt.instance import Backward, Instance, Placement, StageCost
from schedopt.runtimes.measured import MEBIBYTE
from tests.cli_helpers import Run, runner

torch = pytest.importorskip("torch")

BYTE = 1.5 / MEBIBYTE  # sizes are rounded to about one byte
SEQUENCES, TOKENS = 2, 8  # per microbatch
PROFILE = (
    *("--stages", 4, "--devices", 2, "--layers", 4, "--vocab", 31, "--hidden", 16),
    *("--heads", 2, "--sequence", TOKENS, "--microbatch-size", SEQUENCES),
    *("--microbatches", 3, "--threads", 1, "--warmup", 1, "--repetitions", 3),
)


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield runner(capsys)  # type: ignore[misc]
    torch.set_num_threads(threads)


def done(run: Run, *arguments: object) -> str:
    ran = run(*arguments)
    assert ran.code == 0, ran.err
    return ran.out


def solved(run: Run, instance: str, schedule: str) -> Instance:
    limit = ("--time-limit", 5, "--workers", 1)
    done(run, "solve", instance, "--runtime", "torch-csv", *limit, "-o", schedule)
    done(run, "verify", schedule)
    return load_schedule(schedule).instance


def times(stage: StageCost) -> list[float]:
    found = (stage.forward, stage.backward_input, stage.backward_weight)
    return [float(time) for time in found if time is not None]


def test_the_loop_closes(run: Run) -> None:
    # About 20 seconds, most of it for importing torch and starting two ranks.
    out = done(run, "profile", *PROFILE, "--name", "tiny", "-o", "gpt.yaml")
    assert "written to gpt.yaml, and the model's sizes to gpt.model.json" in out
    first = solved(run, "gpt.yaml", "gpt.json")

    model = ("--model", "gpt", "--config", "gpt.model.json")
    trace = ("--trace", "traces", "--traced-steps", 3)
    out = done(run, "execute", "gpt.json", *model, *trace)
    assert "same as the unpipelined model" in out
    assert "3 steps in float32, 2 files in traces" in out

    files = sorted(Path("traces").glob("rank*.json.gz"))
    assert [file.name for file in files] == ["rank0.json.gz", "rank1.json.gz"]
    out = done(run, "import", "torch-trace", *files, "-o", "traced.yaml")
    assert "only one step" not in out  # the first of three was left out
    assert "sizes are 0" not in out
    second = solved(run, "traced.yaml", "traced.json")

    for instance in (first, second):
        assert len(instance.devices) == 2
        assert instance.placement is Placement.LOOPED
        assert instance.microbatches == 3
        assert instance.backward is Backward.SPLIT
    measured, traced = (load_instance(name) for name in ("gpt.yaml", "traced.yaml"))
    assert len(measured.stages) == len(traced.stages) == 4
    for number, (alone, piped) in enumerate(
        zip(measured.stages, traced.stages, strict=True)
    ):
        forward, backward_input, backward_weight = times(piped)
        assert forward > 0
        assert backward_weight > 0
        assert (backward_input > 0) == (number > 0)  # of stage 0 I does nothing
        assert min(times(alone)) > 0
        same_memory(measured, number, alone, piped)


def same_memory(
    measured: Instance, number: int, alone: StageCost, piped: StageCost
) -> None:
    """Equal but for what transfers bring, which is allocated outside of the ranges."""
    assert alone.output_bytes is not None
    tokens = 8 * SEQUENCES * TOKENS
    before = measured.stages[number - 1].output_bytes if number else tokens
    after = alone.output_bytes  # its gradient is as large
    received = pytest.approx(float(before) / MEBIBYTE, abs=BYTE)
    assert alone.activation - piped.activation == received
    received = pytest.approx(float(after) / MEBIBYTE, abs=BYTE)
    assert alone.input_gradient - piped.input_gradient == received
    freed = pytest.approx(alone.activation_until_input, abs=BYTE)
    assert piped.activation_until_input == freed
