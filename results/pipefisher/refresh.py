"""The least refresh interval of PipeFisher's examples, in every setting.

Usage, from the repository's root: ``python results/pipefisher/refresh.py``. What
``refresh.jsonl`` holds is not run again (remove lines to run them); ``--no-runs`` only
writes ``refresh.md``. Seconds depend on the machine, values do not where they are
proven.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from schedopt.formats import load_instance
from schedopt.instance import Instance, Inversion, StepBarrier
from schedopt.refresh.greedy import greedy_of
from schedopt.refresh.settings import Minimise
from schedopt.report.refresh import refresh_document
from schedopt.solve.frames import frame_named
from schedopt.solve.refresh import solve_refresh
from schedopt.solve.refresh_solution import RefreshParameters

HERE = Path(__file__).resolve().parent
INSTANCES = HERE.parent.parent / "instances" / "pipefisher" / "kfac"
RECORDS = HERE / "refresh.jsonl"
TIME_LIMIT_S = 120.0

# A network for the runs in which collectives take time: assumed, not measured.
LATENCY_MS = 0.02
BYTES_PER_SECOND = 10_000_000_000
BYTES_PER_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Row:
    """A training of the table: P100, microbatches of 32 sequences, one per device."""

    model: str
    schedule: str
    devices: int
    blocks: int

    @property
    def instance(self) -> Instance:
        """The instance, as it is in the repository."""
        way = "-chimera" if self.schedule == "chimera" else ""
        name = f"pipefisher-{self.model}-p100-b32-d{self.devices}-x{self.blocks}{way}"
        return load_instance(INSTANCES / f"{name}-kfac.yaml")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is allowed. ``network``: collectives take time."""

    step_barrier: str
    wrap: bool
    inversion: str
    network: bool

    @property
    def text(self) -> str:
        """As the table's column says it."""
        name = "strict" if self.step_barrier == "everyone" else "merged"
        return f"{name}, wrap" if self.wrap else name


ROWS = (
    Row("bert-base", "gpipe", 4, 3),
    Row("bert-base", "1f1b", 4, 3),
    Row("bert-base", "chimera", 4, 3),
    Row("bert-large", "gpipe", 8, 3),
    Row("bert-large", "1f1b", 8, 3),
    Row("bert-large", "chimera", 8, 3),
    Row("bert-large", "chimera", 8, 1),
)


def settings_of(row: Row) -> Iterator[Setting]:
    """Two-way pipelines also with whole inversions and with a network."""
    two_way = row.schedule == "chimera"
    for network in (False, True) if two_way else (False,):
        for inversion in ("halved", "whole") if two_way else ("halved",):
            for barrier in ("everyone", "device"):
                for wrap in (False, True):
                    yield Setting(barrier, wrap, inversion, network)


def cases() -> list[tuple[Row, Setting]]:
    """All rows and settings: without a network first, and halved before whole."""
    found = [(row, setting) for row in ROWS for setting in settings_of(row)]
    return sorted(found, key=lambda case: (case[1].network, case[1].inversion))


def main() -> None:
    """Run what is missing; write the table."""
    if "--no-runs" not in sys.argv:
        done = {json.dumps(record["key"]) for record in records()}
        for row, setting in cases():
            key = asdict(row) | asdict(setting)
            if json.dumps(key) not in done:
                record = {"key": key} | run(row, setting)
                with RECORDS.open("a") as file:
                    file.write(json.dumps(record) + "\n")
    (HERE / "refresh.md").write_text(table(records()))


def records() -> list[dict[str, Any]]:
    """What has been run."""
    if not RECORDS.exists():
        return []
    return [json.loads(line) for line in RECORDS.read_text().splitlines()]


def run(row: Row, setting: Setting) -> dict[str, Any]:
    """Solve one row in one setting."""
    instance = row.instance
    assert instance.kfac is not None
    kfac = replace(
        instance.kfac,
        inversion=Inversion(setting.inversion),
        step_barrier=StepBarrier(setting.step_barrier),
        latency=LATENCY_MS if setting.network else 0,
        bandwidth=BYTES_PER_SECOND if setting.network else None,
    )
    instance = replace(instance, kfac=kfac)
    if setting.network:
        stages = tuple(
            # Half of a stage's static memory are its weights, half its gradients.
            replace(s, gradient_bytes=s.static_memory / 2 * BYTES_PER_MIB)
            for s in instance.stages
        )
        instance = replace(instance, stages=stages)
    named = frame_named(row.schedule, instance)
    parameters = RefreshParameters(
        minimise=Minimise.INTERVAL, wrap=setting.wrap, time_limit_s=TIME_LIMIT_S
    )
    solution = solve_refresh(named.frame, parameters)
    document = refresh_document(named, solution, greedy_of(named.frame))
    found = f"{document['status']}, interval {document.get('interval')}"
    sys.stderr.write(f"{row.model} {row.schedule} {setting.text}: {found}\n")
    return document


def known() -> dict[tuple[str, ...], str]:
    """The intervals that an earlier prototype reached, by row and setting."""
    lines = (HERE / "refresh-known.csv").read_text().splitlines()
    cells = [line.split(",") for line in lines if line and not line.startswith("#")]
    return {tuple(row[:-1]): row[-1] for row in cells[1:]}


def table(found: list[dict[str, Any]]) -> str:
    """The table of all that has been run."""
    reached = known()
    lines = [
        "# Refresh intervals with pipelines that stand still",
        "",
        f"`--objective refresh --minimise k`, {TIME_LIMIT_S:g} s each, 2 workers."
        f" Network, where there is one: {LATENCY_MS} ms +"
        f" {BYTES_PER_SECOND / 1e9:g} GB/s (assumed). Age: steps between the step of"
        " the data and one that uses an inverse of it. Memory in MiB.",
        "",
        "| training | schedule | blocks | inversion | network | setting | greedy | k |"
        " prototype's k | k >= | bound | age | age >= | peak memory | memory >= |"
        " fill | N(F+B)/step | tolerance | s |",
        "|" + "---|" * 19,
    ]
    for record in found:
        key = record["key"]
        setting = Setting(
            *(key[name] for name in ("step_barrier", "wrap", "inversion", "network"))
        )
        name = (
            key["model"],
            key["schedule"],
            str(key["devices"]),
            str(key["blocks"]),
            key["inversion"],
            "yes" if key["network"] else "no",
            setting.text.replace(", ", "+"),
        )
        bound = record["counting_bound"]
        cells = [
            f"{key['model']}, {key['devices']} devices",
            key["schedule"],
            key["blocks"],
            key["inversion"],
            "yes" if key["network"] else "no",
            setting.text,
            max(record["greedy_intervals"]),
            record.get("interval", record["status"]),
            reached.get(name, ""),
            record["interval_lower_bound"],
            f"{bound['name']} {bound['interval']}" if bound else "",
            record.get("largest_age", ""),
            record["age_lower_bound"],
            _number(record.get("peak_memory")),
            _number(record.get("peak_memory_lower_bound")),
            _share(record.get("fill")),
            _share(record.get("pipeline_share")),
            _share(record.get("tolerance")),
            f"{record['wall_seconds']:.0f}",
        ]
        lines.append(
            "| " + " | ".join("" if c is None else str(c) for c in cells) + " |"
        )
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


if __name__ == "__main__":
    main()
