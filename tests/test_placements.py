"""Placements of an instance: what is tried, what it costs, and which one wins."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

import schedopt
from schedopt.build import build_graph
from schedopt.build.balance import balanced_sizes, largest_load
from schedopt.build.placements import (
    balanced,
    candidates_of,
    is_same_problem,
    linear,
    looped,
    merged,
    placed,
    v_shaped,
)
from schedopt.errors import NotApplicableError
from schedopt.formats import (
    Limits,
    instance_document,
    instance_from_document,
    load_schedule,
)
from schedopt.instance import (
    Backward,
    Communication,
    Device,
    Instance,
    Kfac,
    KfacModule,
    Placement,
    StageCost,
    exact,
    place,
)
from schedopt.report.placements import placements_document
from schedopt.solve import SolveParameters, placements, solve, solve_placements
from schedopt.solve.placements import PlacementSearch
from schedopt.solve.solution import Solution, Status
from schedopt.verify import violations
from tests.cli_helpers import TINY, Run, changed, refused, runner
from tests.kfac_instances import random_training
from tests.solve_helpers import pipeline

SHORT = SolveParameters(time_limit_s=0.5, reproducible=True, workers=1)
TIMES = ("forward", "backward", "backward_input", "backward_weight", "recompute")
TIMES += ("precondition", "optimizer_step")
SIZES = ("activation", "activation_until_input", "input_gradient", "static_memory")
SIZES += ("gradient_bytes",)


def stages_of(count: int, **changes: Any) -> tuple[StageCost, ...]:
    cost = StageCost(forward=2, backward_input=2, backward_weight=2, activation=2)
    return (replace(cost, **changes),) * count


def instance_of(
    stages: tuple[StageCost, ...], devices: int, placement: Placement = Placement.LINEAR
) -> Instance:
    """Explicit placement: every stage on its own device."""
    explicit = placement is Placement.EXPLICIT
    where = tuple(range(len(stages)))
    return replace(
        pipeline(devices=devices, microbatches=3),
        name="mine",
        stages=stages,
        placement=placement,
        device_of_stage=where if explicit else place(placement, len(stages), devices),
    )


def two_on_four() -> Instance:
    return instance_of(stages_of(2), 4, Placement.EXPLICIT)


def three_on_four() -> Instance:
    return instance_of(stages_of(3), 4, Placement.EXPLICIT)


def heavy_last(devices: int = 4) -> Instance:
    stages = (*stages_of(devices - 1), *stages_of(1, forward=20))
    return instance_of(stages, devices)


# -- rules ---------------------------------------------------------------------


def test_linear_gives_contiguous_stages_to_each_device() -> None:
    found = linear(instance_of(stages_of(6), 4, Placement.LOOPED))
    assert found.device_of_stage == (0, 0, 1, 1, 2, 3)
    assert found.stages == stages_of(6)


def test_linear_needs_a_stage_for_every_device() -> None:
    with pytest.raises(NotApplicableError, match="only 2 stages for 4 devices"):
        linear(two_on_four())


def test_merged_stages_cost_what_their_parts_do() -> None:
    stages = (*stages_of(3, forward=1), *stages_of(1, forward=5, static_memory=7))
    found = merged(instance_of(stages, 2, Placement.V))
    assert found.device_of_stage == (0, 1)
    assert [stage.forward for stage in found.stages] == [2, 6]
    assert [stage.static_memory for stage in found.stages] == [0, 7]


def test_stages_of_which_some_are_recomputed_are_not_merged() -> None:
    instance = replace(
        instance_of(stages_of(4), 2, Placement.V), recompute=frozenset({1})
    )
    with pytest.raises(NotApplicableError, match="only some are recomputed"):
        merged(instance)


def test_looped_cuts_stages_in_two_where_there_is_one_per_device() -> None:
    found = looped(instance_of(stages_of(2), 2))
    assert found.device_of_stage == (0, 1, 0, 1)
    assert found.stages == stages_of(
        4, forward=1, backward_input=1, backward_weight=1, activation=1
    )


def test_looped_takes_several_stages_as_they_are() -> None:
    found = looped(instance_of(stages_of(5), 2))
    assert found.device_of_stage == (0, 1, 0, 1, 0)
    assert found.stages == stages_of(5)


def test_looped_needs_an_equal_cut() -> None:
    with pytest.raises(NotApplicableError, match="3 stages cannot be cut"):
        looped(three_on_four())


@pytest.mark.parametrize("rule", [looped, v_shaped, balanced])
def test_a_layer_is_in_the_way_of_a_cut_only_if_kfac_needs_it(
    rule: Callable[[Instance], Instance],
) -> None:
    costs = {"curvature_a": 1, "curvature_b": 1, "inversion_a": 1, "inversion_b": 1}
    layers = (KfacModule(name="ffn", count=3, **costs),)
    heavy = heavy_last()
    plain = rule(heavy)
    modules = tuple(replace(stage, modules=layers) for stage in heavy.stages)
    instance = replace(heavy, stages=modules)
    assert rule(instance) == plain
    with pytest.raises(NotApplicableError, match="3 layers of module ffn cannot be"):
        rule(replace(instance, kfac=Kfac()))


def test_v_turns_back_at_the_last_device() -> None:
    assert v_shaped(instance_of(stages_of(2), 2)).device_of_stage == (0, 1, 1, 0)
    found = v_shaped(instance_of(stages_of(6), 2))
    assert found.device_of_stage == (0, 1, 1, 0, 0, 1)


def test_v_needs_an_equal_cut() -> None:
    with pytest.raises(NotApplicableError, match="3 stages cannot be cut"):
        v_shaped(three_on_four())


def test_balanced_halves_the_load_of_the_heaviest_stage() -> None:
    instance = heavy_last()
    found = balanced(instance)
    # A quarter of three light stages and a half of the heavy one: 3 x 6 = 18 in three.
    assert largest_load(instance) == 24
    assert largest_load(found) == 12
    assert found.device_of_stage == tuple(sorted(found.device_of_stage))
    assert set(found.device_of_stage) == {0, 1, 2, 3}


def test_balanced_needs_something_to_gain() -> None:
    with pytest.raises(NotApplicableError, match="linear has as little work"):
        balanced(instance_of(stages_of(4), 4))


def test_balanced_keeps_static_memory_within_limits() -> None:
    instance = heavy_last(2)
    roomy = balanced(with_limits(instance, 6))
    assert roomy.device_of_stage == (0, 0, 0, 1)
    heavy = tuple(replace(stage, static_memory=4) for stage in instance.stages)
    tight = with_limits(replace(instance, stages=heavy), 5)
    with pytest.raises(NotApplicableError, match="linear has as little work"):
        balanced(tight)  # two halves per device is all that fits
    with pytest.raises(NotApplicableError, match="no contiguous stages fit"):
        balanced(with_limits(replace(instance, stages=heavy), 3))


def with_limits(instance: Instance, limit: int) -> Instance:
    return replace(
        instance,
        devices=tuple(replace(d, memory_limit=limit) for d in instance.devices),
    )


@pytest.mark.parametrize("seed", range(30))
def test_the_load_of_a_training_is_what_its_op_graph_computes(seed: int) -> None:
    """Of all steps, with second-order work; a lower bound on every makespan."""
    rng = Random(seed)
    instance = random_training(rng)
    while (
        instance.placement is Placement.BIDIRECTIONAL
        or instance.backward is Backward.CHOOSE
        or any(stage.overlap is not None for stage in instance.stages)
    ):
        instance = random_training(rng)
    # Ticks so short that no duration is rounded.
    graph = build_graph(replace(instance, resolution=1e-3))
    computed = [0] * len(instance.devices)
    for op, data in graph.data.items():
        if op.kind.is_compute:
            computed[data.device] += data.duration
    scales = instance.microbatch_scale or (1,) * instance.microbatches
    microbatches = instance.steps * sum(map(exact, scales), Fraction(0))
    assert largest_load(instance) * microbatches == Fraction(max(computed), 1000)


def test_second_order_work_and_factors_decide_who_gets_which_stage() -> None:
    module = KfacModule(
        name="ffn", curvature_a=1, curvature_b=1, inversion_a=9, inversion_b=9
    )
    heavy = stages_of(1, modules=(replace(module, factor_a=2, factor_b=1),))
    instance = replace(instance_of((*stages_of(3), *heavy), 2), microbatches=3)
    assert balanced_sizes(instance) == (2, 2)
    # The first three have 6 for a microbatch; the last 6 + 2 + 18/3, or 6 + 2 + 9/3.
    training = replace(instance, kfac=Kfac())
    assert (largest_load(training), balanced_sizes(training)) == (20, (3, 1))
    shared = replace(training, kfac=Kfac(replicas=2))
    assert (largest_load(shared), balanced_sizes(shared)) == (17, (2, 2))
    # Factors and inverses of the last stage are 2 x (2 + 1) of the device's memory.
    assert balanced_sizes(with_limits(training, 6)) is not None
    assert balanced_sizes(with_limits(training, 5)) is None
    assert balanced_sizes(with_limits(instance, 5)) is not None


@pytest.mark.parametrize("seed", range(40))
def test_no_contiguous_groups_are_better_balanced(seed: int) -> None:
    rng = Random(seed)
    devices, count = rng.randint(1, 4), rng.randint(4, 8)
    stages = tuple(
        StageCost(
            forward=rng.randint(0, 9),
            backward_input=rng.randint(0, 9),
            backward_weight=rng.randint(0, 9),
            static_memory=rng.randint(0, 3),
        )
        for _ in range(count)
    )
    limits = [rng.choice((None, rng.randint(3, 12))) for _ in range(devices)]
    instance = replace(
        instance_of(stages, devices),
        devices=tuple(
            Device(name=str(d), memory_limit=limit, speed=rng.choice((1, 2)))
            for d, limit in enumerate(limits)
        ),
        recompute=frozenset(s for s in range(count) if rng.random() < 0.3),
    )
    best: Fraction | None = None
    for turns in combinations(range(1, count), devices - 1):
        bounds = (0, *turns, count)
        groups = [range(*pair) for pair in pairwise(bounds)]
        held = [sum(stages[s].static_memory for s in group) for group in groups]
        if any(
            limit is not None and size > limit
            for size, limit in zip(held, limits, strict=True)
        ):
            continue
        where = tuple(d for d, group in enumerate(groups) for _ in group)
        load = largest_load(replace(instance, device_of_stage=where))
        best = load if best is None else min(best, load)
    sizes = balanced_sizes(instance)
    if best is None:
        assert sizes is None
        return
    assert sizes is not None
    assert min(sizes) >= 1
    where = tuple(d for d, size in enumerate(sizes) for _ in range(size))
    assert largest_load(replace(instance, device_of_stage=where)) == best


# -- costs ---------------------------------------------------------------------


def total(stages: tuple[StageCost, ...], name: str) -> Fraction:
    return sum((exact(getattr(stage, name) or 0) for stage in stages), Fraction(0))


@pytest.mark.parametrize("resolution", [1, 0.1, 1e-6])
@pytest.mark.parametrize("rule", [looped, v_shaped, balanced])
def test_a_cut_loses_no_time_and_no_memory(
    rule: Callable[[Instance], Instance], resolution: float
) -> None:
    odd = StageCost(
        forward=7,
        backward=13,
        backward_input=5,
        backward_weight=8.1 if resolution < 1 else 8,
        activation=9,
        activation_until_input=9,
        input_gradient=3,
        static_memory=11,
        recompute=3,
        precondition=5,
        optimizer_step=3,
        gradient_bytes=7,
        output_bytes=5,
    )
    heavy = replace(odd, forward=101)
    instance = replace(instance_of((odd, odd, heavy), 3), resolution=resolution)
    found = rule(instance)
    assert len(found.stages) == 6
    for name in (*TIMES, *SIZES):
        assert total(found.stages, name) == total(instance.stages, name), name
        for stage in found.stages:
            ticks = exact(getattr(stage, name)) / exact(resolution)
            assert ticks.denominator == 1
    assert {stage.output_bytes for stage in found.stages} == {5}
    for stage in found.stages:
        assert stage.activation_until_input <= stage.activation


def test_every_cost_is_either_shared_or_named_here() -> None:
    kept = {"output_bytes", "checkpoint", "overlap", "parts", "modules"}
    assert {field.name for field in fields(StageCost)} == kept | {*TIMES, *SIZES}


def test_a_cut_takes_the_users_parts() -> None:
    (part,) = stages_of(1, forward=1)
    (other,) = stages_of(1, forward=4)
    stages = stages_of(2, parts=(part, other))
    assert looped(instance_of(stages, 2)).stages == (part, other, part, other)


def test_the_parts_of_a_recomputed_stage_are_recomputed() -> None:
    instance = replace(instance_of(stages_of(3), 3), recompute=frozenset({1}))
    assert v_shaped(instance).recompute == {2, 3}


# -- what is tried ---------------------------------------------------------------


def names(instance: Instance) -> list[str]:
    return [candidate.name for candidate in candidates_of(instance).tried]


def test_one_stage_per_device_is_tried_in_these_placements() -> None:
    assert names(heavy_last()) == ["linear", "looped x2", "v x2", "balanced"]


def test_two_stages_per_device_are_tried_merged_too() -> None:
    instance = instance_of(stages_of(8), 4, Placement.V)
    assert names(instance) == ["v x2", "linear x2", "linear", "looped x2"]


def test_the_instances_own_placement_is_tried_as_it_is() -> None:
    for instance in (heavy_last(), two_on_four()):
        assert candidates_of(instance).tried[0].instance is instance


def test_a_bidirectional_pipeline_is_tried_one_way() -> None:
    instance = instance_of(stages_of(4), 4, Placement.BIDIRECTIONAL)
    assert names(instance) == ["bidirectional", "linear", "looped x2", "v x2"]


def test_the_same_placement_is_not_tried_twice() -> None:
    found = candidates_of(instance_of(stages_of(2), 2, Placement.LOOPED))
    assert ("linear", "is the same as looped") in found.not_tried
    for one, other in combinations(found.tried, 2):
        assert not is_same_problem(one.instance, other.instance)
        assert one.name != other.name


def test_one_device_has_one_placement() -> None:
    found = candidates_of(instance_of(stages_of(3), 1))
    assert [candidate.name for candidate in found.tried] == ["linear x3"]
    assert {why for _, why in found.not_tried} == {"there is only one device"}


def test_what_no_file_may_hold_is_not_tried() -> None:
    static = tuple(
        replace(stage, static_memory=size)
        for stage, size in zip(stages_of(4), (1, 1, 5, 5), strict=True)
    )
    instance = with_limits(instance_of(static, 2, Placement.LOOPED), 8)
    reasons = dict(candidates_of(instance).not_tried)
    assert "needs 10.0 MiB of static memory" in reasons["linear"]
    reasons = dict(candidates_of(heavy_last(), Limits(max_ops=70)).not_tried)
    assert "--max-ops" in reasons["v"]


@pytest.mark.parametrize(
    "instance", [heavy_last(), instance_of(stages_of(5), 2, Placement.V)]
)
def test_placed_instances_keep_everything_else(instance: Instance) -> None:
    for candidate in candidates_of(instance).tried:
        found = candidate.instance
        same = replace(
            found,
            name=instance.name,
            stages=instance.stages,
            placement=instance.placement,
            device_of_stage=instance.device_of_stage,
        )
        assert same == instance
        document = instance_document(found)
        assert instance_from_document(document, "a test") == found
        suffix = candidate.name.replace(" ", "-")
        expected = "mine" if found is instance else f"mine-{suffix}"
        assert found.name == expected


def test_an_instance_that_is_placed_so_already_stays() -> None:
    instance = heavy_last()
    assert placed(instance, Placement.LINEAR) is instance
    found = placed(instance, Placement.V)
    assert (found.placement, found.name) == (Placement.V, "mine-v-x2")


# -- the search ------------------------------------------------------------------


def values(search: PlacementSearch) -> list[int | None]:
    return [
        None if trial.solution is None else trial.solution.value
        for trial in search.trials
    ]


def test_the_best_placement_is_returned_and_verified() -> None:
    instance = instance_from_document({**TINY, "memory_limit": 30}, "a test")
    search = solve_placements(instance, SHORT)
    best = search.best
    known = [value for value in values(search) if value is not None]
    assert best.value == min(known)
    assert best.value < solve(instance, SHORT).value  # linear: 107 is optimal
    assert best.schedule is not None
    assert violations(build_graph(best.instance), best.schedule.start) == ()
    assert [d.memory_limit for d in best.instance.devices] == [30, 30]
    assert search.lower_bound == min(trial.lower_bound for trial in search.trials)
    assert search.lower_bound <= best.value
    assert search.gap == (best.value - search.lower_bound) / best.value


def test_a_placement_whose_bound_excludes_it_is_not_solved() -> None:
    # One microbatch: every further transfer takes a latency.
    instance = replace(heavy_last(), microbatches=1)
    search = solve_placements(instance, SHORT)
    trials = {trial.name: trial for trial in search.trials}
    assert search.best.instance is instance
    assert search.best.status is Status.OPTIMAL
    for name in ("looped x2", "v x2"):
        assert trials[name].solution is None
        assert trials[name].lower_bound >= search.best.value


def test_the_others_come_in_the_order_of_their_bounds() -> None:
    search = solve_placements(replace(heavy_last(), microbatches=8), SHORT)
    trials = {trial.name: trial for trial in search.trials}
    # Of the heavy stage a device has half at most: every schedule of linear is longer.
    assert search.best.instance is trials["balanced"].instance
    assert search.best.value < trials["v x2"].lower_bound
    assert trials["linear"].solution is not None
    assert trials["v x2"].solution is trials["looped x2"].solution is None


def test_of_equal_placements_the_instances_own_wins() -> None:
    # One microbatch with whole backward: all its work, one after the other.
    instance = replace(
        heavy_last(),
        microbatches=1,
        backward=Backward.WHOLE,
        communication=Communication(),
    )
    search = solve_placements(instance, SHORT)
    assert search.best.instance is instance
    assert {trial.lower_bound for trial in search.trials} == {search.best.value}


def test_a_placement_is_found_where_the_instances_own_does_not_fit() -> None:
    stages = (*stages_of(2, activation=4), *stages_of(2, activation=1))
    instance = replace(with_limits(instance_of(stages, 2), 7), microbatches=1)
    search = solve_placements(instance, SHORT)
    assert search.trials[0].solution is not None
    assert search.trials[0].solution.status is Status.INFEASIBLE
    assert search.best.schedule is not None
    assert search.best.instance.placement in (Placement.LOOPED, Placement.V)


def test_infeasible_everywhere_says_why() -> None:
    instance = with_limits(heavy_last(), 0)
    search = solve_placements(instance, SHORT)
    assert search.best.status is Status.INFEASIBLE
    assert "memory limit of 0" in search.best.reason
    assert search.best.instance is instance
    assert (search.gap, values(search)) == (None, [None] * len(search.trials))


def test_the_same_result_every_time() -> None:
    instance = with_limits(pipeline(devices=2, microbatches=3), 12)
    first, second = (solve_placements(instance, SHORT) for _ in range(2))
    assert values(first) == values(second)
    assert [t.lower_bound for t in first.trials] == [
        t.lower_bound for t in second.trials
    ]
    assert first.best.schedule is not None
    assert second.best.schedule is not None
    assert first.best.schedule.start == second.best.schedule.start
    assert first.best.parameters == SHORT


def test_the_trace_only_improves() -> None:
    instance = with_limits(pipeline(devices=2, microbatches=3), 12)
    shown: list[str] = []
    search = solve_placements(
        instance, SHORT, lambda entry: shown.append(entry.member.split(":")[0])
    )
    trace = search.best.trace
    assert trace
    assert set(shown) <= {trial.name for trial in search.trials}
    for before, after in pairwise(trace):
        assert before.seconds <= after.seconds
        assert (before.lower_bound or 0) <= (after.lower_bound or 0)
        assert before.value is None or (after.value or 0) <= before.value


Answer = Callable[[str, int], Solution]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, SolveParameters]]:
    """What the solver is asked for; neither its answers nor bounds exclude any."""
    seen: list[tuple[str, SolveParameters]] = []

    def answer(
        instance: Instance, parameters: SolveParameters, *_: Any, **known: Any
    ) -> Solution:
        seen.append((instance.name, parameters))
        found = known["known"] or solve(instance, replace(parameters, time_limit_s=0))
        return replace(found, status=Status.FEASIBLE, lower_bound=0)

    monkeypatch.setattr(placements, "solve", answer)
    monkeypatch.setattr(placements, "quick_bounds", lambda *_: {})
    return seen


def test_the_time_is_shared_out_and_the_best_get_most(
    asked: list[tuple[str, SolveParameters]],
) -> None:
    instance = replace(heavy_last(), microbatches=8)
    parameters = SolveParameters(time_limit_s=30, workers=3, seed=7, reproducible=True)
    search = solve_placements(instance, parameters)
    shares = [given.time_limit_s for _, given in asked]
    assert sum(shares) == pytest.approx(30)
    assert len(asked) == 4 + 2 + 1
    assert shares == pytest.approx([2.5] * 4 + [5] * 2 + [10])
    assert len({name for name, _ in asked[:4]}) == 4
    ranked = sorted(
        search.trials, key=lambda trial: (trial.solution and trial.solution.value) or 0
    )
    assert [name for name, _ in asked[4:6]] == [t.instance.name for t in ranked[:2]]
    assert asked[6][0] == search.best.instance.name
    assert {given.workers for _, given in asked} == {3}
    assert [given.seed for _, given in asked] == [7] * 4 + [8] * 2 + [9]
    assert search.best.parameters == parameters


def test_a_placement_is_not_begun_that_would_end_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(instance: Instance, given: Any, *_: Any, **known: Any) -> Solution:
        found = known["known"] or solve(instance, replace(given, time_limit_s=0))
        return replace(
            found, status=Status.FEASIBLE, lower_bound=0, wall_seconds=1000.0
        )

    monkeypatch.setattr(placements, "solve", answer)
    search = solve_placements(heavy_last(), SolveParameters(time_limit_s=0.2))
    assert [trial.solution is None for trial in search.trials] == [False, *[True] * 3]
    assert placements_document(search)["rows"][-1]["status"] == (
        "not solved, time was up"
    )


def test_an_interrupt_ends_the_search_with_the_best_so_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []

    def answer(instance: Instance, *given: Any, **known: Any) -> Solution:
        calls.append(instance.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return solve(instance, *given, **known)

    monkeypatch.setattr(placements, "solve", answer)
    instance = instance_from_document({**TINY, "memory_limit": 30}, "a test")
    search = solve_placements(instance, SHORT)
    assert search.best.interrupted
    assert search.best.instance is instance
    assert [trial.solution is None for trial in search.trials] == [False, True, True]
    assert search.best.schedule is not None
    assert placements_document(search)["rows"][-1]["status"] == (
        "not solved, interrupted"
    )


def test_an_interrupt_before_anything_is_known_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(*_: Any, **__: Any) -> Solution:
        raise KeyboardInterrupt

    monkeypatch.setattr(placements, "solve", answer)
    with pytest.raises(KeyboardInterrupt):
        solve_placements(heavy_last(), SHORT)


def test_a_run_goes_on_from_what_an_earlier_one_found() -> None:
    instance = with_limits(pipeline(devices=3, microbatches=5), 25)
    earlier = solve(instance, SHORT)
    assert earlier.value is not None
    later = solve(instance, SolveParameters(time_limit_s=0), known=earlier)
    assert later.value == earlier.value
    assert later.lower_bound == earlier.lower_bound > 0
    assert later.best_baseline == earlier.best_baseline
    assert later.status is earlier.status


# -- the command -----------------------------------------------------------------


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.chdir(tmp_path)
    changed("tiny.json", memory_limit=30)
    return runner(capsys)


QUICKLY = ("--reproducible", "--time-limit", "0.5")


def test_any_prints_the_comparison_and_writes_the_best(run: Run) -> None:
    ran = run("solve", "tiny.json", "--placement", "any", *QUICKLY, "-o", "s.json")
    assert ran.code == 0
    rows = {
        line.split("  ")[0] for line in ran.out.splitlines() if "  " in line.strip()
    }
    assert {"linear", "looped x2", "v x2"} <= rows
    assert "balanced: not tried: linear has as little work" in ran.out
    assert run("verify", "s.json").code == 0
    file = load_schedule("s.json")
    assert file.instance.name == "tiny-looped-x2"
    assert file.instance.placement is Placement.LOOPED
    first = Path("s.json").read_bytes()
    run("solve", "tiny.json", "--placement", "any", *QUICKLY, "-o", "s.json")
    assert Path("s.json").read_bytes() == first


def test_any_as_json_has_a_row_per_placement(run: Run) -> None:
    document = run("solve", "tiny.json", "--placement", "any", "--json", *QUICKLY).json
    plain = run("solve", "tiny.json", "--json", *QUICKLY).json
    assert list(document) == [*plain, "placements"]
    found = document["placements"]
    assert list(found) == ["lower_bound", "gap", "rows", "not_tried"]
    keys = ["placement", "own", "stages_per_device", "status", "lower_bound"]
    assert [list(row) for row in found["rows"]] == [[*keys, "solution"]] * 3
    assert found["rows"][0]["solution"]["value"] == document["value"]
    (own,) = [row for row in found["rows"] if row["own"]]
    assert (own["placement"], own["stages_per_device"]) == ("linear", [1, 1])
    assert own["solution"]["value"] == plain["value"] == 107
    assert [entry["placement"] for entry in found["not_tried"]] == ["balanced"]
    json.dumps(document, allow_nan=False)


def test_a_placement_can_be_asked_for(run: Run) -> None:
    ran = run("solve", "tiny.json", "--placement", "v", "--json", *QUICKLY)
    assert ran.code == 0
    assert (ran.json["instance"], ran.json["stages"]) == ("tiny-v-x2", 4)
    ran = run("solve", "tiny.json", "--placement", "linear", "--json", *QUICKLY)
    assert (ran.json["instance"], ran.json["stages"]) == ("tiny", 2)


def test_a_placement_that_cannot_be_is_refused(run: Run) -> None:
    stages = [dict(TINY["stages"]) for _ in range(3)]
    for stage in stages:
        del stage["count"]
    odd = changed("odd.json", stages=stages, devices=4, placement=[0, 1, 2])
    ran = run("solve", odd, "--placement", "looped", *QUICKLY)
    refused(ran, "odd.json", "--placement looped", "3 stages cannot be cut")


def test_an_infeasible_search_says_so(run: Run) -> None:
    tight = changed("tight.json", memory_limit=2)
    ran = run("solve", tight, "--placement", "any", *QUICKLY)
    refused(ran, "tight.json: infeasible", "memory limit of 2 MiB")
    assert "infeasible" in ran.out


def test_python_offers_the_search() -> None:
    assert schedopt.solve_placements is solve_placements
    assert schedopt.PlacementSearch is PlacementSearch
