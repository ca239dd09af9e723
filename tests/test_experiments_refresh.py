"""The method ``refresh`` of a batch: its runs, their records and schedules."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schedopt.errors import NotApplicableError
from schedopt.experiments import load_spec, read_records, run_spec, table
from schedopt.experiments.measures import MEASURES
from schedopt.experiments.methods import REFRESH, registry
from schedopt.experiments.plan import make_plan
from schedopt.experiments.refreshing import refresh
from schedopt.formats import instance_document, load_schedule
from schedopt.instance import Device, Instance, Objective, Placement
from schedopt.ops import OpKind
from schedopt.solve.solution import SolveParameters
from schedopt.verify import verify_file
from tests.kfac_instances import training

BATCH: dict[str, Any] = {
    "name": "refreshes",
    "instances": ["with.json", "without.json"],
    "methods": ["refresh", "gpipe"],
    "refresh": {"wrap": [False, True], "pipeline": ["gpipe"]},
    "time_limit_s": 3,
    "parallel": 1,
}


def write_batch(folder: Path, **changes: object) -> Path:
    with_kfac = replace(training(), name="with")
    without = replace(with_kfac, name="without", kfac=None)
    for instance in (with_kfac, without):
        document = instance_document(instance)
        (folder / f"{instance.name}.json").write_text(json.dumps(document))
    path = folder / "batch.json"
    path.write_text(json.dumps({**BATCH, **changes}))
    return path


# -- planning --------------------------------------------------------------------------


def planned(path: Path) -> list[Mapping[str, Any]]:
    runs = make_plan(load_spec(path), registry()).runs
    return [run.parameters for run in runs if run.method == REFRESH]


def test_every_combination_and_seed_is_a_run_of_its_own_key(tmp_path: Path) -> None:
    path = write_batch(
        tmp_path,
        instances=["with.json"],
        seeds=[0, 1],
        objective="makespan",
        refresh={"minimise": ["age", "k", "memory"], "wrap": [False, True]},
    )
    runs = planned(path)
    combinations = {(p["minimise"], p["wrap"], p["seed"]) for p in runs}
    assert len(combinations) == len(runs) == 12
    assert {p["pipeline"] for p in runs} == {"shortest"}
    # What the method minimises is not the spec's to say.
    assert {p["objective"] for p in runs} == {"refresh"}


def test_without_a_section_there_is_one_run_by_age_and_no_key_changes(
    tmp_path: Path,
) -> None:
    document = {key: value for key, value in BATCH.items() if key != "refresh"}
    path = write_batch(tmp_path, instances=["with.json"])
    keys = keys_of_baselines(path)
    path.write_text(json.dumps({**document, "instances": ["with.json"]}))
    (only,) = planned(path)
    settings = {"minimise": "age", "wrap": False, "pipeline": "shortest"}
    assert settings.items() <= only.items()
    assert keys_of_baselines(path) == keys


def keys_of_baselines(path: Path) -> set[str]:
    runs = make_plan(load_spec(path), registry()).runs
    return {run.key for run in runs if run.baseline}


# -- running ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch")
    summary = run_spec(write_batch(folder), folder / "out")
    assert summary.done == 6
    assert not any(status.broke for status in summary.statuses)
    return folder


def found(results: Path) -> Iterator[Mapping[str, Any]]:
    for record in read_records(results / "out"):
        if record["method"] == REFRESH and record["measures"]:
            yield record


def test_a_record_has_every_measure_and_no_value_of_a_schedule(results: Path) -> None:
    records = list(found(results))
    assert [record["parameters"]["wrap"] for record in records].count(True) == 1
    assert len(records) == 2
    for record in records:
        told = record["measures"]
        assert list(told) == [measure.name for measure in MEASURES]
        assert None not in told.values()
        assert record["status"] in ("optimal", "feasible")
        assert record["objective"] == "refresh"
        assert record["value"] is record["lower_bound"] is record["gap"] is None
        assert told["pipeline"] == "gpipe"
        assert told["interval_lower_bound"] <= told["interval"]
        assert told["interval"] <= max(told["greedy_intervals"])
        assert told["age_lower_bound"] <= told["largest_age"]
        assert told["peak_memory"] == max(record["peak_memory"])
        assert told["peak_memory_lower_bound"] <= told["peak_memory"]
        assert 0 < told["fill"] <= 1
        assert len(told["greedy_intervals"]) == record["devices"]


def test_the_schedule_that_is_kept_holds_two_refreshes(results: Path) -> None:
    for record in found(results):
        assert record["schedule"] is True
        file = load_schedule(results / "out" / "schedules" / f"{record['key']}.json")
        assert verify_file(file) == ()
        steps = {o.named.step for o in file.ops if o.named.kind is OpKind.INVERSION}
        # With wrapping some inversions run a step later; the op's step is its data's.
        assert steps == {0, record["measures"]["interval"]}
        assert file.objective is Objective.MAKESPAN


def test_without_second_order_work_it_is_not_applicable(results: Path) -> None:
    records = [
        record
        for record in read_records(results / "out")
        if record["method"] == REFRESH and record["instance"] == "without"
    ]
    assert len(records) == 2
    for record in records:
        assert record["status"] == "not-applicable"
        assert "no kfac" in record["reason"]
        assert record["measures"] is None
        assert record["objective"] == "refresh"


def test_a_batch_goes_on_where_it_stopped(results: Path) -> None:
    records = list(found(results))
    lost = records[0]["key"]
    (results / "out" / "runs" / f"{lost}.json").unlink()
    summary = run_spec(results / "batch.json", results / "out")
    assert (summary.done, summary.found) == (1, 5)
    again = {record["key"]: record for record in found(results)}[lost]
    names = ("interval", "largest_age", "pipeline", "step")
    assert [again["measures"][n] for n in names] == [
        records[0]["measures"][n] for n in names
    ]


def test_a_killed_batch_leaves_whole_records_and_is_finished_later(
    tmp_path: Path,
) -> None:
    path = write_batch(tmp_path, methods=["refresh"], instances=["with.json"])
    out = tmp_path / "out"
    command = [sys.executable, "-m", "schedopt", "run", str(path), "-o", str(out)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(1200):
        if (out / "claims").is_dir() and list((out / "claims").iterdir()):
            break
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    done_before = len(read_records(out))
    summary = run_spec(path, out)
    assert summary.found == done_before
    assert summary.done == 2 - done_before
    assert len(read_records(out)) == 2
    assert list((out / "claims").iterdir()) == []


def test_tables_show_interval_and_age_and_by_run_everything(results: Path) -> None:
    by_instance = table(results / "out", "instance").frame()
    with_wrap = "refresh wrap=True"
    row = by_instance.set_index("instance").loc["with"]
    for record in found(results):
        if record["parameters"]["wrap"]:
            assert row[f"{with_wrap} interval"] == record["measures"]["interval"]
            assert row[f"{with_wrap} age"] == record["measures"]["largest_age"]
    by_run = table(results / "out", "run").frame()
    assert len(by_run) == 6
    columns = list(by_run.columns)
    assert columns[:4] == ["instance", "method", "status", "value"]
    assert [c for c in columns if c in {m.column for m in MEASURES}] == [
        measure.column for measure in MEASURES
    ]
    run = by_run[(by_run["method"] == with_wrap) & (by_run["status"] != "n/a")]
    assert set(run["pipeline"]) == {"gpipe"}
    by_method = table(results / "out").frame().set_index("method")
    assert by_method.loc[with_wrap, "solved"] == 1
    assert by_method.loc[with_wrap, "n/a"] == 1
    assert by_method.loc[with_wrap, "gap median"] == ""


# -- the method ------------------------------------------------------------------------


def run_refresh(instance: Instance, pipeline: str = "shortest") -> Any:
    parameters = SolveParameters(time_limit_s=3, workers=1)
    return refresh(instance, parameters, minimise="age", wrap=False, pipeline=pipeline)


def test_the_shortest_pipeline_is_at_most_as_long_as_any_other() -> None:
    instance = training()
    shortest = run_refresh(instance)
    for pipeline in ("gpipe", "1f1b"):
        other = run_refresh(instance, pipeline)
        assert shortest.measures["step"] <= other.measures["step"]
        assert other.member == f"refresh in {pipeline}"


def test_that_there_is_no_refresh_is_an_outcome_with_a_reason() -> None:
    alone = replace(
        training(),
        stages=training().stages[:1],
        devices=(Device(name="gpu"),),
        placement=Placement.LINEAR,
        device_of_stage=(0,),
    )
    outcome = run_refresh(alone)
    assert outcome.status == "infeasible"
    assert "no gap" in outcome.reason
    assert outcome.schedule is None
    assert outcome.measures["interval"] is None
    assert outcome.measures["greedy_intervals"]


def test_a_form_that_no_hand_made_schedule_has_is_not_applicable() -> None:
    instance = training(2, 3, placement=[1, 0])
    with pytest.raises(NotApplicableError, match="no hand-made schedule"):
        run_refresh(instance)
    with pytest.raises(NotApplicableError, match="needs another form"):
        run_refresh(training(), "zb-v")
