"""Measure models on a GPU, and look whether memory is as predicted.

Usage, from the repository's root, on a machine with a GPU and torch:
``python results/measured/on_gpu.py FOLDER [NAME...]``. Writes what
``schedopt profile --json`` prints for each model to ``FOLDER/NAME.profile.json``, and
to ``FOLDER/checks.json`` what torch held while it ran schedules, what its allocator
gave out beyond what was asked for, and times measured in two ways.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from schedopt.instance import Backward  # noqa: E402
from schedopt.measure.gpt import GptPart, GptShape, gpt_stage  # noqa: E402
from schedopt.measure.sample import Microbatch  # noqa: E402
from schedopt.measure.sizes import GptModel  # noqa: E402
from schedopt.measure.stages import describe  # noqa: E402
from schedopt.measure.timing import (  # noqa: E402
    Action,
    both_backwards,
    time_ops,
    time_work,
)
from tests.runtime_memory import peak_of, profile_of  # noqa: E402

COMMON = (
    "--dtype bfloat16 --device cuda --microbatches 32 --state-bytes 12 --latency 20"
    " --bandwidth 50000000000 --warmup 2 --repetitions 10"
)
MODELS = {
    "gpt-1.3b-p8": "--stages 8 --layers 24 --hidden 2048 --heads 16 --sequence 2048"
    " --microbatch-size 16 --vocab 50304",
    "gpt-6.7b-p8": "--stages 8 --layers 32 --hidden 4096 --heads 32 --sequence 2048"
    " --microbatch-size 16 --vocab 50304",
    "gpt-6.7b-p8-looped": "--stages 16 --devices 8 --layers 32 --hidden 4096 --heads 32"
    " --sequence 2048 --microbatch-size 16 --vocab 50304",
    "gpt-13b-p8": "--stages 8 --layers 40 --hidden 5120 --heads 40 --sequence 2048"
    " --microbatch-size 8 --vocab 50304",
    "gpt-7b-128k-p8": "--stages 8 --layers 32 --hidden 4096 --heads 32"
    " --sequence 4096 --microbatch-size 8 --vocab 128256",
    "bert-large-p8": "--stages 8 --layers 24 --hidden 1024 --heads 16 --sequence 512"
    " --microbatch-size 32 --vocab 30522 --kfac --warmup 1 --repetitions 5",
}

CHECKED = GptModel(
    stages=4,
    layers=4,
    hidden=2048,
    heads=16,
    sequence=1024,
    microbatch_size=4,
    dtype="bfloat16",
    vocabulary=8192,
    mlp_ratio=4,
    checkpointing=False,
    compiled=False,
)
TIMED = ((1024, 16, 3, 1), (2048, 16, 3, 1), (4096, 32, 4, 1), (4096, 32, 4, 8))
"""Hidden size, heads, blocks and sequences per microbatch of stages without ends."""

SCHEDULES = ("zb-greedy", "interleaved-1f1b", "breadth-first")


def measure(name: str, folder: Path) -> None:
    """One model's profile, by the command that anyone would use."""
    command = [sys.executable, "-m", "schedopt", "profile", "--name", name]
    command += [*COMMON.split(), *MODELS[name].split(), "--json"]
    start = time.monotonic()
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    took = time.monotonic() - start
    sys.stderr.write(f"{name}: code {ran.returncode}, {took:.0f} s\n{ran.stderr}")
    if ran.returncode == 0:
        path = folder / f"{name}.profile.json"
        path.write_text(ran.stdout, encoding="utf-8")


def checks() -> dict[str, Any]:
    """Memory, as predicted and as measured; bytes."""
    device = torch.device("cuda")
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    before = torch.cuda.memory_allocated()
    profile = profile_of(CHECKED, device)
    gc.collect()
    found = {
        "device": describe(device),
        "driver": _driver(),
        "date": datetime.now(UTC).date().isoformat(),
        "total": total,
        "context": total - free - reserved,
        "held_by_libraries": torch.cuda.memory_allocated() - before,
        "model": asdict(CHECKED),
        "parameters": [stage.memory.parameters for stage in profile.stages],
        "workspace": [
            stage.memory.workspace[Backward.SPLIT] for stage in profile.stages
        ],
        "peaks": [
            asdict(peak_of(CHECKED, profile, name, 8, device)) for name in SCHEDULES
        ],
    }
    torch.cuda.empty_cache()
    return {
        **found,
        "rounding": [_rounding(2048), _rounding(2000)],
        "timings": [row for sizes in TIMED for row in _timings(*sizes)],
    }


def _driver() -> str:
    """The version of the GPU's driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return ran.stdout.splitlines()[0].strip()


def _rounding(hidden: int) -> dict[str, int]:
    """What a forward leaves behind, as asked for and as given out by the allocator."""
    shape = GptShape(
        hidden=hidden,
        heads=16,
        sequence=1024,
        microbatch_size=3,
        dtype=torch.bfloat16,
    )
    stage = gpt_stage(shape, GptPart(4, False, False), torch.device("cuda"))
    time_ops(stage, torch.device("cuda"), 1, 1)
    microbatch = Microbatch(stage)
    before = torch.cuda.memory_stats()
    microbatch.receive_inputs()
    microbatch.forward()
    after = torch.cuda.memory_stats()
    names = {"asked": "requested_bytes", "given": "allocated_bytes"}
    return {
        "hidden": hidden,
        **{
            word: after[f"{name}.all.current"] - before[f"{name}.all.current"]
            for word, name in names.items()
        },
    }


def _timings(
    hidden: int, heads: int, blocks: int, microbatch_size: int
) -> list[dict[str, Any]]:
    """Times of a stage's ops, as ``profile`` takes them and with an idle GPU."""
    shape = GptShape(
        hidden=hidden,
        heads=heads,
        sequence=2048,
        microbatch_size=microbatch_size,
        dtype=torch.bfloat16,
    )
    device = torch.device("cuda")
    stage = gpt_stage(shape, GptPart(blocks, False, False), device)

    def waiting() -> Iterator[tuple[str, Action]]:
        for kind, action in both_backwards(stage):
            yield "", partial(torch.cuda.synchronize, device)
            yield kind, action

    ways = {"queued": time_ops(stage, device, 3, 10)}
    ways["waiting"] = time_work(waiting, device, 3, 10)
    ways["queued again"] = time_ops(stage, device, 3, 10)
    return [
        {
            "hidden": hidden,
            "blocks": blocks,
            "microbatch_size": microbatch_size,
            "how": how,
            "times": {
                kind: {
                    "median": round(spread.median, 1),
                    "relative": round(spread.relative, 3),
                    "idle": spread.idle,
                }
                for kind, spread in spreads.items()
            },
        }
        for how, spreads in ways.items()
    ]


def main() -> None:
    """All models, or those that are named, and the checks."""
    folder, *names = sys.argv[1:]
    for name in names or [*MODELS, "checks"]:
        if name == "checks":
            text = json.dumps(checks(), indent=1) + "\n"
            (Path(folder) / "checks.json").write_text(text, encoding="utf-8")
            sys.stderr.write(text)
        else:
            measure(name, Path(folder))


if __name__ == "__main__":
    main()
