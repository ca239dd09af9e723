"""Specs: every error in one line, and the instances that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_experiments_stubs import registry

from schedopt.errors import SchedOptError
from schedopt.experiments import plan as plan_module
from schedopt.experiments.generate import document_of, microbatches_of, points
from schedopt.experiments.plan import make_plan
from schedopt.experiments.spec import Spec, instances_of, load_spec
from schedopt.experiments.spec_model import GeneratorFields
from schedopt.formats import instance_from_document, instance_sha256

RANGE: dict[str, Any] = {"generator": "uniform", "devices": [2], "microbatches": [2]}
SPEC: dict[str, Any] = {
    "name": "small",
    "instances": {"generate": [RANGE]},
    "methods": ["work"],
}


def write(folder: Path, document: object, name: str = "spec.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(document))
    return path


def load(folder: Path, **changes: object) -> Spec:
    return load_spec(write(folder, {**SPEC, **changes}))


def generate(**changes: object) -> dict[str, Any]:
    return {"instances": {"generate": [{**RANGE, **changes}]}}


def refreshing(**fields: object) -> dict[str, Any]:
    return {"methods": ["refresh"], "refresh": fields}


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"nmae": 1}, "nmae = 1", "did you mean name?"),
        ({"name": ""}, 'name = ""', "must not be empty"),
        ({"name": 3}, "name = 3", "must be text"),
        ({"methods": []}, "methods = []", "must not be empty"),
        ({"methods": ["a", "a"]}, 'methods[1] = "a"', "stands twice"),
        ({"methods": 4}, "methods = 4", "must be text"),
        ({"instances": []}, "instances = []", "names none"),
        ({"instances": {}}, "instances", "names none"),
        ({"instances": {"file": []}}, "instances.file", "did you mean files?"),
        ({"time_limit_s": 0}, "time_limit_s = 0", "greater than 0"),
        ({"time_limit_s": "60"}, 'time_limit_s = "60"', "without quotes"),
        ({"workers": 0}, "workers = 0", "at least 1"),
        ({"workers": 1.5}, "workers = 1.5", "whole number"),
        ({"parallel": 0}, "parallel = 0", "at least 1"),
        ({"seeds": []}, "seeds = []", "must not be empty"),
        ({"seeds": [1, 1]}, "seeds[1] = 1", "stands twice"),
        ({"seeds": [-1]}, "seeds[0] = -1", "at least 0"),
        (
            {"objective": "speed"},
            'objective = "speed"',
            "makespan, device-span, period or refresh",
        ),
        ({"limits": {"memory": 1}}, "limits.memory", "did you mean memory_mib?"),
        ({"limits": {"grace_s": 0}}, "limits.grace_s = 0", "greater than 0"),
        ({"schedules": "some"}, 'schedules = "some"', "none, small or all"),
        ({"refresh": {}}, "refresh", "does nothing without refresh among the methods"),
        (refreshing(minimise=["size"]), "refresh.minimise[0]", "age, k or memory"),
        (refreshing(minimise="k"), "refresh.minimise", "must be a list"),
        (refreshing(wrap=["yes"]), "refresh.wrap[0]", "true or false"),
        (refreshing(wrap=[]), "refresh.wrap = []", "must not be empty"),
        (refreshing(pipeline=["gpipe", "gpipe"]), "pipeline[1]", "stands twice"),
        (refreshing(pipeline=["gpip"]), 'pipeline[0] = "gpip"', "did you mean gpipe?"),
        (refreshing(pipelines=[]), "refresh.pipelines", "did you mean pipeline?"),
        ({"schema": "v2"}, 'schema = "v2"', "schedopt/experiment/v1"),
        (
            generate(generator="equal"),
            "generate[0].generator",
            "uniform, unequal or zero-bubble",
        ),
        (generate(devices=[]), "generate[0].devices = []", "must not be empty"),
        (generate(devices=[0]), "generate[0].devices[0] = 0", "at least 1"),
        (generate(microbatches=["2Q"]), 'microbatches[0] = "2Q"', "such as 2P"),
        (generate(microbatches=["P*2"]), 'microbatches[0] = "P*2"', "such as 2P"),
        (generate(memory=["much"]), 'memory[0] = "much"', "must be a number"),
        (generate(memory=[1, 1.0]), "memory[1] = 1.0", "stands twice"),
        (generate(placement=["w"]), 'placement[0] = "w"', "linear, looped, v"),
        (generate(backward=["half"]), 'backward[0] = "half"', "whole, split"),
        (generate(seeds=[1]), "generate[0].seeds", "does nothing for uniform"),
        (
            generate(devices=list(range(1, 400)), microbatches=list(range(1, 400))),
            "generate[0]",
            "makes 159201 instances",
        ),
    ],
)
def test_an_error_is_one_line_that_names_file_field_and_rule(
    tmp_path: Path, changes: dict[str, Any], field: str, rule: str
) -> None:
    with pytest.raises(SchedOptError) as error:
        load(tmp_path, **changes)
    message = str(error.value)
    assert message.startswith(str(tmp_path / "spec.json"))
    assert field in message
    assert rule in message
    assert "\n" not in message


@pytest.mark.parametrize("missing", ["name", "instances", "methods"])
def test_a_missing_field_is_named(tmp_path: Path, missing: str) -> None:
    document = {key: value for key, value in SPEC.items() if key != missing}
    with pytest.raises(SchedOptError, match=f"{missing}: is missing; add it"):
        load_spec(write(tmp_path, document))


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("a.toml", "name = ", "not TOML"),
        ("a.toml", 'name = "x"\nname = "y"\n', "not TOML"),
        ("a.yaml", "name: x\nname: y\n", "stands twice"),
        ("a.json", "{", "not JSON"),
        ("a.yaml", "- 1\n", "must be a mapping"),
        ("b.toml", None, "cannot be read"),
    ],
)
def test_text_that_is_no_spec(
    tmp_path: Path, name: str, text: str | None, rule: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SchedOptError, match=rule) as error:
        load_spec(tmp_path / name)
    assert "\n" not in str(error.value)


def test_toml_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        'name = "small"\nmethods = ["work"]\nseeds = [0, 1]\n[[instances.generate]]\n'
        'generator = "uniform"\ndevices = [2]\nmicrobatches = ["2P"]\n'
    )
    (tmp_path / "s.yaml").write_text(
        "name: small\nmethods: [work]\nseeds: [0, 1]\ninstances:\n  generate:\n"
        "  - {generator: uniform, devices: [2], microbatches: [2P]}\n"
    )
    loaded = [load_spec(tmp_path / name) for name in ("s.toml", "s.yaml")]
    assert loaded[0].ranges == loaded[1].ranges
    assert loaded[0].seeds == loaded[1].seeds == (0, 1)
    assert [len(instances_of(spec)) for spec in loaded] == [1, 1]


def test_files_are_found_beside_the_spec_and_else_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, beside = tmp_path / "here", tmp_path / "specs [1]"
    for folder in (here, beside, tmp_path / "data"):
        folder.mkdir()
    (point,) = points(GeneratorFields(**RANGE))
    document = document_of(point)
    for place, name in (
        (here, "a"),
        (tmp_path / "data", "b"),
        (tmp_path / "data", "c"),
    ):
        write(place, {**document, "name": name}, f"{name}.json")
    monkeypatch.chdir(here)
    files = ["../data/*.json", "a.json", "../data/b.json"]
    spec = load_spec(write(beside, {**SPEC, "instances": files}))
    # b is named twice and counts once; a is only in the working directory.
    assert [instance.name for instance in instances_of(spec)] == ["b", "c", "a"]


def test_a_pattern_without_files_is_an_error(tmp_path: Path) -> None:
    spec = load(tmp_path, instances=["no/*.yaml"])
    with pytest.raises(SchedOptError, match=r"files\[0\] = no/\*.yaml: matches no"):
        instances_of(spec)


@pytest.mark.parametrize(
    ("written", "devices", "count"),
    [
        (5, 4, 5),
        ("P", 4, 4),
        ("2P", 4, 8),
        ("3P+1", 4, 13),
        ("P-1", 4, 3),
        ("0P+2", 4, 2),
    ],
)
def test_microbatches_as_multiples(
    written: int | str, devices: int, count: int
) -> None:
    assert microbatches_of(written, devices) == count


def test_no_microbatches_is_an_error(tmp_path: Path) -> None:
    spec = load(tmp_path, **generate(microbatches=["P-2"]))
    with pytest.raises(SchedOptError, match="gives 0 for 2 devices"):
        instances_of(spec)


def test_every_combination_once_and_all_names_differ() -> None:
    fields = GeneratorFields(
        generator="unequal",
        devices=[2, 3],
        microbatches=[4, "2P"],
        memory=[0.5, 1, "unlimited"],
        placement=["linear", "v"],
        stages_per_device=[1, 2],
        backward=["split", "whole"],
        latency=[0, 6],
        seeds=[0, 7],
    )
    found = list(points(fields))
    # P=2 makes m=4 twice: 4 and 2P.
    assert len(found) == 2 * 2 * 3 * 2 * 2 * 2 * 2 * 2
    assert (
        len(set(found)) == len({point.name for point in found}) == len(found) * 3 // 4
    )


def same(document: dict[str, Any], fields: dict[str, Any]) -> bool:
    (point,) = points(GeneratorFields(**fields))
    made = instance_from_document(document_of(point), "made")
    given = instance_from_document(document, "given")
    return instance_sha256(made) == instance_sha256(given)


COMMON = {
    "schema": "schedopt/instance/v1",
    "name": "n",
    "backward": "split",
    "communication": {"mode": "lag", "latency": 6},
}


def test_two_equal_stages_per_device_cost_half_each() -> None:
    document = COMMON | {
        "microbatches": 8,
        "devices": 4,
        "memory_limit": 40,
        "placement": "v",
        "stages": {
            "count": 8,
            "forward": 92,  # 92.5, ties to even
            "backward_input": 90,
            "backward_weight": 46,
            "activation": 10,
            "activation_until_input": 5,
        },
    }
    fields = {
        "generator": "uniform",
        "devices": [4],
        "microbatches": ["2P"],
        "placement": ["v"],
        "stages_per_device": [2],
        "memory": [0.5],
    }
    assert same(document, fields)
    assert not same(document | {"memory_limit": 41}, fields)


def test_unequal_stages_are_the_published_ones() -> None:
    # Factors 1.2066, 1.1548, 0.9523, 0.8554: random.Random(0).
    costs = [
        (223, 218, 112, 24, 12),
        (214, 209, 107, 23, 12),
        (176, 172, 89, 19, 10),
        (158, 155, 80, 17, 9),
    ]
    names = (
        "forward",
        "backward_input",
        "backward_weight",
        "activation",
        "activation_until_input",
    )
    document = COMMON | {
        "microbatches": 8,
        "devices": 4,
        "memory_limit": 48,
        "placement": "linear",
        "stages": [dict(zip(names, cost, strict=True)) for cost in costs],
    }
    fields = {
        "generator": "unequal",
        "devices": [4],
        "microbatches": [8],
        "memory": [0.6],
        "seeds": [0],
    }
    assert same(document, fields)
    assert not same(document, fields | {"seeds": [1]})


def test_unknown_method_names_the_nearest(tmp_path: Path) -> None:
    spec = load(tmp_path, methods=["wrok"])
    with pytest.raises(SchedOptError, match=r"methods\[0\] = wrok: .* mean work\?"):
        make_plan(spec, registry())


def test_baselines_stands_for_all_of_them(tmp_path: Path) -> None:
    plan = make_plan(load(tmp_path, methods=["baselines", "work"]), registry())
    assert [run.method for run in plan.runs] == ["by-hand", "work"]


def test_seeds_multiply_only_methods_that_use_them(tmp_path: Path) -> None:
    spec = load(tmp_path, methods=["work", "refuse"], seeds=[3, 4])
    plan = make_plan(spec, registry())
    runs = [(run.method, run.parameters.get("seed")) for run in plan.runs]
    assert runs == [("work", 3), ("work", 4), ("refuse", None)]


@pytest.mark.parametrize(
    "changes",
    [
        {"time_limit_s": 61},
        {"workers": 2},
        {"objective": "device-span"},
        {"limits": {"memory_mib": 1}},
        {"seeds": [9]},
        generate(latency=[7]),
    ],
)
def test_everything_that_decides_a_result_changes_the_key(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "available_cores", lambda: 8)
    (before,) = make_plan(load(tmp_path), registry()).runs
    (again,) = make_plan(load(tmp_path, name="other", parallel=2), registry()).runs
    (after,) = make_plan(load(tmp_path, **changes), registry()).runs
    assert before.key == again.key != after.key


def test_equal_instances_are_run_once(tmp_path: Path) -> None:
    spec = load(tmp_path, **generate(microbatches=[4, "2P"]))
    plan = make_plan(spec, registry())
    assert len(plan.runs) == 1
    assert "run once" in plan.warnings[0]


def test_never_more_busy_processes_than_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "available_cores", lambda: 4)
    assert make_plan(load(tmp_path, workers=2), registry()).parallel == 2
    assert make_plan(load(tmp_path, workers=2, parallel=1), registry()).parallel == 1
    with pytest.raises(SchedOptError, match=r"parallel = 3: .* 6 processes busy on 4"):
        make_plan(load(tmp_path, workers=2, parallel=3), registry())
    alone = make_plan(load(tmp_path, workers=8), registry())
    assert alone.parallel == 1
    assert "8 processes busy on 4" in alone.warnings[0]
