"""Measuring on a GPU; skipped where there is none."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from schedopt.formats import load_instance
from schedopt.instance import Backward
from tests.cli_helpers import Run, refused, runner

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():  # nothing here can be asked of a CPU
    pytest.skip("torch sees no CUDA device", allow_module_level=True)

from schedopt.measure.gpt import GptPart, GptShape, gpt_stage  # noqa: E402
from schedopt.measure.memory import StageMemory, stage_memory  # noqa: E402
from schedopt.measure.sample import StageUnderTest  # noqa: E402
from schedopt.measure.sizes import GptModel  # noqa: E402
from schedopt.measure.stages import (  # noqa: E402
    Settings,
    describe,
    device_of,
    measure_stage,
)
from schedopt.measure.timing import time_ops, time_work  # noqa: E402
from tests.runtime_memory import peak_of, profile_of  # noqa: E402

CUDA = torch.device("cuda")
SMALL = (
    *("--stages", 3, "--layers", 4, "--vocab", 512, "--hidden", 64, "--heads", 2),
    *("--sequence", 64, "--microbatch-size", 2, "--warmup", 1, "--repetitions", 3),
    *("--device", "cuda"),
)


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    return runner(capsys)


def linear(rows: int, width: int, layers: int = 1, **fields: object) -> StageUnderTest:
    kind = {"device": CUDA, "dtype": torch.bfloat16}
    return StageUnderTest(
        name="linear",
        module=torch.nn.Sequential(
            *(torch.nn.Linear(width, width, bias=False, **kind) for _ in range(layers))
        ),
        inputs=(torch.randn(rows, width, **kind),),
        **fields,  # type: ignore[arg-type]
    )


def memory_of(stage: StageUnderTest) -> StageMemory:
    time_ops(stage, CUDA, 1, 1)  # so that the gradients are there
    return stage_memory(stage, CUDA)


@pytest.mark.parametrize(("rows", "width"), [(32, 64), (1000, 300), (4096, 2048)])
def test_memory_of_a_linear_layer_is_that_of_its_tensors(rows: int, width: int) -> None:
    tensor, weights = 2 * rows * width, 2 * width * width
    memory = memory_of(linear(rows, width))
    assert memory.activation == 2 * tensor  # input and output
    # I: the gradients of the output, which W needs, and of the input; nothing freed.
    assert memory.input_gradient - memory.activation_until_input == 2 * tensor
    assert memory.weights_and_gradients == 2 * weights
    # The weights' gradient is made and then added to what is there.
    assert memory.workspace[Backward.SPLIT] >= weights
    assert memory.workspace[Backward.WHOLE] >= weights
    assert max(memory.workspace.values()) <= 2 * (weights + tensor)


def test_a_last_stage_keeps_its_output_until_i() -> None:
    rows, width = 1024, 512
    memory = memory_of(linear(rows, width, loss=torch.sum))
    assert memory.activation == 2 * 2 * rows * width + 2  # and the loss
    change = memory.input_gradient - memory.activation_until_input
    assert 0 <= change < 512


def block_stage(*, checkpointing: bool = False, microbatch_size: int = 2) -> GptShape:
    return GptShape(
        hidden=256,
        heads=4,
        sequence=256,
        microbatch_size=microbatch_size,
        dtype=torch.bfloat16,
        checkpointing=checkpointing,
    )


def test_a_block_keeps_what_its_gradients_need() -> None:
    shape, part = block_stage(), GptPart(3, is_first=False, is_last=False)
    memory = memory_of(gpt_stage(shape, part, CUDA))
    tokens = 2 * 256
    # Per block two sums, two norms, queries, keys and values, attention, and the MLP
    # before and after GELU; float32 per token for norms, and per head for attention.
    kept = 3 * tokens * (2 * 16 * 256 + 4 * 4 + 4 * 4) + 2 * tokens * 256
    assert kept <= memory.activation < 1.01 * kept
    assert memory.parameters == 3 * (12 * 256**2 + 13 * 256)
    assert memory.weights_and_gradients == 4 * memory.parameters


def test_checkpointing_keeps_the_inputs_of_blocks() -> None:
    part = GptPart(3, is_first=False, is_last=False)
    memory = memory_of(gpt_stage(block_stage(checkpointing=True), part, CUDA))
    hidden = 2 * 2 * 256 * 256
    assert 4 * hidden <= memory.activation < 4 * hidden + 4096
    # A block is there again in its backward.
    assert memory.workspace[Backward.WHOLE] > 16 * hidden


def test_memory_is_the_same_again_whatever_is_cached() -> None:
    shape, part = block_stage(microbatch_size=3), GptPart(2, False, False)
    stage = gpt_stage(shape, part, CUDA)
    first = memory_of(stage)
    torch.cuda.empty_cache()
    assert stage_memory(stage, CUDA) == first
    blocks = [torch.empty(2**19 * n + 512 * n, device=CUDA) for n in range(1, 40)]
    del blocks
    assert stage_memory(stage, CUDA) == first
    assert memory_of(gpt_stage(shape, part, CUDA)) == first


def test_twice_the_work_takes_twice_the_time() -> None:
    one, two = (time_ops(linear(8192, 4096, n), CUDA, 5, 20) for n in (2, 4))
    for kind in "FIWB":
        assert 1.7 < two[kind].median / one[kind].median < 2.3


def test_times_add_up_to_the_clock_on_the_wall() -> None:
    stage = linear(16384, 8192, 2)
    time_ops(stage, CUDA, 2, 2)
    torch.cuda.synchronize()
    start = time.perf_counter()
    times = time_ops(stage, CUDA, 1, 20)
    wall_us = (time.perf_counter() - start) * 1e6
    sums = 21 * (sum(spread.median for spread in times.values()) + times["F"].median)
    assert 0.75 < sums / wall_us < 1.01


def test_a_cpu_that_is_slower_is_noticed() -> None:
    large = measure_stage(linear(16384, 8192), Settings(CUDA, 3, 10))
    assert large.launching == []
    small = measure_stage(linear(32, 32, 8), Settings(CUDA, 3, 10))
    assert "F" in small.launching

    def work() -> object:
        def act() -> None:
            time.sleep(0.002)
            torch.zeros(1, device=CUDA)

        yield "slow", act

    slow = time_work(work, CUDA, 1, 5)["slow"]  # type: ignore[arg-type]
    assert slow.idle == 1
    assert slow.median >= 2000


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
def test_a_gpt_becomes_an_instance(run: Run, dtype: str) -> None:
    ran = run("profile", *SMALL, "--dtype", dtype, "--kfac", "-o", "gpt.yaml", "--json")
    assert ran.code == 0, ran.err
    assert "the GPU waits for the CPU" in ran.err  # so small a model
    instance = load_instance("gpt.yaml")
    assert describe(device_of("cuda")) in instance.source
    assert torch.cuda.get_device_name() in instance.source
    size = 4 if dtype == "float32" else 2
    sent = 2 * 64 * 64 * size
    assert [stage.output_bytes for stage in instance.stages] == [sent, sent, 0]
    document = ran.json
    for row, stage in zip(document["stages"], instance.stages, strict=True):
        assert row["weights_and_gradients"] * 2**20 == pytest.approx(
            2 * size * row["parameters"], abs=2
        )
        assert min(row["workspace"].values()) >= 0
        assert stage.activation * 2**20 >= 2 * sent
        assert min(stage.forward, stage.backward, stage.backward_weight) > 0
        assert all(module.inversion_a > 0 for module in stage.modules)
    assert instance.stages[1].backward_input > 0
    again = run("profile", *SMALL, "--dtype", dtype, "--json").json["stages"]
    for one, other in zip(document["stages"], again, strict=True):
        assert {**one, "times": 0} == {**other, "times": 0}


@pytest.mark.parametrize("flags", [("--checkpointing",), ("--backward", "choose")])
def test_forms_of_the_backward(run: Run, flags: tuple[str, ...]) -> None:
    ran = run("profile", *SMALL, *flags, "-o", "gpt.yaml")
    assert ran.code == 0, ran.err
    assert load_instance("gpt.yaml").backward is not Backward.SPLIT


def test_a_factory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_model.py").write_text(
        "import torch\n\n"
        "def stage(number, count):\n"
        " layer = torch.nn.Linear(64, 64)\n"
        " loss = (lambda out: out.sum(),) if number == count - 1 else ()\n"
        " return (layer, (torch.ones(32, 64),), *loss)\n"
    )
    monkeypatch.delitem(__import__("sys").modules, "own_model", raising=False)
    factory = ("--factory", "own_model:stage", "--stages", 2, "--device", "cuda")
    ran = run("profile", *factory, "-o", "own.json")
    assert ran.code == 0, ran.err
    first, last = load_instance("own.json").stages
    assert (first.output_bytes, last.output_bytes) == (32 * 64 * 4, 0)
    assert round(first.activation * 2**20) == 2 * 32 * 64 * 4


def test_a_stage_that_does_not_fit_is_said_in_one_line(run: Run) -> None:
    large = ("--stages", 1, "--device", "cuda", "--repetitions", 1, "--heads", 1)
    words = ["does not fit on cuda", "microbatch smaller"]
    # Its weights, and then its activations.
    refused(run("profile", *large, "--hidden", 100_000), "stage 0", *words)
    tokens = ("--hidden", 64, "--sequence", 4096, "--microbatch-size", 19_000)
    refused(run("profile", *large, *tokens), "first and last, 1 block", *words)
    assert run("profile", *SMALL).code == 0  # and nothing is left behind


@pytest.mark.parametrize("name", ["zb-greedy", "interleaved-1f1b", "breadth-first"])
def test_the_runtime_takes_the_predicted_memory(name: str) -> None:
    model = GptModel(
        stages=3,
        layers=4,
        hidden=256,
        heads=4,
        sequence=256,
        microbatch_size=4,
        dtype="bfloat16",
        vocabulary=1000,
        mlp_ratio=4,
        checkpointing=False,
        compiled=False,
    )
    peak = peak_of(model, profile_of(model, CUDA), name, 4, CUDA)
    slack = 64 * 1024  # losses, and rounding
    assert peak.level + peak.kept <= peak.measured + slack
    assert peak.measured <= peak.predicted + slack
