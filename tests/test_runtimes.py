"""Runtime profiles, what they refuse, their rules in graphs, orders and programs."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from schedopt.baselines import BASELINES, run_baseline
from schedopt.build import build_graph, in_microbatch_order
from schedopt.errors import InstanceError, NotApplicableError, RuntimeNameError
from schedopt.export.formats import export
from schedopt.export.program import Program, program_of
from schedopt.export.rules import broken_rules
from schedopt.formats import (
    instance_document,
    instance_from_document,
    instance_sha256,
    load_instance,
    schedule_document,
    schedule_from_document,
    with_runtime,
)
from schedopt.instance import Backward, Instance, Objective
from schedopt.opgraph import OpGraph, Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.runtimes import PROFILES, profile_of, profile_table
from schedopt.schedule import Order, Schedule
from schedopt.simulate import dispatch, simulate
from schedopt.verify import Rule, runtime_violations, verify_file, violations

PAGE = Path(__file__).parent.parent / "docs" / "runtimes" / "README.md"
STAGE = {
    "forward": 10,
    "backward": 21,
    "backward_input": 12,
    "backward_weight": 8,
    "activation": 6,
    "activation_until_input": 2,
    "input_gradient": 1,
}


def document(**fields: Any) -> dict[str, Any]:
    """Two devices, one equal stage each, three microbatches, split."""
    return {
        "schema": "schedopt/instance/v1",
        "name": "small",
        "microbatches": 3,
        "devices": 2,
        "backward": "split",
        "stages": {"count": 2, **STAGE},
        "resolution": 1,
        **fields,
    }


def instance_of(**fields: Any) -> Instance:
    fields = {name: value for name, value in fields.items() if value is not None}
    return instance_from_document(document(**fields), "small.yaml")


def graph_of(runtime: str, **fields: Any) -> OpGraph:
    return build_graph(instance_of(runtime=runtime, **fields))


# -- profiles ---------------------------------------------------------------------


def test_profiles_are_those_of_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- profiles -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert table == profile_table()
    assert all(f"`{name}`" in table for name in PROFILES)


def test_unknown_runtime_is_answered_with_the_nearest() -> None:
    assert profile_of("deepspeed").name == "deepspeed"
    with pytest.raises(RuntimeNameError, match="did you mean torch-csv") as caught:
        profile_of("torch_csv")
    assert "'torch_csv' is not a runtime known here: torch-csv, " in str(caught.value)
    with pytest.raises(InstanceError, match=r"runtime = .*did you mean deepspeed\?"):
        instance_of(runtime="deepsped")


# -- instances --------------------------------------------------------------------

V_OF_TWO = {"placement": "v", "stages": {"count": 4, **STAGE}}
REFUSED = {
    "deepspeed: split": (
        {"runtime": "deepspeed"},
        'backward = "split": runtime deepspeed has no split backward; use'
        " backward: whole",
        {"backward": "whole"},
    ),
    "deepspeed: two stages per device": (
        {"runtime": "deepspeed", "backward": "whole", **V_OF_TWO},
        'placement = "v": runtime deepspeed cannot place 4 stages on 2 devices so: it'
        " has one stage per device in order; change placement",
        {"placement": "linear", "stages": {"count": 2, **STAGE}},
    ),
    "torchtitan: explicit": (
        {"runtime": "torchtitan", "placement": [1, 0]},
        "placement = [1, 0]: runtime torchtitan cannot place 2 stages on 2 devices",
        {"placement": [0, 1]},
    ),
    "torchtitan: uneven": (
        {"runtime": "torchtitan", "placement": "looped", "stages": [STAGE] * 3},
        "cannot place 3 stages",
        {"stages": [STAGE] * 4},
    ),
    "zero-bubble: v of six": (
        {"runtime": "zero-bubble", "placement": "v", "stages": [STAGE] * 6},
        "cannot place 6 stages",
        {"stages": [STAGE] * 4},
    ),
    "colossalai: whole": (
        {"runtime": "colossalai", "backward": "whole", "microbatches": 2, **V_OF_TWO},
        "runtime colossalai has no whole backward; use backward: split",
        {"backward": "split"},
    ),
    "colossalai: three microbatches on two devices": (
        {"runtime": "colossalai", **V_OF_TWO},
        "microbatches = 3: runtime colossalai needs a multiple of the number of"
        " devices, 2; 4 would do",
        {"microbatches": 4},
    ),
    "torchtitan: one device": (
        {"runtime": "torchtitan", "devices": 1},
        "devices = 1: one device is no pipeline to torchtitan",
        {"devices": 2},
    ),
    "torch: idle device": (
        {"runtime": "torch-csv", "placement": [0, 0]},
        "device 1 has no stage, and every rank of torch-csv needs one",
        {"placement": [1, 0]},
    ),
    "torch: bidirectional": (
        {"runtime": "torch-csv", "placement": "bidirectional"},
        "runtime torch-csv has no stage on two devices",
        {"placement": "linear"},
    ),
    "torch: split and recomputed": (
        {"runtime": "torch-csv", "recompute": "full"},
        "runtime torch-csv would recompute stage 1 in I and again in W",
        {"recompute": [0]},
    ),
    "mindspeed: recompute": (
        {"runtime": "mindspeed", "backward": "whole", "recompute": [1]},
        "runtime mindspeed cannot recompute in an order; use recompute: none",
        {"recompute": "none"},
    ),
    "jaxpp: overlap": (
        {
            "runtime": "jaxpp",
            "backward": "whole",
            "stages": {"count": 2, **STAGE, "overlap": 25},
        },
        "stages.overlap = 25: runtime jaxpp runs no forward and backward as one op",
        {"stages": {"count": 2, **STAGE}},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_runtime_can_never_execute_is_refused(name: str) -> None:
    fields, message, mended = REFUSED[name]
    with pytest.raises(InstanceError) as caught:
        instance_of(**fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert instance_of(**{**fields, **mended}).runtime == fields["runtime"]


def test_choose_becomes_the_form_that_a_runtime_has() -> None:
    assert instance_of(runtime="deepspeed", backward="choose").backward == "whole"
    v_of_two = {**V_OF_TWO, "microbatches": 2}
    split = instance_of(runtime="colossalai", backward="choose", **v_of_two)
    assert split.backward is Backward.SPLIT
    assert instance_of(runtime="torch-csv", backward="choose").backward == "choose"
    only_whole = {"count": 2, "forward": 1, "backward": 2}
    with pytest.raises(InstanceError, match="backward_input: is missing"):
        instance_of(
            runtime="colossalai", **v_of_two | {"stages": {**only_whole, "count": 4}}
        )


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"runtime": "torch-csv"}, "split"),
        ({"runtime": "deepspeed"}, "whole"),
        ({"runtime": "torch-csv", "recompute": "full"}, "whole"),
        ({"runtime": "torch-csv", "recompute": [0]}, "split"),
        ({"runtime": "zero-bubble", "recompute": "full"}, "split"),
    ],
)
def test_absent_backward_is_a_form_that_the_runtime_has(
    fields: dict[str, Any], form: str
) -> None:
    given = document(**fields)
    del given["backward"]
    assert instance_from_document(given, "small").backward == form


def test_runtime_is_part_of_the_instance_and_of_its_hash(tmp_path: Path) -> None:
    free = instance_of()
    ruled = with_runtime(free, "torch-csv")
    assert instance_document(ruled)["runtime"] == "torch-csv"
    assert "runtime" not in instance_document(free)
    assert instance_from_document(instance_document(ruled), "again") == ruled
    assert instance_sha256(ruled) != instance_sha256(free)
    assert with_runtime(ruled, "") == free
    path = tmp_path / "small.json"
    path.write_text(json.dumps(instance_document(ruled)))
    assert load_instance(path) == ruled
    assert load_instance(path, runtime="") == free
    assert load_instance(path, runtime="jaxpp").runtime == "jaxpp"


# -- graphs -----------------------------------------------------------------------


def durations(graph: OpGraph, kinds: str, stage: int) -> dict[str, int]:
    wanted = [OpKind(kind) for kind in kinds]
    found = (Op(kind, stage, 0) for kind in wanted)
    return {str(op): graph.data[op].duration for op in found if op in graph.data}


def test_torch_does_the_whole_backward_of_stage_0_in_its_w() -> None:
    graph = graph_of("torch-csv")
    assert durations(graph, "BIW", 0) == {"0I0": 0, "0W0": 21}
    assert durations(graph, "BIW", 1) == {"1I0": 12, "1W0": 8}
    held = {b.name: (b.size, b.users) for b in graph.buffers if b.name.endswith(" 0.0")}
    assert held == {"activation 0.0": (6, (Op(OpKind.BACKWARD_WEIGHT, 0, 0),))}
    choose = graph_of("torch-csv", backward="choose")
    assert durations(choose, "BIW", 0) == {"0B0": 21, "0I0": 0, "0W0": 21}
    whole = graph_of("torch-csv", backward="whole")
    assert durations(whole, "FB", 0) == {"0F0": 10, "0B0": 21}


def test_colossalai_does_the_whole_backward_of_stage_0_in_its_w() -> None:
    graph = graph_of("colossalai", microbatches=2, **V_OF_TWO)
    assert durations(graph, "BIW", 0) == {"0I0": 0, "0W0": 21}
    assert durations(graph, "BIW", 3) == {"3I0": 12, "3W0": 8}


def test_jaxpp_runs_i_and_w_of_stage_0_as_one_op() -> None:
    graph = graph_of("jaxpp")
    assert durations(graph, "BIW", 0) == {"0B0": 20}
    assert durations(graph, "BIW", 1) == {"1I0": 12, "1W0": 8}
    pair = Op(OpKind.BACKWARD, 0, 0)
    assert list(graph.predecessors(pair)) == [(Op(OpKind.BACKWARD_INPUT, 1, 0), 0)]
    held = [(b.name, b.size, b.users) for b in graph.buffers if b.name.endswith(" 0.0")]
    assert held == [
        ("activation 0.0", 4, (pair,)),
        ("activation until input 0.0", 2, (pair,)),
        ("input gradient 0.0", 1, (pair,)),
    ]
    choose = graph_of("jaxpp", backward="choose")
    assert [c.literals for c in choose.choices] == [("B:whole", "B:split")]
    joined = pair._replace(part="I+W")
    assert choose.data[joined].duration == 20
    assert choose.data[joined].literal == "B:split"
    assert choose.data[pair].duration == 21


def test_recompute_is_part_of_the_whole_backward() -> None:
    graph = graph_of("deepspeed", backward="whole", recompute=[1])
    assert durations(graph, "FRB", 1) == {"1F0": 10, "1B0": 31}
    assert durations(graph, "FRB", 0) == {"0F0": 10, "0B0": 21}
    torch = graph_of("torch-csv", recompute=[0])
    assert durations(torch, "FRIW", 0) == {"0F0": 10, "0I0": 0, "0W0": 31}
    choose = graph_of("torch-csv", backward="choose", recompute=[1])
    assert durations(choose, "BIW", 1) == {"1B0": 31}
    assert durations(choose, "BIW", 0) == {"0B0": 21, "0I0": 0, "0W0": 21}
    apart = graph_of("zero-bubble", recompute=[1])
    assert durations(apart, "FRI", 1) == {"1F0": 10, "1R0": 10, "1I0": 12}


def test_zero_bubble_decides_once_per_microbatch() -> None:
    choices = graph_of("zero-bubble", backward="choose").choices
    assert [c.literals for c in choices] == [
        (f"B{m}:whole", f"B{m}:split") for m in range(3)
    ]
    assert len(graph_of("torch-csv", backward="choose").choices) == 6


def edges_between_microbatches(graph: OpGraph) -> set[tuple[str, str]]:
    return {
        (str(before), str(after))
        for before, after, _ in graph.edges
        if before.microbatch != after.microbatch
    }


def test_order_is_in_the_graph_only_where_microbatches_differ() -> None:
    assert edges_between_microbatches(graph_of("torch-csv")) == set()
    assert edges_between_microbatches(graph_of("zero-bubble")) == set()
    unequal = {"microbatch_scale": [1, 2, 1]}
    assert edges_between_microbatches(graph_of("torch-csv", **unequal)) == {
        ("1F0", "1F1"),
        ("1F1", "1F2"),
    }
    assert edges_between_microbatches(graph_of("zero-bubble", **unequal)) == {
        (f"{stage}{kind}{m}", f"{stage}{kind}{m + 1}")
        for stage in (0, 1)
        for kind in "FIW"
        for m in (0, 1)
    }
    assert edges_between_microbatches(graph_of("jaxpp", **unequal)) == set()


def test_recomputations_are_kept_in_order_too() -> None:
    """Else a verified schedule of unequal microbatches could not be exported."""
    unequal = {"microbatch_scale": [1, 2, 1], "recompute": [0]}
    edges = edges_between_microbatches(graph_of("zero-bubble", **unequal))
    assert {("0R0", "0R1"), ("0R1", "0R2")} <= edges
    starts = {Op(OpKind.FORWARD, 0, m): m for m in range(2)}
    starts |= {Op(OpKind.RECOMPUTE, 0, m): 9 - m for m in range(2)}
    (found,) = runtime_violations("zero-bubble", starts)
    assert found.detail.startswith("0R1 starts before 0R0, but zero-bubble takes")


@pytest.mark.parametrize("scale", [None, [1, 2, 1]])
def test_deepspeed_pairs_f_and_b_on_the_last_stage(scale: list[int] | None) -> None:
    """And has no other rule on the order of microbatches, on no stage."""
    graph = graph_of("deepspeed", backward="whole", microbatch_scale=scale)
    assert edges_between_microbatches(graph) == {("1B0", "1F1"), ("1B1", "1F2")}


def test_deepspeed_takes_another_order_on_every_stage() -> None:
    """Executed: ``tests/test_export_deepspeed_run.py``."""
    instance = instance_of(runtime="deepspeed", backward="whole")
    rows = ("0F1 0F0 0F2 0B2 0B0 0B1", "1F0 1B0 1F1 1B1 1F2 1B2")
    sequences = {
        Stream(StreamKind.COMPUTE, device): tuple(map(Op.parse, row.split()))
        for device, row in enumerate(rows)
    }
    schedule = simulate(build_graph(instance), Order(sequences))
    assert verify_file(as_file(instance, schedule)) == ()
    assert export(program_of(instance, schedule), "deepspeed").notes == ()


# -- the order of microbatches ----------------------------------------------------


def shuffled(instance: Instance, seed: int) -> Schedule:
    """A schedule in which every stage takes the microbatches in an order of its own.

    Ops are put into one list, each after what it needs, and run in that order.
    """
    graph = build_graph(instance)
    rng = Random(seed)
    waiting = {op: graph.digraph.in_degree(op) for op in graph.ops}
    ready = [op for op, count in waiting.items() if count == 0]
    sequences: dict[Stream, list[Op]] = {}
    while ready:
        op = ready.pop(rng.randrange(len(ready)))
        for stream in graph.data[op].streams:
            sequences.setdefault(stream, []).append(op)
        for after, _ in graph.successors(op):
            waiting[after] -= 1
            if waiting[after] == 0:
                ready.append(after)
    return simulate(graph, dispatch(graph, sequences))


@pytest.mark.parametrize("runtime", ["torch-csv", "zero-bubble", "mindspeed"])
def test_renaming_keeps_everything_but_the_order(runtime: str) -> None:
    form = "whole" if runtime == "mindspeed" else "split"
    communication = {"mode": "link", "latency": 3}
    broken = 0
    for seed in range(30):
        instance = instance_of(
            runtime=runtime,
            backward=form,
            microbatches=4,
            communication=communication,
        )
        schedule = shuffled(instance, seed)
        broken += bool(runtime_violations(runtime, schedule.start))
        renamed = in_microbatch_order(instance, schedule)
        assert runtime_violations(runtime, renamed.start) == ()
        assert violations(renamed.graph, renamed.start) == ()
        assert Counter(renamed.start.values()) == Counter(schedule.start.values())
        assert renamed.makespan == schedule.makespan
        for new, old in zip(renamed.peak_memory, schedule.peak_memory, strict=True):
            assert new <= old
    assert broken >= 15


def test_renaming_keeps_every_op_of_a_schedule_whose_choices_are_made() -> None:
    """Other ops than those chosen get names then; none may get lost."""
    rows = ("0F1 0F0 0B1 0I0 0W0", "1F1 1I1 1W1 1F0 1B0")
    sequences = {
        Stream(StreamKind.COMPUTE, device): tuple(map(Op.parse, row.split()))
        for device, row in enumerate(rows)
    }
    instance = instance_of(runtime="torch-csv", backward="choose", microbatches=2)
    graph = build_graph(instance)
    present = {op for row in sequences.values() for op in row}
    chosen = graph.select(
        {data.literal for op, data in graph.data.items() if op in present} - {None}
    )
    schedule = simulate(chosen, Order(sequences))
    renamed = in_microbatch_order(instance, schedule)
    number = {0: 1, 1: 0}
    assert renamed.start == {
        op._replace(microbatch=number[op.microbatch]): time
        for op, time in schedule.start.items()
    }


def test_nothing_is_renamed_without_a_reason() -> None:
    free = shuffled(instance_of(), 3)
    assert in_microbatch_order(instance_of(), free) is free
    for fields in ({"runtime": "jaxpp"}, {"microbatch_scale": [1, 2, 1]}):
        instance = instance_of(**{"runtime": "torch-csv", **fields})
        schedule = shuffled(instance, 3)
        assert in_microbatch_order(instance, schedule) is schedule


@pytest.mark.parametrize(
    ("runtime", "stage", "kind"),
    [("torch-csv", 1, "F"), ("zero-bubble", 0, "W"), ("zero-bubble", 1, "I")],
)
def test_verifier_refuses_an_order_that_the_runtime_does_not_keep(
    runtime: str, stage: int, kind: str
) -> None:
    """A file that is right in all else: two ops of equal microbatches exchanged."""
    instance = instance_of(runtime=runtime)
    good = run_baseline(BASELINES["zb-h1"], instance).schedule
    assert verify_file(as_file(instance, good)) == ()
    ops = [Op(OpKind(kind), stage, m) for m in (0, 1)]
    if kind != "W":  # with all that follows, so that precedences are kept
        ops = [
            op
            for m in (0, 1)
            for op in good.start
            if op.microbatch == m and (op.stage, op.kind) >= (stage, kind)
        ]
        half = len(ops) // 2
        pairs = list(zip(ops[:half], ops[half:], strict=True))
    else:
        pairs = [(ops[0], ops[1])]
    start = dict(good.start)
    for one, other in pairs:
        start[one], start[other] = start[other], start[one]
    bad = Schedule(good.graph, start)
    found = verify_file(as_file(instance, bad))
    assert Rule.MICROBATCH_ORDER in {violation.rule for violation in found}
    free = replace(instance, runtime="")
    assert runtime_violations(free.runtime, start) == ()


def as_file(instance: Instance, schedule: Schedule) -> Any:
    return schedule_from_document(
        schedule_document(
            instance,
            schedule,
            method="test",
            status="feasible",
            objective=Objective.MAKESPAN,
            value_ticks=schedule.makespan,
            lower_bound_ticks=None,
            wall_seconds=None,
            seed=None,
            versions={},
            graph=schedule.graph,
        ),
        "test",
    )


def test_hand_made_schedules_keep_the_rules_or_do_not_apply() -> None:
    whole = instance_of(runtime="deepspeed", backward="whole")
    run = run_baseline(BASELINES["1f1b"], whole)
    assert runtime_violations("deepspeed", run.schedule.start) == ()
    assert violations(run.graph, run.schedule.start) == ()
    with pytest.raises(NotApplicableError, match="the rules of deepspeed exclude it"):
        run_baseline(BASELINES["gpipe"], whole)
    with pytest.raises(NotApplicableError, match="has no split backward"):
        run_baseline(BASELINES["zb-h1"], whole)
    jaxpp = run_baseline(BASELINES["zb-h1"], instance_of(runtime="jaxpp"))
    assert violations(jaxpp.graph, jaxpp.schedule.start) == ()


# -- programs ---------------------------------------------------------------------


def program(rows: list[str], **fields: Any) -> Program:
    """A program of two devices from the ops of each."""
    instance = instance_of(**{"microbatches": 2, **fields})
    graph = build_graph(replace(instance, runtime=""))
    parsed = tuple(tuple(map(Op.parse, row.split())) for row in rows)
    return Program(instance, Schedule(graph, {}), parsed)


WHOLE_1F1B = ["0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"]
SPLIT_FIFO = ["0F0 0F1 0I0 0W0 0I1 0W1", "1F0 1I0 1F1 1I1 1W0 1W1"]
ACCEPTED = {
    "deepspeed": ("deepspeed", WHOLE_1F1B, {"backward": "whole"}),
    "deepspeed, one other order": (
        "deepspeed",
        ["0F1 0F0 0B1 0B0", "1F1 1B1 1F0 1B0"],
        {"backward": "whole"},
    ),
    "deepspeed, two orders": (
        "deepspeed",
        ["0F1 0F0 0B0 0B1", "1F0 1B0 1F1 1B1"],
        {"backward": "whole"},
    ),
    "colossalai": (
        "colossalai",
        [
            "0F0 0F1 3F0 3I0 3W0 3F1 3I1 3W1 0I0 0W0 0I1 0W1",
            "1F0 2F0 1F1 2F1 2I0 2W0 1I0 1W0 2I1 2W1 1I1 1W1",
        ],
        V_OF_TWO,
    ),
    "torch": ("torch-csv", SPLIT_FIFO, {}),
    "torch, other orders elsewhere": (
        "torch-csv",
        ["0F1 0F0 0I1 0W1 0I0 0W0", "1F0 1F1 1I1 1W1 1I0 1W0"],
        {},
    ),
    "torch, mixed": (
        "torch-csv",
        ["0F0 0F1 0B0 0I1 0W1", "1F0 1I0 1W0 1F1 1B1"],
        {"backward": "choose"},
    ),
    "torch, recompute": (
        "torch-csv",
        ["0F0 0F1 0R0 0B0 0R1 0B1", "1F0 1B0 1F1 1B1"],
        {"backward": "whole", "recompute": [0]},
    ),
    "torch, recompute of stage 0": (
        "torch-csv",
        ["0F0 0F1 0R0 0I0 0W0 0R1 0I1 0W1", "1F0 1I0 1F1 1I1 1W0 1W1"],
        {"recompute": [0]},
    ),
    "zero-bubble": ("zero-bubble", SPLIT_FIFO, {}),
    "zero-bubble, by microbatch": (
        "zero-bubble",
        ["0F0 0F1 0B0 0I1 0W1", "1F0 1B0 1F1 1I1 1W1"],
        {"backward": "choose"},
    ),
    "jaxpp": ("jaxpp", SPLIT_FIFO, {}),
    "jaxpp, solved with its rules": (
        "jaxpp",
        ["0F0 0F1 0B0 0B1", "1F0 1I0 1F1 1I1 1W0 1W1"],
        {"runtime": "jaxpp"},
    ),
    "mindspeed": ("mindspeed", WHOLE_1F1B, {"backward": "whole"}),
}
BROKEN = {
    "deepspeed, pair torn": (
        "deepspeed",
        ["0F0 0F1 0B0 0B1", "1F0 1F1 1B0 1B1"],
        {"backward": "whole"},
        "last stage: 1F0 is not directly followed by its backward",
    ),
    "deepspeed, split": (
        "deepspeed",
        SPLIT_FIFO,
        {},
        "backward form: 0I0 is half of a split backward, deepspeed has whole ones only",
    ),
    "mindspeed, two orders": (
        "mindspeed",
        ["0F1 0F0 0B0 0B1", "1F0 1B0 1F1 1B1"],
        {"backward": "whole"},
        "microbatch order: 0B1 comes after 0B0",
    ),
    "zero-bubble, recomputed out of order": (
        "zero-bubble",
        ["0F0 0F1 0R1 0R0 0B0 0B1", "1F0 1B0 1F1 1B1"],
        {"backward": "whole", "recompute": [0]},
        "microbatch order: 0R0 comes after 0R1",
    ),
    "torch, recompute of stage 0 before the I of another": (
        "torch-csv",
        ["0F0 0F1 0R0 0R1 0I0 0W0 0I1 0W1", "1F0 1I0 1F1 1I1 1W0 1W1"],
        {"recompute": [0]},
        "recompute: 0R0 is not directly followed by its backward",
    ),
    "torch, recompute of stage 0, W later": (
        "torch-csv",
        ["0F0 0F1 0R0 0I0 0I1 0W0 0W1", "1F0 1I0 1F1 1I1 1W0 1W1"],
        {"recompute": [0]},
        "recompute: 0R0 is not directly followed by its backward",
    ),
    "colossalai, one microbatch": (
        "colossalai",
        ["0F0 3F0 3I0 3W0 0I0 0W0", "1F0 2F0 2I0 2W0 1I0 1W0"],
        {**V_OF_TWO, "microbatches": 1},
        "microbatches: colossalai needs a multiple of the number of devices, 2",
    ),
    "torchtitan, one device": (
        "torchtitan",
        ["0F0 1F0 1I0 1W0 0I0 0W0"],
        {"devices": 1, "microbatches": 1},
        "devices: one device is no pipeline to torchtitan",
    ),
    "torch, bidirectional": (
        "torch-csv",
        ["0F0 1F1 0B0 1B1", "1F0 1B0 0F1 0B1"],
        {"placement": "bidirectional", "backward": "whole"},
        "placement: torch-csv has no stage on two devices, as placement bidirectional"
        " has; it has any other placement",
    ),
    "torch, last forwards": (
        "torch-csv",
        ["0F0 0F1 0I0 0W0 0I1 0W1", "1F1 1F0 1I0 1I1 1W0 1W1"],
        {},
        "microbatch order: 1F0 comes after 1F1",
    ),
    "torch, recompute early": (
        "torch-csv",
        ["0F0 0F1 0R0 0R1 0B0 0B1", "1F0 1B0 1F1 1B1"],
        {"backward": "whole", "recompute": [0]},
        "recompute: 0R0 is not directly followed by its backward",
    ),
    "torch, recompute and split": (
        "torch-csv",
        ["0F0 0F1 0I0 0W0 0I1 0W1", "1F0 1R0 1I0 1W0 1F1 1R1 1I1 1W1"],
        {"recompute": [1]},
        "recompute: 1I0 is half of a split backward of a recomputed stage",
    ),
    "zero-bubble, w out of order": (
        "zero-bubble",
        ["0F0 0F1 0I0 0I1 0W1 0W0", "1F0 1I0 1F1 1I1 1W0 1W1"],
        {},
        "microbatch order: 0W0 comes after 0W1",
    ),
    "zero-bubble, mixed": (
        "zero-bubble",
        ["0F0 0F1 0B0 0I1 0W1", "1F0 1I0 1W0 1F1 1B1"],
        {"backward": "choose"},
        "backward form: 0B0 and 1I0 are of different forms",
    ),
    "jaxpp, w later": (
        "jaxpp",
        ["0F0 0F1 0I0 0I1 0W0 0W1", "1F0 1I0 1F1 1I1 1W0 1W1"],
        {},
        "stage 0: 0I0 is not directly followed by 0W0",
    ),
    "jaxpp, mixed": (
        "jaxpp",
        ["0F0 0F1 0I0 0W0 0I1 0W1", "1F0 1B0 1F1 1I1 1W1"],
        {"backward": "choose"},
        "of different forms, and jaxpp has one form of backward in a schedule",
    ),
    "colossalai, placement": (
        "colossalai",
        SPLIT_FIFO,
        {},
        "placement: colossalai cannot place 2 stages on 2 devices so",
    ),
    "mindspeed, recompute": (
        "mindspeed",
        WHOLE_1F1B,
        {"backward": "whole", "recompute": [0]},
        "recompute: mindspeed cannot recompute in an order",
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_programs_that_keep_the_rules(name: str) -> None:
    runtime, rows, fields = ACCEPTED[name]
    assert broken_rules(program(rows, **fields), profile_of(runtime)) == ()


@pytest.mark.parametrize("name", BROKEN)
def test_programs_that_break_a_rule(name: str) -> None:
    runtime, rows, fields, message = BROKEN[name]
    found = broken_rules(program(rows, **fields), profile_of(runtime))
    assert any(message in str(broken) for broken in found), [*map(str, found)]
