"""Traces of torch's profiler: synthetic ones here, and real ones if torch is there."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from schedopt.formats import load_instance
from schedopt.instance import Backward, Instance, Placement
from tests.cli_helpers import Run, refused, runner

MEBIBYTE = 2**20
WAIT = 40.0  # microseconds in a range before its first operator


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.chdir(tmp_path)
    return runner(capsys)


class Trace:
    """A Chrome trace as torch 2.13 exports it, one op after the other."""

    def __init__(self, rank: int) -> None:
        self.document: dict[str, Any] = {
            "schemaVersion": 1,
            "distributedInfo": {"backend": "gloo", "rank": rank, "world_size": 2},
            "traceEvents": [],
        }
        self.events: list[dict[str, Any]] = self.document["traceEvents"]
        self.now = 1e9

    def span(self, category: str, name: str, start: float, end: float) -> None:
        event = {"ph": "X", "cat": category, "name": name, "pid": 7, "tid": 7}
        self.events.append({**event, "ts": start, "dur": end - start, "args": {}})

    def op(
        self,
        token: str,
        time: float,
        memory: list[int] | None = None,
        wait: float = WAIT,
    ) -> None:
        """An op that waits, runs for ``time`` us and changes memory by MiB."""
        start, begin, end = self.now, self.now + wait, self.now + wait + time
        self.span("user_annotation", f"PP:{token}", start, end)
        if time:
            self.span("cpu_op", "aten::linear", begin, end - time / 4)
            self.span("cpu_op", "aten::addmm", begin + time / 4, begin + time / 2)
        for step, size in enumerate(memory or []):
            event = {"ph": "i", "name": "[memory]", "ts": begin + step, "pid": 7}
            args = {"Bytes": size * MEBIBYTE, "Device Type": 0}
            self.events.append({**event, "tid": 7, "args": args})
        self.now = end + 10

    def write(self, name: str) -> None:
        data = json.dumps(self.document).encode()
        Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def two_ranks() -> tuple[Trace, Trace]:
    """Two ranks, two microbatches, three steps; the first step is slow."""
    first, last = Trace(0), Trace(1)
    for step, slow in enumerate((1000, 0, 10)):
        for trace, stage in ((first, 0), (last, 1)):
            trace.op(f"{stage}RECV_F0", 3)
            for microbatch in (0, 1):
                trace.op(f"{stage}F{microbatch}", 100 + slow + stage, [3, 2, -1])
            for microbatch in (0, 1):
                trace.op(
                    f"{stage}I{microbatch}", stage * (50 + slow), [2, 5, -4] * stage
                )
                trace.op(f"{stage}W{microbatch}", 70 + slow, [-4 - 3 * stage])
            trace.op(f"{stage}REDUCE_GRAD", step)
    return first, last


def imported(run: Run, *arguments: object) -> Instance:
    ran = run("import", "torch-trace", *arguments, "-o", "out.yaml")
    assert ran.code == 0, ran.err
    return load_instance("out.yaml")


def test_times_are_medians_without_the_wait_and_the_first_step(run: Run) -> None:
    first, last = two_ranks()
    last.write("last.json.gz")
    first.write("first.json")
    found = imported(run, "last.json.gz", "first.json")
    assert (found.microbatches, len(found.devices)) == (2, 2)
    assert (found.placement, found.backward) == (Placement.LINEAR, Backward.SPLIT)
    zero, one = found.stages
    assert (zero.forward, one.forward) == (105, 106)
    assert (zero.backward_input, one.backward_input) == (0, 55)
    assert (zero.backward_weight, one.backward_weight) == (75, 75)


def test_memory_is_what_ops_leave_and_reach(run: Run) -> None:
    for number, trace in enumerate(two_ranks()):
        trace.write(f"{number}.json")
    zero, one = imported(run, "0.json", "1.json").stages
    assert (zero.activation, one.activation) == (4, 4)
    # I of stage 1 rises by 7 MiB and leaves 3 more than before: it frees 4 of 4.
    assert (one.activation_until_input, one.input_gradient) == (4, 7)
    assert (zero.activation_until_input, zero.input_gradient) == (0, 0)


def test_without_memory_events_or_a_second_step_a_note_says_so(run: Run) -> None:
    for rank in (0, 1):
        trace = Trace(rank)
        trace.op(f"{rank}F0", 100)
        trace.op(f"{rank}B0", 200)
        trace.write(f"{rank}.json")
    ran = run("import", "torch-trace", "0.json", "1.json", "-o", "out.json", "--json")
    assert len(ran.json["notes"]) == 2
    found = load_instance("out.json")
    assert found.backward is Backward.WHOLE
    assert [stage.backward for stage in found.stages] == [200, 200]
    assert [stage.activation for stage in found.stages] == [0, 0]


def test_a_v_and_mixed_backwards_are_seen(run: Run) -> None:
    for rank, stages in ((0, (0, 3)), (1, (1, 2))):
        trace = Trace(rank)
        for stage in stages:
            for kind in "FBIW":
                trace.op(f"{stage}{kind}0", 10)
        trace.write(f"{rank}.json")
    found = imported(run, "0.json", "1.json")
    assert (found.placement, found.backward) == (Placement.V, Backward.CHOOSE)


def test_on_a_gpu_the_kernels_time_counts(run: Run) -> None:
    trace = Trace(0)
    for step in range(2):
        start = trace.now
        for kind in "FB":
            trace.op(f"0{kind}0", 10)
        trace.span("gpu_user_annotation", "PP:0F0", start, start + 500 + step)
        trace.span("gpu_user_annotation", "PP:0B0", start + 600, start + 1400 + step)
    trace.write("gpu.json")
    (stage,) = imported(run, "gpu.json").stages
    assert (stage.forward, stage.backward) == (501, 801)


def test_work_that_the_trace_does_not_show_is_not_taken_for_none(run: Run) -> None:
    # As on a GPU without its kernels: the backward runs on a thread of autograd.
    one = {"F": 10, "I": 0, "W": 0}
    for times, words in (
        ({"F": 10, "B": 0}, ["0.json", "stage 0", "ranges of B", "CUDA"]),
        ({"F": 0, "B": 10}, ["0.json", "stage 0", "ranges of F"]),
    ):
        trace = Trace(0)
        for kind, time in times.items():
            trace.op(f"0{kind}0", time)
        trace.write("0.json")
        refused(run("import", "torch-trace", "0.json", "-o", "out.yaml"), *words)
    for rank in (0, 1):
        trace = Trace(rank)
        for kind, time in one.items():
            trace.op(f"{rank}{kind}0", time)
        trace.write(f"{rank}.json")
    ran = run("import", "torch-trace", "0.json", "1.json", "-o", "o.json", "--json")
    idle = [note for note in ran.json["notes"] if "no operator" in note]
    # I of stage 0 does nothing in torch.
    assert [note.split(":")[0] for note in idle] == ["stage 0", "stage 1", "stage 1"]


def drop(token: str) -> Any:
    def change(first: Trace, _last: Trace) -> None:
        first.events[:] = [e for e in first.events if token not in e["name"]]

    return change


def set_field(index: int, **fields: object) -> Any:
    def change(first: Trace, _last: Trace) -> None:
        first.events[index].update(fields)

    return change


def same_rank(first: Trace, _last: Trace) -> None:
    first.document["distributedInfo"]["rank"] = 1


def no_list(first: Trace, _last: Trace) -> None:
    first.document["traceEvents"] = {}


def other_stage(_first: Trace, last: Trace) -> None:
    last.op("0F0", 10)


def far_stage(_first: Trace, last: Trace) -> None:
    last.op("3F0", 10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_list, ["0.json", "traceEvents", "list"]),
        (same_rank, ["1.json", "rank 1", "0.json"]),
        (other_stage, ["1.json", "stage 0", "rank 1", "rank 0"]),
        (far_stage, ["stage 2", "traces of all ranks"]),
        (drop("PP:"), ["0.json", "no PP: ranges"]),
        (drop("PP:0F"), ["stage 0", "no F range"]),
        (drop("PP:0W"), ["stage 0", "no B and no W range"]),
        (set_field(0, dur=-1), ["0.json", "traceEvents[0].dur", "-1"]),
        (set_field(0, ts="x"), ["0.json", "traceEvents[0].ts", '"x"']),
        (set_field(0, ts=float("nan")), ["0.json", "traceEvents[0].ts"]),
        (set_field(0, name="[memory]", args=3), ["traceEvents[0].args.Bytes"]),
    ],
)
def test_a_wrong_trace_is_refused(run: Run, change: Any, words: list[str]) -> None:
    first, last = two_ranks()
    change(first, last)
    first.write("0.json")
    last.write("1.json")
    ran = run("import", "torch-trace", "0.json", "1.json", "-o", "out.yaml")
    refused(ran, *words)


def test_a_trace_that_sends_on_is_not_of_the_last_stage(run: Run) -> None:
    # Alone it would look like a pipeline of one stage.
    trace = Trace(0)
    for token in ("0F0", "0SEND_F0", "0RECV_B0", "0B0"):
        trace.op(token, 10)
    trace.write("0.json")
    ran = run("import", "torch-trace", "0.json", "-o", "out.yaml")
    refused(ran, "0.json", "stage 1 of the 2 stages", "traces of all ranks")
    assert not Path("out.yaml").exists()


def test_traces_of_two_real_ranks_are_read(run: Run, tmp_path: Path) -> None:
    # About 12 seconds: two processes import torch and train three tiny steps.
    pytest.importorskip("torch")
    root = Path(__file__).parent.parent
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.traced_pipeline", str(tmp_path), str(rank)],
            cwd=root,
        )
        for rank in (0, 1)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    found = imported(run, "rank0.json", "rank1.json")
    assert (found.microbatches, found.device_of_stage) == (3, (0, 1))
    assert found.backward is Backward.SPLIT
    zero, one = found.stages
    # torch's I of stage 0 runs nothing; everything else computes.
    assert zero.backward_input == 0
    others = (zero.forward, zero.backward_weight, one.forward, one.backward_input)
    assert all(time and time > 0 for time in others)
    # Stage 0 keeps what its two layers and the GELU between them made, float32.
    kept = 4 * 8 * (64 * 4 * 2 + 64)
    assert zero.activation == pytest.approx(kept / MEBIBYTE, abs=1e-6)
    # I of stage 1 keeps gradients for W, among them that of the inner layer's output.
    assert one.input_gradient - one.activation_until_input > 0
