"""What the pipeline may do: frozen first, then sliding, then reordered; and no more."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from schedopt.errors import NotApplicableError
from schedopt.formats import instance_document, load_schedule
from schedopt.refresh.frame import Frame
from schedopt.refresh.measures import measures_of
from schedopt.refresh.moving import breaks_memory, faults_of
from schedopt.refresh.moving_bounds import bounds_at_any_times
from schedopt.refresh.settings import Freedom, Minimise
from schedopt.solve.refresh import require_movable, solve_refresh
from schedopt.solve.refresh_candidates import Candidates
from schedopt.solve.refresh_moving import improve_moving
from schedopt.solve.refresh_solution import RefreshParameters, RefreshSolution
from schedopt.solve.solution import Status
from schedopt.verify import verify_file
from tests.cli_helpers import Run, refused, runner
from tests.refresh_step_model import shortest_cycle
from tests.refresh_tiny_frames import tiny_frame
from tests.refresh_trainings import frame_under
from tests.test_refresh_moving import two_gaps

FROZEN, SLIDING, REORDERED = Freedom


def solved(
    frame: Frame, freedom: Freedom, seconds: float = 30, **parameters: object
) -> RefreshSolution:
    solution = solve_refresh(
        frame,
        RefreshParameters(
            freedom=freedom, time_limit_s=seconds, workers=1, **parameters
        ),
    )
    if solution.cycle is not None:
        assert faults_of(solution.cycle) == ()
        assert not breaks_memory(solution.cycle)
        assert solution.freedom in freedom.up_to
        assert (solution.swaps > 0) == (solution.freedom is REORDERED)
        assert solution.least_interval is not None
        assert solution.least_interval <= solution.cycle.interval
        assert solution.least_age is not None
        assert solution.least_age <= (solution.cycle.largest_age or 0)
    return solution


# -- what is needed --------------------------------------------------------------------


def test_a_freedom_is_used_only_if_less_does_not_do() -> None:
    frame = two_gaps(3)
    for freedom in Freedom:
        solution = solved(frame, freedom, 8, minimise=Minimise.INTERVAL)
        assert solution.cycle is not None
        assert solution.freedom is FROZEN
    assert solved(frame, SLIDING, minimise=Minimise.INTERVAL).memory_bound is None


def test_what_fits_in_no_gap_may_fit_when_the_pipeline_slides() -> None:
    frame = two_gaps(14)
    assert solved(frame, FROZEN).status is Status.INFEASIBLE
    solution = solved(frame, SLIDING)
    assert solution.cycle is not None
    assert solution.status is Status.OPTIMAL
    assert solution.freedom is SLIDING
    assert (solution.cycle.interval, solution.cycle.largest_age) == (3, 4)
    assert (solution.least_interval, solution.least_age) == (3, 4)
    # Shares, then the inversion that the whole of a gap is just long enough for.
    assert measures_of(solution.cycle).tolerance == 0


def test_what_fits_at_no_times_is_infeasible_and_says_why() -> None:
    solution = solved(two_gaps(15), SLIDING)
    assert solution.status is Status.INFEASIBLE
    assert "device 0 has at no times a gap of 15 s" in solution.reason


@pytest.mark.parametrize(("wrap", "interval"), [(False, 4), (True, 3)])
def test_what_fits_at_no_times_may_fit_in_another_order(
    wrap: bool, interval: int
) -> None:
    frame = tiny_frame(random.Random(14))
    setting = {"wrap": wrap, "minimise": Minimise.INTERVAL}
    assert solved(frame, SLIDING, **setting).status is Status.INFEASIBLE
    solution = solved(frame, REORDERED, 20, **setting)
    assert solution.cycle is not None
    assert (solution.freedom, solution.swaps) == (REORDERED, 1)
    assert solution.cycle.interval == interval


def test_in_another_order_only_bounds_at_any_times_count() -> None:
    frame = two_gaps(14)
    solution = solved(frame, REORDERED, 3)
    (least,) = {b.interval for b in bounds_at_any_times(frame, wrap=False)} - {1}
    # That the order of GPipe allows no interval of 2 says nothing of other orders.
    assert solution.least_interval == least == 2
    assert solution.status is not Status.OPTIMAL


def test_more_freedom_is_never_worse() -> None:
    """Whatever is found, and in whatever time: the frozen packing is there already."""
    compared = 0
    for seed in (0, 3, 5, 8):
        frame = tiny_frame(random.Random(seed))
        for minimise in (Minimise.AGE, Minimise.INTERVAL):
            frozen = solved(frame, FROZEN, 10, minimise=minimise)
            for freedom in (SLIDING, REORDERED):
                parameters = RefreshParameters(
                    minimise=minimise,
                    freedom=freedom,
                    time_limit_s=frozen.wall_seconds + 0.5,
                    workers=1,
                )
                try:
                    require_movable(frame, parameters)
                except NotApplicableError:
                    break
                moving = improve_moving(frozen, parameters, lambda _: None)
                assert moving.rank[:2] <= frozen.rank[:2]
                if frozen.cycle is not None and moving.freedom is FROZEN:
                    assert moving.cycle is frozen.cycle
                compared += 1
    assert compared >= 8


def test_candidates_come_in_the_order_of_what_is_minimised() -> None:
    for wrap in (False, True):
        candidates = Candidates(
            wrap=wrap,
            least_interval=2,
            least_steps=2,
            most_interval=5,
            uses_next_step=True,
        )
        for minimise in (Minimise.AGE, Minimise.INTERVAL):
            every = list(candidates.by(minimise))
            ranks = [candidate.rank(minimise) for candidate in every]
            assert ranks == sorted(set(ranks))
        assert set(candidates.by_age()) == set(candidates.by_interval())
        assert {c.interval for c in candidates.at_any_age()} == {2, 3, 4, 5}


def test_no_interval_is_shorter_than_another_model_allows() -> None:
    """Cycles of which nothing but the op graph is shared, at any times and orders."""
    compared = 0
    for seed in (2, 7, 14, 24):
        frame = tiny_frame(random.Random(seed))
        try:
            solution = solved(frame, REORDERED, 3, minimise=Minimise.INTERVAL)
        except NotApplicableError:
            continue
        if solution.cycle is None:
            continue
        shortest = shortest_cycle(frame, solution.cycle.interval, 2)
        assert shortest.bound <= solution.cycle.length
        for interval in range(1, solution.least_interval or 1):
            better = shortest_cycle(frame, interval, 2)
            assert better.length is None or better.length > interval * frame.period
        compared += 1
    assert compared >= 2


# -- what is not modelled --------------------------------------------------------------


def test_a_packing_that_breaks_a_memory_limit_is_no_result() -> None:
    """Shares of two microbatches wait for a gap: 2 x 3 bytes beyond activations."""
    free = two_gaps(14).instance
    stages = tuple(
        replace(
            stage,
            activation=8,
            modules=tuple(
                replace(module, saved_input=3, saved_gradient=3)
                for module in stage.modules
            ),
        )
        for stage in free.stages
    )
    free = replace(free, stages=stages)
    found = solved(frame_under("gpipe", free), SLIDING, 30)
    assert found.cycle is not None
    assert found.freedom is SLIDING

    def limited(limit: int, seconds: float) -> RefreshSolution:
        devices = tuple(replace(d, memory_limit=limit) for d in free.devices)
        frame = frame_under("gpipe", replace(free, devices=devices))
        return solved(frame, SLIDING, seconds)

    assert limited(found.cycle.peak_memory, 30).cycle is not None
    activations = 2 * 8
    nothing = limited(activations, 2)
    assert nothing.cycle is None
    assert nothing.status is Status.UNKNOWN


def test_what_is_known_of_frozen_pipelines_only_is_refused() -> None:
    with pytest.raises(NotApplicableError, match="memory is not modelled"):
        solved(two_gaps(3), SLIDING, minimise=Minimise.MEMORY)
    timed = two_gaps(3, replicas=2, latency=1)
    with pytest.raises(NotApplicableError, match="reductions of factors"):
        solved(timed, REORDERED)
    assert solved(timed, FROZEN, 5).status is not Status.INFEASIBLE


# -- the command line ------------------------------------------------------------------


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.chdir(tmp_path)
    write(two_gaps(14), "gaps.yaml")
    return runner(capsys)


def write(frame: Frame, name: str) -> None:
    Path(name).write_text(json.dumps(instance_document(frame.instance)))


SOLVE = ("solve", "gaps.yaml", "--objective", "refresh", "--pipeline", "gpipe")
LIMIT = ("--time-limit", "30", "--workers", "1")
SLIDES = (*SOLVE, "--freedom", "sliding", *LIMIT)


def test_lines_say_which_freedom_was_needed(run: Run) -> None:
    result = run(*SLIDES, "-o", "out.json")
    assert result.code == 0
    words = result.out.splitlines()
    (line,) = [line for line in words if line.startswith("freedom needed")]
    assert line.endswith("sliding: the order of gpipe, other times")
    assert any("3 steps (proven: at least 3; " in line for line in words)
    file = load_schedule("out.json")
    assert verify_file(file) == ()
    assert file.instance.kfac is not None
    assert file.instance.kfac.interval == 3


def test_the_document_says_what_was_allowed_and_what_was_needed(run: Run) -> None:
    document = run(*SLIDES, "--json").json
    assert document["freedom"] == document["freedom_needed"] == "sliding"
    assert document["swaps"] == 0
    assert (document["interval"], document["interval_lower_bound"]) == (3, 3)
    assert document["peak_memory_lower_bound"] is None


def test_a_chart_shows_two_refreshes(run: Run) -> None:
    assert "device 0" in run(*SLIDES, "--gantt").out


def test_refusals_are_one_line_that_names_the_file(run: Run) -> None:
    refused(run(*SOLVE), "gaps.yaml: infeasible: device 0 has no gap of 14 s")
    refused(run(*SLIDES, "--minimise", "memory"), "gaps.yaml: ", "--freedom frozen")
    write(two_gaps(3, replicas=2, latency=1), "timed.yaml")
    timed = [word.replace("gaps", "timed") for word in SLIDES]
    refused(run(*timed), "timed.yaml: sliding does not know reductions")
    result = run("solve", "gaps.yaml", "--freedom", "sliding")
    assert result.code == 2
    assert "need --objective refresh" in result.err
