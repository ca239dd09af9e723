"""``solve --objective refresh``: what is printed, written, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from schedopt.formats import instance_document, load_instance, load_schedule
from schedopt.instance import Device, Instance, Placement, StepBarrier
from schedopt.ops import OpKind
from schedopt.verify import verify_file
from tests.cli_helpers import Run, refused, runner
from tests.kfac_instances import training

LIMIT = ("--time-limit", "10")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(training(), "kfac.yaml")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


def write(instance: Instance, name: str) -> None:
    Path(name).write_text(json.dumps(instance_document(instance)))
    assert load_instance(name) == instance


def refresh(run: Run, *options: str, file: str = "kfac.yaml") -> dict[str, object]:
    result = run("solve", file, "--objective", "refresh", *LIMIT, *options, "--json")
    assert result.code == 0, result.err
    document: dict[str, object] = json.loads(result.out)
    return document


def test_lines_name_what_was_found_and_its_bounds(run: Run) -> None:
    result = run("solve", "kfac.yaml", "--objective", "refresh", *LIMIT)
    assert result.code == 0
    document = refresh(run)
    assert f"refresh interval        {document['interval']} step" in result.out
    assert f"proven: at least {document['interval_lower_bound']}" in result.out
    assert "greedy rule             PipeFisher's" in result.out
    assert "interval" in result.err  # progress


def test_the_interval_lies_between_its_bound_and_the_greedy_rules(run: Run) -> None:
    for option in ((), ("--wrap",)):
        document = refresh(run, "--minimise", "k", *option)
        intervals = document["greedy_intervals"]
        assert isinstance(intervals, list)
        assert document["status"] == "optimal"
        assert document["interval"] == document["interval_lower_bound"]
        assert document["interval"] <= max(intervals)  # type: ignore[operator] # ints


def test_the_written_schedule_keeps_every_rule_and_holds_two_refreshes(
    run: Run,
) -> None:
    document = refresh(run, "-o", "out.json")
    file = load_schedule("out.json")
    assert verify_file(file) == ()
    interval = document["interval"]
    assert file.instance.kfac is not None
    assert file.instance.kfac.interval == interval
    steps = {row.named.step for row in file.ops if row.named.kind is OpKind.INVERSION}
    assert steps == {0, interval}


def test_a_pipeline_is_a_hand_made_schedule_or_a_file(run: Run) -> None:
    by_name = refresh(run, "--pipeline", "gpipe")
    assert by_name["pipeline"] == "gpipe"
    plain = replace(
        load_instance("kfac.yaml"),
        kfac=None,
        steps=1,
        stages=tuple(
            replace(stage, modules=(), precondition=0, optimizer_step=0)
            for stage in load_instance("kfac.yaml").stages
        ),
    )
    write(plain, "plain.yaml")
    assert run("baseline", "gpipe", "plain.yaml", "-o", "gpipe.json").code == 0
    by_file = refresh(run, "--pipeline", "gpipe.json")
    assert by_file["step"] == by_name["step"]
    assert by_file["interval"] == by_name["interval"]


def test_the_instance_may_ask_for_it(run: Run) -> None:
    document = instance_document(training()) | {"objective": "refresh"}
    Path("asks.yaml").write_text(json.dumps(document))
    result = run("solve", "asks.yaml", *LIMIT, "--json")
    assert json.loads(result.out)["interval"] == refresh(run)["interval"]


def test_without_a_step_barrier_the_setting_says_so(run: Run) -> None:
    instance = training()
    assert instance.kfac is not None
    kfac = replace(instance.kfac, step_barrier=StepBarrier.DEVICE)
    write(replace(instance, kfac=kfac), "merged.yaml")
    assert refresh(run, file="merged.yaml")["step_barrier"] == "device"


def test_time_to_target_is_steps_times_the_time_of_a_step(run: Run) -> None:
    document = refresh(run, "--steps-to-target", "100", "40")
    target = document["time_to_target"]
    assert isinstance(target, dict)
    assert target["second_order_step"] == document["step"]
    assert target["first_order_step"] < target["second_order_step"]
    first = 100 * target["first_order_step"]
    assert target["ratio"] == pytest.approx(40 * target["second_order_step"] / first)


def test_what_cannot_be_is_refused_in_one_line(run: Run) -> None:
    solve = ("solve", "kfac.yaml", "--objective", "refresh")
    refused(run(*solve, "--pipeline", "gpip"), "did you mean gpipe?")
    refused(run(*solve, "--pipeline", "zb-v"), "needs another form")
    plain = replace(training(), kfac=None)
    write(plain, "plain.yaml")
    refused(run("solve", "plain.yaml", "--objective", "refresh"), "has no kfac")
    result = run("solve", "plain.yaml", "--wrap")
    assert result.code == 2
    assert "need --objective refresh" in result.err


def test_a_refresh_that_fits_nowhere_is_a_result(run: Run) -> None:
    one = replace(
        training(),
        stages=training().stages[:1],
        devices=(Device(name="gpu"),),
        placement=Placement.LINEAR,
        device_of_stage=(0,),
    )
    write(one, "one.yaml")
    result = run("solve", "one.yaml", "--objective", "refresh", *LIMIT)
    assert result.code == 1
    assert "infeasible: device 0 has no gap" in result.err
