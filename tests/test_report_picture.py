"""Pictures: what is drawn is what the schedule says, and always in the same way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from networkx import lexicographical_topological_sort

from schedopt.baselines import BASELINES, run_baseline
from schedopt.build import build_graph
from schedopt.errors import FormatError
from schedopt.formats import instance_from_document
from schedopt.instance import Instance, Kfac, KfacModule
from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op, OpKind
from schedopt.report.notebook import schedule_svg
from schedopt.report.picture import picture, save_picture
from schedopt.schedule import Order, Schedule
from schedopt.simulate import simulate
from tests.cli_helpers import TINY
from tests.kfac_instances import STAGE, training


def trained(name: str = "1f1b", **changes: Any) -> Schedule:
    """Two steps and K-FAC."""
    instance = training(**{"steps": 2, "kfac": Kfac(interval=2)} | changes)
    return run_baseline(BASELINES[name], instance).schedule


def bars_of(figure: Figure, device: int) -> list[tuple[float, float, float]]:
    """Left end, right end and width of the edge of each bar of a device."""
    found = []
    for collection in figure.axes[2 * device].collections:
        edges = collection.get_linewidths()
        for path, edge in zip(collection.get_paths(), edges, strict=True):
            ends = path.vertices[:, 0]
            found.append((float(ends.min()), float(ends.max()), float(edge)))
    return found


@pytest.fixture(scope="module")
def schedule() -> Schedule:
    instance = instance_from_document(TINY, "a test")
    return run_baseline(BASELINES["zb-h1"], instance).schedule


def test_bars_are_the_ops_to_scale(schedule: Schedule) -> None:
    axes = picture(schedule).axes[0]  # device 0
    bars = sorted(
        (float(path.vertices[:, 0].min()), float(path.vertices[:, 0].max()))
        for collection in axes.collections
        if isinstance(collection, PolyCollection)
        for path in collection.get_paths()
    )
    units = schedule.graph.units
    expected = sorted(
        (units.time_of(start), units.time_of(schedule.end(op)))
        for op, start in schedule.start.items()
        if schedule.graph.data[op].device == 0
    )
    assert bars == expected


def test_the_memory_curve_ends_empty_and_peaks_as_computed(schedule: Schedule) -> None:
    (curve, limit) = picture(schedule).axes[1].lines  # device 0
    levels = [float(level) for level in curve.get_ydata()]
    assert (max(levels), levels[-1]) == (20, 0)
    assert set(limit.get_ydata()) == {40}


def test_the_title_has_the_measures(schedule: Schedule) -> None:
    title = picture(schedule, "a name").get_suptitle()
    assert "a name" in title
    assert "114 us" in title
    assert "15.79 %" in title


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_schedule_gives_the_same_file(
    schedule: Schedule, suffix: str, tmp_path: Path
) -> None:
    one, two = tmp_path / f"one.{suffix}", tmp_path / f"two.{suffix}"
    save_picture(schedule, "a name", one)
    save_picture(schedule, "a name", two)
    assert one.read_bytes() == two.read_bytes()


def test_another_suffix_is_refused(schedule: Schedule, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"\.png, \.svg or \.pdf"):
        save_picture(schedule, "", tmp_path / "x.doc")


# -- several steps, second-order work -----------------------------------------


def labels_of(figure: Figure, device: int) -> list[tuple[float, str]]:
    """Where the texts in a device's blocks are, and what they say."""
    axes = figure.axes[2 * device]
    return sorted((text.get_position()[0], text.get_text()) for text in axes.texts)


def test_labels_name_step_and_layer_and_fit() -> None:
    schedule = trained(microbatches=1)
    figure = picture(schedule)
    width = schedule.makespan * 0.005
    for device in (0, 1):
        shown = dict(labels_of(figure, device))
        ops = schedule.order.sequences[Stream(StreamKind.COMPUTE, device)]
        for op in ops:
            middle = (schedule.start[op] + schedule.end(op)) / 2
            text = shown.pop(middle, "")
            assert text.startswith(f"{op.step}@" if op.step and text else "")
            drawn = len(text) + text.count("@")
            assert schedule.graph.data[op].duration > width * drawn - 1e-9
            if op.kind is OpKind.INVERSION:
                assert text in (op.part, "")
        assert shown == {}
    texts = {text for _, text in labels_of(figure, 0)}
    assert {"0", "1@0", "o.B", "qk.1.B"} <= texts
    assert "step@ (but for step 0), microbatch, layer" in figure.axes[-1].get_xlabel()


def test_hundreds_of_small_ops_stay_visible() -> None:
    """Blocks too narrow for a text or an edge are drawn without."""
    module = KfacModule(
        name="m", count=150, curvature_a=1, curvature_b=1, inversion_a=1, inversion_b=1
    )
    stage = replace(STAGE, forward=900, backward=900, modules=(module,))
    schedule = trained(microbatches=1, stage=stage)
    figure = picture(schedule)
    narrow = [bar for bar in bars_of(figure, 0) if bar[1] - bar[0] == 1]
    assert len(narrow) == 600
    assert {edge for _, _, edge in narrow} == {0}
    assert {edge for left, right, edge in bars_of(figure, 0) if right - left > 800} == {
        0.5
    }
    assert {text for _, text in labels_of(figure, 0)} == {"0", "1@0"}


def test_kinds_of_one_colour_share_an_entry_of_the_legend() -> None:
    instance = instance_from_document({**TINY, "backward": "choose"}, "a test")
    schedule = simulate_first(instance)
    (legend,) = picture(schedule).legends
    words = [text.get_text() for text in legend.get_texts()]
    assert "whole backward or backward for the input" in words
    colours = [to_hex(patch.get_facecolor()) for patch in legend.get_patches()]
    assert len(colours) == len(set(colours))


def simulate_first(instance: Instance) -> Schedule:
    """Microbatch 0 with a whole backward, the others with a split one."""
    graph = build_graph(instance)
    first = {OpKind.BACKWARD}
    others = {OpKind.BACKWARD_INPUT, OpKind.BACKWARD_WEIGHT}
    ops = [
        op
        for op in lexicographical_topological_sort(graph.digraph, key=str)
        if op.kind not in (others if op.microbatch == 0 else first)
    ]
    sequences: dict[Stream, tuple[Op, ...]] = {}
    for op in ops:
        for stream in graph.data[op].streams:
            sequences[stream] = (*sequences.get(stream, ()), op)
    return simulate(graph, Order(sequences))


def test_the_title_says_what_counts_as_work() -> None:
    schedule = trained()
    title = picture(schedule).get_suptitle()
    own = sum(
        schedule.graph.data[op].duration for op in schedule.start if op.kind in "FB"
    )
    assert f"own work {100 * (1 - own / 2 / schedule.makespan):.2f} %" in title
    assert "own work" not in picture(trained(kfac=None, steps=1)).get_suptitle()


def test_the_chart_of_a_notebook_says_the_same() -> None:
    schedule = trained(microbatches=1)
    svg = ElementTree.fromstring(schedule_svg(schedule))
    texts = [text.text or "" for text in svg.iter() if text.tag.endswith("text")]
    assert {"0", "1@0", "0:o", "o.B"} <= set(texts)
    assert "curvature of output gradients" in texts
    assert any(text.startswith("in blocks: step@ (but for step 0)") for text in texts)
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    for rect in svg.iter():
        if rect.tag.endswith("rect"):
            assert float(rect.attrib["x"]) + float(rect.attrib["width"]) <= width + 1
            assert float(rect.attrib["y"]) < height
