"""Instances: what is accepted, what it means, and one line for each mistake."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest

from schedopt.errors import FormatError, InstanceError
from schedopt.formats import (
    Limits,
    instance_document,
    instance_from_document,
    instance_schema,
    instance_sha256,
)
from schedopt.instance import (
    Backward,
    Communication,
    CommunicationMode,
    Device,
    Instance,
    Link,
    Objective,
    Placement,
    StageCost,
)

SMALL: dict[str, Any] = {
    "schema": "schedopt/instance/v1",
    "name": "small",
    "microbatches": 4,
    "devices": 2,
    "stages": [
        {"forward": 10, "backward_input": 11, "backward_weight": 9},
        {"forward": 12, "backward_input": 13, "backward_weight": 7},
    ],
}

EQUAL: dict[str, Any] = {
    "schema": "schedopt/instance/v1",
    "name": "equal",
    "microbatches": 8,
    "devices": 4,
    "memory_limit": 40,
    "placement": "v",
    "stages": {"count": 8, "forward": 92, "backward": 136, "activation": 10},
}

FULL: dict[str, Any] = {
    "schema": "schedopt/instance/v1",
    "name": "everything",
    "source": "made up\nfor this test",
    "time_unit": "ms",
    "memory_unit": "GiB",
    "microbatches": 3,
    "devices": [
        {"name": "first", "memory_limit": 80, "static_memory": 1.5, "speed": 2},
        {"memory_limit": None},
        {},
    ],
    "memory_limit": 40,
    "placement": [0, 2, 0],
    "backward": "choose",
    "communication": {
        "mode": "link",
        "latency": 0.5,
        "bandwidth": 1e9,
        "links": [{"from": 0, "to": 2, "latency": 1, "bandwidth": 2e9}],
        "transfer_buffers": True,
    },
    "stages": [
        {
            "forward": 10,
            "backward": 21,
            "backward_input": 11,
            "backward_weight": 9,
            "activation": 4,
            "activation_until_input": 2,
            "input_gradient": 1,
            "static_memory": 9,
            "output_bytes": 1024,
            "recompute": 8,
            "checkpoint": 1,
            "overlap": 30,
            "parts": [
                {"forward": 5, "backward_input": 5, "backward_weight": 5},
                {"forward": 5, "backward_input": 6, "backward_weight": 4},
            ],
        },
        {"forward": 12.25, "backward_input": 13, "backward_weight": 7},
        {"forward": 0, "backward_input": 0, "backward_weight": 0},
    ],
    "recompute": [0, 2],
    "microbatch_scale": [1, 0.5, 2],
    "resolution": 0.001,
    "objective": "device-span",
}


def edited(base: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of ``base`` with one field set; ``...`` removes it."""
    document = copy.deepcopy(base)
    node: Any = document
    *parents, last = [int(p) if p.isdigit() else p for p in path.split("/")]
    for part in parents:
        node = node[part]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return document


def read(document: object) -> Instance:
    return instance_from_document(document, "f.yaml")


def complaint(document: object, limits: Limits | None = None) -> str:
    with pytest.raises((InstanceError, FormatError)) as caught:
        instance_from_document(document, "f.yaml", limits or Limits())
    text = str(caught.value)
    assert text.splitlines() == [text]
    assert text.startswith("f.yaml: ")
    return text.removeprefix("f.yaml: ")


class TestMeaning:
    def test_defaults(self) -> None:
        instance = read(SMALL)
        assert instance == Instance(
            name="small",
            stages=(
                StageCost(forward=10, backward_input=11, backward_weight=9),
                StageCost(forward=12, backward_input=13, backward_weight=7),
            ),
            devices=(Device(name="device 0"), Device(name="device 1")),
            microbatches=4,
            placement=Placement.LINEAR,
            device_of_stage=(0, 1),
            backward=Backward.SPLIT,
        )

    def test_every_field(self) -> None:
        part = StageCost(forward=5, backward_input=5, backward_weight=5)
        other = StageCost(forward=5, backward_input=6, backward_weight=4)
        assert read(FULL) == Instance(
            name="everything",
            source="made up\nfor this test",
            time_unit="ms",
            memory_unit="GiB",
            microbatches=3,
            devices=(
                Device(name="first", memory_limit=80, static_memory=1.5, speed=2),
                Device(name="device 1", memory_limit=None),
                Device(name="device 2", memory_limit=40),
            ),
            placement=Placement.EXPLICIT,
            device_of_stage=(0, 2, 0),
            backward=Backward.CHOOSE,
            communication=Communication(
                mode=CommunicationMode.LINK,
                latency=0.5,
                bandwidth=1e9,
                links=(Link(source=0, target=2, latency=1, bandwidth=2e9),),
                transfer_buffers=True,
            ),
            stages=(
                StageCost(
                    forward=10,
                    backward=21,
                    backward_input=11,
                    backward_weight=9,
                    activation=4,
                    activation_until_input=2,
                    input_gradient=1,
                    static_memory=9,
                    output_bytes=1024,
                    recompute=8,
                    checkpoint=1,
                    overlap=30,
                    parts=(part, other),
                ),
                StageCost(forward=12.25, backward_input=13, backward_weight=7),
                StageCost(forward=0, backward_input=0, backward_weight=0),
            ),
            recompute=frozenset({0, 2}),
            microbatch_scale=(1, 0.5, 2),
            resolution=0.001,
            objective=Objective.DEVICE_SPAN,
        )

    def test_equal_stages_are_written_once(self) -> None:
        instance = read(EQUAL)
        assert instance.stages == 8 * (
            StageCost(forward=92, backward=136, activation=10),
        )
        assert instance.device_of_stage == (0, 1, 2, 3, 3, 2, 1, 0)
        assert instance.backward is Backward.WHOLE
        assert {device.memory_limit for device in instance.devices} == {40}

    @pytest.mark.parametrize(
        ("placement", "homes"),
        [
            # 5 stages on 2 devices: the first 5 mod 2 devices get one more.
            ("linear", (0, 0, 0, 1, 1)),
            ("looped", (0, 1, 0, 1, 0)),
            ("v", (0, 1, 1, 0, 0)),
            ([1, 1, 1, 1, 1], (1, 1, 1, 1, 1)),
        ],
    )
    def test_placements(self, placement: Any, homes: tuple[int, ...]) -> None:
        stages = {"count": 5, "forward": 1, "backward": 2}
        document = edited(edited(SMALL, "stages", stages), "placement", placement)
        assert read(document).device_of_stage == homes

    def test_bidirectional(self) -> None:
        instance = read(edited(SMALL, "placement", "bidirectional"))
        assert instance.placement is Placement.BIDIRECTIONAL
        assert [instance.device_of(0, j) for j in range(3)] == [0, 1, 0]

    @pytest.mark.parametrize(
        ("word", "stages"), [("none", set()), ("full", {0, 1}), ([1], {1})]
    )
    def test_recompute(self, word: Any, stages: set[int]) -> None:
        assert read(edited(SMALL, "recompute", word)).recompute == stages

    def test_one_device_and_fewer_microbatches_than_devices(self) -> None:
        alone = edited(edited(SMALL, "devices", 1), "microbatches", 1)
        assert read(alone).device_of_stage == (0, 0)
        assert read(edited(SMALL, "microbatches", 1)).microbatches == 1

    def test_explicit_placement_may_leave_a_device_without_stages(self) -> None:
        document = edited(edited(SMALL, "devices", 3), "placement", [0, 2])
        assert read(document).device_of_stage == (0, 2)

    def test_static_memory_may_fill_the_device_exactly(self) -> None:
        # 0.1 + 0.2 is above 0.3 in binary, but not in the numbers that were written.
        document = edited(SMALL, "devices", 1)
        document["memory_limit"] = 0.3
        document["stages"][0]["static_memory"] = 0.1
        document["stages"][1]["static_memory"] = 0.2
        assert read(document).devices[0].memory_limit == 0.3


class TestRoundTrip:
    @pytest.mark.parametrize("document", [SMALL, EQUAL, FULL])
    def test_canonical_document(self, document: dict[str, Any]) -> None:
        instance = read(document)
        canonical = instance_document(instance)
        assert read(canonical) == instance
        assert read(json.loads(json.dumps(canonical))) == instance
        assert instance_document(read(canonical)) == canonical

    @pytest.mark.parametrize("document", [SMALL, EQUAL, FULL])
    def test_schema_accepts_what_the_reader_accepts(
        self, document: dict[str, Any]
    ) -> None:
        schema = instance_schema()
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(document, schema)
        jsonschema.validate(instance_document(read(document)), schema)

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("name", 3),
            ("microbatches", 0),
            ("stages/0/forward", -1),
            ("stages/0/forwrad", 1),
            ("placement", "zigzag"),
            ("schema", "schedopt/instance/v2"),
        ],
    )
    def test_schema_refuses_what_the_reader_refuses(
        self, path: str, value: Any
    ) -> None:
        document = edited(SMALL, path, value)
        complaint(document)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, instance_schema())


class TestHash:
    def test_name_and_source_do_not_count(self) -> None:
        renamed = {**SMALL, "name": "other", "source": "elsewhere"}
        assert instance_sha256(read(renamed)) == instance_sha256(read(SMALL))

    def test_equal_numbers_hash_alike(self) -> None:
        written = edited(
            edited(SMALL, "stages/0/forward", 10.0), "resolution", 0.000001
        )
        assert instance_sha256(read(written)) == instance_sha256(read(SMALL))

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("microbatches", 5),
            ("stages/1/forward", 12.5),
            ("memory_limit", 100),
            ("objective", "device-span"),
            ("time_unit", "ms"),
            ("recompute", "full"),
        ],
    )
    def test_everything_else_counts(self, path: str, value: Any) -> None:
        other = read(edited(SMALL, path, value))
        assert instance_sha256(other) != instance_sha256(read(SMALL))


NAN, INFINITY = float("nan"), float("inf")

FIELD_MISTAKES = [
    ("nmae", "x", 'nmae = "x": is an unknown field; did you mean name?'),
    (
        "stages/1/forwrd",
        3,
        "stages[1].forwrd = 3: is an unknown field; did you mean fo",
    ),
    ("zzz", 1, "zzz = 1: is an unknown field; remove it (known here: schema, name, s"),
    ("communication", {"mod": 1}, "communication.mod = 1: is an unknown field; did yo"),
    ("devices", [{"sped": 1}, {}], "devices[0].sped = 1: is an unknown field; did you"),
    ("name", ..., "name: is missing; add it (what tables call the instance)"),
    ("stages/0/forward", ..., "stages[0].forward: is missing; add it (duration of F)"),
    ("name", 7, "name = 7: must be text; put it in quotes"),
    ("name", "", 'name = "": must not be empty'),
    ("name", "a\nb", 'name = "a\\nb": must be plain text without control characters'),
    ("source", "\ud800", "must be plain text without control characters"),
    (
        "time_unit",
        "mus",
        'time_unit = "mus": must be s, ms, us or ns; did you mean us?',
    ),
    ("memory_unit", "MB", 'memory_unit = "MB": must be B, KiB, MiB or GiB'),
    ("microbatches", True, "microbatches = true: must be a whole number, not true or"),
    ("microbatches", 4.0, "microbatches = 4.0: must be a whole number, such as 4"),
    (
        "microbatches",
        "4",
        'microbatches = "4": must be a whole number: write 4 without',
    ),
    ("microbatches", 0, "microbatches = 0: must be at least 1"),
    ("microbatches", 10**7, "microbatches = 10000000: must be at most 1000000"),
    ("devices", 0, "devices = 0: must be at least 1"),
    ("devices", [], "devices = a list of 0: must have at least one device"),
    (
        "devices",
        {"count": 2},
        "devices = a mapping of 1: must be a number of devices or",
    ),
    ("stages", [], "stages = a list of 0: must have at least one stage"),
    ("stages", 4, "stages = 4: must be a list of stages, or one mapping with count"),
    ("stages", {"forward": 1}, "stages.count: is missing; add it (how many stages"),
    ("stages/0", 4, "stages[0] = 4: must be a mapping of fields"),
    ("stages/0/forward", -1, "stages[0].forward = -1: must be at least 0"),
    ("stages/0/forward", True, "stages[0].forward = true: must be a number, not true"),
    (
        "stages/0/forward",
        "10",
        'forward = "10": must be a number: write 10 without quo',
    ),
    ("stages/0/forward", "ten", 'forward = "ten": must be a number, not text'),
    ("stages/0/forward", None, "stages[0].forward = null: must be a number"),
    ("stages/0/forward", NAN, "stages[0].forward = NaN: must be a finite number"),
    ("stages/0/forward", INFINITY, "forward = Infinity: must be a finite number"),
    (
        "stages/0/forward",
        10**100,
        "forward = an integer of more than 60 digits: must be",
    ),
    (
        "stages/0/forward",
        2e15,
        "forward = 2000000000000000.0: must be at most 1e+15; c",
    ),
    (
        "stages/0/parts",
        [{"forward": 1, "parts": []}],
        "stages[0].parts[0].parts = a li",
    ),
    ("memory_limit", -1, "memory_limit = -1: must be at least 0"),
    ("devices", [{"speed": 0}, {}], "devices[0].speed = 0: must be greater than 0"),
    ("communication", 3, "communication = 3: must be a mapping of fields"),
    ("communication", {"bandwidth": 0}, "communication.bandwidth = 0: must be greater"),
    (
        "communication",
        {"mode": "lnk"},
        'communication.mode = "lnk": must be lag, link ',
    ),
    (
        "communication",
        {"transfer_buffers": 1},
        "transfer_buffers = 1: must be true or ",
    ),
    (
        "communication",
        {"links": {}},
        "communication.links = a mapping of 0: must be a l",
    ),
    (
        "placement",
        "linaer",
        'placement = "linaer": must be linear, looped, v or bidirec',
    ),
    ("placement", {}, "placement = a mapping of 0: must be a word or a list of device"),
    (
        "placement",
        [0, "1"],
        'placement[1] = "1": must be a whole number: write 1 withou',
    ),
    ("backward", "both", 'backward = "both": must be whole, split or choose'),
    ("recompute", "all", 'recompute = "all": must be none or full'),
    ("microbatch_scale", [1, 0, 1, 1], "microbatch_scale[1] = 0: must be greater than"),
    ("microbatch_scale", 2, "microbatch_scale = 2: must be a list"),
    ("resolution", 0.5, "resolution = 0.5: must be a power of ten from 1e-9 to 1e0"),
    ("resolution", 10, "resolution = 10: must be a power of ten from 1e-9 to 1e0"),
    (
        "objective",
        "span",
        'objective = "span": must be makespan, device-span, period or refresh; did you',
    ),
]


@pytest.mark.parametrize(("path", "value", "expected"), FIELD_MISTAKES)
def test_mistake_in_one_field(path: str, value: Any, expected: str) -> None:
    assert expected in complaint(edited(SMALL, path, value))


COST = {"forward": 1, "backward_input": 1, "backward_weight": 1}


def link(source: int, target: int) -> dict[str, Any]:
    return {"from": source, "to": target, "latency": 1}


RULE_MISTAKES = [
    ("placement", [0, 2], "placement[1] = 2: there is no such device; devices are num"),
    (
        "placement",
        [0],
        "placement = a list of 1: must have one device for each of the 2",
    ),
    (
        "devices",
        3,
        "devices = 3: placement linear leaves devices without a stage: there",
    ),
    (
        "devices",
        [{}, {}, {}],
        "devices: placement linear leaves devices without a stag",
    ),
    (
        "recompute",
        [2],
        "recompute[0] = 2: there is no such stage; stages are numbered 0",
    ),
    ("recompute", [1, 1], "recompute[1] = 1: stands twice in the list; remove one"),
    (
        "stages/1/backward_input",
        ...,
        "stages[1].backward: is missing; with backward: whole give backward, or both",
    ),
    (
        "stages/0/parts",
        [{**COST, "activation": 1, "activation_until_input": 2}],
        "stages[0].parts[0].activation_until_input = 2: must be at most activation, 1",
    ),
    (
        "stages/0/overlap",
        5,
        "stages[0].overlap = 5: needs backward: whole or choose; remove it or change",
    ),
    (
        "microbatch_scale",
        [1, 2],
        "microbatch_scale = a list of 2: must have one factor for each of the 4",
    ),
    (
        "communication",
        {"transfer_buffers": True},
        "communication.transfer_buffers = true: needs mode: link or blocking",
    ),
    (
        "communication",
        {"links": [link(0, 2)]},
        "communication.links[0].to = 2: there is no such device; devices are numbered",
    ),
    (
        "communication",
        {"links": [link(1, 1)]},
        "communication.links[0].to = 1: must differ from from",
    ),
    (
        "communication",
        {"links": [link(0, 1), link(1, 0), link(0, 1)]},
        "communication.links[2]: is the same link as communication.links[0]; remove",
    ),
    (
        "devices",
        [{"name": "a"}, {"name": "a"}],
        'devices[1].name = "a": is also the name of devices[0]; choose another',
    ),
]


@pytest.mark.parametrize(("path", "value", "expected"), RULE_MISTAKES)
def test_mistake_between_fields(path: str, value: Any, expected: str) -> None:
    assert expected in complaint(edited(SMALL, path, value))


@pytest.mark.parametrize("form", ["split", "choose"])
def test_split_backward_needs_both_durations(form: str) -> None:
    document = edited(edited(SMALL, "backward", form), "stages/1/backward_weight", ...)
    assert complaint(document) == (
        f"stages[1].backward_weight: is missing; backward: {form} needs it on every"
        " stage (or choose backward: whole)"
    )


def test_equal_stages_are_named_without_a_number() -> None:
    document = edited(EQUAL, "stages/activation_until_input", 11)
    assert complaint(document).startswith("stages.activation_until_input = 11: must be")


def test_bidirectional_needs_as_many_stages_as_devices() -> None:
    document = edited(edited(SMALL, "placement", "bidirectional"), "devices", 1)
    assert complaint(document) == (
        'placement = "bidirectional": needs as many stages as devices; there are 2'
        " stages and 1 devices"
    )


class TestStaticMemory:
    def test_of_the_stages(self) -> None:
        document = edited(
            edited(SMALL, "stages/1/static_memory", 41), "memory_limit", 40
        )
        assert complaint(document) == (
            "memory_limit = 40: device 1 needs 41.0 MiB of static memory already, its"
            " own and its stages'; raise the limit or move stages"
        )

    def test_of_the_device_with_its_own_limit(self) -> None:
        devices = [{}, {"memory_limit": 10, "static_memory": 8}]
        document = edited(
            edited(SMALL, "devices", devices), "stages/1/static_memory", 3
        )
        assert complaint(document).startswith(
            "devices[1].memory_limit = 10: device 1 needs 11.0 MiB of static memory"
        )

    def test_bidirectional_devices_hold_two_stages(self) -> None:
        document = edited(SMALL, "memory_limit", 50)
        document["stages"][0]["static_memory"] = 30
        document["stages"][1]["static_memory"] = 30
        read(document)
        document["placement"] = "bidirectional"
        assert "device 0 needs 60.0 MiB of static memory" in complaint(document)

    def test_middle_device_of_a_bidirectional_pipeline_holds_one(self) -> None:
        document = edited(SMALL, "placement", "bidirectional")
        document |= {"devices": 1, "memory_limit": 30}
        document["stages"] = [{**COST, "static_memory": 30}]
        assert read(document).devices[0].memory_limit == 30


class TestSize:
    def test_too_many_ops(self) -> None:
        # 4 microbatches, 2 stages, F I W and two transfers each.
        assert complaint(SMALL, Limits(max_ops=39)) == (
            "microbatches = 4: with 2 stages makes about 40 ops, more than the 39"
            " allowed; raise the cap with --max-ops"
        )
        assert instance_from_document(SMALL, "f", Limits(max_ops=40)) == read(SMALL)

    def test_many_equal_stages_are_refused_before_they_are_made(self) -> None:
        stages = {"count": 10**6, "forward": 1, "backward": 1}
        document = edited(edited(SMALL, "stages", stages), "microbatches", 10**6)
        assert "more than the 500,000 allowed" in complaint(document)

    def test_joint_ops_count(self) -> None:
        document = edited(EQUAL, "stages/overlap", 200)
        document["microbatches"] = 1000
        read(edited(EQUAL, "microbatches", 1000))
        assert "raise the cap with --max-ops" in complaint(document)


class TestResolution:
    def test_fractions_that_a_file_cannot_keep(self) -> None:
        document = edited(
            edited(SMALL, "resolution", 1e-9), "stages/0/forward", 1e6 + 0.5
        )
        assert complaint(document).startswith(
            "resolution = 1e-09: is too fine for work that takes up to"
        )
        read(edited(document, "resolution", 1e-6))

    def test_whole_units_are_kept_exactly_at_any_length(self) -> None:
        read(edited(edited(SMALL, "resolution", 1e-9), "stages/0/forward", 10**8))

    def test_more_ticks_than_64_bits_hold(self) -> None:
        document = edited(edited(SMALL, "resolution", 1e-9), "stages/0/forward", 10**10)
        assert "choose a coarser one, or a larger time_unit" in complaint(document)

    def test_absurdly_slow_device(self) -> None:
        document = edited(SMALL, "devices", [{"speed": 1e-300}, {}])
        document["stages"][0]["forward"] = 1e15
        assert complaint(document).startswith("resolution = 1e-06: is too fine for")


class TestWhichMistakeIsNamed:
    def test_the_first_in_the_file_and_how_many_more(self) -> None:
        document = edited(SMALL, "stages/0/forward", -1)
        document["stages"][1]["forward"] = -2
        document["microbatches"] = 0
        assert (
            complaint(document) == "microbatches = 0: must be at least 1 (and 2 more)"
        )

    def test_missing_fields_come_last(self) -> None:
        document = edited(edited(SMALL, "name", ...), "stages/1/forward", "x")
        assert complaint(document).startswith("stages[1].forward")
        assert complaint(document).endswith("(and 1 more)")


class TestTopLevel:
    @pytest.mark.parametrize(
        ("document", "found"),
        [(None, "nothing"), ([], "a list of 0"), (3, "3"), ("text", '"text"')],
    )
    def test_no_mapping(self, document: object, found: str) -> None:
        assert complaint(document) == f"must be a mapping of fields, found {found}"

    def test_no_schema(self) -> None:
        assert complaint({"name": "x"}) == (
            "schema: is missing; add schema: schedopt/instance/v1"
        )

    @pytest.mark.parametrize("schema", ["schedopt/instance/v2", 1, None, ["x"]])
    def test_another_schema(self, schema: object) -> None:
        assert complaint({"schema": schema}).endswith(
            "is not a format known here; expected schedopt/instance/v1"
        )

    def test_field_name_that_is_no_text(self) -> None:
        assert complaint({**SMALL, 3: 4}) == "3: a field's name must be text"

    def test_hostile_names_and_values_stay_on_one_line(self) -> None:
        shown = complaint({**SMALL, "a\n\x1b[2J\u2028" + "b" * 999: "c\r\n" * 999})
        assert shown.startswith("a\\n\\x1b[2J\\u2028bbb")
        assert len(shown) < 400
