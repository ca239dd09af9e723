"""The study of large pipelines: runs, tables and bars, by one command.

Usage, from the repository's root: ``python results/large/study.py``. What the stores
hold is not run again; ``--no-runs`` reads the records only.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schedopt.experiments import publish

HERE = Path(__file__).parent
SPECS = (HERE / "spec.toml", HERE / "longer" / "spec.toml")
NAME = re.compile(
    r"(?P<costs>uniform|unequal)-(?:(?P<placement>v|looped)2-)?P(?P<devices>\d+)"
    r"-m(?P<microbatches>\d+)-mem(?P<memory>[\d.]+).*"
)
BYTES_PER_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Run:
    """A record, and what its instance's name says."""

    record: dict[str, Any]
    costs: str
    placement: str
    devices: int
    memory: float

    @property
    def gap(self) -> float:
        """(value - bound) / value; 1 without a value."""
        gap: float | None = self.record["gap"]
        return 1.0 if gap is None else gap

    @property
    def limit_s(self) -> float:
        """Wall seconds that it had."""
        limit: float = self.record["parameters"]["time_limit_s"]
        return limit


Belongs = Callable[[Run], bool]


def one_way(costs: str, memory: float) -> Belongs:
    """One stage per device."""
    wanted = ("linear", costs, memory)
    return lambda run: (run.placement, run.costs, run.memory) == wanted


def v_of(devices: int) -> Belongs:
    """V, two stages per device, memory for as much as 1F1B needs."""
    wanted = ("v", devices, 1.0)
    return lambda run: (run.placement, run.devices, run.memory) == wanted


# (group, who belongs, largest gap that is asked for; None: reported)
GROUPS: tuple[tuple[str, Belongs, float | None], ...] = (
    ("linear, memory 1, uniform", one_way("uniform", 1), 0.0),
    ("linear, memory 1, unequal", one_way("unequal", 1), 0.03),
    ("linear, memory 0.75, uniform", one_way("uniform", 0.75), 0.04),
    ("linear, memory 0.75, unequal", one_way("unequal", 0.75), 0.08),
    ("V, memory 1, 16 devices", v_of(16), 0.06),
    ("V, memory 1, 32 devices", v_of(32), 0.09),
    ("V, memory 1, 64 devices", v_of(64), None),
    ("V, memory 0.75", lambda r: (r.placement, r.memory) == ("v", 0.75), None),
    ("looped, memory 1", lambda r: (r.placement, r.memory) == ("looped", 1), None),
    (
        "looped, memory 0.75",
        lambda r: (r.placement, r.memory) == ("looped", 0.75),
        None,
    ),
)


def run_of(record: dict[str, Any]) -> Run:
    """Read a record's name."""
    found = NAME.fullmatch(record["instance"])
    assert found, record["instance"]
    return Run(
        record,
        found["costs"],
        found["placement"] or "linear",
        int(found["devices"]),
        float(found["memory"]),
    )


def best_runs() -> list[Run]:
    """For each instance its run with the smallest gap."""
    best: dict[str, Run] = {}
    for spec in SPECS:
        file = spec.parent / "records.jsonl"
        for line in file.read_text().splitlines() if file.exists() else ():
            run = run_of(json.loads(line))
            name = run.record["instance"]
            if name not in best or run.gap < best[name].gap:
                best[name] = run
    return list(best.values())


def bars_of(runs: list[Run]) -> str:
    """What is asked of each group, and what was measured."""
    valid = sum(run.record["value"] is not None for run in runs)
    memory = max(run.record["peak_rss_bytes"] for run in runs) / BYTES_PER_GIB
    lines = [
        f"# {len(runs)} large pipelines, 60 or 120 s each with 2 workers",
        "",
        f"{valid} of {len(runs)} have a valid schedule; at most {memory:.2f} GiB.",
        "Gap: (value - lower bound) / value. Of an instance that ran with both limits"
        " the better run counts.",
        "",
        "| group | instances | proven optimal | median gap | largest gap | bar | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, belongs, bar in GROUPS:
        group = [run for run in runs if belongs(run)]
        gaps = sorted(run.gap for run in group)
        optimal = sum(run.record["status"] == "optimal" for run in group)
        met = "" if bar is None else "yes" if gaps[-1] <= bar else "**no**"
        asked = "" if bar is None else f"<= {bar:.0%}"
        lines.append(
            f"| {name} | {len(group)} | {optimal} | {gaps[len(gaps) // 2]:.2%} |"
            f" {gaps[-1]:.2%} | {asked} | {met} |"
        )
    lines += ["", "| instance | seconds allowed | value | bound | gap |"]
    lines.append("|---|---|---|---|---|")
    for run in runs:
        record = run.record
        lines.append(
            f"| {record['instance']} | {run.limit_s:g} | {record['value']} |"
            f" {record['lower_bound']} | {run.gap:.2%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing; write tables and bars."""
    if "--no-runs" not in sys.argv:
        for spec in SPECS:
            publish(spec)
    (HERE / "bars.md").write_text(bars_of(best_runs()))


if __name__ == "__main__":
    main()
