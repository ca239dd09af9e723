"""Train with a schedule that schedopt exported, on torch.distributed.pipelining.

    torchrun --nproc-per-node RANKS run_torch.py NAME.csv --model MODEL.py

RANKS is the number of lines of NAME.csv. MODEL.py is yours and has

    def stage(index, count): ...    # the module of stage `index` of `count`
    def batch(step): ...            # (inputs, targets) of a step, the same on all ranks
    def loss(output, target): ...   # the mean loss of one microbatch
    def optimizer(parameters): ...  # optional; AdamW if there is none

It runs with torch 2.7 to 2.13 for files without transfers, and needs a torch that knows
REDUCE_GRAD (2.13 does, 2.9 does not) for files with them. What torch does not check
when it loads a file is checked here: that the ranks are as many as the rows, that each
rank has the stages of its row, and that the batch can be cut into the microbatches.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import distributed as dist
from torch.distributed.pipelining import PipelineStage, schedules
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

TOKEN = re.compile(r"(\d+)([A-Z_]+?)(\d*)")


def main() -> None:
    """Read the arguments, and train."""
    parser = argparse.ArgumentParser(description="Train with an exported schedule.")
    parser.add_argument("csv", help="the exported rows")
    parser.add_argument("--model", required=True, help="your Python file")
    parser.add_argument("--steps", type=int, default=1, help="training steps")
    parser.add_argument("--device", help="cuda or cpu; what there is unless you say so")
    parser.add_argument(
        "--timeout-s", type=float, default=300, help="a rank that hangs gives up then"
    )
    given = parser.parse_args()
    device = device_of_rank(given.device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        timeout=timedelta(seconds=given.timeout_s),
    )
    try:
        train(given.csv, load_model(given.model), given.steps, device)
    finally:
        dist.destroy_process_group()


def train(path: str, model: Any, steps: int, device: torch.device) -> None:
    """Do the steps; the rank of the last stage reports the losses."""
    rows = read_rows(path)
    stages = [int(token[1]) for row in rows for token in row]
    microbatches = {int(token[3]) for row in rows for token in row if token[3]}
    own = sorted({int(token[1]) for token in own_row(rows)})
    last = max(stages)
    pipeline = [
        PipelineStage(model.stage(stage, last + 1).to(device), stage, last + 1, device)
        for stage in own
    ]
    schedule = scheduled(path, rows, pipeline, len(microbatches), model.loss)
    parameters = [p for stage in pipeline for p in stage.submod.parameters()]
    make = getattr(model, "optimizer", torch.optim.AdamW)
    optimizer = make(parameters) if parameters else None
    for step in range(steps):
        inputs, targets = model.batch(step)
        if len(inputs) % len(microbatches):
            stop(
                f"batch({step}) has {len(inputs)} rows: not a multiple of the number"
                f" of microbatches, {len(microbatches)}"
            )
        losses: list[torch.Tensor] = []
        arguments = (inputs.to(device),) if 0 in own else ()
        if last in own:
            schedule.step(*arguments, target=targets.to(device), losses=losses)
            mean = torch.stack([loss.detach() for loss in losses]).mean()
            say(f"step {step}: loss {mean.item():.6f}")
        else:
            schedule.step(*arguments)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= len(microbatches)
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()


def scheduled(
    path: str,
    rows: list[list[re.Match[str]]],
    pipeline: list[PipelineStage],
    microbatches: int,
    loss: Any,
) -> Any:
    """The runtime with the rows in it, after checking that they fit each other.

    Receives are not deferred (``defer_pp_recv``): ranks may run microbatches in other
    orders than each other, and messages have no names. Gradients are summed here and
    divided in ``train``: torch 2.7 does not divide those of a stage whose last backward
    is a W.
    """
    kinds = {token[2] for row in rows for token in row}
    has_transfers = not kinds <= {"F", "B", "I", "W"}
    if has_transfers and not hasattr(schedules, "REDUCE_GRAD"):
        stop(
            f"{path} lists its transfers, for which torch {torch.__version__} is too"
            " old; export torch-csv instead"
        )
    runtime = _PipelineScheduleRuntime(
        pipeline, n_microbatches=microbatches, loss_fn=loss, scale_grads=False
    )
    kind = "compute_comms" if has_transfers else "compute_only"
    runtime._load_csv(path, format=kind)  # noqa: SLF001 (torch has no public way)
    rank = dist.get_rank()
    home = runtime.stage_index_to_group_rank
    here = sorted(stage for stage, owner in home.items() if owner == rank)
    if here != sorted(stage.stage_index for stage in pipeline):
        stop(f"rank {rank} has other stages than its row: {here}")
    return runtime


def read_rows(path: str) -> list[list[re.Match[str]]]:
    """The tokens of each rank: stage, kind, microbatch."""
    with Path(path).open(newline="") as file:
        rows = [
            [cell.strip() for cell in row if cell.strip()] for row in csv.reader(file)
        ]
    found = []
    for rank, row in enumerate(rows):
        tokens = [TOKEN.fullmatch(cell) for cell in row]
        if not tokens or None in tokens:
            stop(f"{path}: row {rank} is empty or has a cell that is no token")
        found.append([token for token in tokens if token is not None])
    return found


def own_row(rows: list[list[re.Match[str]]]) -> list[re.Match[str]]:
    """The row of this rank."""
    if len(rows) != dist.get_world_size():
        stop(
            f"there are {dist.get_world_size()} ranks for {len(rows)} rows; start"
            f" torchrun with --nproc-per-node {len(rows)}"
        )
    return rows[dist.get_rank()]


def load_model(path: str) -> Any:
    """The user's file as a module."""
    spec = importlib.util.spec_from_file_location("model", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        stop(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def device_of_rank(name: str | None) -> torch.device:
    """The device of this rank."""
    kind = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind != "cuda":
        return torch.device(kind)
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def say(text: str) -> None:
    """A line on stdout."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def stop(reason: str) -> NoReturn:
    """End with a reason."""
    raise SystemExit(f"run_torch.py: {reason}")


if __name__ == "__main__":
    main()
