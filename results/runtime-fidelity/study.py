"""Predicted against measured step times, with stages that sleep, by one command.

Usage, from the repository's root: ``python results/runtime-fidelity/study.py``. It
needs torch 2.13.0 and takes some ten minutes; ``--no-runs`` reads ``records.jsonl``
only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

import schedopt
from schedopt.execute import Comms, Execution, Model, execute_jobs, job_of
from schedopt.execute.executing import FIDELITY
from schedopt.execute.prediction import as_torch_runs, predict, seconds_per_unit
from schedopt.export import Program, program_of
from schedopt.instance import Backward, Device, Instance, Placement, StageCost, place
from schedopt.ops import Op, OpKind
from schedopt.report.kinds import COLOURS, KIND_WORDS

HERE = Path(__file__).parent
MICROBATCHES = {2: 6, 4: 8}
SLEEP_SCALE = 1.5  # seconds slept per second of an instance
DRAWN = "optimizer, v x2, choose, 4 devices"
EFFORT_S = 20
FORWARD_MS = (80, 110, 95, 125)
INPUT_MS = (90, 100, 120, 85)
WEIGHT_MS = (70, 90, 60, 80)
HAND_MADE = {
    2: ("gpipe", "1f1b", "interleaved-1f1b", "zb-h1", "zb-v"),
    4: (
        *("gpipe", "1f1b", "interleaved-1f1b", "hanayo"),
        *("zb-h1", "zb-h2", "zb-greedy", "zb-v", "v-half"),
    ),
}
UNEVEN = (2, 0, 0, 3, 1, 1, 2, 3, 0)


class Case(NamedTuple):
    """A schedule to execute, and its name in the table."""

    name: str
    program: Program


def instance(
    devices: int,
    placement: Placement = Placement.LINEAR,
    backward: Backward = Backward.SPLIT,
    homes: tuple[int, ...] | None = None,
) -> Instance:
    """Uneven stages, milliseconds; memory for as many activations as devices.

    With more stages than devices each is shorter, so that the work is about the same.
    """
    chunks = 1 if placement is Placement.LINEAR else 2
    count = chunks * devices if homes is None else len(homes)

    def share(costs: tuple[int, ...], stage: int) -> int:
        return round(costs[stage * devices // count] * devices / count)

    stages = tuple(
        StageCost(
            forward=share(FORWARD_MS, stage),
            backward_input=share(INPUT_MS, stage),
            backward_weight=share(WEIGHT_MS, stage),
            activation=1,
        )
        for stage in range(count)
    )
    room = devices * -(-count // devices)
    return Instance(
        name=f"uneven-p{devices}",
        stages=stages,
        devices=tuple(Device(name=f"d{d}", memory_limit=room) for d in range(devices)),
        microbatches=MICROBATCHES[devices],
        placement=placement,
        device_of_stage=homes or place(placement, count, devices),
        backward=backward,
        time_unit="ms",
        runtime="torch-csv",
    )


def hand_made(devices: int) -> Iterator[Case]:
    """Published schedules on the instance without a memory limit, as published."""
    given = instance(devices)
    given = replace(
        given,
        runtime="",
        devices=tuple(replace(d, memory_limit=None) for d in given.devices),
    )
    for name in HAND_MADE[devices]:
        run = schedopt.run_baseline(schedopt.BASELINES[name], given)
        text = f"{name}, {run.form}, {devices} devices"
        yield Case(text, program_of(run.derived, run.schedule))


def found(devices: int) -> Iterator[Case]:
    """What the optimizer finds under torch's rules, within the memory limit."""
    forms: list[tuple[str, Instance]] = [
        ("linear, split", instance(devices)),
        ("v x2, choose", instance(devices, Placement.V, Backward.CHOOSE)),
    ]
    if devices == 4:
        forms += [
            ("looped x2, split", instance(devices, Placement.LOOPED)),
            (
                "9 stages unevenly placed, choose",
                instance(devices, Placement.EXPLICIT, Backward.CHOOSE, UNEVEN),
            ),
        ]
    parameters = schedopt.SolveParameters(
        time_limit_s=EFFORT_S, reproducible=True, workers=1
    )
    for text, given in forms:
        solution = schedopt.solve(given, parameters)
        assert solution.schedule is not None
        program = program_of(given, solution.schedule)
        yield Case(f"optimizer, {text}, {devices} devices", program)


def executed(devices: int) -> Iterator[dict[str, Any]]:
    """A record for each schedule of so many devices."""
    cases = [*hand_made(devices), *found(devices)]
    jobs = [
        replace(
            job_of(
                case.program, Model.SLEEP, comms=Comms.TORCH, sleep_scale=SLEEP_SCALE
            ),
            name=case.name,
        )
        for case in cases
    ]
    for case, execution in zip(cases, execute_jobs(jobs), strict=True):
        yield record(case, execution)


def record(case: Case, execution: Execution) -> dict[str, Any]:
    """What was executed, predicted and measured; seconds."""
    job, outcome, fidelity = execution.job, execution.outcome, execution.fidelity
    assert fidelity is not None
    found: dict[str, Any] = {
        "schedule": case.name,
        "devices": job.ranks,
        "stages": len(job.device_of_stage),
        "microbatches": job.microbatches,
        "device_of_stage": list(job.device_of_stage),
        "rows": job.csv.splitlines(),
        "torch": execution.torch,
        "backend": execution.backend.value,
        "predicted_s": fidelity.predicted_s,
        "measured_s": fidelity.measured_s,
        "steps_s": list(outcome.step_s),
        "error": fidelity.error,
        "max_loss_difference": outcome.loss_difference,
        "max_gradient_difference": outcome.gradient.value,
    }
    if case.name == DRAWN:
        found["predicted_ops"] = predicted_ops(case.program)
        found["measured_ops"] = measured_ops(execution)
    return found


def predicted_ops(program: Program) -> list[tuple[int, str, float, float]]:
    """Device, op, start and end, seconds, of the replay by torch's rules."""
    schedule = predict(program).schedule
    per_tick = seconds_per_unit(as_torch_runs(program.instance)) * SLEEP_SCALE
    per_tick /= schedule.graph.units.ticks_per_unit
    return [
        (
            schedule.graph.data[op].device,
            str(op),
            start * per_tick,
            schedule.end(op) * per_tick,
        )
        for op, start in schedule.start.items()
        if schedule.graph.data[op].duration
    ]


def measured_ops(execution: Execution) -> Sequence[tuple[int, str, float, float]]:
    """The same of the step whose time is nearest to the median."""
    outcome = execution.outcome
    nearest = min(
        range(1, len(outcome.step_s)),
        key=lambda step: abs(outcome.step_s[step] - outcome.measured_s),
    )
    return list(outcome.spans(nearest))


# -- what is written -----------------------------------------------------------

COLUMNS = (
    ("schedule", "schedule"),
    ("stages", "stages"),
    ("microbatches", "microbatches"),
    ("predicted_s", "predicted, s"),
    ("measured_s", "measured, s"),
    ("error", "error, %"),
    ("steps_s", "timed steps, s"),
    ("max_gradient_difference", "gradients differ by"),
)


def cells(row: dict[str, Any]) -> list[str]:
    """A record as the table has it."""
    return [
        row["schedule"],
        str(row["stages"]),
        str(row["microbatches"]),
        f"{row['predicted_s']:.3f}",
        f"{row['measured_s']:.3f}",
        f"{100 * row['error']:+.1f}",
        " ".join(f"{seconds:.3f}" for seconds in row["steps_s"][1:]),
        f"{row['max_gradient_difference']:.1e}",
    ]


def write_tables(records: list[dict[str, Any]]) -> None:
    """``table.md`` and ``table.csv``."""
    within = sum(abs(row["error"]) <= FIDELITY for row in records)
    errors = [100 * row["error"] for row in records]
    lines = [
        "# Predicted against measured step times",
        "",
        f"torch {records[0]['torch']}, {records[0]['backend']}, sleeping stages;"
        f" {within} of {len(records)} schedules within {FIDELITY:.0%}, errors from"
        f" {min(errors):+.1f} % to {max(errors):+.1f} %.",
        "",
        "| " + " | ".join(title for _, title in COLUMNS) + " |",
        "|---|" + "---:|" * (len(COLUMNS) - 1),
        *("| " + " | ".join(cells(row)) + " |" for row in records),
        "",
        "Predicted: the replay by torch's rules. Measured: the median of the timed",
        "steps, each from the first device's start to the last one's end. Error:",
        "measured / predicted - 1. Gradients: the largest absolute difference from the",
        "unpipelined model, in float64.",
    ]
    (HERE / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = [name for name, _ in COLUMNS if name != "steps_s"]
    rows = [",".join(names)]
    for row in records:
        values = [f'"{row[n]}"' if n == "schedule" else str(row[n]) for n in names]
        rows.append(",".join(values))
    (HERE / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def draw(row: dict[str, Any]) -> None:
    """``steps.png``: one schedule as predicted and as it ran."""
    figure, axes = plt.subplots(
        2, 1, sharex=True, figsize=(12, 4.6), layout="constrained"
    )
    _draw_ops(axes[0], row["predicted_ops"], row["devices"])
    _draw_ops(axes[1], row["measured_ops"], row["devices"])
    axes[0].set_title(f"predicted, {row['predicted_s']:.3f} s", fontsize=10)
    axes[1].set_title(
        f"measured in torch, {row['measured_s']:.3f} s, median of"
        f" {len(row['steps_s']) - 1} steps (the step nearest to it is drawn)",
        fontsize=10,
    )
    axes[1].set_xlabel("seconds since the first op's start")
    figure.suptitle(row["schedule"], fontsize=11)
    kinds = dict.fromkeys(Op.parse(op).kind for _, op, _, _ in row["predicted_ops"])
    figure.legend(
        handles=[Patch(color=COLOURS[k][0], label=KIND_WORDS[k]) for k in kinds],
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
    )
    figure.savefig(HERE / "steps.png", dpi=130)
    plt.close(figure)


def _draw_ops(
    axes: Axes, ops: list[tuple[int, str, float, float]], devices: int
) -> None:
    bars: dict[tuple[int, OpKind], list[tuple[float, float]]] = {}
    for device, text, start, end in ops:
        bars.setdefault((device, Op.parse(text).kind), []).append((start, end - start))
        middle = round((start + end) / 2, 4)
        axes.text(middle, device, text, ha="center", va="center", fontsize=4)
    for (device, kind), spans in bars.items():
        axes.broken_barh(
            spans,
            (device - 0.4, 0.8),
            facecolors=COLOURS[kind][0],
            edgecolor="white",
            linewidth=0.4,
        )
    axes.set_yticks(range(devices), [f"device {device}" for device in range(devices)])
    axes.invert_yaxis()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def main() -> None:
    """Execute, unless told not to, and write everything."""
    path = HERE / "records.jsonl"
    if "--no-runs" not in sys.argv:
        lines = [json.dumps(row) for devices in (2, 4) for row in executed(devices)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    write_tables(records)
    for row in records:
        if "measured_ops" in row:
            draw(row)


if __name__ == "__main__":
    main()
