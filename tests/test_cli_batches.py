"""``run`` and ``table`` on a batch of hand-made schedules."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.cli_helpers import Run, refused, runner, write_tiny_files

SPEC = """
schema: schedopt/experiment/v1
name: small batch
instances: [tiny.json]
methods: [zb-h1, zb-h2, gpipe]
time_limit_s: 10
parallel: 1
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_files()
    Path("batch.yaml").write_text(SPEC)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


def test_a_batch_is_run_once_and_tabled(run: Run) -> None:
    ran = run("run", "batch.yaml", "-o", "out", "--json")
    assert ran.code == 0
    assert ran.json["statuses"] == {"feasible": 3}
    assert len(ran.err.splitlines()) == 3  # a line per run
    assert "3 of 3" in ran.err
    ran = run("run", "batch.yaml", "-o", "out")
    assert ran.code == 0
    assert "done before  3" in ran.out
    assert ran.err == ""

    assert "zb-h1" in run("table", "out").out
    rows = list(csv.reader(run("table", "out", "--csv").out.splitlines()))
    assert len(rows) == 4
    assert {len(row) for row in rows} == {len(rows[0])}
    markdown = run("table", "out", "--markdown").out
    assert markdown.count("\n| ") >= 4
    document = run("table", "out", "--json", "--by", "instance").json
    names = [column["name"] for column in document["columns"]]
    (row,) = document["rows"]
    values = dict(zip(names, row, strict=True))
    assert (values["instance"], values["zb-h1"], values["zb-h2"]) == ("tiny", 114, 107)
    document = run("table", "out", "--json", "--by", "run").json
    assert [row[1:4] for row in document["rows"]] == [
        ["gpipe", "feasible", 122],
        ["zb-h1", "feasible", 114],
        ["zb-h2", "feasible", 107],
    ]


def test_results_go_to_a_folder_named_after_the_spec(run: Run) -> None:
    assert run("run", "batch.yaml").code == 0
    assert Path("batch-results").is_dir()


def test_a_broken_spec_is_named(run: Run) -> None:
    Path("batch.yaml").write_text(SPEC.replace("methods", "method"))
    refused(run("run", "batch.yaml"), "batch.yaml", "method")


def test_an_unknown_method_is_named(run: Run) -> None:
    Path("batch.yaml").write_text(SPEC.replace("gpipe", "gpip"))
    refused(run("run", "batch.yaml"), "batch.yaml", "gpip")


def test_a_table_of_no_results_is_refused(run: Run) -> None:
    Path("empty").mkdir()
    refused(run("table", "empty"), "empty")
    Path("x.json").write_text(json.dumps({"schema": "x"}))
    refused(run("table", "x.json"), "x.json")
