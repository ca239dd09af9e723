"""``import schedopt``: what it offers, at which cost, and how Jupyter shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import schedopt
from schedopt.cli.saving import save_schedule
from schedopt.errors import FormatError
from schedopt.instance import Instance
from schedopt.report.notebook import LARGEST_CHART, schedule_svg

ROOT = Path(__file__).parent.parent
HEAVY = ("matplotlib", "networkx", "numba", "numpy", "ortools", "pandas", "pydantic")


def run_python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def instance() -> Instance:
    document = {
        "schema": "schedopt/instance/v1",
        "name": "two <stages>",
        "microbatches": 3,
        "devices": [{"name": "a&b"}, {"name": "c"}],
        "stages": {"count": 2, "forward": 10, "backward": 20, "activation": 1},
    }
    return schedopt.instance_from_document(document, "the test")


def test_every_public_name_is_there() -> None:
    assert set(dir(schedopt)) == set(schedopt.__all__)
    missing = [name for name in schedopt.__all__ if not hasattr(schedopt, name)]
    assert missing == []


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="'schedopt' has no attribute 'sovle'"):
        schedopt.sovle  # noqa: B018 - asking for it is the test


def test_importing_schedopt_imports_nothing_heavy() -> None:
    program = f"import sys, schedopt; print(set({HEAVY!r}) & set(sys.modules))"
    assert run_python(program) == "set()"


@pytest.mark.parametrize(
    "before",
    ["", "import schedopt.solve.solution", "from schedopt.solve import Solution"],
)
def test_solve_can_be_called_whatever_was_imported_before(before: str) -> None:
    program = (
        f"{before}\nimport schedopt, schedopt.solve as package\n"
        "print(callable(schedopt.solve), package.Solution is schedopt.Solution)"
    )
    assert run_python(program) == "True True"


def test_simulate_can_be_called_too(instance: Instance) -> None:
    graph = schedopt.build_graph(instance)
    run = schedopt.run_baseline(schedopt.BASELINES["1f1b"], instance)
    replayed = schedopt.simulate(graph, run.schedule.order)
    assert replayed.makespan == run.schedule.makespan
    assert replayed.graph.units.time_of(replayed.makespan) == (3 + 1) * 30


def test_a_schedule_is_exported_from_memory_and_from_its_file(
    instance: Instance, tmp_path: Path
) -> None:
    run = schedopt.run_baseline(schedopt.BASELINES["1f1b"], instance)
    program = schedopt.program_of(run.derived, run.schedule)
    made = schedopt.export(program, "torch-csv")
    folder = tmp_path / "new" / "folder"
    saved = made.save(folder)
    assert saved == [folder / name for name in made.files]
    assert {path.name: path.read_text() for path in folder.iterdir()} == made.files
    (csv,) = [text for name, text in made.files.items() if name.endswith(".csv")]
    assert csv.split() == ["0F0,0F1,0B0,0F2,0B1,0B2", "1F0,1B0,1F1,1B1,1F2,1B2"]

    file = tmp_path / "1f1b.json"
    save_schedule(file, run.derived, run.graph, run.schedule, "1f1b")
    loaded = schedopt.load_program(file)
    assert loaded.rows == program.rows
    assert schedopt.export(loaded, "torch-csv").files == made.files

    document = json.loads(file.read_text())
    document["makespan"] += 1
    file.write_text(json.dumps(document))
    with pytest.raises(FormatError, match=r"1f1b\.json: the verifier refuses it"):
        schedopt.load_program(file)


def test_jupyter_shows_the_summary_and_a_block_per_op(instance: Instance) -> None:
    solution = schedopt.solve(instance)
    html = solution._repr_html_()
    assert "two &lt;stages&gt;" in html
    assert "optimal (no schedule is better)" in html
    assert solution.schedule is not None
    svg = ElementTree.fromstring(schedule_svg(solution.schedule))
    titles = [title.text or "" for title in svg.iter() if title.tag.endswith("title")]
    assert sorted(title.split(":")[0] for title in titles) == sorted(
        str(op) for op in solution.schedule.start
    )
    assert "0F0: 0 to 10 us, forward" in titles
    assert html.count("<rect") == len(titles) + 2  # and the legend: F and B


def test_jupyter_shows_no_chart_where_there_is_no_schedule() -> None:
    document = {
        "schema": "schedopt/instance/v1",
        "name": "too large",
        "microbatches": 1,
        "devices": 1,
        "memory_limit": 1,
        "stages": {"count": 1, "forward": 1, "backward": 1, "activation": 2},
    }
    solution = schedopt.solve(schedopt.instance_from_document(document, "the test"))
    html = solution._repr_html_()
    assert "infeasible" in html
    assert "<svg" not in html


def test_jupyter_shows_no_chart_of_very_many_ops() -> None:
    document = {
        "schema": "schedopt/instance/v1",
        "name": "long",
        "microbatches": LARGEST_CHART // 2 + 1,
        "devices": 1,
        "stages": {"count": 1, "forward": 1, "backward": 1},
    }
    solution = schedopt.solve(schedopt.instance_from_document(document, "the test"))
    assert solution.schedule is not None
    assert "<svg" not in solution._repr_html_()
