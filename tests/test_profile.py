"""Measuring stages with torch: what is run is right, and what comes out is complete."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from schedopt.build import build_graph
from schedopt.formats import (
    instance_document,
    instance_from_document,
    load_instance,
)
from schedopt.instance import Backward, Instance, Kfac, Placement, exact
from schedopt.ops import OpKind
from tests.cli_helpers import Run, refused, runner

torch = pytest.importorskip("torch")

from schedopt.measure.documents import Pipeline, pipeline_document  # noqa: E402
from schedopt.measure.gpt import GptPart, GptShape, gpt_parts, gpt_stage  # noqa: E402
from schedopt.measure.memory import stage_memory  # noqa: E402
from schedopt.measure.sample import Microbatch, StageUnderTest  # noqa: E402
from schedopt.measure.stages import (  # noqa: E402
    ModelProfile,
    Settings,
    StageProfile,
    device_of,
    measure_stage,
)
from schedopt.measure.timing import Spread, spread_of, time_ops  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

CPU = torch.device("cpu")
SHAPE = GptShape(
    hidden=8,
    heads=2,
    sequence=4,
    microbatch_size=2,
    dtype=torch.float64,
    vocabulary=11,
)
SMALL = (
    *("--stages", 3, "--layers", 4, "--vocab", 11, "--hidden", 8, "--heads", 2),
    *("--sequence", 4, "--microbatch-size", 2, "--warmup", 1, "--repetitions", 2),
    *("--threads", 1),
)


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    threads = torch.get_num_threads()
    yield runner(capsys)  # type: ignore[misc]
    torch.set_num_threads(threads)


def gradients(stage: StageUnderTest, *, split: bool) -> list[Tensor]:
    """Of the parameters, after one microbatch."""
    stage.module.zero_grad()
    torch.manual_seed(1)  # of the gradients that arrive
    microbatch = Microbatch(stage)
    microbatch.receive_inputs()
    microbatch.forward()
    microbatch.receive_gradients()
    if split:
        microbatch.backward_input()
        microbatch.backward_weight()
    else:
        microbatch.backward()
    return [p.grad.clone() for p in stage.module.parameters()]


@pytest.mark.parametrize("stage_number", range(3))
def test_split_and_whole_backward_give_the_same_gradients(stage_number: int) -> None:
    stage = gpt_stage(SHAPE, gpt_parts(4, 3)[stage_number], CPU)
    whole, split = (gradients(stage, split=split) for split in (False, True))
    assert len(whole) == len(split) > 10
    for one, other in zip(whole, split, strict=True):
        torch.testing.assert_close(one, other)
        assert one.abs().max() > 0


def test_of_the_first_stage_i_does_nothing_and_w_everything() -> None:
    stage = gpt_stage(SHAPE, gpt_parts(4, 3)[0], CPU)
    microbatch = Microbatch(stage)
    microbatch.receive_inputs()
    microbatch.forward()
    microbatch.receive_gradients()
    microbatch.backward_input()
    assert all(p.grad is None for p in stage.module.parameters())
    microbatch.backward_weight()
    assert all(p.grad is not None for p in stage.module.parameters())


def test_memory_of_a_linear_layer_is_that_of_its_tensors() -> None:
    rows, width = 32, 64
    tensor = 4 * rows * width
    stage = StageUnderTest(
        name="linear",
        module=torch.nn.Linear(width, width, bias=False),
        inputs=(torch.randn(rows, width),),
    )
    time_ops(stage, CPU, 1, 1)  # so that the gradients are there
    memory = stage_memory(stage, CPU)
    weights = 4 * width * width
    assert memory.activation == 2 * tensor  # input and output
    # I: the gradients of the output, which W needs, and of the input; nothing freed.
    assert memory.input_gradient - memory.activation_until_input == 2 * tensor
    assert memory.weights_and_gradients == 2 * weights
    assert memory.parameters == width * width
    # The weights' gradient is made and then added to what is there.
    assert memory.workspace[Backward.SPLIT] == weights
    assert memory.workspace[Backward.WHOLE] >= weights
    both = max(memory.workspace[Backward.SPLIT], memory.workspace[Backward.WHOLE])
    assert memory.workspace[Backward.CHOOSE] == both


def test_a_last_stage_keeps_its_output_until_i() -> None:
    rows, width = 32, 64
    tensor = 4 * rows * width
    stage = StageUnderTest(
        name="last",
        module=torch.nn.Linear(width, width, bias=False),
        inputs=(torch.randn(rows, width),),
        loss=torch.sum,
    )
    time_ops(stage, CPU, 1, 1)
    memory = stage_memory(stage, CPU)
    assert memory.activation == 2 * tensor + 4  # input, output and the loss
    # I: the output goes, the gradient of the input comes, and little else: that of the
    # output is one number, expanded.
    change = memory.input_gradient - memory.activation_until_input
    assert 0 <= change < 64


def test_checkpointing_keeps_less() -> None:
    part = GptPart(2, is_first=False, is_last=False)
    sizes = []
    for checkpointing in (False, True):
        shape = GptShape(
            hidden=32,
            heads=2,
            sequence=16,
            microbatch_size=2,
            dtype=torch.float32,
            checkpointing=checkpointing,
        )
        stage = gpt_stage(shape, part, CPU)
        time_ops(stage, CPU, 1, 1)
        sizes.append(stage_memory(stage, CPU).activation)
    # Per block its input and, at the end, the output: 3 of 2 x 16 x 32 numbers, and
    # little else (the state of the random numbers).
    assert sizes[1] < 3 * 4 * 2 * 16 * 32 + 20_000
    assert sizes[1] < sizes[0] / 2


def test_layers_are_spread_over_stages() -> None:
    assert [part.blocks for part in gpt_parts(7, 3)] == [3, 2, 2]
    assert [part.name for part in gpt_parts(1, 1)] == ["first and last, 1 block"]


def test_a_spread_is_median_and_quartiles() -> None:
    spread = spread_of([1, 2, 3, 4, 100])
    assert (spread.lower, spread.median, spread.upper) == (2, 3, 4)
    assert spread.relative == pytest.approx(2 / 3)
    assert spread_of([5]) == Spread(5, 5, 5, 1)


def test_times_that_scatter_are_named_unless_they_are_nothing() -> None:
    times = {
        "F": Spread(100, 99, 101, 9),
        "I": Spread(1, 0, 9, 9),
        "W": Spread(100, 80, 130, 9),
    }
    assert StageProfile("one", times, None, 0, ()).scattered == ["W"]


def test_times_of_launching_are_named_unless_they_are_nothing() -> None:
    times = {
        "F": Spread(100, 99, 101, 9, idle=1.0),
        "I": Spread(1, 1, 1, 9, idle=1.0),
        "W": Spread(100, 99, 101, 9, idle=0.25),
    }
    assert StageProfile("one", times, None, 0, ()).launching == ["F"]


def test_another_torch_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.11.0")
    ran = run("profile", *SMALL, "--stages", 1)
    assert ran.code == 0
    assert "warning: torch 2.11.0 is installed" in ran.err


def test_a_stage_that_does_not_fit_is_said_in_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_arguments: object) -> None:
        raise torch.cuda.OutOfMemoryError

    words = ["does not fit on cpu", "microbatch smaller"]
    with monkeypatch.context() as patched:  # while it runs
        patched.setattr("schedopt.measure.stages.time_ops", no_memory)
        refused(run("profile", *SMALL), "first, 2 blocks", *words)
    with monkeypatch.context() as patched:  # while it is made
        patched.setattr("schedopt.measure.gpt.GptStage", no_memory)
        refused(run("profile", *SMALL), "stage 0", *words)


def test_a_gpt_becomes_an_instance(run: Run) -> None:
    arguments = ("--devices", 3, "--memory-limit", 50, "--latency", 2, "--name", "tiny")
    ran = run("profile", *SMALL, *arguments, "--kfac", "-o", "gpt.yaml", "--json")
    assert ran.code == 0, ran.err
    instance = load_instance("gpt.yaml")
    assert (instance.name, len(instance.stages)) == ("tiny", 3)
    assert (instance.microbatches, instance.backward) == (6, Backward.SPLIT)
    assert [device.memory_limit for device in instance.devices] == [50] * 3
    assert instance.communication.latency == 2
    # What the command was, but for where results go.
    assert "schedopt profile --stages 3 --layers 4 --vocab 11" in instance.source
    assert "--json" not in instance.source
    assert f"torch {torch.__version__}" in instance.source
    sent = 2 * 4 * 8 * 4
    assert [stage.output_bytes for stage in instance.stages] == [sent, sent, 0]
    for stage in instance.stages:
        assert min(stage.forward, stage.backward, stage.backward_weight) > 0
        assert stage.activation > 0
    document = ran.json
    assert document["instance"]["stages"][0]["forward"] == instance.stages[0].forward
    assert [row["stages"] for row in document["stages"]] == [[0], [1], [2]]
    assert {row["layer"] for row in document["kfac"] if row["stages"] == [2]} == {
        *(
            f"blocks.0.{layer}"
            for layer in ("queries_keys_values", "attention_out", "mlp_in", "mlp_out")
        ),
        "head.output",
    }
    sizes = {row["layer"]: (row["size_a"], row["size_b"]) for row in document["kfac"]}
    assert sizes["blocks.0.mlp_in"] == (9, 32)  # with the bias
    assert sizes["head.output"] == (8, 11)
    assert instance.kfac is None  # how often, and whether, is the user's to say
    check_modules(instance, document["kfac"])
    check_training(instance)


def check_modules(instance: Instance, measured: list[dict[str, Any]]) -> None:
    """K-FAC's work as it was measured, in the stages of the instance."""
    for number, stage in enumerate(instance.stages):
        rows = [row for row in measured if number in row["stages"]]
        assert [module.name for module in stage.modules] == [r["layer"] for r in rows]
        work = sum(row["precondition"]["median"] for row in rows)
        assert stage.precondition == pytest.approx(work, abs=0.01)
        saved = sum(module.saved_input for module in stage.modules)
        assert 0 < saved <= stage.activation - stage.activation_until_input
        for module, row in zip(stage.modules, rows, strict=True):
            for name in ("curvature_a", "curvature_b", "inversion_a", "inversion_b"):
                median = row[name]["median"]
                assert getattr(module, name) == pytest.approx(median, abs=0.001)
            # float32 in MiB, to about a byte.
            sides = (module.factor_a, module.factor_b)
            sizes = [4 * row[size] ** 2 for size in ("size_a", "size_b")]
            assert [round(side * 2**20) for side in sides] == sizes
            gradient = 4 * row["tokens"] * row["size_b"]
            assert round(module.saved_gradient * 2**20) == gradient


def check_training(instance: Instance) -> None:
    """The instance says what it takes to schedule second-order work too."""
    training = replace(instance, kfac=Kfac(interval=2), steps=2)
    again = instance_from_document(instance_document(training), "the training")
    kinds = Counter(op.kind for op in build_graph(again).ops)
    layers = sum(len(stage.modules) for stage in instance.stages)
    assert kinds[OpKind.INVERSION] == 2 * layers  # one step's data, two factors
    assert kinds[OpKind.CURVATURE_A] == instance.microbatches * layers


class Attention(torch.nn.Module):
    """Three layers with the same inputs, and one that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (torch.nn.Linear(4, 4) for _ in range(3))
        self.out = torch.nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x) + self.b(x)) + self.out(self.c(x))


def test_inputs_are_shared_and_a_layer_that_runs_twice_is_one() -> None:
    stage = StageUnderTest(
        name="one", module=Attention(), inputs=(torch.ones(6, 4),), is_first=False
    )
    profile = measure_stage(stage, Settings(CPU, 0, 1, with_kfac=True))
    # 6 rows of 4 float32: a third of it each.
    sizes = {layer.layer: layer.input_bytes for layer in profile.kfac}
    assert sizes == {"a": 32, "b": 32, "c": 32, "out": 96}
    pipeline = Pipeline(
        name="t", source="", devices=1, microbatches=1, backward=Backward.WHOLE
    )
    (document,) = pipeline_document(ModelProfile((profile,)), pipeline)["stages"]
    modules = {module["name"]: module for module in document["modules"]}
    assert set(modules) == {"a", "b", "c", "out"}
    assert modules["out"]["saved_input"] == int(192 / 2**20 * 1e6) / 1e6
    assert modules["out"]["saved_gradient"] == round(2 * 6 * 2 * 4 / 2**20, 6)
    twice = sum(x.curvature_a.median for x in profile.kfac if x.layer == "out")
    assert modules["out"]["curvature_a"] == pytest.approx(twice, abs=0.001)


def test_equal_stages_are_measured_and_written_once(run: Run) -> None:
    arguments = ("--stages", 6, "--devices", 3, "--hidden", 8, "--heads", 2)
    often = ("--warmup", 1, "--repetitions", 1, "--sequence", 4)
    again = ("--checkpointing", "--kfac", "-o", "gpt.yaml")
    ran = run("profile", *arguments, *often, *again)
    assert ran.code == 0, ran.err
    assert "1-4 (middle, 1 block)" in ran.out
    instance = load_instance("gpt.yaml")
    assert (instance.placement, instance.backward) == (Placement.LOOPED, Backward.WHOLE)
    assert len(set(instance.stages[1:5])) == 1
    for stage in instance.stages:  # inputs come back later, and cannot be more than it
        assert stage.modules
        saved = sum(exact(module.saved_input) for module in stage.modules)
        assert saved <= exact(stage.activation)


def write_factory(body: str) -> None:
    Path("own_model.py").write_text(f"import torch\n\n{body}\n")


def test_a_factory_makes_equal_stages(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_factory("def stage():\n return torch.nn.Linear(4, 4), torch.ones(3, 4)")
    monkeypatch.delitem(__import__("sys").modules, "own_model", raising=False)
    often = ("--warmup", 1, "--repetitions", 1)
    factory = ("--factory", "own_model:stage", "--stages", 2)
    ran = run("profile", *factory, *often, "-o", "own.json")
    assert ran.code == 0, ran.err
    instance = load_instance("own.json")
    assert len(instance.stages) == 2
    assert instance.stages[0] == instance.stages[1]
    assert instance.stages[0].output_bytes == 3 * 4 * 4
    assert instance.stages[0].modules == ()  # without --kfac


def test_a_factory_can_tell_stages_apart(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_factory(
        "def stage(number, count):\n"
        " layer = torch.nn.Linear(4, 4 + number)\n"
        " loss = (lambda out: out.sum(),) if number == count - 1 else ()\n"
        " return (layer, (torch.ones(3, 4),), *loss)"
    )
    monkeypatch.delitem(__import__("sys").modules, "own_model", raising=False)
    often = ("--warmup", 1, "--repetitions", 1, "--kfac")
    factory = ("--factory", "own_model:stage", "--stages", 3)
    ran = run("profile", *factory, *often, "-o", "own.json")
    assert ran.code == 0, ran.err
    stages = load_instance("own.json").stages
    assert [stage.output_bytes for stage in stages] == [48, 60, 0]
    # A stage that is a layer and nothing else.
    names = [[module.name for module in stage.modules] for stage in stages]
    assert names == [["linear"]] * 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def stage(): return 3", ["returned int"]),
        ("def stage(): return 3, torch.ones(1)", ["tuple of int, Tensor"]),
        ("def other(): pass", ["no function stage"]),
        ("x = ", ["cannot be imported", "invalid syntax", "own_model.py, line 3"]),
        ("{}[1]", ["cannot be imported", "KeyError: 1", "own_model.py, line 3"]),
        ("def stage(): {}[1]", ["raised KeyError: 1", "own_model.py, line 3"]),
        ("def stage(one): pass", ["needs one;", "no argument, or two"]),
        ("import nosuch_module", ["cannot be imported", "nosuch_module"]),
        (
            "def stage(): return torch.nn.Linear(4, 4), torch.ones(3, 5)",
            ["every stage", "cannot be run", "shapes"],
        ),
        (
            "class Odd(torch.nn.Module):\n def forward(self, x): return {}[x]\n"
            "def stage(): return Odd(), torch.ones(3)",
            ["every stage: cannot be run: KeyError", "own_model.py, line 4"],
        ),
        (
            "class Odd(torch.nn.Module):\n def forward(self, x): return {'x': x}\n"
            "def stage(): return Odd(), torch.ones(3)",
            ["returns dict", "sequence of tensors"],
        ),
    ],
)
def test_a_wrong_factory_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, body: str, words: list[str]
) -> None:
    write_factory(body)
    monkeypatch.delitem(__import__("sys").modules, "own_model", raising=False)
    ran = run("profile", "--factory", "own_model:stage", "-o", "own.json")
    refused(ran, *words)
    assert not Path("own.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "nosuch"), ["--device nosuch", "cpu"]),
        (("--device", "cuda:99"), ["--device cuda:99", "CUDA devices"]),
        (("--heads", 3), ["--heads 3", "--hidden 8"]),
        (("--vocab", 0, "--layers", 2), ["--layers 2", "3 stages"]),
        (("--factory", "nocolon"), ["package.module:function"]),
        (("--memory-limit", 0), ["the profile", "memory_limit", "raise the limit"]),
        (("-o", "nosuch/gpt.yaml"), ["no folder nosuch"]),
    ],
)
def test_what_cannot_be_measured_is_refused(
    run: Run, arguments: tuple[object, ...], words: list[str]
) -> None:
    refused(run("profile", *SMALL, *arguments), *words)


def test_a_cuda_device_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    names = ("cuda", "cuda:1")
    assert [device_of(name).index for name in names] == [0, 1]
    assert [device.index for device in chosen] == [0, 1]


def test_what_the_instance_cannot_be_is_refused_before_measuring(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_arguments: object) -> None:
        pytest.fail("measured first")

    monkeypatch.setattr("schedopt.measure.stages.measure_stages", measured)
    refused(run("profile", *SMALL, "--devices", 4), "devices = 4", "at most 3")
    refused(run("profile", *SMALL, "--max-ops", 5), "--max-ops")
