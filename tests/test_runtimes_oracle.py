"""Graphs with a runtime's rules have the optimum that trying every order finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from schedopt.build import build_graph, least_peaks
from schedopt.cpsat import Effort, solve_graph
from schedopt.errors import InstanceError
from schedopt.formats import with_runtime
from schedopt.instance import (
    Backward,
    Communication,
    Device,
    Instance,
    Objective,
    Placement,
    StageCost,
    place,
)
from schedopt.ops import OpKind
from schedopt.runtimes import PROFILES, Forms, MicrobatchOrder
from schedopt.solve import SolveParameters, solve
from schedopt.solve.runtime_price import is_restriction, solve_with_price
from tests.exact_search import best_makespan
from tests.runtime_oracle import Rows, best_value
from tests.small_instances import INSTANCES, optima, small_instance

EFFORT = Effort(time_limit_s=60)


def tiny(
    seed: int,
    backward: Backward,
    microbatches: int,
    *,
    stages: int = 2,
    devices: int = 2,
    placement: Placement = Placement.LINEAR,
    recompute: frozenset[int] = frozenset(),
    room: int | None = None,
    unequal: bool = False,
) -> Instance:
    """Random costs; ``room`` is what limits leave above the least peak, in grains."""
    rng = Random(seed)
    costs = tuple(
        StageCost(
            forward=rng.randint(2, 7),
            backward=(whole := rng.randint(7, 12)),
            backward_input=rng.randint(2, 5),
            backward_weight=whole - rng.randint(1, 4),
            activation=rng.randint(3, 6),
            activation_until_input=rng.randint(0, 3),
            input_gradient=rng.choice((0, 2)),
            checkpoint=1,
        )
        for _ in range(stages)
    )
    instance = Instance(
        name="tiny",
        stages=costs,
        devices=tuple(Device(name=f"d{d}") for d in range(devices)),
        microbatches=microbatches,
        placement=placement,
        device_of_stage=place(placement, stages, devices),
        backward=backward,
        communication=Communication(latency=rng.randint(0, 2)),
        recompute=recompute,
        microbatch_scale=(1, 2, 1)[:microbatches] if unequal else (),
        resolution=1,
    )
    if room is None:
        return instance
    peaks = least_peaks(build_graph(instance))
    return replace(
        instance,
        devices=tuple(
            replace(device, memory_limit=peak + room)
            for device, peak in zip(instance.devices, peaks, strict=True)
        ),
    )


def ascending(rows: Rows, stage: int) -> bool:
    """A stage's forwards take the microbatches in the order of their numbers."""
    forwards = [
        op.microbatch
        for row in rows
        for op in row
        if op.kind is OpKind.FORWARD and op.stage == stage
    ]
    return forwards == sorted(forwards)


def of_one_form(rows: Rows) -> bool:
    """All backwards are whole, or all are split, stage 0 included."""
    kinds = {op.kind for row in rows for op in row}
    return not {OpKind.BACKWARD, OpKind.BACKWARD_INPUT} <= kinds


CASES = {
    "torch split": ("torch-csv", tiny(1, Backward.SPLIT, 2)),
    "torch split, tight": ("torch-csv", tiny(2, Backward.SPLIT, 2, room=6)),
    "torch choose": ("torch-csv", tiny(3, Backward.CHOOSE, 2)),
    "torch choose, tight": ("torch-csv", tiny(4, Backward.CHOOSE, 2, room=5)),
    "torch, unequal": ("torch-csv", tiny(5, Backward.WHOLE, 3, unequal=True)),
    "torch, recompute": (
        "torch-csv",
        tiny(6, Backward.WHOLE, 2, recompute=frozenset({0, 1}), room=3),
    ),
    "torch, recompute stage 0, split": (
        "torch-csv",
        tiny(7, Backward.SPLIT, 2, recompute=frozenset({0}), room=8),
    ),
    "torch, recompute stage 1, choose": (
        "torch-csv",
        tiny(8, Backward.CHOOSE, 2, recompute=frozenset({1})),
    ),
    "deepspeed": ("deepspeed", tiny(9, Backward.WHOLE, 3)),
    "deepspeed, tight": ("deepspeed", tiny(10, Backward.WHOLE, 3, room=4)),
    "deepspeed, unequal": ("deepspeed", tiny(11, Backward.WHOLE, 3, unequal=True)),
    "deepspeed, recompute": (
        "deepspeed",
        tiny(12, Backward.WHOLE, 2, recompute=frozenset({0})),
    ),
    "zero-bubble split": ("zero-bubble", tiny(13, Backward.SPLIT, 2, room=3)),
    "zero-bubble choose": ("zero-bubble", tiny(14, Backward.CHOOSE, 2)),
    "zero-bubble choose, tight": ("zero-bubble", tiny(15, Backward.CHOOSE, 2, room=4)),
    "zero-bubble choose, unequal": (
        "zero-bubble",
        tiny(16, Backward.CHOOSE, 2, unequal=True),
    ),
    "zero-bubble, recompute": (
        "zero-bubble",
        tiny(17, Backward.SPLIT, 2, recompute=frozenset({1})),
    ),
    "mindspeed": ("mindspeed", tiny(18, Backward.WHOLE, 3, room=4)),
    "jaxpp split": ("jaxpp", tiny(19, Backward.SPLIT, 2)),
    "jaxpp split, tight": ("jaxpp", tiny(20, Backward.SPLIT, 2, room=2)),
    "jaxpp choose": ("jaxpp", tiny(21, Backward.CHOOSE, 2)),
    "jaxpp choose, tight": ("jaxpp", tiny(22, Backward.CHOOSE, 2, room=4)),
    "jaxpp split, v": (
        "jaxpp",
        tiny(23, Backward.SPLIT, 1, stages=4, placement=Placement.V, room=4),
    ),
    "colossalai": (
        "colossalai",
        tiny(24, Backward.SPLIT, 1, placement=Placement.V, devices=1, room=2),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_optimum_under_the_rules_is_that_of_every_order(name: str) -> None:
    runtime, free = CASES[name]
    instance = with_runtime(free, runtime)
    expected = best_value(instance, _keep(instance))
    graph = build_graph(instance)
    best = best_makespan(graph)
    assert best is not None
    assert best.value == expected
    found = solve_graph(graph, Objective.MAKESPAN, EFFORT)
    assert found.schedule is not None
    assert (found.schedule.makespan, found.lower_bound) == (expected, expected)


def _keep(instance: Instance) -> Callable[[Rows], bool]:
    """What the graph forbids besides: stricter rules that the docs state.

    Unequal microbatches run in the order of their numbers, at DeepSpeed those of the
    last stage. A stage 0 that is exported
    as I and W also costs as much.
    """
    profile = PROFILES[instance.runtime]
    if instance.microbatch_scale and profile.order is MicrobatchOrder.FIFO:
        return lambda rows: ascending(rows, 0)
    if instance.microbatch_scale and profile.last_stage_paired:
        return lambda rows: ascending(rows, len(instance.stages) - 1)
    if profile.forms is Forms.PER_SCHEDULE:
        return of_one_form
    return lambda _: True


def test_rules_change_the_optimum_of_some_of_these_instances() -> None:
    """Else the test above would say little."""
    dearer = set()
    for runtime, free in CASES.values():
        ruled = best_makespan(build_graph(with_runtime(free, runtime)))
        without = best_makespan(build_graph(free))
        assert ruled is not None
        assert without is not None
        if ruled.value != without.value:
            dearer.add(runtime)
    assert dearer >= {"torch-csv", "zero-bubble", "jaxpp"}


@pytest.mark.parametrize("runtime", PROFILES)
def test_free_optimum_is_no_greater_where_the_rules_restrict(runtime: str) -> None:
    """Each small instance that the runtime takes; the free optima are known."""
    proven = 0
    for seed in range(0, INSTANCES, 3):
        free = small_instance(seed)
        known = optima()[seed].makespan
        try:
            ruled = with_runtime(free, runtime)
        except InstanceError:
            continue
        graph = build_graph(ruled)
        if not is_restriction(free, build_graph(free), ruled, graph):
            continue
        best = best_makespan(graph)
        proven += 1
        assert best is None or (known is not None and best.value >= known), seed
    if runtime in ("torch-csv", "zero-bubble", "jaxpp"):
        assert proven >= 8


@pytest.mark.parametrize(
    "name", ["torch choose, tight", "deepspeed, tight", "zero-bubble choose"]
)
def test_price_is_exact_on_small_instances(name: str) -> None:
    runtime, free = CASES[name]
    ruled = with_runtime(free, runtime)
    price = solve_with_price(free, ruled, SolveParameters(time_limit_s=20))
    with_rules = best_makespan(build_graph(ruled))
    without = best_makespan(build_graph(free))
    assert with_rules is not None
    assert without is not None
    assert price.solution.value == price.solution.lower_bound == with_rules.value
    assert price.free_value == price.free.lower_bound == without.value
    assert price.price is not None
    assert price.price == price.most
    assert price.price * without.value == with_rules.value - without.value


def test_period_under_the_rules_of_torch() -> None:
    """The batch of a file with a runtime is renamed too."""
    instance = with_runtime(tiny(25, Backward.SPLIT, 3), "torch-csv")
    parameters = SolveParameters(time_limit_s=10, objective=Objective.PERIOD)
    solution = solve(instance, parameters)
    assert solution.schedule is not None
    last = [op for op in solution.schedule.start if op[:2] == (OpKind.FORWARD, 1)]
    last.sort(key=solution.schedule.start.__getitem__)
    assert [op.microbatch for op in last] == [0, 1, 2]
