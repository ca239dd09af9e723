"""Training steps and K-FAC in files, words and derived instances."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from test_formats_instance import EQUAL, FULL, SMALL, complaint, edited, read
from test_formats_schedule import complaint as complaint_of_schedule
from test_formats_schedule import document_of, load, one_after_the_other

from schedopt.baselines.pictures import picture
from schedopt.build import Form, build_graph, derive
from schedopt.build.derive import cut
from schedopt.errors import NotApplicableError
from schedopt.formats import (
    Limits,
    instance_document,
    instance_from_document,
    instance_schema,
    instance_sha256,
    load_instance,
)
from schedopt.formats.instance_model import InstanceFields
from schedopt.formats.instance_sizes import estimated_ops
from schedopt.formats.instance_times import longest_time
from schedopt.instance import (
    Backward,
    FactorBarrier,
    Instance,
    Inversion,
    Kfac,
    KfacModule,
    Number,
    Placement,
    StageCost,
    StepBarrier,
    exact,
)
from schedopt.ops import Op, OpKind
from schedopt.report.kinds import COLOURS, KIND_WORDS, LETTERS
from schedopt.schedule import Schedule

ROOT = Path(__file__).parent.parent

FFN = {
    "name": "ffn",
    "count": 2,
    "curvature_a": 2,
    "curvature_b": 3,
    "inversion_a": 5,
    "inversion_b": 7,
    "saved_input": 4,
    "saved_gradient": 6,
    "factor_a": 8,
    "factor_b": 9,
}
OUT = {
    "name": "out",
    "curvature_a": 1,
    "curvature_b": 1,
    "inversion_a": 2,
    "inversion_b": 2,
}

COSTS = ("curvature_a", "curvature_b", "inversion_a", "inversion_b")

TRAINING: dict[str, Any] = {
    "schema": "schedopt/instance/v1",
    "name": "training",
    "microbatches": 4,
    "devices": 2,
    "backward": "whole",
    "steps": 4,
    "stages": [
        {
            "forward": 10,
            "backward": 20,
            "activation": 20,
            "precondition": 5,
            "optimizer_step": 2,
            "gradient_bytes": 1024,
            "modules": [{**FFN}, {**OUT}],
        },
        {
            "forward": 12,
            "backward": 24,
            "activation": 20,
            "modules": [{**FFN}],
            "parts": [
                {
                    "forward": 6,
                    "backward": 12,
                    "activation": 10,
                    "modules": [{**FFN, "count": 1}],
                },
                {
                    "forward": 6,
                    "backward": 12,
                    "activation": 10,
                    "modules": [{**FFN, "count": 1}],
                },
            ],
        },
    ],
    "kfac": {
        "interval": 2,
        "refreshes": 2,
        "inversion": "whole",
        "step_barrier": "device",
        "factor_barrier": "device",
        "replicas": 4,
        "latency": 0.5,
        "bandwidth": 1e9,
    },
}

ONE_MODULE = KfacModule(
    name="ffn",
    count=2,
    curvature_a=2,
    curvature_b=3,
    inversion_a=5,
    inversion_b=7,
    saved_input=4,
    saved_gradient=6,
    factor_a=8,
    factor_b=9,
)


class TestMeaning:
    def test_every_field(self) -> None:
        instance = read(TRAINING)
        assert instance.steps == 4
        assert instance.kfac == Kfac(
            interval=2,
            refreshes=2,
            inversion=Inversion.WHOLE,
            step_barrier=StepBarrier.DEVICE,
            factor_barrier=FactorBarrier.DEVICE,
            replicas=4,
            latency=0.5,
            bandwidth=1e9,
        )
        first, second = instance.stages
        assert (first.precondition, first.optimizer_step) == (5, 2)
        assert first.gradient_bytes == 1024
        assert first.modules == (
            ONE_MODULE,
            KfacModule(
                name="out", curvature_a=1, curvature_b=1, inversion_a=2, inversion_b=2
            ),
        )
        assert second.modules == (ONE_MODULE,)
        half = replace(ONE_MODULE, count=1)
        assert [part.modules for part in second.parts] == [(half,), (half,)]

    def test_no_field_of_the_instance_is_forgotten(self) -> None:
        """What this file's training gives differs from every default."""
        instance = read(TRAINING)
        assert instance.kfac is not None
        defaults = (Kfac(), KfacModule(name="x", **dict.fromkeys(COSTS, 1)))
        for given, default in zip(
            (instance.kfac, instance.stages[0].modules[0]), defaults, strict=True
        ):
            for field in fields(default):
                assert getattr(given, field.name) != getattr(default, field.name)

    def test_defaults(self) -> None:
        document = edited(edited(TRAINING, "kfac", {}), "steps", ...)
        instance = read(document)
        assert instance.kfac == Kfac()
        assert instance.steps == 1
        assert read(SMALL).kfac is None
        assert {stage.modules for stage in read(SMALL).stages} == {()}

    def test_kfac_may_be_null(self) -> None:
        assert read(edited(TRAINING, "kfac", None)).kfac is None

    def test_recomputation_goes_with_kfac(self) -> None:
        assert read(edited(TRAINING, "recompute", "full")).recompute == {0, 1}


class TestRoundTrip:
    def test_canonical_document(self) -> None:
        instance = read(TRAINING)
        canonical = instance_document(instance)
        assert read(json.loads(json.dumps(canonical))) == instance
        assert instance_document(read(canonical)) == canonical
        assert canonical["kfac"] == {
            **TRAINING["kfac"],
            "bandwidth": 10**9,
        }
        assert canonical["stages"][0]["modules"] == [FFN, OUT]
        assert "steps" not in instance_document(read(SMALL))

    def test_schema_accepts_it(self) -> None:
        jsonschema.validate(TRAINING, instance_schema())
        jsonschema.validate(instance_document(read(TRAINING)), instance_schema())

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("steps", 0),
            ("kfac/interval", 0),
            ("kfac/inversion", "both"),
            ("kfac/bandwidth", 0),
            ("stages/0/modules/0/name", "a b"),
            ("stages/0/modules/0/name", "a:b"),
            ("stages/0/modules/0/name", "a@b"),
            ("stages/0/modules/0/name", "a,b"),
            ("stages/0/modules/0/curvature_a", -1),
            ("stages/0/modules/0/inverson_a", 1),
            ("stages/0/modules/0/inversion_a", ...),
        ],
    )
    def test_schema_refuses_what_the_reader_refuses(
        self, path: str, value: Any
    ) -> None:
        document = edited(TRAINING, path, value)
        complaint(document)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, instance_schema())


class TestHash:
    """Hashes of instances without steps and K-FAC are those of before both."""

    # Written down from revision 00d8f16, which knew neither.
    @pytest.mark.parametrize(
        ("document", "expected"),
        [
            (SMALL, "d3483006f2ad17b0e71772613c0c138e9a03bc946b5d7401ca31b6beac728a24"),
            (EQUAL, "496a81426987044a8772bc4204f99147fa8e238bd5dbeab420ae3da46bb8f917"),
            (FULL, "b0144f93db8c8a028a82401bf6dd2713b54ace715c564faeac09e1a580d587e6"),
        ],
    )
    def test_of_instances(self, document: dict[str, Any], expected: str) -> None:
        assert instance_sha256(read(document)) == expected

    @pytest.mark.parametrize(
        ("form", "expected"),
        [
            (
                Form(Placement.LINEAR, 1, Backward.WHOLE),
                "1d31f0abe44aa697d147eb02dd635361c5656901173f5dac96d50e7d7c8d147e",
            ),
            (
                Form(Placement.V, 4, Backward.WHOLE),
                "497d2e8895a359c4beb3a3820b8b954ee275233693425311b80ac963a7c9ca39",
            ),
        ],
    )
    def test_of_derived_instances(self, form: Form, expected: str) -> None:
        assert instance_sha256(derive(read(EQUAL), form)) == expected

    def test_of_a_stored_record(self) -> None:
        record = json.loads((ROOT / "results" / "best-known.json").read_text())
        stored = {entry["name"]: entry["sha256"] for entry in record["entries"]}
        instance = load_instance(ROOT / "instances" / "quickstart" / "quickstart.yaml")
        assert stored["quickstart"] == instance_sha256(instance)

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("steps", 5),
            ("kfac", None),
            ("kfac/interval", 1),
            ("kfac/refreshes", 1),
            ("kfac/inversion", "halved"),
            ("kfac/step_barrier", "everyone"),
            ("kfac/factor_barrier", "factor"),
            ("kfac/replicas", 3),
            ("kfac/latency", 0.25),
            ("kfac/bandwidth", 2e9),
            ("stages/0/precondition", 6),
            ("stages/0/optimizer_step", 3),
            ("stages/0/gradient_bytes", 1),
            *((f"stages/0/modules/0/{name}", 1) for name in FFN if name != "name"),
            ("stages/0/modules/0/name", "mlp"),
        ],
    )
    def test_every_new_field_counts(self, path: str, value: Any) -> None:
        other = read(edited(TRAINING, path, value))
        assert instance_sha256(other) != instance_sha256(read(TRAINING))

    def test_defaults_and_spellings_do_not_count(self) -> None:
        document = edited(SMALL, "steps", 1)
        document["stages"][0] |= {"modules": [], "precondition": 0.0}
        assert instance_sha256(read(document)) == instance_sha256(read(SMALL))
        written = edited(TRAINING, "stages/0/modules/1/count", 1)
        written["stages"][0]["modules"][0]["factor_a"] = 8.0
        assert instance_sha256(read(written)) == instance_sha256(read(TRAINING))


NEAREST = [
    ("stpes", 2, "stpes = 2: is an unknown field; did you mean steps?"),
    ("kfca", {}, "kfca = a mapping of 0: is an unknown field; did you mean kfac?"),
    ("kfac/intervall", 2, "kfac.intervall = 2: is an unknown field; did you mean int"),
    ("kfac/step_barier", "x", "is an unknown field; did you mean step_barrier?"),
    ("stages/0/precondtion", 1, "is an unknown field; did you mean precondition?"),
    ("stages/1/modles", [], "stages[1].modles = a list of 0: is an unknown field; did"),
    (
        "stages/0/modules/1/inverson_b",
        1,
        "stages[0].modules[1].inverson_b = 1: is an unknown field; did you mean inver",
    ),
    (
        "stages/1/parts/0/modules/0/curvature_aa",
        1,
        "stages[1].parts[0].modules[0].curvature_aa = 1: is an unknown field; did you",
    ),
    (
        "stages/0/modules/0/curvature_a",
        ...,
        "stages[0].modules[0].curvature_a: is missing; add it (duration of a microb",
    ),
    (
        "kfac/inversion",
        "halfed",
        'kfac.inversion = "halfed": must be halved or whole; did you mean halved?',
    ),
    ("kfac/factor_barrier", 1, "kfac.factor_barrier = 1: must be factor or device"),
    ("kfac", [], "kfac = a list of 0: must be a mapping of fields"),
    ("stages/0/modules", {}, "stages[0].modules = a mapping of 0: must be a list"),
]


@pytest.mark.parametrize(("path", "value", "expected"), NEAREST)
def test_mistake_in_one_field(path: str, value: Any, expected: str) -> None:
    assert expected in complaint(edited(TRAINING, path, value))


@pytest.mark.parametrize(
    "name", ["a:b", "1@a", "a,b", "a;b", 'a"', "a b", "a\u00a0b", "a\tb", ""]
)
def test_a_modules_name_stands_in_ops_names(name: str) -> None:
    shown = complaint(edited(TRAINING, "stages/0/modules/0/name", name))
    assert shown.startswith("stages[0].modules[0].name = ")


@pytest.mark.parametrize("name", ["q", "h.0.mlp", "W_1-b", "0", "é"])
def test_ops_of_a_module_can_be_read_back(name: str) -> None:
    document = edited(TRAINING, "stages/0/modules/0/name", name)
    graph = build_graph(read(document))
    assert any(op.part.startswith(name) for op in graph.ops)
    assert all(Op.parse(str(op)) == op for op in graph.ops)


# -- rules: what is refused, and its neighbour that is not ------------------------


class TestNames:
    def test_of_two_modules(self) -> None:
        assert complaint(edited(TRAINING, "stages/0/modules/1/name", "ffn")) == (
            'stages[0].modules[1].name = "ffn": is also the name of modules[0]; choose'
            " another, or give one module with count"
        )

    def test_of_equal_stages_and_parts(self) -> None:
        document = edited(
            TRAINING,
            "stages",
            {"count": 2, "forward": 1, "backward": 1, "modules": [{**OUT}, {**OUT}]},
        )
        assert complaint(document).startswith("stages.modules[1].name")
        twice = [{**OUT}, {**OUT}]
        document = edited(TRAINING, "stages/1/parts/0/modules", twice)
        document["kfac"] = None
        assert complaint(document).startswith("stages[1].parts[0].modules[1].name")

    def test_stages_may_use_the_same_name(self) -> None:
        first, second = read(TRAINING).stages
        assert first.modules[0].name == second.modules[0].name

    def test_of_a_layer(self) -> None:
        document = edited(TRAINING, "stages/0/modules/1/name", "ffn.1")
        assert complaint(document) == (
            'stages[0].modules[1].name = "ffn.1": is also what layer 1 of modules[0] is'
            " called; choose another"
        )

    @pytest.mark.parametrize("name", ["ffn.2", "ffn.01", "ffn.", "ffn.x", "ffn.²"])
    def test_that_no_layer_has(self, name: str) -> None:
        assert read(edited(TRAINING, "stages/0/modules/1/name", name))

    def test_that_is_very_long(self) -> None:
        name = "ffn." + "9" * 9000
        assert read(edited(TRAINING, "stages/0/modules/1/name", name))

    @pytest.mark.parametrize("changes", [{"count": 2}, {"name": "ffn.7"}])
    def test_ops_differ_wherever_the_rule_is_kept(
        self, changes: dict[str, Any]
    ) -> None:
        document = copy.deepcopy(TRAINING)
        document["stages"][0]["modules"][1] |= {"name": "ffn.1", **changes}
        graph = build_graph(read(document))
        shares = [op for op in graph.ops if op.kind is OpKind.CURVATURE_A]
        layers = sum(module.count for module in read(document).stages[0].modules)
        assert sum(op.stage == 0 for op in shares) == 2 * 4 * layers


class TestSavedInput:
    def test_is_a_part_of_the_activation(self) -> None:
        assert complaint(edited(TRAINING, "stages/0/activation", 7)) == (
            "stages[0].modules = a list of 2: have a saved_input of 8.0 MiB together,"
            " which is a part of activation, 7.0; check saved_input, count and"
            " activation"
        )
        assert read(edited(TRAINING, "stages/0/activation", 8))

    def test_of_a_part(self) -> None:
        document = edited(TRAINING, "stages/1/parts/1/activation", 3)
        assert complaint(document).startswith("stages[1].parts[1].modules = ")

    def test_is_no_part_of_what_is_freed_after_the_input_gradient(self) -> None:
        document = copy.deepcopy(TRAINING)
        for stage in document["stages"]:
            stage |= {"backward_input": 8, "backward_weight": 8, "parts": []}
        document["backward"] = "split"
        document["stages"][0]["activation_until_input"] = 13
        assert "is a part of activation less activation_until_input, 7.0" in complaint(
            document
        )
        assert read(edited(document, "stages/0/activation_until_input", 12))
        assert read(edited(document, "backward", "whole"))

    def test_thirds_may_add_up_to_a_little_more(self) -> None:
        document = edited(TRAINING, "stages/0/activation", 200)
        module = document["stages"][0]["modules"][0]
        module |= {"count": 3, "saved_input": 66.66666666666667}
        assert 3 * exact(module["saved_input"]) > 200
        graph = build_graph(read(document))
        assert min(buffer.size for buffer in graph.buffers) > 0


class TestWhatKfacNeeds:
    def test_modules(self) -> None:
        document = edited(edited(SMALL, "kfac", {}), "backward", "whole")
        assert complaint(document) == (
            "kfac: has nothing to precondition; give modules to at least one stage"
        )
        assert read(edited(document, "stages/1/modules", [OUT]))

    def test_modules_of_parts_are_not_enough(self) -> None:
        part = {"forward": 1, "backward": 1, "modules": [OUT]}
        document = edited(edited(SMALL, "kfac", {}), "backward", "whole")
        document["stages"][0]["parts"] = [part, part]
        assert complaint(document) == (
            "stages[0].parts = a list of 2: have 2 layers in modules together, and the"
            " stage 0; give each part its modules (and 1 more)"
        )

    def test_parts_with_as_many_layers_as_their_stage(self) -> None:
        document = edited(TRAINING, "stages/1/parts/1/modules", [])
        assert complaint(document) == (
            "stages[1].parts = a list of 2: have 1 layers in modules together, and the"
            " stage 2; give each part its modules"
        )
        other = [{**FFN, "count": 1, "name": "another"}]
        assert read(edited(TRAINING, "stages/1/parts/1/modules", other))
        assert read(edited(document, "kfac", None))

    @pytest.mark.parametrize(
        ("interval", "refreshes", "steps"),
        [(1, 2, 2), (2, 2, 3), (3, 4, 10), (9, 1, 1)],
    )
    def test_steps_in_which_refreshes_begin(
        self, interval: int, refreshes: int, steps: int
    ) -> None:
        document = edited(TRAINING, "steps", steps)
        document["kfac"] |= {"interval": interval, "refreshes": refreshes}
        assert read(document).steps == steps
        document["kfac"]["refreshes"] += 1
        last = refreshes * interval
        assert complaint(document) == (
            f"kfac.refreshes = {refreshes + 1}: the last of them begins in step {last},"
            f" and the steps are numbered 0 to {steps - 1}; use at least steps:"
            f" {last + 1}, or fewer refreshes"
        )


class TestWhatTheyDoNotGoWith:
    def test_several_steps_and_a_runtime(self) -> None:
        document = edited(edited(SMALL, "runtime", "torch-csv"), "steps", 2)
        assert complaint(document) == (
            "steps = 2: is not covered by the rules of any runtime yet, so not by those"
            " of torch-csv; give no runtime, or steps: 1"
        )
        assert read(edited(document, "steps", 1)).runtime == "torch-csv"
        assert read(edited(document, "runtime", ...)).steps == 2

    def test_kfac_and_a_runtime(self) -> None:
        document = edited(edited(TRAINING, "runtime", "torch-csv"), "steps", 1)
        document["kfac"] = {}
        assert complaint(document) == (
            "kfac: is not covered by the rules of any runtime yet, so not by those of"
            " torch-csv; give no runtime, or no kfac"
        )
        assert read(edited(document, "kfac", None)).runtime == "torch-csv"

    def test_several_steps_and_the_period(self) -> None:
        document = edited(edited(SMALL, "objective", "period"), "steps", 2)
        assert complaint(document) == (
            "steps = 2: does not go with objective: period, which is of one step"
            " without end; minimise makespan or device-span, or give steps: 1"
        )
        assert read(edited(document, "steps", 1)).steps == 1
        assert read(edited(document, "objective", "device-span")).steps == 2

    def test_kfac_and_the_period(self) -> None:
        document = edited(edited(TRAINING, "objective", "period"), "steps", 1)
        document["kfac"] = {}
        assert complaint(document).startswith("kfac: does not go with objective: peri")
        assert read(edited(document, "kfac", None))


# -- how many ops, how long, how much memory -------------------------------------

Change = dict[str, Any]
SHAPES: list[Change] = [
    {},
    {"kfac": {}},
    {"kfac": {"interval": 2, "refreshes": 2}},
    {"placement": "bidirectional"},
    {"placement": "bidirectional", "kfac": {"inversion": "whole"}},
    {"recompute": "full"},
    {"kfac": None},
    {"kfac": None, "steps": 1},
    {"kfac": None, "placement": "bidirectional"},
    {"microbatches": 1},
]
PIPELINE = {
    OpKind.FORWARD,
    OpKind.BACKWARD,
    OpKind.RECOMPUTE,
    OpKind.SEND_FORWARD,
    OpKind.SEND_BACKWARD,
}


def fields_of(document: dict[str, Any]) -> InstanceFields:
    return InstanceFields.model_validate(document)


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_ops_are_counted_before_they_are_made(changes: Change) -> None:
    document = {**TRAINING, **changes}
    kinds = Counter(op.kind for op in build_graph(read(document)).ops)
    bare = {**document, "steps": 1, "kfac": None}
    of_a_step = estimated_ops(fields_of(bare))
    pipeline = sum(count for kind, count in kinds.items() if kind in PIPELINE)
    assert pipeline <= document["steps"] * of_a_step
    # All that comes with steps and K-FAC is counted exactly.
    second_order = estimated_ops(fields_of(document)) - document["steps"] * of_a_step
    assert second_order == kinds.total() - pipeline


def test_too_many_ops_are_refused() -> None:
    # A step: 4 microbatches, 2 stages, F, B and two transfers; 2 PRECONDITION, STEP,
    # REDUCE_GRAD and GATHER_GRAD. A refresh: both sides of 5 layers, each with 4
    # shares, a reduction and an inversion.
    ops = 4 * (4 * 2 * 4 + 2 * 4) + 2 * (2 * 5 * (4 + 1 + 1))
    assert complaint(TRAINING, Limits(max_ops=ops - 1)) == (
        f"microbatches = 4: with 2 stages, 4 steps and K-FAC makes about {ops} ops,"
        f" more than the {ops - 1} allowed; raise the cap with --max-ops"
    )
    assert instance_from_document(TRAINING, "f", Limits(max_ops=ops))


@pytest.mark.parametrize("path", ["steps", "stages/0/modules/0/count"])
def test_absurd_counts_are_refused_at_once(path: str) -> None:
    document = edited(edited(TRAINING, path, 10**6), "stages/0/activation", 10**9)
    assert "more than the 500,000 allowed" in complaint(document)


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_the_longest_time_is_that_of_all_ops_in_a_row(changes: Change) -> None:
    document = {**TRAINING, **changes}
    assert longest_time(fields_of(document)) >= in_a_row(document)
    # Without transfers and collectives, which it may count too often, it is exact.
    if document["kfac"] is not None:
        document["kfac"] = {**document["kfac"], "latency": 0, "bandwidth": None}
    assert longest_time(fields_of(document)) == in_a_row(document)


@pytest.mark.parametrize("placement", ["linear", "bidirectional"])
def test_the_longest_time_has_room_for_slow_links(placement: str) -> None:
    document = edited(TRAINING, "placement", placement)
    document["communication"] = {"mode": "link", "latency": 2.5, "bandwidth": 1e6}
    document["kfac"]["bandwidth"] = 1e5
    document["stages"][0]["output_bytes"] = 10**6
    document["devices"] = [{"speed": 0.5}, {"speed": 2}]
    document["microbatch_scale"] = [1, 2, 0.5, 0.25]
    document["resolution"] = 1e-3
    assert longest_time(fields_of(document)) >= in_a_row(document) > 10**6


def in_a_row(document: dict[str, Any]) -> Fraction:
    """All durations of the op graph one after the other, in time units."""
    graph = build_graph(read(document))
    total = sum(data.duration for data in graph.data.values())
    return Fraction(total, graph.units.ticks_per_unit)


# Each path's duration alone is more than 2^51 ticks.
LONG: list[tuple[str, float]] = [
    ("stages/0/modules/0/curvature_a", 3e6),
    ("stages/0/modules/0/inversion_b", 1e7),
    ("stages/0/precondition", 1e7),
    ("stages/0/optimizer_step", 3e6),
    ("stages/0/gradient_bytes", 1e8),
    ("stages/0/modules/0/factor_a", 100),
    ("kfac/latency", 3e6),
]


@pytest.mark.parametrize(("path", "value"), LONG)
def test_every_duration_of_kfac_counts(path: str, value: float) -> None:
    document = edited(TRAINING, "resolution", 1e-9)
    document["kfac"] |= {"latency": 0.1, "bandwidth": 1e8}
    for stage in document["stages"]:
        for module in stage["modules"]:
            module |= {"factor_a": 0, "factor_b": 0}
    assert read(document)
    document = edited(document, path, value)
    assert complaint(document).startswith("resolution = 1e-09: is too fine for work")
    assert read(edited(document, "resolution", 1e-6))
    # Without K-FAC nothing of it takes time; the optimizer's step ends every step.
    document |= {"kfac": None, "steps": 1}
    assert read(document)


def test_steps_take_time() -> None:
    document = edited(SMALL, "resolution", 1e-9)
    document["stages"][0]["forward"] = 1e5 + 0.5
    document["steps"] = 5
    assert read(document)
    document["steps"] = 6
    assert complaint(document).startswith("resolution = 1e-09: is too fine for work")


class TestStaticMemory:
    @pytest.mark.parametrize("placement", ["linear", "bidirectional"])
    def test_factors_and_inverses_are_held(self, placement: str) -> None:
        document = edited(TRAINING, "placement", placement)
        document["stages"][0]["static_memory"] = 10.25
        document["stages"][0]["modules"][0]["factor_a"] = 0.1234567
        device = {"static_memory": 1}
        document["devices"] = [device, {}]
        # What the builder counts is the limit at which the format still agrees.
        memory = build_graph(read(document)).devices[0].static
        device["memory_limit"] = memory / 10**6
        assert read(document)
        device["memory_limit"] = (memory - 1) / 10**6
        assert "device 0 needs " in complaint(document)
        assert read({**document, "kfac": None})

    def test_message(self) -> None:
        # Both stages: two layers with factors of 8 and 9, and their inverses.
        document = edited(TRAINING, "stages/1/static_memory", 1)
        assert read(edited(document, "memory_limit", 69))
        assert complaint(edited(document, "memory_limit", 68)) == (
            "memory_limit = 68: device 1 needs 69.0 MiB of static memory already, its"
            " own and its stages' with K-FAC's factors and inverses; raise the limit or"
            " move stages"
        )


# -- derived instances -----------------------------------------------------------


def work_of(instance: Instance) -> dict[str, Fraction]:
    """The model's work and memory, whatever its stages."""
    total: dict[str, Fraction] = {}

    def add(name: str, value: Number, times: int = 1) -> None:
        total[name] = total.get(name, Fraction(0)) + exact(value) * times

    for stage in instance.stages:
        for name in ("forward", "activation", "precondition", "optimizer_step"):
            add(name, getattr(stage, name))
        add("gradient_bytes", stage.gradient_bytes)
        for module in stage.modules:
            add("layers", module.count)
            for field in fields(module):
                if field.name not in ("name", "count"):
                    add(field.name, getattr(module, field.name), module.count)
    return total


def training(count: int = 2, **changes: Any) -> Instance:
    """Stages of 4 + 2 layers, one per device."""
    modules = (replace(ONE_MODULE, name="qkvo", count=4), ONE_MODULE)
    stage = StageCost(
        forward=12,
        backward=24,
        activation=48,
        precondition=6,
        optimizer_step=4,
        gradient_bytes=8,
        modules=modules,
        **changes,
    )
    instance = replace(read(TRAINING), kfac=Kfac(), steps=1)
    return replace(instance, stages=(stage,) * count)


LINEAR = Form(Placement.LINEAR, 1, Backward.WHOLE)


def forms(chunks: int) -> list[Form]:
    return [Form(p, chunks, Backward.WHOLE) for p in (Placement.LOOPED, Placement.V)]


class TestCut:
    @pytest.mark.parametrize("form", forms(2), ids=str)
    def test_into_equal_parts(self, form: Form) -> None:
        whole = training()
        parts = derive(whole, form)
        assert len(parts.stages) == 4
        for part in parts.stages:
            assert [m.count for m in part.modules] == [2, 1]
            assert (part.precondition, part.optimizer_step) == (3, 2)
        assert work_of(parts) == work_of(whole)
        assert parts.kfac == whole.kfac
        assert read(instance_document(parts)) == parts

    @pytest.mark.parametrize("form", forms(3), ids=str)
    def test_into_parts_that_cannot_share_layers(self, form: Form) -> None:
        with pytest.raises(NotApplicableError) as caught:
            derive(training(), form)
        assert str(caught.value) == (
            "4 layers of module qkvo cannot be shared equally by 3 parts of a stage;"
            " give the stage its parts"
        )

    @pytest.mark.parametrize("form", forms(3), ids=str)
    def test_without_kfac_no_layer_is_in_the_way(self, form: Form) -> None:
        parts = derive(replace(training(), kfac=None), form)
        assert {part.modules for part in parts.stages} == {()}
        bare = replace(training(), kfac=None)
        bare = replace(
            bare, stages=tuple(replace(stage, modules=()) for stage in bare.stages)
        )
        assert instance_sha256(derive(bare, form)) == instance_sha256(parts)

    def test_into_the_users_parts(self) -> None:
        # Attention and the rest: no equal shares of anything.
        attention = StageCost(
            forward=4,
            backward=8,
            activation=20,
            precondition=2,
            optimizer_step=1,
            gradient_bytes=3,
            modules=(replace(ONE_MODULE, name="qkvo", count=4),),
        )
        rest = StageCost(
            forward=8,
            backward=16,
            activation=28,
            precondition=4,
            optimizer_step=3,
            gradient_bytes=5,
            modules=(ONE_MODULE,),
        )
        whole = training(parts=(attention, rest))
        parts = derive(whole, forms(2)[0])
        assert parts.stages == (attention, rest, attention, rest)
        assert work_of(parts) == work_of(whole)

    def test_in_whole_units(self) -> None:
        (stage, _) = training().stages
        odd = replace(stage, precondition=5, gradient_bytes=7)
        parts = cut(odd, 2, Fraction(1))
        assert [part.precondition for part in parts] == [3, 2]
        assert [part.gradient_bytes for part in parts] == [4, 3]

    @pytest.mark.parametrize("pieces", [2, 3, 4, 6])
    @pytest.mark.parametrize("activation", [12, 12.000001, 13.7])
    def test_inputs_stay_a_part_of_the_activation(
        self, pieces: int, activation: Number
    ) -> None:
        saved = float(exact(activation) / 12)
        modules = (replace(ONE_MODULE, count=12, saved_input=saved),)
        (stage, _) = training().stages
        stage = replace(stage, activation=activation, modules=modules)
        for unit in (None, Fraction(1, 10**6)):
            parts = cut(stage, pieces, unit)
            instance = replace(
                training(),
                stages=parts,
                device_of_stage=tuple(i % 2 for i in range(pieces)),
                placement=Placement.EXPLICIT,
            )
            assert read(instance_document(instance)) == instance


class TestMerge:
    def test_of_parts_gives_the_modules_back(self) -> None:
        whole = training()
        parts = derive(whole, forms(2)[1])
        back = derive(replace(parts, placement=Placement.LINEAR), LINEAR)
        assert [stage.modules for stage in back.stages] == [
            stage.modules for stage in whole.stages
        ]
        assert work_of(back) == work_of(whole)
        assert [stage.parts for stage in back.stages] == [
            parts.stages[:2],
            parts.stages[2:],
        ]
        # And cutting what was merged gives the parts.
        again = derive(back, forms(2)[1])
        assert again.stages == parts.stages

    def test_of_unequal_modules_of_one_name(self) -> None:
        heavy = replace(ONE_MODULE, inversion_a=50)
        merged = merged_of([(ONE_MODULE,), (heavy,), (ONE_MODULE,), (heavy,)])
        assert [(m.name, m.count, m.inversion_a) for m in merged] == [
            ("ffn", 4, 5),
            ("ffn-2", 4, 50),
        ]

    @pytest.mark.parametrize("taken", ["ffn-2", "ffn.0", "ffn.3", "ffn.3-2"])
    @pytest.mark.parametrize("first", [True, False])
    def test_names_stay_apart(self, taken: str, first: bool) -> None:
        heavy = replace(ONE_MODULE, inversion_a=50)
        other = replace(ONE_MODULE, name=taken, count=1, inversion_a=70)
        rest = [(ONE_MODULE,), (heavy,), (ONE_MODULE,)]
        merged = merged_of([(other,), *rest] if first else [*rest, (other,)])
        assert sorted(m.count for m in merged) == [1, 2, 4]
        assert {m.inversion_a for m in merged} == {5, 50, 70}

    def test_of_stages_with_parts_can_be_written(self) -> None:
        part = StageCost(forward=6, backward=12, activation=24, modules=(ONE_MODULE,))
        twice = replace(ONE_MODULE, count=4)
        whole = replace(training(), kfac=None)
        stage = replace(whole.stages[0], parts=(part, part), modules=(twice,))
        for kfac in (None, Kfac()):
            four = replace(whole, stages=(stage,) * 4, kfac=kfac)
            four = replace(four, device_of_stage=(0, 0, 1, 1))
            merged = derive(four, LINEAR)
            assert read(instance_document(merged)) == merged


def merged_of(modules: list[tuple[KfacModule, ...]]) -> tuple[KfacModule, ...]:
    """What one stage has of those of four, which a file can hold."""
    stage = replace(training().stages[0], activation=200)
    four = replace(
        training(),
        stages=tuple(replace(stage, modules=mine) for mine in modules),
        devices=training().devices[:1],
        device_of_stage=(0, 0, 0, 0),
    )
    merged = derive(four, LINEAR)
    assert read(instance_document(merged)) == merged
    assert work_of(merged) == work_of(four)
    (only,) = merged.stages
    return only.modules


# -- schedules -------------------------------------------------------------------


class TestScheduleFile:
    def document(self, **changes: Any) -> dict[str, Any]:
        instance = read({**TRAINING, "placement": "bidirectional", **changes})
        return document_of(instance, one_after_the_other(build_graph(instance)))

    def test_steps_copies_and_parts_are_read_back(self) -> None:
        # One microbatch: the copies 0 and 1 are more than the microbatches.
        document = self.document(microbatches=1)
        file = load(document)
        assert {row.step for row in file.ops} == {0, 1, 2, 3}
        ops = {row.op for row in file.ops}
        assert {"2@0INVERSION1:ffn.1.B", "3@1STEP1", "0CURVATURE_A0:out"} <= ops
        assert {row.kind for row in file.ops} >= {
            OpKind.SYNC_CURVATURE,
            OpKind.REDUCE_GRAD,
            OpKind.GATHER_GRAD,
        }

    @pytest.mark.parametrize(
        ("op", "field", "expected"),
        [
            ("0INVERSION1:out.A", "microbatch", "2: there is no such microbatch; they"),
            ("0CURVATURE_A3:out", "microbatch", "4: there is no such microbatch; they"),
            ("3@0F0", "step", "4: there is no such step; they are numbered 0 to 3"),
        ],
    )
    def test_what_the_instance_does_not_have(
        self, op: str, field: str, expected: str
    ) -> None:
        document = self.document()
        (row,) = (row for row in document["ops"] if row["op"] == op)
        row[field] += 1
        parsed = Op.parse(op)._replace(**{field: row[field]})
        row["op"] = str(parsed)
        assert f".{field} = {expected}" in complaint_of_schedule(document)

    def test_a_pipeline_in_one_direction_has_one_copy(self) -> None:
        document = self.document(placement="linear")
        load(document)
        row = next(row for row in document["ops"] if row["kind"] == "STEP")
        row |= {"microbatch": 1, "op": row["op"][:-1] + "1"}
        shown = complaint_of_schedule(document)
        assert "microbatch = 1: there is no such microbatch; they are numbered" in shown


# -- words and pictures ----------------------------------------------------------


@pytest.mark.parametrize("kind", OpKind)
class TestEveryKind:
    def test_has_words_of_its_own(self, kind: OpKind) -> None:
        assert list(KIND_WORDS.values()).count(KIND_WORDS[kind]) == 1

    def test_has_a_letter_of_its_own(self, kind: OpKind) -> None:
        assert len(LETTERS[kind]) == 1
        assert list(LETTERS.values()).count(LETTERS[kind]) == 1

    def test_has_two_shades_on_which_black_can_be_read(self, kind: OpKind) -> None:
        first, second = map(luminance, COLOURS[kind])
        assert second > first
        # WCAG 2.2, 1.4.11, asks for 3.
        assert (first + 0.05) / 0.05 > 4


def luminance(colour: str) -> float:
    """Relative luminance of sRGB, as WCAG 2.2 defines it."""
    assert re.fullmatch("#[0-9a-f]{6}", colour)
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_no_shade_of_two_colours_is_shared() -> None:
    """Kinds have both shades in common, or none."""
    owners: dict[str, set[tuple[str, str]]] = {}
    for shades in COLOURS.values():
        for shade in shades:
            owners.setdefault(shade, set()).add(shades)
    assert {len(pairs) for pairs in owners.values()} == {1}
    shared = [kinds for kinds in sharing(COLOURS) if len(kinds) > 1]
    assert sorted(shared, key=len) == [
        {OpKind.BACKWARD, OpKind.BACKWARD_INPUT},
        {OpKind.OVERLAP, OpKind.CURVATURE_A},
        {kind for kind in OpKind if not kind.is_compute},
    ]


def sharing(colours: dict[OpKind, tuple[str, str]]) -> list[set[OpKind]]:
    return [
        {kind for kind, other in colours.items() if other == shades}
        for shades in dict.fromkeys(colours.values())
    ]


def test_every_kind_that_computes_can_be_pictured() -> None:
    document = {
        **TRAINING,
        "devices": 1,
        "steps": 1,
        "recompute": "full",
        "resolution": 1,
        "microbatches": 1,
        "kfac": {},
    }
    stage = {"forward": 1, "backward": 1, "activation": 1, "recompute": 1}
    stage |= {"precondition": 1, "optimizer_step": 1}
    module = {"name": "m", **dict.fromkeys(COSTS, 1)}
    document["stages"] = [{**stage, "modules": [module]}]
    graph = build_graph(read(document))
    order = """
        0F0 0R0 0CURVATURE_A0:m 0B0 0CURVATURE_B0:m 0INVERSION0:m.A 0INVERSION0:m.B
        0PRECONDITION0 0STEP0
    """
    start = {Op.parse(text): time for time, text in enumerate(order.split())}
    assert start.keys() == graph.data.keys()
    assert picture(Schedule(graph, start)) == "0 * ( a ) ^ ^ % |"


SETTINGS = "strict merged wrap halved whole frozen sliding reordered"
CONCEPTS = """
    K-FAC, layer, module, factor, curvature, inversion, inverse, preconditioning, copy,
    step barrier, factor barrier, second-order work, refresh, interval, age at use,
    frame, gap of a device, packing
"""


@pytest.mark.parametrize(
    "word", [*SETTINGS.split(), *" ".join(CONCEPTS.split()).split(", ")]
)
def test_the_glossary_has_every_word(word: str) -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE)
    assert rows.count(word) == 1
