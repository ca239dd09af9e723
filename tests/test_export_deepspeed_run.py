"""The DeepSpeed module in DeepSpeed: two steps on two or three CPU processes.

Needs ``deepspeed==0.19.8``, which is no dependency of the project: docs/runtimes/
deepspeed.md says how to install it beside torch. Takes half a minute to two.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from strategies import ops

from schedopt.build import build_graph
from schedopt.export.deepspeed import FILE_NAME, deepspeed_module
from schedopt.export.program import program_of
from schedopt.instance import Backward, Device, Instance, Placement, StageCost
from schedopt.opgraph import Stream, StreamKind
from schedopt.schedule import Order
from schedopt.simulate import simulate

os.environ.setdefault("DS_ACCELERATOR", "cpu")
pytest.importorskip("torch")
pytest.importorskip("deepspeed")

ROOT = Path(__file__).parents[1]
ORDERS = {
    "one forward one backward": (
        "0F0 0F1 0F2 0B0 0F3 0B1 0B2 0B3",
        "1F0 1F1 1B0 1F2 1B1 1F3 1B2 1B3",
        "2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3",
    ),
    "every rank its own order of forwards, and of backwards": (
        "0F2 0F0 0F1 0B0 0F3 0B2 0B3 0B1",
        "1F0 1B0 1F2 1B2 1F3 1B3 1F1 1B1",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDERS)
def test_parameters_equal_those_without_a_pipeline(name: str, tmp_path: Path) -> None:
    ranks = len(ORDERS[name])
    instance = Instance(
        name=name,
        stages=(StageCost(forward=10, backward=20),) * ranks,
        devices=tuple(Device(name=f"rank {rank}") for rank in range(ranks)),
        microbatches=4,
        placement=Placement.LINEAR,
        device_of_stage=tuple(range(ranks)),
        backward=Backward.WHOLE,
    )
    sequences = {
        Stream(StreamKind.COMPUTE, device): ops(text)
        for device, text in enumerate(ORDERS[name])
    }
    schedule = simulate(build_graph(instance), Order(sequences))
    module = tmp_path / FILE_NAME
    text = deepspeed_module(program_of(instance, schedule))[FILE_NAME]
    module.write_text(text, "utf-8")

    results = run_ranks(module, tmp_path, ranks=ranks)

    for result in results:
        assert result["parameters"] == 4
        assert result["losses"] == pytest.approx(result["expected"], abs=1e-6)
        assert result["difference"] < 1e-6


def run_ranks(module: Path, folder: Path, *, ranks: int) -> list[dict[str, Any]]:
    """Run every rank as a process of its own and read what it wrote."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = [folder / f"rank{rank}.json" for rank in range(ranks)]
    logs = [file.with_suffix(".log") for file in files]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.deepspeed_rank", str(module), str(file)],
            cwd=ROOT,
            env={
                **os.environ,
                "DS_ACCELERATOR": "cpu",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            stdout=logs[rank].open("w"),
            stderr=subprocess.STDOUT,
        )
        for rank, file in enumerate(files)
    ]
    try:
        codes = [process.wait(timeout=150) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0] * ranks, [log.read_text("utf-8")[-3000:] for log in logs]
    return [json.loads(file.read_text("utf-8")) for file in files]
