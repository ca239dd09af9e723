"""``solve``, ``bound`` and ``compare`` with a solver that answers what a test wants."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schedopt.baselines import BASELINES, run_baseline
from schedopt.build import build_graph
from schedopt.cli import comparing, solving
from schedopt.formats import load_schedule
from schedopt.instance import Instance, Objective
from schedopt.solve.solution import Solution, SolveParameters, Status, TraceEntry
from tests.cli_helpers import Run, changed, refused, runner, write_tiny_files

TICKS = 10**6  # in a microsecond


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_files()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[SolveParameters]]:
    """Makes the solver answer ZB-H2 with other fields; the parameters it was given."""

    def install(**fields: Any) -> list[SolveParameters]:
        seen: list[SolveParameters] = []

        def solve(
            instance: Instance,
            parameters: SolveParameters,
            progress: Callable[[TraceEntry], None],
        ) -> Solution:
            seen.append(parameters)
            entry = TraceEntry(0.5, 107 * TICKS, 100 * TICKS, "baselines")
            progress(entry)
            schedule = run_baseline(BASELINES["zb-h2"], instance).schedule
            solution = Solution(
                instance=instance,
                graph=build_graph(instance),
                objective=parameters.objective or instance.objective,
                status=Status.FEASIBLE,
                schedule=schedule,
                value=schedule.makespan,
                lower_bound=100 * TICKS,
                method="a member",
                wall_seconds=1.5,
                parameters=parameters,
                best_baseline=("zb-h1", 114 * TICKS),
                trace=(entry,),
            )
            return replace(solution, **fields)

        for module in (solving, comparing):
            monkeypatch.setattr(module, "solve_instance", solve)
        return seen

    return install


NOTHING = {"schedule": None, "value": None, "best_baseline": None}


def test_solve_prints_what_a_person_wants_to_know(run: Run, answer: Any) -> None:
    answer()
    ran = run("solve", "tiny.json")
    assert ran.code == 0
    for words in [
        "tiny",
        "2 devices, 2 stages, 4 microbatches, 24 ops",
        "zb-h1, makespan 114 us",
        "makespan        107 us",
        "device span     107 us",
        "lower bound     100 us",
        "6.54 %",  # the gap, 7 of 107
        "10.28 % for T = makespan",  # 1 - 2 x 96 / (2 x 107)
        "1 - work / (devices x T)",
        "device 0: 30 of 40 MiB",
        "device 1: 20 of 40 MiB",
        "feasible",
        "a member",
    ]:
        assert words in ran.out, words


def test_progress_goes_to_stderr_in_plain_lines(run: Run, answer: Any) -> None:
    answer()
    line = run("solve", "tiny.json").err
    expected = "0.5 s value 107 us bound 100 us gap 6.54 % (baselines)"
    assert " ".join(line.split()) == expected


def test_solve_json_has_the_documented_keys(run: Run, answer: Any) -> None:
    answer()
    document = run("solve", "tiny.json", "--json").json
    assert list(document) == [
        *("instance", "time_unit", "memory_unit", "devices", "stages", "microbatches"),
        *("ops", "status", "reason", "interrupted", "objective", "value"),
        *("lower_bound", "gap", "best_baseline", "all_baselines_tried"),
        *("makespan", "device_span"),
        *("bubble_ratio", "peak_memory", "memory_limit", "steady", "method"),
        *("seed", "wall_seconds", "trace"),
    ]
    assert document["value"] == 107
    assert document["lower_bound"] == 100
    assert document["gap"] == pytest.approx(7 / 107)
    assert document["best_baseline"] == {"name": "zb-h1", "value": 114}
    assert document["trace"][0]["member"] == "baselines"


@pytest.mark.parametrize(
    ("best", "said"),
    [
        (None, "none so far (not all were tried)"),
        (("zb-h1", 114 * TICKS), "zb-h1 of those tried, makespan 114 us (here 6.14 %"),
    ],
)
def test_solve_says_if_hand_made_schedules_were_left_out(
    run: Run, answer: Any, best: Any, said: str
) -> None:
    answer(best_baseline=best, all_baselines_tried=False)
    assert said in " ".join(run("solve", "tiny.json").out.split())
    answer(best_baseline=best)
    assert "tried" not in run("solve", "tiny.json").out


def test_options_reach_the_solver(run: Run, answer: Any) -> None:
    seen = answer()
    run(
        *("solve", "tiny.json", "--time-limit", "7", "--workers", "3", "--seed", "5"),
        *("--objective", "device-span", "--reproducible"),
    )
    assert seen == [
        SolveParameters(
            time_limit_s=7.0,
            workers=3,
            seed=5,
            objective=Objective.DEVICE_SPAN,
            reproducible=True,
        )
    ]


def test_without_o_nothing_is_written(run: Run, answer: Any) -> None:
    answer()
    before = sorted(Path().iterdir())
    assert run("solve", "tiny.json").code == 0
    assert sorted(Path().iterdir()) == before


def test_the_schedule_that_is_written_passes_verify(run: Run, answer: Any) -> None:
    answer()
    assert run("solve", "tiny.json", "-o", "s.json").code == 0
    assert run("verify", "s.json").code == 0
    file = load_schedule("s.json")
    assert (file.value, file.lower_bound, file.method) == (107, 100, "a member")
    assert file.wall_seconds == 1.5


def test_reproducible_files_hold_no_clock(run: Run, answer: Any) -> None:
    answer()
    ran = run("solve", "tiny.json", "--reproducible", "--json", "-o", "s.json")
    assert (ran.json["wall_seconds"], ran.json["trace"]) == (None, None)
    file = load_schedule("s.json")
    assert (file.wall_seconds, file.trace) == (None, [])


def test_a_wrong_schedule_never_leaves(run: Run, answer: Any) -> None:
    answer(value=106 * TICKS)  # the schedule takes 107
    ran = run("solve", "tiny.json", "-o", "s.json")
    assert ran.code == 1
    assert "not written, the verifier refuses it" in ran.err
    assert not Path("s.json").exists()


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_infeasible_says_what_would_do(
    run: Run, answer: Any, options: list[str]
) -> None:
    reason = "device 1 needs at least 10 MiB; memory_limit 10 would do"
    answer(status=Status.INFEASIBLE, reason=reason, **NOTHING)
    ran = run("solve", "tiny.json", "-o", "s.json", *options)
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == f"schedopt: tiny.json: infeasible: {reason}"
    assert not Path("s.json").exists()
    if options:
        assert (ran.json["status"], ran.json["makespan"]) == ("infeasible", None)


def test_no_schedule_in_time_says_what_would_help(run: Run, answer: Any) -> None:
    answer(status=Status.UNKNOWN, **NOTHING)
    ran = run("solve", "tiny.json", "--time-limit", "3")
    assert ran.code == 1
    assert "within 3.0 s" in ran.err.splitlines()[-1]
    assert "--time-limit" in ran.err.splitlines()[-1]


def test_an_interrupted_run_saves_the_best_so_far(run: Run, answer: Any) -> None:
    answer(interrupted=True)
    ran = run("solve", "tiny.json")
    assert ran.code == 130
    assert "tiny.schedule.json" in ran.err.splitlines()[-1]
    assert run("verify", "tiny.schedule.json").code == 0
    # A file that is there stays as it is.
    ran = run("solve", "tiny.json")
    assert "tiny-2.schedule.json" in ran.err.splitlines()[-1]
    assert run("verify", "tiny-2.schedule.json").code == 0


def test_an_interrupted_run_writes_where_it_was_told(run: Run, answer: Any) -> None:
    answer(interrupted=True)
    ran = run("solve", "tiny.json", "-o", "s.json", "--json")
    assert (ran.code, ran.json["interrupted"]) == (130, True)
    assert "s.json" in ran.err.splitlines()[-1]
    assert run("verify", "s.json").code == 0
    assert not Path("tiny.schedule.json").exists()


def test_interrupted_with_nothing_found(run: Run, answer: Any) -> None:
    answer(interrupted=True, status=Status.UNKNOWN, **NOTHING)
    ran = run("solve", "tiny.json")
    assert ran.code == 130
    assert "no schedule had been found" in ran.err


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a b/c", "...", "é"])
def test_an_instance_cannot_choose_where_its_schedule_goes(
    run: Run, answer: Any, name: str, tmp_path: Path
) -> None:
    answer(interrupted=True)
    before = set(tmp_path.iterdir())
    odd = changed("odd.json", name=name)
    assert run("solve", odd).code == 130
    (new,) = set(tmp_path.iterdir()) - before - {tmp_path / odd}
    assert new.name.endswith(".schedule.json")
    assert not new.name.startswith(".")


def test_gantt_is_drawn_if_it_fits_or_is_wanted(run: Run, answer: Any) -> None:
    answer()
    assert "device 0 F0---" in run("solve", "tiny.json").out
    assert "device 0 F0---" not in run("solve", "tiny.json", "--no-gantt").out
    long = changed("long.json", microbatches=100)
    assert "idle" not in run("solve", long).out
    assert "idle" in run("solve", long, "--gantt").out


def test_bound_prints_each_and_the_best(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Objective | None, float]] = []

    def bounds_of(
        _: Instance, objective: Objective | None, *, time_limit_s: float
    ) -> Iterator[tuple[str, int]]:
        asked.append((objective, time_limit_s))
        yield "load", 96 * TICKS
        yield "critical path", 60 * TICKS

    monkeypatch.setattr(solving, "bounds_of", bounds_of)
    ran = run("bound", "tiny.json")
    assert ran.code == 0
    lines = [line.split("  ", 1) for line in ran.out.splitlines()]
    values = {name: value.strip().split(", after")[0] for name, value in lines}
    assert values == {
        "load": "96 us",
        "critical path": "60 us",
        "best": "96 us (load)",
    }
    options = ("--time-limit", "4", "--objective", "device-span", "--json")
    document = run("bound", "tiny.json", *options).json
    assert asked == [(None, 10), (Objective.DEVICE_SPAN, 4)]
    assert (document["best"], document["objective"]) == (96, "device-span")
    assert [(b["name"], b["value"]) for b in document["bounds"]] == [
        ("load", 96),
        ("critical path", 60),
    ]


def test_bounds_of_the_real_solver_hold(run: Run) -> None:
    document = run("bound", "tiny.json", "--time-limit", "2", "--json").json
    # ZB-H2 fits and takes 107.
    assert 96 < document["best"] <= 107


def test_the_real_solver_is_connected(run: Run) -> None:
    ran = run("solve", "tiny.json", "--time-limit", "5", "--json", "-o", "s.json")
    assert ran.code == 0
    assert ran.json["value"] <= 107
    assert run("verify", "s.json").code == 0
    tight = changed("tight.json", memory_limit=8)
    ran = run("solve", tight)
    refused(ran, "tight.json: infeasible", "device 0", "10 MiB")


def test_compare_gives_gaps_to_the_bound_of_the_own_form_only(
    run: Run, answer: Any
) -> None:
    answer()
    (comparison,) = run("compare", "tiny.json", "--json").json
    rows = {row["schedule"]: row for row in comparison["rows"]}
    assert rows["schedopt"]["gap"] == pytest.approx(7 / 107)
    assert rows["zb-h1"]["gap"] == pytest.approx(14 / 114)
    assert rows["1f1b"]["gap"] is None
    assert len(comparison["solutions"]) == 1


def test_compare_forms_solves_each_form_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved = []

    def solve(instance: Instance, parameters: SolveParameters, _: Any) -> Solution:
        solved.append(instance)
        return Solution(
            instance=instance,
            graph=build_graph(instance),
            objective=instance.objective,
            status=Status.UNKNOWN,
            lower_bound=90 * TICKS,
            method="",
            wall_seconds=0.0,
            parameters=parameters,
            schedule=None,
            value=None,
        )

    monkeypatch.setattr(comparing, "solve_instance", solve)
    ran = run("compare", "tiny.json", "--forms", "--json")
    refused(ran, "tiny.json", "unknown")
    assert solved[0].backward.value == "split"
    assert len(solved) == len(set(map(repr, solved))) > 3
    (comparison,) = ran.json
    fitting = [row for row in comparison["rows"] if row["fits"]]
    # Every fitting row's form was solved, so every one has a gap.
    assert all(row["gap"] is not None for row in fitting)


def test_compare_stops_when_interrupted(run: Run, answer: Any) -> None:
    seen = answer(interrupted=True)
    ran = run("compare", "tiny.json", "tiny.json", "--json")
    assert (ran.code, len(seen)) == (130, 1)
    assert len(json.loads(ran.out)) == 1


def test_compare_of_an_infeasible_instance_shows_the_rest(
    run: Run, answer: Any
) -> None:
    answer(status=Status.INFEASIBLE, reason="too little memory", **NOTHING)
    ran = run("compare", "tiny.json", "tiny.json")
    assert ran.code == 1
    assert "zb-h1" in ran.out
    assert ran.err.count("tiny.json: infeasible: too little memory") == 2
