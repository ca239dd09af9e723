"""The study of solver quality: runs, tables, bars and pictures, by one command.

Usage, from the repository's root: ``python results/solver-quality/study.py``. What
``store/`` holds is not run again; ``--no-runs`` reads ``records.jsonl`` only.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from schedopt.experiments import publish
from schedopt.experiments.spec import instances_of, load_spec
from schedopt.formats import instance_sha256
from schedopt.instance import Instance

HERE = Path(__file__).parent
NAME = re.compile(
    r"(?P<costs>uniform|unequal)-(?:(?P<placement>v|looped)2-)?P(?P<devices>\d+)"
    r"-m(?P<microbatches>\d+)-mem(?P<memory>[\d.]+)(?P<rest>.*)"
)


@dataclass(frozen=True, slots=True)
class Run:
    """A record, and what its instance's name says."""

    record: dict[str, Any]
    placement: str
    memory: float
    kind: str

    @property
    def gap(self) -> float:
        """(value - bound) / value; 1 without a value."""
        gap = self.record["gap"]
        return 1.0 if gap is None else gap

    @property
    def is_optimal(self) -> bool:
        """Whether the value has been proven."""
        return self.record["status"] == "optimal"


def run_of(record: dict[str, Any]) -> Run:
    """Read a record's name."""
    found = NAME.fullmatch(record["instance"])
    assert found, record["instance"]
    rest = found["rest"]
    kind = "grid"
    for word in ("lat185", "whole"):
        if word in rest:
            kind = word
    return Run(record, found["placement"] or "linear", float(found["memory"]), kind)


@dataclass(frozen=True, slots=True)
class Bar:
    """A group of runs, and what is asked of it: (text, measured, met) by check."""

    group: str
    belongs: Callable[[Run], bool]
    checks: tuple[tuple[str, Callable[[list[Run]], float], float, bool], ...]


def share(most: float) -> Callable[[list[Run]], float]:
    """The share of runs with a gap of at most so much."""
    return lambda runs: sum(run.gap <= most for run in runs) / len(runs)


def optimal(runs: list[Run]) -> float:
    """The share of runs whose value is proven optimal."""
    return sum(run.is_optimal for run in runs) / len(runs)


def middle(runs: list[Run]) -> float:
    """The median gap."""
    return median(run.gap for run in runs)


def largest(runs: list[Run]) -> float:
    """The largest gap."""
    return max(run.gap for run in runs)


def solved(runs: list[Run]) -> float:
    """The share of runs with a valid schedule."""
    return sum(run.record["value"] is not None for run in runs) / len(runs)


# (what is measured, how, the bar, whether more is better)
BARS = (
    Bar(
        "linear, memory >= 1",
        lambda r: r.kind == "grid" and r.placement == "linear" and r.memory >= 1,
        (
            ("share with gap <= 1 %", share(0.01), 0.95, True),
            ("largest gap", largest, 0.025, False),
            ("share proven optimal", optimal, 0.6, True),
        ),
    ),
    Bar(
        "linear, memory 0.5 and 0.75",
        lambda r: r.kind == "grid" and r.placement == "linear" and r.memory < 1,
        (
            ("median gap", middle, 0.02, False),
            ("share with gap <= 6 %", share(0.06), 0.9, True),
        ),
    ),
    Bar(
        "V and looped, memory >= 0.75",
        lambda r: r.kind == "grid" and r.placement != "linear" and r.memory >= 0.75,
        (
            ("share with gap <= 2 %", share(0.02), 0.95, True),
            ("largest gap", largest, 0.03, False),
            ("share proven optimal", optimal, 0.4, True),
        ),
    ),
    Bar(
        "V and looped, memory 0.5",
        lambda r: r.kind == "grid" and r.placement != "linear" and r.memory < 0.75,
        (
            ("share with a valid schedule", solved, 1.0, True),
            ("median gap", middle, 0.08, False),
            ("share with gap <= 15 %", share(0.15), 0.9, True),
        ),
    ),
)
NO_BAR = (
    ("latency 185", lambda r: r.kind == "lat185"),
    ("whole backward", lambda r: r.kind == "whole"),
)


def bars_of(runs: list[Run], limit_s: float) -> str:
    """What is asked of each group, and what was measured."""
    lines = [
        f"# {len(runs)} instances of the grid, {limit_s:g} s each with 2 workers",
        "",
        "Gap: (value - lower bound) / value, of the exact costs.",
        "",
        "| group | instances | measured | bar | reached | met |",
        "|---|---|---|---|---|---|",
    ]
    for bar in BARS:
        group = [run for run in runs if bar.belongs(run)]
        for text, measure, asked, more in bar.checks:
            found = measure(group)
            met = found >= asked if more else found <= asked
            sign = ">=" if more else "<="
            lines.append(
                f"| {bar.group} | {len(group)} | {text} | {sign} {asked:.1%} |"
                f" {found:.2%} | {'yes' if met else '**no**'} |"
            )
    for name, belongs in NO_BAR:
        group = [run for run in runs if belongs(run)]
        for text, measure in (
            ("share proven optimal", optimal),
            ("median gap", middle),
            ("largest gap", largest),
        ):
            lines.append(
                f"| {name} | {len(group)} | {text} | none | {measure(group):.2%} | |"
            )
    lines += ["", "The largest gaps:", "", "| instance | value | bound | gap |"]
    lines.append("|---|---|---|---|")
    for run in sorted(runs, key=lambda run: -run.gap)[:20]:
        record = run.record
        lines.append(
            f"| {record['instance']} | {record['value']} | {record['lower_bound']} |"
            f" {run.gap:.2%} |"
        )
    return "\n".join(lines) + "\n"


def picture_of_time(runs: list[Run], limit_s: float) -> None:
    """Gap against time: quartiles over the runs of each group."""
    figure, axes = plt.subplots(1, len(BARS), figsize=(14, 3.4), sharey=True)
    times = [limit_s * 1.06**-k for k in range(90)][::-1]
    for axis, bar in zip(axes, BARS, strict=True):
        group = [run for run in runs if bar.belongs(run)]
        for part, colour in ((0.5, "C0"), (0.75, "C1"), (0.95, "C3")):
            gaps = [
                sorted(gap_at(run, time) for run in group)[
                    min(int(part * len(group)), len(group) - 1)
                ]
                for time in times
            ]
            axis.plot(times, [100 * gap for gap in gaps], colour, label=f"{part:.0%}")
        axis.set_xscale("log")
        axis.set_ylim(0, 12)
        axis.set_title(bar.group, fontsize=9)
        axis.set_xlabel("seconds from the start")
    axes[0].set_ylabel("gap, %")
    axes[0].legend(title="of the instances", fontsize=8)
    save(figure, "gap-against-time.svg")


def gap_at(run: Run, time: float) -> float:
    """The gap that was known at some time."""
    gap = 1.0
    for seconds, value, bound, _ in run.record["trace"]:
        if seconds <= time and value is not None:
            gap = (value - bound) / value
    return gap


def picture_of_profile(runs: list[Run]) -> None:
    """Performance profile: the share of instances within some gap at the end."""
    figure, axis = plt.subplots(figsize=(5, 3.4))
    for bar in BARS:
        gaps = sorted(100 * run.gap for run in runs if bar.belongs(run))
        shares = [(k + 1) / len(gaps) * 100 for k in range(len(gaps))]
        axis.step(gaps, shares, where="post", label=bar.group)
    axis.set_xlim(0, 15)
    axis.set_ylim(0, 101)
    axis.set_xlabel("gap at the end, %")
    axis.set_ylabel("instances, %")
    axis.legend(fontsize=8)
    save(figure, "profile.svg")


def picture_of_memory(runs: Iterable[Run]) -> None:
    """The bubble ratio of the makespan, by memory and placement."""
    spec = load_spec(HERE / "spec.toml")
    instances = {instance_sha256(one): one for one in instances_of(spec)}
    figure, axis = plt.subplots(figsize=(5, 3.4))
    for place, placement in enumerate(("linear", "v", "looped")):
        points: dict[float, list[float]] = {}
        for run in runs:
            record = run.record
            if run.kind == "grid" and run.placement == placement and record["value"]:
                instance = instances[record["instance_sha256"]]
                points.setdefault(run.memory, []).append(
                    1 - work_of(instance) / (len(instance.devices) * record["makespan"])
                )
        memory = sorted(points)
        axis.plot(
            [m + 0.01 * place for m in memory],
            [100 * median(points[m]) for m in memory],
            "o-",
            label=placement,
        )
    axis.set_xlabel("memory limit, P activations")
    axis.set_ylabel("bubble ratio of the makespan, %, median")
    axis.legend(fontsize=8)
    save(figure, "bubble-against-memory.svg")


def work_of(instance: Instance) -> float:
    """All work of a generated instance (split backward) in its time unit."""
    return instance.microbatches * sum(
        float(
            stage.forward + (stage.backward_input or 0) + (stage.backward_weight or 0)
        )
        for stage in instance.stages
    )


def save(figure: Any, name: str) -> None:
    """Write a picture without a date, so that it changes only with its data."""
    figure.tight_layout()
    figure.savefig(HERE / name, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Run what is missing; write tables, bars and pictures."""
    mpl.rcParams["svg.hashsalt"] = "schedopt"
    if "--no-runs" not in sys.argv:
        publish(HERE / "spec.toml")
    lines = (HERE / "records.jsonl").read_text().splitlines()
    runs = [run_of(json.loads(line)) for line in lines]
    limit_s = max(run.record["parameters"]["time_limit_s"] for run in runs)
    (HERE / "bars.md").write_text(bars_of(runs, limit_s))
    picture_of_time(runs, limit_s)
    picture_of_profile(runs)
    picture_of_memory(runs)


if __name__ == "__main__":
    main()
