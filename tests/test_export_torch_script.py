"""run_torch.py: it trains as the plain model does, and says what does not fit.

The model is that of docs/runtimes/torch.md. Two processes are started and run both
formats; a quarter of a minute where nothing else runs.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from schedopt.export.formats import export
from tests.torch_programs import program

torch = pytest.importorskip("torch")

PAGE = Path(__file__).parent.parent / "docs" / "runtimes" / "torch.md"
STEPS = 2
PATIENCE_S = 240


@pytest.fixture(scope="module")
def model_text() -> str:
    """The MODEL.py that the page shows."""
    (text,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.M)
    return str(text)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    from schedopt.export import torch_script  # noqa: PLC0415 (imports torch)

    monkeypatch.chdir(tmp_path)
    return torch_script


def plain_losses(text: str, steps: int) -> list[str]:
    """The losses of the same model without a pipeline."""
    names: dict[str, Any] = {}
    exec(compile(text, "model.py", "exec"), names)
    net = torch.nn.Sequential(*(names["stage"](index, 2) for index in range(2)))
    optimizer = names["optimizer"](net.parameters())
    found = []
    for step in range(steps):
        inputs, targets = names["batch"](step)
        loss = names["loss"](net(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(f"step {step}: loss {loss.item():.6f}")
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# Two scripts one after the other in the processes that the ranks are: torch is imported
# once. Arguments: the script's own, then for each run its folder and a port.
BOTH = """
import os, runpy, sys
arguments, runs = sys.argv[1:-4], sys.argv[-4:]
for folder, port in (runs[:2], runs[2:]):
    os.chdir(folder)
    os.environ["MASTER_PORT"] = port
    sys.argv = ["run_torch.py", *arguments]
    runpy.run_path("run_torch.py", run_name="__main__")
"""


def test_the_script_trains_as_the_plain_model_does(
    tmp_path: Path, model_text: str
) -> None:
    runs = []
    for name in ("torch-csv", "torch-csv-comms"):
        folder = tmp_path / name
        folder.mkdir()
        for file, text in export(program(), name).files.items():
            (folder / file).write_text(text)
        (folder / "model.py").write_text(model_text)
        runs += [str(folder), str(free_port())]
    ranks = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", BOTH, "tiny.csv", "--model", "model.py"),
                *("--steps", str(STEPS), "--timeout-s", "60", "--device", "cpu"),
                *runs,
            ],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=PATIENCE_S) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert outputs[0][0] == ""
    assert outputs[1][0].splitlines() == 2 * plain_losses(model_text, STEPS)


# What does not fit is said before anything is computed.


def rows_file(text: str) -> str:
    Path("rows.csv").write_text(text)
    return "rows.csv"


@pytest.mark.parametrize("text", ["0F0,0f1\n", "0F0\n\n", "0F0,junk\n"])
def test_rows_that_are_none(script: ModuleType, text: str) -> None:
    with pytest.raises(SystemExit, match=r"row \d is empty or has a cell"):
        script.read_rows(rows_file(text))


def test_another_number_of_ranks_than_rows(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.dist, "get_world_size", lambda: 4)
    rows = script.read_rows(rows_file("0F0,0B0\n1F0,1B0\n"))
    with pytest.raises(SystemExit, match=r"4 ranks for 2 rows.*--nproc-per-node 2"):
        script.own_row(rows)


class OneStage:
    """A model of one stage whose batch has three rows."""

    @staticmethod
    def stage(index: int, count: int) -> Any:
        assert (index, count) == (0, 1)
        return torch.nn.Linear(2, 2)

    @staticmethod
    def batch(step: int) -> Any:
        return torch.ones(3, 2), torch.ones(3, 2)

    @staticmethod
    def loss(output: Any, target: Any) -> Any:
        return (output - target).square().mean()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A process group of this process alone."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_batch_that_cannot_be_cut(script: ModuleType) -> None:
    path = rows_file("0F0,0B0,0F1,0B1\n")
    with pytest.raises(SystemExit, match=r"3 rows: not a multiple .* microbatches, 2"):
        script.train(path, OneStage, 1, torch.device("cpu"))


@pytest.mark.usefixtures("alone")
def test_one_rank_trains_alone(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rows_file("0F0,0B0,0F1,0B1,0F2,0B2,0REDUCE_GRAD\n")
    script.train(path, OneStage, 2, torch.device("cpu"))
    assert [line[:13] for line in capsys.readouterr().out.splitlines()] == [
        "step 0: loss ",
        "step 1: loss ",
    ]


@pytest.mark.usefixtures("alone")
def test_stages_of_another_rank(script: ModuleType) -> None:
    rows = script.read_rows(rows_file("0F0,1F0,1B0,0B0\n"))
    stage = script.PipelineStage(torch.nn.Linear(2, 2), 0, 2, torch.device("cpu"))
    with pytest.raises(SystemExit, match="rank 0 has other stages than its row"):
        script.scheduled("rows.csv", rows, [stage], 1, OneStage.loss)


@pytest.mark.usefixtures("alone")
def test_transfers_and_an_old_torch(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(script.schedules, "REDUCE_GRAD")
    rows = script.read_rows(rows_file("0F0,0B0,0REDUCE_GRAD\n"))
    with pytest.raises(SystemExit, match=r"lists its transfers.*export torch-csv"):
        script.scheduled("rows.csv", rows, [], 1, OneStage.loss)


def test_a_model_file_that_is_none(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"nosuch\.py is no Python file"):
        script.load_model("nosuch.py")
