"""The committed instances: complete, loadable, and what their sources say."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from instances.generate import measured
from schedopt.build import build_graph, shortfalls
from schedopt.formats import load_instance
from schedopt.instance import Backward, Instance, Placement

ROOT = Path(__file__).resolve().parent.parent / "instances"
FILES = sorted(ROOT.glob("*/*.yaml"))
MINIMUM = {
    "quickstart": 1,
    "zero-bubble": 23,
    "vocabulary": 40,
    "pipefisher": 12,
    "pipedream": 6,
    "sailor": 10,
}


@cache
def load(name: str) -> Instance:
    (path,) = ROOT.glob(f"*/{name}.yaml")
    return load_instance(path)


def comment(name: str) -> str:
    (path,) = ROOT.glob(f"*/{name}.yaml")
    lines = path.read_text().splitlines()
    return " ".join(line[1:].strip() for line in lines if line.startswith("#"))


def names(family: str) -> list[str]:
    return [path.stem for path in FILES if path.parent.name == family]


def by_device(instance: Instance, field: str) -> list[float]:
    """Sums of a stage's field over each device's stages."""
    sums = [0.0] * len(instance.devices)
    for stage, device in zip(instance.stages, instance.device_of_stage, strict=True):
        sums[device] += getattr(stage, field)
    return sums


def needs_of_one_f_one_b(instance: Instance) -> list[float]:
    """Device d of P holds min(m, P - d) microbatches, and its weights."""
    devices = len(instance.devices)
    static = by_device(instance, "static_memory")
    held = by_device(instance, "activation")
    return [
        static[d] + min(instance.microbatches, devices - d) * held[d]
        for d in range(devices)
    ]


def limit_over_need(instance: Instance) -> str:
    needs = needs_of_one_f_one_b(instance)
    ratios = [
        device.memory_limit / need
        for device, need in zip(instance.devices, needs, strict=True)
        if device.memory_limit is not None
    ]
    return f"{min(ratios):.2f}" if ratios else "no limit"


def step_of_one_f_one_b(instance: Instance) -> float:
    """The makespan of 1F1B with whole backwards, one stage per device."""
    last = len(instance.stages) - 1
    count = instance.microbatches
    lag = instance.communication.latency
    end: dict[tuple[str, int, int], float] = {}
    free = [0.0] * (last + 1)
    orders = []
    for stage in range(last + 1):
        ahead = min(count, last - stage)
        pairs = [(("F", ahead + i), ("B", i)) for i in range(count - ahead)]
        orders.append(
            [("F", i) for i in range(ahead)]
            + [op for pair in pairs for op in pair]
            + [("B", i) for i in range(count - ahead, count)]
        )
    waiting = sum(map(len, orders))
    while waiting:
        for stage, order in enumerate(orders):
            while order:
                kind, i = order[0]
                before = stage - 1 if kind == "F" else stage + 1
                ready = 0.0
                if 0 <= before <= last:
                    if (kind, before, i) not in end:
                        break
                    ready = end[kind, before, i] + lag
                cost = instance.stages[stage]
                length = cost.forward if kind == "F" else cost.whole_backward
                free[stage] = end[kind, stage, i] = max(free[stage], ready) + length
                order.pop(0)
                waiting -= 1
    return max(free)


def test_each_family_has_enough() -> None:
    found = Counter(path.parent.name for path in FILES)
    assert len(FILES) >= 60
    assert found.keys() == MINIMUM.keys()
    for family, least in MINIMUM.items():
        assert found[family] >= least, family


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_is_complete(path: Path) -> None:
    instance = load(path.stem)
    assert instance.name == path.stem
    assert re.search(r"\S+/\S+ @ [0-9a-f]{40}\b.*, \S+\.\w+", instance.source)
    assert comment(path.stem)
    graph = build_graph(instance)
    kinds = 3 if instance.backward is Backward.SPLIT else 2
    ops = sum(op.kind.is_compute for op in graph.ops)
    assert ops == kinds * len(instance.stages) * instance.microbatches
    assert shortfalls(graph) == ()


def test_the_measured_ones_are_there_as_they_are_written() -> None:
    texts = measured.files()
    assert len(texts) == 12
    assert "twelve more" in (ROOT / "README.md").read_text()
    assert texts == {path: path.read_text() for path in ROOT.glob("measured/*/*")}
    for path in texts:
        instance = load_instance(path)
        assert instance.name == path.stem
        assert "; NVIDIA H200, torch " in instance.source
        assert shortfalls(build_graph(instance)) == ()
        layers = {module.name for stage in instance.stages for module in stage.modules}
        assert measured.NOT_PRECONDITIONED not in layers
        assert bool(layers) is instance.name.startswith("bert")


def test_readme_table_lists_exactly_the_files() -> None:
    readme = (ROOT / "README.md").read_text()
    _, begin, rest = readme.partition("<!-- table of instances: ")
    table, end, _ = rest.partition("<!-- end of the table of instances -->")
    assert begin
    assert end
    rows = re.findall(r"^\| \[(.+?)\]\((.+?)\) \| (.*) \| (.*) \|$", table, re.M)
    assert sorted(link for _, link, *_ in rows) == sorted(
        path.relative_to(ROOT).as_posix() for path in FILES
    )
    for name, link, cells, source in rows:
        instance = load(name)
        assert link.endswith(f"/{name}.yaml")
        assert cells.split(" | ") == [
            str(len(instance.devices)),
            str(len(instance.stages)),
            str(instance.microbatches),
            instance.placement.value,
            instance.backward.value,
            limit_over_need(instance),
        ]
        assert instance.source.startswith(source.partition(":")[0])


def test_readme_names_every_family_and_repository() -> None:
    readme = (ROOT / "README.md").read_text()
    prose = readme.partition("<!-- table of instances")[0]
    for family in MINIMUM:
        assert f"**{family}**" in prose
    for path in FILES:
        assert load(path.stem).source.partition(" @ ")[0] in prose


def test_no_file_names_a_machine_path() -> None:
    files = [*ROOT.rglob("*.yaml"), *ROOT.rglob("*.py"), *ROOT.rglob("*.md")]
    for path in files:
        assert not re.search(
            r"(?<![\w.])/(home|root|tmp|work|opt|mnt)/", path.read_text()
        )


# Published rows: devices, microbatches, F, I, W and transfer in ms (Zero Bubble, ICLR).
ICLR = {
    "zb-1.5b-p8-m24": (8, 24, 18.522, 18.086, 9.337, 0.601),
    "zb-6.2b-p8-m64": (8, 64, 29.935, 29.621, 19.388, 0.535),
    "zb-14.6b-p16-m48": (16, 48, 11.347, 11.248, 8.132, 0.377),
    "zb-28.3b-p32-m256": (32, 256, 10.402, 10.248, 7.698, 0.460),
}


@pytest.mark.parametrize("name", ICLR)
def test_zero_bubble_has_the_published_costs(name: str) -> None:
    devices, microbatches, *milliseconds = ICLR[name]
    instance = load(name)
    assert (len(instance.devices), instance.microbatches) == (devices, microbatches)
    for stage in instance.stages:
        microseconds = (
            stage.forward,
            stage.backward_input,
            stage.backward_weight,
            instance.communication.latency,
        )
        assert microseconds == pytest.approx([1000 * t for t in milliseconds])


def test_zero_bubble_memory_formula() -> None:
    # 1.5B: h = 2304, a = 24, s = 1024: 34 h = 78336, 5 a s = 122880, 32 h = 73728.
    stage = load("zb-1.5b-p8-m24").stages[0]
    assert stage.activation == 78336 + 122880
    assert stage.activation - stage.activation_until_input == 73728
    assert load("zb-1.5b-p8-m24").devices[0].memory_limit == 8 * 201216


@pytest.mark.parametrize("name", names("zero-bubble"))
def test_zero_bubble_limit_is_what_one_f_one_b_needs(name: str) -> None:
    instance = load(name)
    limits = {device.memory_limit for device in instance.devices}
    assert limits == {max(needs_of_one_f_one_b(instance))}


@pytest.mark.parametrize(
    "name", [n.removesuffix("-v") for n in names("zero-bubble") if n.endswith("-v")]
)
def test_joined_chunks_are_twice_a_chunk(name: str) -> None:
    chunks, joined = load(f"{name}-v"), load(f"{name}-joined")
    assert chunks.placement is Placement.V
    assert len(chunks.stages) == 2 * len(joined.stages)
    assert joined.devices[0].memory_limit == chunks.devices[0].memory_limit
    for field in ("forward", "backward_input", "backward_weight", "activation"):
        assert by_device(joined, field) == by_device(chunks, field)


# sail-sg's own bubble ratio of 1F1B for these rows, from the arXiv version's table.
ARXIV = {
    "zb-6.2b-p16-m48-joined": 0.2668,
    "zb-6.2b-p16-m128-joined": 0.1390,
    "zb-14.6b-p24-m72-joined": 0.2699,
    "zb-14.6b-p24-m192-joined": 0.1403,
    "zb-28.3b-p32-m96-joined": 0.2676,
}


@pytest.mark.parametrize("name", ICLR | ARXIV)
def test_one_f_one_b_has_the_published_bubble(name: str) -> None:
    published = {
        "zb-1.5b-p8-m24": 0.2431,
        "zb-6.2b-p8-m64": 0.1091,
        "zb-14.6b-p16-m48": 0.2552,
        "zb-28.3b-p32-m256": 0.1352,
    } | ARXIV
    instance = load(name)
    stage = instance.stages[0]
    assert stage.whole_backward is not None
    work = instance.microbatches * (stage.forward + stage.whole_backward)
    bubble = 1 - work / step_of_one_f_one_b(instance)
    assert bubble == pytest.approx(published[name], abs=5.1e-5)


@pytest.mark.parametrize(
    "name", [n for n in names("vocabulary") if not n.endswith("-split")]
)
def test_one_f_one_b_takes_the_measured_step(name: str) -> None:
    instance = load(name)
    measured = re.search(r"measured step took ([\d.]+) ms", comment(name))
    assert measured is not None
    ratio = step_of_one_f_one_b(instance) / 1000 / float(measured[1])
    assert 0.98 <= ratio <= 1.02


@pytest.mark.parametrize("name", names("vocabulary"))
def test_vocabulary_limit_is_a_peak_that_the_formula_explains(name: str) -> None:
    instance = load(name)
    limit = instance.devices[0].memory_limit
    assert limit is not None
    ratio = max(needs_of_one_f_one_b(instance)) / limit
    if "-base-" in name or "-redis-" in name:
        assert 0.97 <= ratio <= 1
    else:
        assert 0.73 <= ratio <= 0.92


def test_vocabulary_static_memory_is_sixteen_bytes_per_parameter() -> None:
    # 4 layers of 12 h^2 with h = 3072 are 432 Mi parameters; 256000 h are 750 Mi.
    first, *middle, last = load("vp-base-256k-2k").stages
    assert first.static_memory == last.static_memory == 16 * (432 + 750)
    assert {stage.static_memory for stage in middle} == {16 * 432}


def test_split_backward_adds_up_to_the_measured_one() -> None:
    split = [name for name in names("vocabulary") if name.endswith("-split")]
    assert len(split) == 8
    for name in split:
        whole = load(name.removesuffix("-split"))
        for two, one in zip(load(name).stages, whole.stages, strict=True):
            assert two.whole_backward == one.whole_backward


def test_vocabulary_has_the_measured_times() -> None:
    last = load("vp-base-256k-2k").stages[-1]
    assert (last.forward, last.backward) == (36818, 52363)
    # Backward 22897, vocabulary passes 8376, 569, 710 and 352.
    assert load("vp-vocab2-256k-2k").stages[0].backward == 32904


def test_pipefisher_stage_is_blocks_times_the_profile() -> None:
    # Per block F 16.100, B 26.953 ms and 352.0625 MiB; 24 blocks on 8 stages are 3.
    instance = load("pipefisher-bert-large-p100-b32-d8")
    for stage in instance.stages:
        assert stage.forward == pytest.approx(48.3)
        assert stage.backward == pytest.approx(80.859)
        assert stage.activation == pytest.approx(1056.1875)
        assert stage.static_memory == 3 * 2 * 12 * 1024**2 * 4 / 2**20
    # (N + D - 1)(F + B) = 15 x 129.159
    assert step_of_one_f_one_b(instance) == pytest.approx(1937.385)


# Totals of the profiles without inputs: F and B in ms, parameters in MB.
PIPEDREAM = {
    "vgg16": (233.9, 438.6, 553),
    "resnet50": (182.5, 260.9, 102),
    "resnet101": (197.3, 213.8, 178),
    "alexnet": (44.8, 40.5, 244),
    "inception-v3": (289.3, 399.8, 109),
    "gnmt": (33.5, 55.9, 775),
    "gnmt-large": (182.6, 337.9, 1111),
}


@pytest.mark.parametrize("model", PIPEDREAM)
@pytest.mark.parametrize("depth", [4, 8])
def test_pipedream_stages_add_up_to_the_profile(model: str, depth: int) -> None:
    instance = load(f"pipedream-{model}-d{depth}")
    forward, backward, megabytes = PIPEDREAM[model]
    assert len(instance.stages) == depth
    assert sum(s.forward for s in instance.stages) == pytest.approx(forward, abs=0.06)
    total = sum(s.backward or 0 for s in instance.stages)
    assert total == pytest.approx(backward, abs=0.06)
    static = sum(s.static_memory for s in instance.stages) * 2**20
    assert static == pytest.approx(4e6 * megabytes, abs=2e6)


@pytest.mark.parametrize("model", PIPEDREAM)
def test_more_stages_never_make_the_largest_larger(model: str) -> None:
    def largest(depth: int) -> float:
        stages = load(f"pipedream-{model}-d{depth}").stages
        return max(stage.forward + (stage.backward or 0) for stage in stages)

    assert largest(8) <= largest(4)


def test_sailor_mixes_gpus_and_spreads_by_speed() -> None:
    instance = load("sailor-opt-350-2xa100-40-2xv100-16-b2")
    limits = [device.memory_limit for device in instance.devices]
    assert limits == [40 * 1024, 40 * 1024, 16 * 1024, 16 * 1024]
    # The A100s have the fewer milliseconds per layer, hence the more of the 26 layers.
    counts = re.search(r"stages of (\d+), (\d+), (\d+), (\d+) ", comment(instance.name))
    assert counts is not None
    layers = list(map(int, counts.groups()))
    assert sum(layers) == 26
    assert min(layers[:2]) > max(layers[2:])


def test_sailor_weights_are_those_of_the_model() -> None:
    # 214433792 + 24 x 50384896 + 206053376 bytes of 32-bit weights, four times.
    weights = 214433792 + 24 * 50384896 + 206053376
    for name in names("sailor"):
        if name.startswith("sailor-opt-350-"):
            static = sum(stage.static_memory for stage in load(name).stages)
            assert static * 2**20 == pytest.approx(4 * weights, abs=32)


def test_quickstart_is_small_and_has_too_little_memory_for_one_f_one_b() -> None:
    instance = load("quickstart")
    assert (len(instance.devices), instance.microbatches) == (4, 8)
    assert instance.backward is Backward.SPLIT
    assert instance.stages[-1].forward > instance.stages[0].forward
    assert limit_over_need(instance) == "0.75"
