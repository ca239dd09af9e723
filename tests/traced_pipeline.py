"""A real pipeline of two gloo processes under torch's profiler, for tests.

Run as ``python -m tests.traced_pipeline FOLDER RANK``, once per rank at the same time:
each rank executes ``ROWS`` with ``_PipelineScheduleRuntime`` (torch 2.13) and writes
``rank<RANK>.json`` into the folder.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

ROWS = "0F0,0F1,0I0,0W0,0F2,0I1,0W1,0I2,0W2\n1F0,1I0,1F1,1I1,1W0,1F2,1I2,1W1,1W2"
WORLD, MICROBATCHES, STEPS, WIDTH, ROWS_PER_MICROBATCH = 2, 3, 3, 64, 8


def run(folder: Path, rank: int) -> None:
    """Train three steps and export the trace of this rank."""
    import torch  # noqa: PLC0415 - an extra
    import torch.distributed as dist  # noqa: PLC0415
    from torch.distributed.pipelining import PipelineStage  # noqa: PLC0415
    from torch.distributed.pipelining.schedules import (  # noqa: PLC0415
        _PipelineScheduleRuntime,
    )

    torch.set_num_threads(1)
    torch.manual_seed(rank)
    store = dist.FileStore(str(folder / "store"), WORLD)
    dist.init_process_group(
        "gloo",
        store=store,
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=60),
    )
    module = torch.nn.Sequential(
        torch.nn.Linear(WIDTH, 4 * WIDTH),
        torch.nn.GELU(),
        torch.nn.Linear(4 * WIDTH, WIDTH),
    )
    stage = PipelineStage(module, rank, WORLD, torch.device("cpu"))
    schedule = _PipelineScheduleRuntime(
        [stage], MICROBATCHES, loss_fn=torch.nn.functional.mse_loss
    )
    csv = folder / f"order{rank}.csv"
    csv.write_text(ROWS)
    schedule._load_csv(str(csv), format="compute_only")
    rows = MICROBATCHES * ROWS_PER_MICROBATCH
    batch, target = torch.randn(rows, WIDTH), torch.randn(rows, WIDTH)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        for _ in range(STEPS):
            if rank == 0:
                schedule.step(batch)
            else:
                schedule.step(target=target, losses=[])
    profiler.export_chrome_trace(str(folder / f"rank{rank}.json"))
    dist.destroy_process_group()


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
