"""The least refresh interval of PipeFisher's examples.

Usage, from the repository's root: ``python results/pipefisher/refresh.py``. Seven
trainings in every setting (``refresh.jsonl``, ``refresh.md``), then all others in one
setting and for less long (``others.jsonl``, ``others.md``). What the
records hold is not run again (remove lines to run them); ``--no-runs`` only writes the
tables. Seconds depend on the machine, values do not where they are proven.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from schedopt.formats import load_instance
from schedopt.instance import Instance, Inversion, StepBarrier
from schedopt.refresh.bounds import best_bound
from schedopt.refresh.greedy import greedy_of
from schedopt.refresh.moving_bounds import bounds_at_any_times
from schedopt.refresh.settings import Freedom, Minimise
from schedopt.report.refresh import refresh_document
from schedopt.solve.frames import frame_named
from schedopt.solve.refresh import solve_refresh
from schedopt.solve.refresh_solution import RefreshParameters

HERE = Path(__file__).resolve().parent
INSTANCES = HERE.parent.parent / "instances" / "pipefisher" / "kfac"
TIME_LIMIT_S = 119.0  # so that a run takes at most 120
TIME_LIMIT_OF_OTHERS_S = 20.0

# A network for the runs in which collectives take time: assumed, not measured.
LATENCY_MS = 0.02
BYTES_PER_SECOND = 10_000_000_000
BYTES_PER_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Row:
    """A training: as many microbatches of ``batch`` sequences as devices."""

    model: str
    schedule: str
    devices: int
    blocks: int
    gpu: str = "p100"
    batch: int = 32

    @property
    def instance(self) -> Instance:
        """The instance, as it is in the repository."""
        way = "-chimera" if self.schedule == "chimera" else ""
        profile = f"pipefisher-{self.model}-{self.gpu}-b{self.batch}"
        name = f"{profile}-d{self.devices}-x{self.blocks}{way}-kfac.yaml"
        return load_instance(INSTANCES / name)

    @property
    def profile(self) -> str:
        """What was measured, in words."""
        return f"{self.model}, {self.gpu}, {self.batch} per microbatch"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is allowed. ``network``: collectives take time.

    ``freedom`` is what the pipeline's ops may do.
    """

    step_barrier: str
    wrap: bool
    inversion: str
    network: bool
    freedom: str = "frozen"

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


def cases() -> Iterator[tuple[Row, Setting]]:
    """The rows in all settings without a network: halved before whole.

    Where the pipeline's standing still may cost a step, it may also slide, then change
    its order.
    """
    found = [(row, setting) for row in ROWS for setting in settings_of(row)]
    found = [case for case in found if not case[1].network]
    found.sort(key=lambda case: case[1].inversion)
    yield from found
    for freedom in ("sliding", "reordered"):
        for row, setting in found:
            if may_gain(row, setting):
                yield row, replace(setting, freedom=freedom)


def cases_with_network() -> Iterator[tuple[Row, Setting]]:
    """The two-way rows again, where collectives take time."""
    found = [(row, setting) for row in ROWS for setting in settings_of(row)]
    found.sort(key=lambda case: case[1].inversion)
    yield from (case for case in found if case[1].network)


def may_gain(row: Row, setting: Setting) -> bool:
    """Whether the bounds at any times allow less than what a frozen pipeline took."""
    frame = frame_named(row.schedule, instance_in(row, setting)).frame
    bound = best_bound(bounds_at_any_times(frame, wrap=setting.wrap))
    key = asdict(row) | asdict(setting)
    frozen = [one for one in records(HERE / "refresh.jsonl") if one["key"] == key]
    assert bound is not None
    return any(
        one.get("interval") is None or one["interval"] > (bound.interval or 0)
        for one in frozen
    )


def others() -> Iterator[tuple[Row, Setting]]:
    """All other profiles, strict.

    Where the greedy takes fewer steps, as its work wraps, wrapping is allowed, too.
    """
    strict = Setting("everyone", wrap=False, inversion="halved", network=False)
    for path in sorted(INSTANCES.glob("*-kfac.yaml")):
        name = re.fullmatch(
            r"pipefisher-(.+)-(.+)-b(\d+)-d(\d+)-x(\d+)(-chimera)?-kfac.yaml", path.name
        )
        assert name is not None, path.name
        model, gpu, batch, devices, blocks, way = name.groups()
        for schedule in ("chimera",) if way else ("gpipe", "1f1b"):
            row = Row(model, schedule, int(devices), int(blocks), gpu, int(batch))
            if row not in ROWS:
                yield row, strict
    for record in records(HERE / "others.jsonl"):
        if record.get("interval", 0) > max(record["greedy_intervals"]):
            row = Row(**{each.name: record["key"][each.name] for each in fields(Row)})
            yield row, replace(strict, wrap=True)


def main() -> None:
    """Run what is missing; write the tables."""
    for name, wanted, seconds, write in (
        ("refresh", cases, TIME_LIMIT_S, table),
        ("others", others, TIME_LIMIT_OF_OTHERS_S, table_of_others),
        ("refresh", cases_with_network, TIME_LIMIT_S, table),
    ):
        file = HERE / f"{name}.jsonl"
        if "--no-runs" not in sys.argv:
            done = [record["key"] for record in records(file)]
            for row, setting in wanted():
                key = asdict(row) | asdict(setting)
                if key not in done:
                    record = {"key": key} | run(row, setting, seconds)
                    with file.open("a") as lines:
                        lines.write(json.dumps(record) + "\n")
        (HERE / f"{name}.md").write_text(write(records(file)))


def records(file: Path) -> list[dict[str, Any]]:
    """What has been run."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def instance_in(row: Row, setting: Setting) -> Instance:
    """A row's instance in one setting."""
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
    return instance


def run(row: Row, setting: Setting, seconds: float) -> dict[str, Any]:
    """Solve one row in one setting."""
    instance = instance_in(row, setting)
    named = frame_named(row.schedule, instance)
    parameters = RefreshParameters(
        minimise=Minimise.INTERVAL,
        wrap=setting.wrap,
        freedom=Freedom(setting.freedom),
        time_limit_s=seconds,
    )
    solution = solve_refresh(named.frame, parameters)
    document = refresh_document(named, solution, greedy_of(named.frame))
    found = f"{document['status']}, interval {document.get('interval')}"
    what = f"{row.schedule}, {setting.text}, {setting.freedom}"
    sys.stderr.write(f"{row.profile}, {what}: {found}\n")
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
        "# Refresh intervals of seven trainings",
        "",
        "`--objective refresh --minimise k`, at most 120 s each, 2 workers."
        f" Network, where there is one: {LATENCY_MS} ms +"
        f" {BYTES_PER_SECOND / 1e9:g} GB/s (assumed). Age: steps between the step of"
        " the data and one that uses an inverse of it. Memory in MiB.",
        "",
        "| training | schedule | blocks | inversion | network | setting | pipeline |"
        " greedy | k |"
        " prototype's k | k >= | bound | age | age >= | peak memory | memory >= |"
        " fill | N(F+B)/step | tolerance | s |",
        "|" + "---|" * 20,
    ]
    for record in found:
        key = record["key"]
        setting = Setting(**{each.name: key[each.name] for each in fields(Setting)})
        name = (
            key["model"],
            key["schedule"],
            str(key["devices"]),
            str(key["blocks"]),
            key["inversion"],
            "yes" if key["network"] else "no",
            setting.text.replace(", ", "+"),
            setting.freedom,
        )
        bound = record["counting_bound"]
        cells = [
            f"{key['model']}, {key['devices']} devices",
            key["schedule"],
            key["blocks"],
            key["inversion"],
            "yes" if key["network"] else "no",
            setting.text,
            _moves(record),
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


def table_of_others(found: list[dict[str, Any]]) -> str:
    """A line for each, and how they compare with the greedy."""
    pairs = list(_compared(found))
    serial = [record for record in found if record["greedy_serial"]]
    proven = sum(record["status"] == "optimal" for record in found)
    lines = [
        "# Refresh intervals of all other profiles",
        "",
        f"`--objective refresh --minimise k`, {TIME_LIMIT_OF_OTHERS_S:g} s each, 2"
        " workers; strict, inversions halved, no network, pipeline frozen. Where the"
        " greedy takes fewer steps, as its work wraps, once more with wrapping.",
        "",
        f"{len(found)} runs: {proven} proven optimal. Where the greedy finds a gap"
        f" for all work ({len(pairs)}): fewer steps than the greedy in"
        f" {sum(k < greedy for k, greedy in pairs)}, as many in"
        f" {sum(k == greedy for k, greedy in pairs)}, more in"
        f" {sum(k > greedy for k, greedy in pairs)}. In {len(serial)} the greedy makes"
        " a step longer for works that fit into no gap (an asterisk): in"
        f" {sum(record['status'] == 'infeasible' for record in serial)} it is proven"
        " that they do not, in"
        f" {sum('interval' in record for record in serial)} all are packed.",
        "",
        "| profile | devices | blocks | schedule | setting | greedy | k | k >= |"
        " bound | age | age >= | fill | s |",
        "|" + "---|" * 13,
    ]
    for record in found:
        key = record["key"]
        row = Row(**{each.name: key[each.name] for each in fields(Row)})
        bound = record["counting_bound"]
        serial = "*" if record["greedy_serial"] else ""
        cells = [
            row.profile,
            row.devices,
            row.blocks,
            row.schedule,
            "strict, wrap" if key["wrap"] else "strict",
            f"{max(record['greedy_intervals'])}{serial}",
            record.get("interval", record["status"]),
            record["interval_lower_bound"],
            f"{bound['name']} {bound['interval']}" if bound else "",
            record.get("largest_age", ""),
            record["age_lower_bound"],
            _share(record.get("fill")),
            f"{record['wall_seconds']:.0f}",
        ]
        lines.append(
            "| " + " | ".join("" if c is None else str(c) for c in cells) + " |"
        )
    return "\n".join(lines) + "\n"


def _compared(found: list[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """The least interval of each training and the greedy's, where that hides all."""
    least: dict[Row, tuple[int, int]] = {}
    for record in found:
        if "interval" in record and not record["greedy_serial"]:
            row = Row(**{each.name: record["key"][each.name] for each in fields(Row)})
            pair = record["interval"], max(record["greedy_intervals"])
            least[row] = min(pair, least.get(row, pair))
    yield from least.values()


def _moves(record: dict[str, Any]) -> str:
    """What the pipeline may do, and by how many swaps it is another one."""
    swaps = record.get("swaps")
    return (
        f"{record['key']['freedom']}, {swaps} swap"
        if swaps
        else record["key"]["freedom"]
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


if __name__ == "__main__":
    main()
