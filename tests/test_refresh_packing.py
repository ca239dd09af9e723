"""The packing of a refresh: what the counts say against intervals on the op graph."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import pytest

from schedopt.cpsat import Effort, Outcome, components, pack
from schedopt.cpsat import packing as packing_module
from schedopt.cpsat import packing_rules as rules
from schedopt.cpsat.packing_counts import Counts
from schedopt.cpsat.packing_groups import groups_of
from schedopt.cpsat.packing_memory import levels
from schedopt.cpsat.packing_reductions import Reductions
from schedopt.instance import Inversion, Kfac, StepBarrier
from schedopt.ops import Op
from schedopt.refresh.bounds import best_bound, interval_bounds
from schedopt.refresh.frame import Frame
from schedopt.refresh.problem import Packing, Problem, problem_of, without_memory
from schedopt.verify import violations
from tests.kfac_instances import MODULES, STAGE, training
from tests.refresh_interval_model import truth
from tests.refresh_tiny_frames import tiny_frame
from tests.refresh_trainings import frame_under, published_frame
from tests.test_refresh_bounds import tiny

EFFORT = Effort(time_limit_s=20, workers=1)
LONG = Effort(time_limit_s=300, workers=1)  # ends when something is found
FRAMES = 45


class Case(NamedTuple):
    """A tiny frame, and an interval near its bound."""

    frame: Frame
    interval: int
    latest: int
    wrap: bool

    @property
    def problem(self) -> Problem:
        return problem_of(self.frame, self.interval, wrap=self.wrap, latest=self.latest)


def case(seed: int) -> Case:
    rng = random.Random(seed)
    frame, wrap = tiny_frame(rng), rng.random() < 0.5
    bound = best_bound(interval_bounds(frame, wrap=wrap))
    least = 1 if bound is None or bound.interval is None else bound.interval
    interval = max(1, least + rng.choice((-1, 0, 0, 0, 1)))
    later = (interval, interval + 1) if wrap else (1,)
    latest = max(0, interval - 1 + rng.choice((-1, 0, 0, 1, *later)))
    return Case(frame, interval, latest, wrap)


class Said(NamedTuple):
    """What the counts say of a case: starts, or that there are none, or neither."""

    start: dict[Op, int] | None
    is_impossible: bool


def said(problem: Problem) -> Said:
    start: dict[Op, int] | None = {}
    is_impossible = False
    for devices in components(problem):
        results = [
            pack(problem, devices, EFFORT),
            pack(problem, devices, EFFORT, relaxed=True),
            pack(problem, devices, EFFORT, outlined=True),
            pack(problem, devices, EFFORT, outlined=True, relaxed=True),
        ]
        assert results[1].start is results[3].start is None
        found = [each.start for each in results if each.start is not None]
        outcomes = {each.outcome for each in results}
        assert not (found and Outcome.INFEASIBLE in outcomes)
        is_impossible |= Outcome.INFEASIBLE in outcomes
        start = start | found[0] if found and start is not None else None
    return Said(start, is_impossible)


def broken(problem: Problem, start: dict[Op, int]) -> tuple[object, ...]:
    schedule = Packing(problem, start, "counts").cycle.schedule
    return violations(schedule.graph, schedule.start)


def is_exact(problem: Problem) -> bool:
    return all(Counts(problem, devices).is_exact for devices in components(problem))


# -- by hand ---------------------------------------------------------------------------


def test_shares_stand_first_and_inversions_last() -> None:
    # Device 0 is idle from 4 to 14 in steps of 20. Its layer's A takes 2 + 5 and may
    # begin at 4; its B, 3 + 7, may begin at 20 and fills a gap.
    frame = tiny(StepBarrier.DEVICE)
    assert pack(problem_of(frame, 1), (0,), EFFORT).outcome is Outcome.INFEASIBLE
    problem = problem_of(frame, 2)
    result = pack(problem, (0,), EFFORT)
    assert result.outcome is Outcome.OPTIMAL
    assert result.start is not None
    assert {str(op): time for op, time in result.start.items()} == {
        "0CURVATURE_A0:x": 4,
        "0INVERSION0:x.A": 9,
        "0CURVATURE_B0:x": 24,
        "0INVERSION0:x.B": 27,
    }
    assert components(problem) == ((0,), (1,))


def test_with_wrapping_two_refreshes_share_a_gap() -> None:
    # 17 of 20 ticks in two gaps, or of 10 in one: the gap of step 1 is no other gap.
    frame = tiny(StepBarrier.DEVICE)
    for latest in range(4):
        result = pack(problem_of(frame, 1, wrap=True, latest=latest), (0,), EFFORT)
        assert result.start is None
        proof = pack(
            problem_of(frame, 1, wrap=True, latest=latest), (0,), EFFORT, relaxed=True
        )
        assert proof.outcome is Outcome.INFEASIBLE


def test_what_is_made_after_preconditioning_is_used_a_step_later() -> None:
    # Device 1 preconditions at 14 and is idle from 14 to 24: A is inverted there, used
    # in step 1; B, 3 + 7, is done in step 1 and used in step 2.
    frame = tiny(StepBarrier.DEVICE)
    for latest, outcome in ((1, Outcome.INFEASIBLE), (2, Outcome.OPTIMAL)):
        problem = problem_of(frame, 2, latest=latest)
        assert pack(problem, (1,), EFFORT).outcome is outcome


def test_levels_rise_where_anything_begins() -> None:
    # One stage, one microbatch: F from 0 to 6, B to 17; 20 of activation until then.
    frame = frame_under(
        "gpipe",
        training(1, 1, stage=replace(STAGE, input_gradient=0, modules=MODULES[1:])),
    )
    problem = problem_of(frame, 1)
    static = 3 + 2 * (5 + 6)
    assert levels(problem, 0) == {0: static + 20, 6: static + 20}
    # The layer's output gradients, 4, come with B and wait; its inputs, 3, after it.
    sizes = {group.side: group.shares[0].size for group in problem.classes}
    assert sizes == {"A": 3, "B": 4}


def test_a_group_ends_where_the_frame_needs_its_streams() -> None:
    stage = replace(STAGE, precondition=2, optimizer_step=0, modules=MODULES[1:])
    frame = frame_under(
        "gpipe",
        training(1, 1, stage=stage, kfac=Kfac(replicas=2, latency=3)),
    )
    # F 0-6, B to 17, reduction 17-20, preconditioning 20-21, gathering 21-24.
    problem = problem_of(frame, 2)
    assert [(b.begin, b.end) for b in problem.bins[0]] == [
        (17, 20),
        (21, 24),
        (41, 44),
        (45, 48),
    ]
    groups = groups_of(problem, {0: problem.bins[0]}, [(17, 20), (21, 24)])
    # A gap that begins with a collective waits for the end of it.
    assert [(g.begin, g.free_from, g.limit) for g in groups] == [
        (17, 20, 21),
        (21, 24, 41),
        (41, 44, 45),
        (45, 48, 65),
    ]
    assert [g.kind for g in groups] == [
        (0, ((0, 0, 0),)),
        (0, ((0, 1, 0),)),
        (1, ((0, 0, 0),)),
        (1, ((0, 1, 0),)),
    ]
    # Nothing can be reduced within the one tick of the stream between them.
    result = pack(problem, (0,), EFFORT)
    assert result.start is None or not broken(problem, result.start)


# -- against intervals -----------------------------------------------------------------


@cache
def outcomes() -> Counter[tuple[bool, str]]:
    """How often the counts decide what the intervals know."""
    found: Counter[tuple[bool, str]] = Counter()
    for seed in range(FRAMES):
        one = case(seed)
        problem = without_memory(one.problem)
        exists = truth(one.frame, one.interval, one.latest, wrap=one.wrap).exists
        start, is_impossible = said(problem)
        assert not (is_impossible and exists), seed
        if start is not None:
            assert broken(problem, start) == (), seed
            packing = Packing(problem, start, "counts")
            assert max(packing.cycle.first_uses.values(), default=0) <= one.latest, seed
            assert exists is not False, seed
        if exists is not None:
            is_decided = is_impossible or start is not None
            assert is_decided or not is_exact(problem), seed
            found[exists, "decided" if is_decided else "open"] += 1
    return found


def test_what_counts_find_is_valid_and_what_they_exclude_is_not_there() -> None:
    found = outcomes()
    assert found.total() == FRAMES
    # Reductions that take time, two devices and wrapping leave little undecided.
    assert found[True, "decided"] >= 14
    assert found[False, "decided"] >= 14
    assert found[True, "open"] + found[False, "open"] <= FRAMES // 8


def test_no_packing_has_a_peak_below_the_bound() -> None:
    tight = cases = 0
    for seed in range(100, 118):
        one = case(seed)
        problem = one.problem
        least = truth(
            one.frame, one.interval, one.latest, wrap=one.wrap, minimise_memory=True
        ).peak
        if least is None:
            continue
        bound, peak, start = peaks(problem)
        assert bound <= least, seed
        cases += 1
        tight += bound == least
        if start is not None:
            schedule = Packing(problem, start, "counts").cycle.schedule
            assert max(schedule.peak_memory) == peak, seed
            assert peak >= least, seed
            assert said(limited(problem, peak)).start is not None, seed
        assert said(limited(problem, least - 1)).start is None, seed
    assert cases >= 6
    assert tight >= cases - 1


def peaks(problem: Problem) -> tuple[int, int, dict[Op, int] | None]:
    """The greatest bound, the peak of any component, and the starts found.

    Of a component the lower of both peaks that are found.
    """
    bound = peak = 0
    start: dict[Op, int] | None = {}
    for devices in components(problem):
        results = [
            pack(problem, devices, EFFORT, minimise_memory=True, **way)
            for way in (
                {},
                {"relaxed": True},
                {"outlined": True},
                {"outlined": True, "relaxed": True},
            )
        ]
        bound = max(bound, *(each.peak_bound or 0 for each in results))
        found = [each for each in results if each.start is not None]
        if not found or start is None:
            start = None
            continue
        best = min(found, key=lambda each: each.peak or 0)
        peak = max(peak, best.peak or 0)
        start = start | (best.start or {})
    return bound, peak, start


def limited(problem: Problem, limit: int) -> Problem:
    frame = problem.frame
    amount = Fraction(limit, frame.graph.units.grains_per_unit)
    devices = tuple(replace(one, memory_limit=amount) for one in frame.instance.devices)
    frame = replace(frame, instance=replace(frame.instance, devices=devices))
    return problem_of(frame, problem.interval, wrap=problem.wrap, latest=problem.latest)


def test_a_device_alone_reaches_the_least_peak() -> None:
    frame = tiny(StepBarrier.DEVICE)
    problem = problem_of(frame, 2)
    result = pack(problem, (0,), EFFORT, minimise_memory=True)
    assert result.outcome is Outcome.OPTIMAL
    assert result.peak == result.peak_bound == 0  # nothing there has a size


# -- outlines --------------------------------------------------------------------------


def test_nearly_full_gaps_are_packed() -> None:
    # 97.8 % of the gaps' time is needed at three steps.
    frame = published_frame("large", "chimera", 8, 3, step_barrier=StepBarrier.DEVICE)
    problem = without_memory(problem_of(frame, 3))
    start: dict[Op, int] = {}
    for devices in components(problem):
        start |= pack(problem, devices, LONG, outlined=True).start or {}
    assert broken(problem, start) == ()


def test_an_outline_shows_that_whole_inversions_need_a_step_more() -> None:
    frame = published_frame("base", "chimera", 4, 3, inversion=Inversion.WHOLE)
    assert best_bound(interval_bounds(frame, wrap=False)).interval == 6
    problem = without_memory(problem_of(frame, 6))
    outcomes = {
        pack(problem, devices, LONG, outlined=True, relaxed=True).outcome
        for devices in components(problem)
    }
    assert Outcome.INFEASIBLE in outcomes


# -- every rule is needed --------------------------------------------------------------

NEEDED = {
    "bins_hold_their_load": (rules, 1),
    "inversions_wait_for_shares": (rules, 1),
    "inversions_wait_for_their_side": (rules, 4),
    "factors_are_used_before_they_are_written": (rules, 4),
    "end_in_time": (Reductions, 11),
}


@pytest.mark.parametrize("rule", NEEDED)
def test_without_a_rule_a_packing_is_not_valid(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, seed = NEEDED[rule]
    problem = without_memory(case(seed).problem)
    monkeypatch.setattr(owner, rule, lambda *_: None)
    start: dict[Op, int] = {}
    for devices in components(problem):
        result = pack(problem, devices, EFFORT)
        assert result.start is not None
        start |= result.start
    assert broken(problem, start)


def test_without_the_rule_of_memory_a_limit_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame = published_frame("base", "1f1b", 4, 3)
    peaks = [
        pack(problem_of(frame, 3), (device,), EFFORT, minimise_memory=True).peak
        for device in range(4)
    ]
    tight = limited(problem_of(frame, 3), max(peak or 0 for peak in peaks))
    assert not broken(tight, packed(tight))
    monkeypatch.setattr(packing_module, "memory_is_within_limits", lambda _: None)
    assert broken(tight, packed(tight))


def packed(problem: Problem) -> dict[Op, int]:
    start: dict[Op, int] = {}
    for devices in components(problem):
        start |= pack(problem, devices, EFFORT).start or {}
    return start


@pytest.mark.parametrize(
    ("owner", "rule"),
    [
        (rules, "bins_hold_few_large_items"),
        (rules, "large_items_come_first"),
        (packing_module, "earlier_data_comes_first"),
    ],
)
def test_rules_that_only_help_change_no_outcome(
    owner: object, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [without_memory(case(seed).problem) for seed in range(20, 32)]
    before = [said(problem) for problem in problems]
    monkeypatch.setattr(owner, rule, lambda _: None)
    for problem, one in zip(problems, before, strict=True):
        other = said(problem)
        assert other.is_impossible == one.is_impossible
        assert (other.start is None) == (one.start is None)
