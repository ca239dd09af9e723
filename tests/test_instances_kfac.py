"""The instances with K-FAC work: all there, and adding up to what was published."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest

from instances.generate import pipefisher_kfac
from instances.generate.pipefisher_profiles import MODELS, TIMES, Row
from schedopt.build import build_graph, shortfalls
from schedopt.formats import load_instance
from schedopt.instance import Backward, Instance, Placement, StageCost, exact
from schedopt.ops import OpKind
from schedopt.refresh.closed_form import performance_model

ROOT = Path(__file__).resolve().parent.parent / "instances"
FOLDER = ROOT / "pipefisher" / "kfac"
SHAPES = [
    (depth, blocks, placement)
    for depth in pipefisher_kfac.DEPTHS
    for blocks in pipefisher_kfac.BLOCKS
    for placement in pipefisher_kfac.PLACEMENTS
]


@cache
def load(name: str) -> Instance:
    return load_instance(FOLDER / f"{name}.yaml")


def over_layers(stage: StageCost, *fields: str) -> Fraction:
    return sum(
        (module.count * exact(getattr(module, field)))
        for module in stage.modules
        for field in fields
    ) + Fraction(0)


def test_all_files_are_there_as_the_generator_writes_them() -> None:
    drafts = {f"{d.name}.yaml": d.text() for d in pipefisher_kfac.drafts()}
    assert len(drafts) == 276 == 23 * 3 * 2 * 2
    assert drafts == {path.name: path.read_text() for path in FOLDER.iterdir()}


def test_the_readme_lists_the_profiles() -> None:
    readme = (ROOT / "README.md").read_text()
    _, _, section = readme.partition("## K-FAC work")
    rows = re.findall(r"^\| (`.*) \| (`.*) \| (.*) \| (\d+) \|$", section, re.M)
    listed = {
        (model, gpu, int(batch)): int(tokens)
        for models, gpus, batches, tokens in rows
        for model in re.findall(r"`(.+?)`", models)
        for gpu in re.findall(r"`(.+?)`", gpus)
        for batch in batches.split(", ")
    }
    assert listed == {tuple(row): MODELS[row.model].sequence for row in TIMES}
    assert f"holds {len(TIMES) * len(SHAPES)} more" in section


@pytest.mark.parametrize("row", TIMES, ids=lambda row: "-".join(map(str, row)))
def test_files_say_what_was_published(row: Row) -> None:
    times, model = TIMES[row], MODELS[row.model]
    for depth, blocks, placement in SHAPES:
        instance = load(pipefisher_kfac.name_of(row, depth, blocks, placement))
        stage = instance.stages[0]
        assert instance.stages == (stage,) * depth
        assert len(instance.devices) == instance.microbatches == depth
        assert instance.placement.value == placement
        assert instance.backward is Backward.WHOLE
        assert instance.kfac is not None
        assert instance.source == row.source
        assert instance.resolution == 1e-6
        # To the tick: one millionth of a millisecond.
        found = (
            exact(stage.forward),
            exact(stage.backward or 0),
            over_layers(stage, "curvature_a", "curvature_b"),
            over_layers(stage, "inversion_a", "inversion_b"),
            exact(stage.precondition),
        )
        assert found == tuple(blocks * exact(published) for published in times)
        assert over_layers(stage, "curvature_a") == over_layers(stage, "curvature_b")
        assert over_layers(stage, "inversion_a") == over_layers(stage, "inversion_b")
        sizes = model.sizes[row.batch]
        assert stage.activation == blocks * sizes.activation
        saved = over_layers(stage, "saved_gradient")
        assert saved == blocks * exact(sizes.saved_errors)
        # Seven of the nine widths are of different inputs.
        inputs = over_layers(stage, "saved_input")
        assert 0 <= saved * 7 / 9 - inputs < Fraction(3 * blocks, 10**6)
        assert inputs < stage.activation
        assert over_layers(stage, "factor_a", "factor_b") * 2**20 == (
            blocks * 42 * model.hidden**2 * 4
        )
        assert {module.count for module in stage.modules} == {blocks}


def test_halved_inversions_and_shares_are_whole_ticks() -> None:
    for row in TIMES:
        for module in (
            load(pipefisher_kfac.name_of(row, 4, 1, "linear")).stages[0].modules
        ):
            for time in (module.inversion_a, module.inversion_b):
                assert exact(time) * 10**6 % 2 == 0
            for time in (module.curvature_a, module.curvature_b):
                assert (exact(time) * 10**6).denominator == 1


def test_layers_of_a_block_by_hand() -> None:
    # BERT-Base, P100, 32 sequences: curvature 25.547 / 2 / 21 = 0.608262 a narrow one,
    # inversion 71.67 / 2 / 69 = 0.519348; 12 MiB of one width, 2.25 of a factor.
    instance = load("pipefisher-bert-base-p100-b32-d4-x3-chimera-kfac")
    assert instance.placement is Placement.BIDIRECTIONAL
    q, k, v, o, ffn1, ffn2 = instance.stages[0].modules
    assert [m.name for m in instance.stages[0].modules] == [
        *("q", "k", "v", "o"),
        *("ffn1", "ffn2"),
    ]
    assert (q.curvature_a, q.inversion_a) == (0.608262, 0.519348)
    assert (q.saved_input, q.saved_gradient, q.factor_a, q.factor_b) == (
        4,
        12,
        2.25,
        2.25,
    )
    assert replace(q, name="k") == k
    assert replace(q, name="v") == v
    assert replace(q, name="o", saved_input=12) == o
    assert (ffn1.saved_input, ffn1.saved_gradient) == (12, 48)
    assert (ffn1.factor_a, ffn1.factor_b) == (2.25, 36)
    assert ffn1.curvature_b == pytest.approx(25.547 / 2 * 16 / 21, abs=1e-5)
    assert ffn1.inversion_b == pytest.approx(71.67 / 2 * 64 / 69, abs=1e-5)
    assert (ffn2.saved_input, ffn2.saved_gradient) == (48, 12)
    assert (ffn2.curvature_a, ffn2.inversion_a) == (ffn1.curvature_b, ffn1.inversion_b)
    assert (ffn2.curvature_b, ffn2.inversion_b) == (ffn1.curvature_a, ffn1.inversion_a)


@pytest.mark.parametrize(("model", "depth"), [("bert-base", 4), ("bert-large", 8)])
def test_without_the_work_they_are_the_pipelines_of_the_table(
    model: str, depth: int
) -> None:
    for path in (ROOT / "pipefisher").glob(f"pipefisher-{model}-*-d{depth}.yaml"):
        whole = load_instance(path)
        block = load(f"{path.stem}-x3-kfac")
        bare = replace(block.stages[0], modules=(), precondition=0, gradient_bytes=0)
        unlimited = tuple(replace(d, memory_limit=None) for d in whole.devices)
        assert replace(
            block, stages=(bare,) * depth, kfac=None, name=whole.name
        ) == replace(whole, devices=unlimited)


@pytest.mark.parametrize("placement", pipefisher_kfac.PLACEMENTS)
@pytest.mark.parametrize("row", [("bert-base", "p100", 32), ("opt-350m", "v100", 1)])
def test_the_op_graph_has_the_work_of_the_closed_form(
    row: tuple[str, str, int], placement: str
) -> None:
    # Halved where two devices share a stage, and only there.
    instance = load(pipefisher_kfac.name_of(Row(*row), 4, 3, placement))
    graph = build_graph(instance)
    assert shortfalls(graph) == ()
    ticks = Counter[OpKind]()
    for op, data in graph.data.items():
        ticks[op.kind] += data.duration
    work = ticks[OpKind.CURVATURE_A] + ticks[OpKind.CURVATURE_B]
    model = performance_model(instance)
    assert work + ticks[OpKind.INVERSION] == 4 * model.kfac * 10**6
    assert ticks[OpKind.PRECONDITION] == 4 * model.stage.precondition * 10**6
