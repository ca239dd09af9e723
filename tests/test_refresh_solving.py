"""The objective refresh: what it proves is true, what it finds exists, on tiny frames.

The truth comes from intervals on the op graph (``refresh_interval_model``), which share
nothing with the counts that ``solve_refresh`` uses.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import cache

import pytest

from schedopt.cpsat import Effort, components, pack
from schedopt.ops import Op
from schedopt.refresh.frame import Frame
from schedopt.refresh.measures import measures_of
from schedopt.refresh.problem import Packing, Problem, problem_of
from schedopt.refresh.settings import Minimise
from schedopt.solve import refresh_frames
from schedopt.solve.frames import NamedFrame
from schedopt.solve.refresh import solve_refresh
from schedopt.solve.refresh_candidates import Candidate
from schedopt.solve.refresh_known import Known, greedy_packings
from schedopt.solve.refresh_solution import RefreshParameters, RefreshSolution
from schedopt.solve.solution import Status
from schedopt.verify import violations
from tests.refresh_interval_model import truth
from tests.refresh_tiny_frames import tiny_frame
from tests.refresh_trainings import published_frame, random_frame

FRAMES = 14
WRAP = pytest.mark.parametrize("wrap", [False, True])
MINIMISE = pytest.mark.parametrize("minimise", list(Minimise))


@cache
def tiny(seed: int) -> Frame:
    return tiny_frame(random.Random(seed))


def solved(
    frame: Frame,
    *,
    wrap: bool = False,
    minimise: Minimise = Minimise.AGE,
    seconds: float = 10,
) -> RefreshSolution:
    parameters = RefreshParameters(
        minimise=minimise, wrap=wrap, time_limit_s=seconds, workers=1
    )
    solution = solve_refresh(frame, parameters)
    if solution.cycle is None:
        assert solution.status in (Status.INFEASIBLE, Status.UNKNOWN)
        assert solution.reason
        return solution
    assert solution.status in (Status.OPTIMAL, Status.FEASIBLE)
    assert solution.cycle.broken == ()
    measures = measures_of(solution.cycle)
    assert solution.least_interval is not None
    assert solution.least_age is not None
    assert solution.least_interval <= measures.interval
    assert solution.least_age <= (measures.largest_age or 0)
    assert (solution.memory_bound or 0) <= measures.peak_memory
    return solution


def is_valid(packing: Packing) -> bool:
    schedule = packing.cycle.schedule
    return violations(schedule.graph, schedule.start) == ()


@cache
def tiny_solved(seed: int, wrap: bool, minimise: Minimise) -> RefreshSolution:
    return solved(tiny(seed), wrap=wrap, minimise=minimise)


def last_step(interval: int, *, wrap: bool) -> int:
    """The last step before whose successor all of a refresh is done."""
    return 2 * interval if wrap else interval


def exists(
    frame: Frame, interval: int, latest: int, *, wrap: bool, limit: int | None = None
) -> bool | None:
    """What the intervals say of a candidate; there is none before step 0."""
    if interval < 1 or latest < 0:
        return False
    return truth(frame, interval, latest, wrap=wrap, limit=limit).exists


def exists_by_age(
    frame: Frame, age: int, *, wrap: bool, limit: int | None = None
) -> bool:
    """Whether there is a packing of this largest age at any interval."""
    return any(
        exists(frame, interval, age + 1 - interval, wrap=wrap, limit=limit)
        for interval in range(1, age + 2)
    )


def exists_within(
    frame: Frame, interval: int, *, wrap: bool, limit: int | None = None
) -> bool | None:
    """Whether there is a packing at an interval, whatever its age."""
    latest = last_step(interval, wrap=wrap)
    return exists(frame, interval, latest, wrap=wrap, limit=limit)


# -- against intervals -----------------------------------------------------------------


@WRAP
@MINIMISE
def test_what_is_found_exists(wrap: bool, minimise: Minimise) -> None:
    found = 0
    for seed in range(FRAMES):
        cycle = tiny_solved(seed, wrap, minimise).cycle
        if cycle is None:
            continue
        latest = cycle.first_use or 0
        assert exists(tiny(seed), cycle.interval, latest, wrap=wrap) is not False, seed
        found += 1
    assert found >= FRAMES // 2


@WRAP
@MINIMISE
def test_no_packing_is_below_what_was_proven(wrap: bool, minimise: Minimise) -> None:
    for seed in range(FRAMES):
        frame, solution = tiny(seed), tiny_solved(seed, wrap, minimise)
        if solution.least_interval is None or solution.least_age is None:
            assert solution.status is Status.INFEASIBLE
            for interval in range(1, 5):
                assert not exists_within(frame, interval, wrap=wrap), seed
            continue
        for interval in range(1, solution.least_interval):
            assert not exists_within(frame, interval, wrap=wrap), seed
        for age in range(solution.least_age):
            assert not exists_by_age(frame, age, wrap=wrap), seed


@WRAP
@MINIMISE
def test_nothing_is_better_than_an_optimum(wrap: bool, minimise: Minimise) -> None:
    statuses: Counter[Status] = Counter()
    for seed in range(FRAMES):
        frame, solution = tiny(seed), tiny_solved(seed, wrap, minimise)
        statuses[solution.status] += 1
        if solution.status is not Status.OPTIMAL:
            continue
        assert solution.cycle is not None
        measures = measures_of(solution.cycle)
        interval, age = measures.interval, measures.largest_age or 0
        latest = age + 1 - interval
        if minimise is Minimise.AGE:
            assert age == 0 or not exists_by_age(frame, age - 1, wrap=wrap), seed
            assert not any(
                exists(frame, other, age + 1 - other, wrap=wrap)
                for other in range(1, interval)
            ), seed
            continue
        for other in range(1, interval):
            assert not exists_within(frame, other, wrap=wrap), seed
        if minimise is Minimise.INTERVAL:
            assert not exists(frame, interval, latest - 1, wrap=wrap), seed
    # Where reductions take time a better packing often cannot be excluded.
    assert statuses[Status.OPTIMAL] >= statuses[Status.FEASIBLE]
    assert statuses[Status.UNKNOWN] == 0


@WRAP
def test_no_packing_has_less_memory_than_was_proven(wrap: bool) -> None:
    tight = known = 0
    for seed in range(FRAMES):
        solution = tiny_solved(seed, wrap, Minimise.MEMORY)
        if solution.cycle is None or solution.memory_bound is None:
            continue
        interval = solution.cycle.interval
        least = truth(
            tiny(seed),
            interval,
            last_step(interval, wrap=wrap),
            wrap=wrap,
            minimise_memory=True,
            seconds=5,
        ).peak
        if least is None:
            continue
        peak = measures_of(solution.cycle).peak_memory
        assert solution.memory_bound <= least <= peak, seed
        if solution.status is Status.OPTIMAL:
            assert peak == least, seed
        known += 1
        tight += peak == least
    assert known >= 6
    assert tight >= known - 2


@WRAP
def test_a_memory_limit_is_kept_and_what_it_excludes_is_not_there(wrap: bool) -> None:
    tried = 0
    for seed in range(FRAMES):
        free = tiny_solved(seed, wrap, Minimise.INTERVAL)
        if free.cycle is None:
            continue
        limit = measures_of(free.cycle).peak_memory - 1
        if limit < max(frame_peaks(problem_of(free.cycle.frame, free.cycle.interval))):
            continue
        tried += 1
        frame = limited(tiny(seed), limit)
        solution = solved(frame, wrap=wrap, minimise=Minimise.INTERVAL, seconds=0.2)
        least = solution.least_interval
        assert least is not None
        for interval in range(1, min(least, 4)):
            assert not exists_within(frame, interval, wrap=wrap, limit=limit), seed
        if solution.cycle is not None:
            assert measures_of(solution.cycle).peak_memory <= limit, seed
    assert tried >= 2


def test_a_limit_below_what_the_frame_holds_is_infeasible() -> None:
    frame = tiny(0)
    needed = max(frame_peaks(problem_of(frame, 1)))
    solution = solved(limited(frame, needed - 1))
    assert solution.status is Status.INFEASIBLE
    assert f"needs {needed} B for its pipeline and factors" in solution.reason
    assert f"more than its limit of {needed - 1}" in solution.reason
    assert solved(limited(frame, needed), seconds=0.3).status is not Status.INFEASIBLE


def frame_peaks(problem: Problem) -> list[int]:
    """Each device's peak with the factors, but with nothing that waits for them."""
    return [max(level for _, level in levels) for levels in problem.frame_levels]


def limited(frame: Frame, limit: int) -> Frame:
    amount = Fraction(limit, frame.graph.units.grains_per_unit)
    devices = tuple(replace(one, memory_limit=amount) for one in frame.instance.devices)
    return replace(frame, instance=replace(frame.instance, devices=devices))


# -- the greedy as the start -----------------------------------------------------------


@WRAP
@pytest.mark.parametrize("minimise", [Minimise.AGE, Minimise.INTERVAL])
def test_the_result_is_never_worse_than_the_greedys(
    wrap: bool, minimise: Minimise
) -> None:
    converted = 0
    for seed in range(FRAMES):
        solution = tiny_solved(seed, wrap, minimise)
        for greedy in greedy_packings(tiny(seed), wrap=wrap):
            assert solution.cycle is not None, seed
            found, theirs = measures_of(solution.cycle), measures_of(greedy.cycle)
            if minimise is Minimise.AGE:
                assert (found.largest_age or 0) <= (theirs.largest_age or 0), seed
            else:
                assert found.interval <= theirs.interval, seed
            converted += 1
    assert converted >= FRAMES // 2


@WRAP
def test_without_time_the_result_is_the_greedys(wrap: bool) -> None:
    converted = 0
    for seed in (0, 4, 6):
        frame = random_frame(random.Random(seed))
        starts = list(greedy_packings(frame, wrap=wrap))
        solution = solved(frame, seconds=0, wrap=wrap, minimise=Minimise.INTERVAL)
        if not starts:
            assert solution.status is not Status.FEASIBLE
            continue
        converted += 1
        assert solution.cycle is not None
        least = min(packing.problem.interval for packing in starts)
        assert solution.cycle.interval == least
    assert converted >= 2


def test_a_published_row_is_refreshed_a_step_sooner_than_by_the_greedy() -> None:
    frame = published_frame("base", "1f1b", 4, 3)
    # Seconds on a free machine; the limit is for one that is not.
    solution = solved(frame, minimise=Minimise.INTERVAL, seconds=300)
    assert solution.cycle is not None
    assert solution.cycle.interval == solution.least_interval == 3
    assert {one.problem.interval for one in greedy_packings(frame, wrap=False)} == {4}


# -- several frames --------------------------------------------------------------------


def test_of_several_frames_the_best_is_taken_and_they_share_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shares: list[float] = []

    def solve(
        frame: Frame, parameters: RefreshParameters, _progress: object
    ) -> RefreshSolution:
        shares.append(parameters.time_limit_s)
        return tiny_solved(seeds[id(frame)], False, Minimise.AGE)

    seeds = {id(tiny(seed)): seed for seed in range(4)}
    monkeypatch.setattr(refresh_frames, "solve_refresh", solve)
    frames = [NamedFrame(str(seed), tiny(seed)) for seed in range(4)]
    named, solution = refresh_frames.solve_in_frames(
        frames, RefreshParameters(time_limit_s=4000)
    )
    ranks = {
        str(seed): tiny_solved(seed, False, Minimise.AGE).rank for seed in (0, 1, 2, 3)
    }
    assert solution.rank == ranks[named.name] == min(ranks.values())
    assert len(set(ranks.values())) > 1
    # What a frame leaves goes to those after it.
    assert shares[0] == pytest.approx(1000, abs=100)
    assert shares == sorted(shares)
    assert shares[-1] <= 4000


# -- what is known of candidates -------------------------------------------------------


def test_without_wrapping_more_of_either_only_relaxes() -> None:
    known = Known((0,), wrap=False)
    start = {Op.parse("0INVERSION0:x.A"): 7}
    known.found[Candidate(3, 2)] = start
    known.impossible.append(Candidate(2, 2))
    for interval, latest in ((3, 2), (4, 2), (3, 3), (9, 9)):
        assert known.start(Candidate(interval, latest)) == start
    for interval, latest in ((2, 2), (3, 1), (9, 1)):
        assert known.start(Candidate(interval, latest)) is None
    for interval, latest in ((2, 2), (1, 2), (2, 1), (1, 0)):
        assert known.is_impossible(Candidate(interval, latest))
    for interval, latest in ((3, 2), (2, 3), (3, 1), (1, 3)):
        assert not known.is_impossible(Candidate(interval, latest))


def test_with_wrapping_nothing_follows_from_one_interval_to_another() -> None:
    known = Known((0,), wrap=True)
    start = {Op.parse("0INVERSION0:x.A"): 7}
    known.found[Candidate(3, 2)] = start
    known.impossible.append(Candidate(2, 2))
    assert known.start(Candidate(3, 3)) == start
    assert known.is_impossible(Candidate(2, 1))
    for interval, latest in ((4, 2), (9, 9), (2, 2)):
        assert known.start(Candidate(interval, latest)) is None
    for interval, latest in ((1, 2), (1, 0), (3, 2), (2, 3)):
        assert not known.is_impossible(Candidate(interval, latest))


def test_where_work_wraps_a_packing_may_not_hold_at_a_greater_interval() -> None:
    # Steps 0 and 3 share their gaps at interval 3, but not at interval 2.
    broken = 0
    for seed in (4, 25, 32, 61):
        frame = tiny(seed)
        problem = problem_of(frame, 2, wrap=True, latest=3)
        start: dict[Op, int] = {}
        for devices in components(problem):
            result = pack(problem, devices, Effort(time_limit_s=10, workers=1))
            assert result.start is not None
            start |= result.start
        assert is_valid(Packing(problem, start, "counts"))
        other = problem_of(frame, 3, wrap=True, latest=3)
        broken += not is_valid(Packing(other, start, "counts"))
    assert broken


def test_what_is_learnt_is_a_components_own_part() -> None:
    frame = published_frame("base", "1f1b", 4, 3)
    (packing, *_) = greedy_packings(frame, wrap=False)
    known = Known((1,), wrap=False)
    known.learn(packing)
    ((candidate, start),) = known.found.items()
    data = packing.problem.graph.data
    assert {data[op].device for op in start} == {1}
    assert set(start.items()) <= set(packing.start.items())
    assert candidate.interval == packing.problem.interval
    uses = packing.cycle.first_uses
    assert candidate.latest == max(uses[op] for op in start if op in uses)
    assert candidate.age == candidate.latest + candidate.interval - 1


# -- interrupts ------------------------------------------------------------------------


def test_an_interrupt_keeps_what_was_found() -> None:
    heard: list[str] = []

    def tell(text: str) -> None:
        heard.append(text)
        signal.raise_signal(signal.SIGINT)

    frame = published_frame("base", "1f1b", 4, 3)
    named, solution = refresh_frames.solve_in_frames(
        [NamedFrame("first", frame), NamedFrame("second", frame)],
        RefreshParameters(minimise=Minimise.INTERVAL, time_limit_s=300, workers=1),
        lambda _: tell,
    )
    assert (named.name, len(heard)) == ("first", 1)
    assert solution.is_interrupted
    assert solution.cycle is not None
    assert solution.cycle.broken == ()
    assert solution.cycle.interval == 3
