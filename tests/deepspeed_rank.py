"""One rank of a DeepSpeed run: ``python -m tests.deepspeed_rank MODULE RESULT``.

Trains two steps with the exported schedule and two without a pipeline, from the same
parameters on the same data, and writes the largest difference of this rank's
parameters.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import deepspeed
import torch
from deepspeed.pipe import PipelineModule

STEPS = 2
WIDTH = 12
SAMPLES = 3  # per microbatch
LAYERS_PER_STAGE = 2


def main(module_file: str, result: str) -> None:
    rank = int(os.environ["RANK"])
    spec = importlib.util.spec_from_file_location("exported", module_file)
    assert spec is not None
    assert spec.loader is not None
    exported = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(exported)
    torch.set_num_threads(1)
    # On a CPU DeepSpeed would first spend minutes on compiling a reduction.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", timeout=timedelta(seconds=60))
    torch.manual_seed(7)
    layers = [
        torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh())
        for _ in range(LAYERS_PER_STAGE * exported.STAGES)
    ]
    alone = torch.nn.Sequential(*copy.deepcopy(layers))
    # Microbatches differ, so that a mix-up of any two of them shows.
    batches = [
        [
            (torch.randn(SAMPLES, WIDTH) * (m + 1), torch.randn(SAMPLES, WIDTH))
            for m in range(exported.MICROBATCHES)
        ]
        for _ in range(STEPS)
    ]
    loss_function = torch.nn.MSELoss()
    module = PipelineModule(
        layers,
        num_stages=exported.STAGES,
        loss_fn=loss_function,
        partition_method="uniform",
    )
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
        config={
            "train_micro_batch_size_per_gpu": SAMPLES,
            "gradient_accumulation_steps": exported.MICROBATCHES,
        },
    )
    exported.install(engine)
    losses = [float(engine.train_batch(iter(batch))) for batch in batches]

    optimizer = torch.optim.SGD(alone.parameters(), lr=1.0)
    expected = []
    for batch in batches:
        optimizer.zero_grad()
        step = [loss_function(alone(x), y) for x, y in batch]
        loss = sum(step) / len(step)
        loss.backward()
        optimizer.step()
        expected.append(float(loss.detach()))

    first = rank * LAYERS_PER_STAGE
    mine = alone[first : first + LAYERS_PER_STAGE]
    pairs = list(zip(module.parameters(), mine.parameters(), strict=True))
    Path(result).write_text(
        json.dumps(
            {
                "difference": max(float((a - b).abs().max()) for a, b in pairs),
                "parameters": len(pairs),
                "losses": losses,
                "expected": expected,
            }
        ),
        "utf-8",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
