"""Train with K-FAC and a schedule that schedopt exported, on torch 2.13.

    torchrun --nproc-per-node RANKS run_torch_kfac.py NAME.kfac.json --model MODEL.py

MODEL.py is yours and has

    def stage(index, count): ...    # the module of stage `index` of `count`
    def batch(step): ...            # (inputs, targets) of a step, the same on all ranks
    def loss(output, target): ...   # the mean loss of one microbatch
    def optimizer(parameters): ...  # optional, for each stage; SGD if there is none
    def layers(stage, names): ...   # optional: the nn.Linear of each name in a stage;
                                    # the first ones in the model's order if not there

Needs torch, ``kfac_slots.py`` beside this file, and nothing else.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
from kfac_slots import KfacSlots  # type: ignore[import-not-found] # beside the copy
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime


def main() -> None:
    """Read the arguments, and train."""
    parser = argparse.ArgumentParser(description="Train with an exported schedule.")
    parser.add_argument("table", help="the exported NAME.kfac.json")
    parser.add_argument("--model", required=True, help="your Python file")
    parser.add_argument("--steps", type=int, default=1, help="training steps")
    parser.add_argument("--damping", type=float, default=0.1, help="of the factors")
    parser.add_argument("--device", help="cuda or cpu; what there is unless you say so")
    parser.add_argument(
        "--timeout-s", type=float, default=300, help="a rank that hangs gives up then"
    )
    given = parser.parse_args()
    kind = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(kind, int(os.environ["LOCAL_RANK"]) if kind == "cuda" else 0)
    if kind == "cuda":
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=given.timeout_s)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=timeout)
    try:
        train(given.table, load_model(given.model), given.steps, given.damping, device)
    finally:
        dist.destroy_process_group()


def train(
    path: str, model: Any, steps: int, damping: float, device: torch.device
) -> None:
    """Do the steps; the rank of the last stage reports the losses."""
    table = json.loads(Path(path).read_text(encoding="utf-8"))
    home: list[int] = table["stages"]
    if dist.get_world_size() != max(home) + 1:
        stop(f"start torchrun with --nproc-per-node {max(home) + 1}")
    own = [stage for stage, rank in enumerate(home) if rank == dist.get_rank()]
    modules = {stage: model.stage(stage, len(home)).to(device) for stage in own}
    make = getattr(model, "optimizer", lambda given: torch.optim.SGD(given, lr=0.01))
    optimizers = {stage: make(list(modules[stage].parameters())) for stage in own}
    pipeline = [
        PipelineStage(module, stage, len(home), device)
        for stage, module in modules.items()
    ]
    runtime = _PipelineScheduleRuntime(
        pipeline, table["microbatches"], loss_fn=model.loss, scale_grads=True
    )
    named = getattr(model, "layers", first_layers)

    def update(stage: int) -> None:
        optimizers[stage].step()
        optimizers[stage].zero_grad()

    slots = KfacSlots(
        runtime,
        pipeline,
        path,
        {stage: named(modules[stage], table["layers"][stage]) for stage in own},
        update=update,
        damping=damping,
    )
    for step in range(steps):
        inputs, targets = model.batch(step)
        if len(inputs) % table["microbatches"]:
            stop(f"batch({step}): {len(inputs)} rows cannot be cut into microbatches")
        losses: list[Tensor] = []
        arguments = (inputs.to(device),) if 0 in own else ()
        if len(home) - 1 not in own:
            slots.step(step, *arguments)
            continue
        slots.step(step, *arguments, target=targets.to(device), losses=losses)
        mean = torch.stack([loss.detach() for loss in losses]).mean()
        sys.stdout.write(f"step {step}: loss {mean.item():.9f}\n")
        sys.stdout.flush()


def first_layers(stage: nn.Module, names: Sequence[str]) -> dict[str, nn.Linear]:
    """The first linear layers of a stage, in the model's order."""
    found = [module for module in stage.modules() if isinstance(module, nn.Linear)]
    if len(found) < len(names):
        stop(f"a stage has {len(found)} linear layers, and the schedule {len(names)}")
    return dict(zip(names, found, strict=False))


def load_model(path: str) -> Any:
    """The user's file as a module."""
    spec = importlib.util.spec_from_file_location("model", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        stop(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stop(reason: str) -> NoReturn:
    """End with a reason."""
    raise SystemExit(f"run_torch_kfac.py: {reason}")


if __name__ == "__main__":
    main()
