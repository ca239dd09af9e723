"""Measure the least period of generated pipelines; writes table.md and records.jsonl.

Usage, from the repository's root: ``python results/steady/measure.py``. Each instance
is solved by a command of its own, whose seconds are wall time from its start.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from schedopt.experiments.generate import Point, document_of
from schedopt.instance import Backward, Placement

HERE = Path(__file__).parent
BAR_S = 5.0
"""What the rows of ample memory must be proven in."""

AMPLE = [
    *((devices, 1.0, Placement.LINEAR) for devices in (4, 8, 12, 16, 24, 32)),
    *((devices, 1.0, Placement.V) for devices in (4, 8, 12, 16)),
]
SHORT = [
    (devices, memory, placement)
    for placement in (Placement.LINEAR, Placement.V)
    for devices in (4, 8)
    for memory in (0.75, 0.5)
]
SHORT_S = 30.0


def main() -> None:
    """Run every command, then write both files."""
    records = [_measured(*what, time_limit_s=BAR_S) for what in AMPLE]
    records += [_measured(*what, time_limit_s=SHORT_S) for what in SHORT]
    lines = [json.dumps(record) for record in records]
    (HERE / "records.jsonl").write_text("\n".join(lines) + "\n")
    (HERE / "table.md").write_text("\n".join(_table(records)) + "\n")


def _measured(
    devices: int, memory: float, placement: Placement, *, time_limit_s: float
) -> dict[str, Any]:
    """Solve one instance; what the command printed, and its seconds."""
    point = Point(
        generator="uniform",
        devices=devices,
        microbatches=4 * devices,
        memory=memory,
        placement=placement,
        stages_per_device=1 if placement is Placement.LINEAR else 2,
        backward=Backward.SPLIT,
        latency=6,
        last_stage=1,
        limits="equal",
        seed=None,
    )
    document = document_of(point)
    stages = document["stages"]
    kinds = ("forward", "backward_input", "backward_weight")
    load = sum(stage[kind] for stage in stages for kind in kinds) / devices
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "instance.json")
        path.write_text(json.dumps(document))
        command = [sys.executable, "-m", "schedopt", "solve", str(path), "--json"]
        command += ["--objective", "period", "--time-limit", str(time_limit_s)]
        began, used = time.perf_counter(), _cpu_seconds()
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, used = time.perf_counter() - began, _cpu_seconds() - used
    result = json.loads(ran.stdout)
    kept = ("instance", "devices", "microbatches", "value", "lower_bound", "gap")
    return {
        **{name: result[name] for name in (*kept, "status", "method")},
        "memory": memory,
        "load": load,
        "cycle_microbatches": result["steady"]["microbatches"],
        "bubble_ratio": result["steady"]["bubble_ratio"],
        "seconds": seconds,
        "cpu_seconds": used,
        "time_limit_s": time_limit_s,
    }


def _cpu_seconds() -> float:
    """Of all commands that have ended, their workers included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _table(records: list[dict[str, Any]]) -> list[str]:
    """Both groups as one table, and whether the bar is met."""
    lines = [
        "# The least period of equal stages",
        "",
        "Times in us per microbatch. Memory: as a multiple of P activations. Gap:",
        "(period - bound) / period. Bubble: 1 - work / (devices x T) of the cycle.",
        "s: wall seconds of the whole command, and CPU seconds of all its processes;",
        f"the limit is {BAR_S:g} s where memory is 1, else {SHORT_S:g} s.",
        "",
        "| instance | P | memory | load | period | bound | gap | bubble | found by"
        " | status | s | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['instance']} | {r['devices']} | {r['memory']:g} | {r['load']:g}"
        f" | {r['value']:g} | {r['lower_bound']:g} | {r['gap']:.2%}"
        f" | {r['bubble_ratio']:.2%} | {r['method']} | {r['status']}"
        f" | {r['seconds']:.1f} | {r['cpu_seconds']:.1f} |"
        for r in records
    ]
    missed = [
        r["instance"]
        for r in records[: len(AMPLE)]
        if r["status"] != "optimal" or r["value"] != r["load"] or r["seconds"] >= BAR_S
    ]
    return [
        *lines,
        "",
        f"At memory 1, not proven equal to the load in {BAR_S:g} s:"
        f" {', '.join(missed) or 'none'}.",
    ]


if __name__ == "__main__":
    main()
