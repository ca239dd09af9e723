"""PipeFisher's closed forms for every profiled block, beside values printed before.

Usage, from the repository's root: ``python results/pipefisher/closed_form.py``. It
reads the instances of one block per stage in ``instances/pipefisher/kfac/`` and
``printed.csv`` beside this file, and writes ``closed_form.csv`` and ``closed_form.md``.
The exit code says whether every printed value came out to its last digit.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from schedopt.formats import load_instance
from schedopt.refresh.closed_form import PerformanceModel, performance_model

HERE = Path(__file__).resolve().parent
INSTANCES = HERE.parent.parent / "instances" / "pipefisher" / "kfac"
NAME = re.compile(
    r"pipefisher-(?P<model>\w+-\w+)-(?P<gpu>\w+)-b(?P<batch>\d+)-d(?P<devices>\d+)"
    r"-x1(?P<chimera>-chimera)?-kfac"
)
DEPTHS = (4, 8, 16)
PER_SECOND = 1000
"""Milliseconds, the unit of these instances, in a second."""

GPUS = ("p100", "v100", "rtx3090")
SCHEDULES = ("gpipe-1f1b", "chimera")
RECOMPUTE = ("none", "full")

QUANTITIES = {"ratio": 2, "throughput": 1, "throughput-preconditioned": 1}
"""What was printed, and to how many decimals."""


@dataclass(frozen=True, slots=True)
class Case:
    """A profile, how many devices, and how they are used."""

    model: str
    gpu: str
    batch: int
    schedule: str
    devices: int
    recompute: str

    @property
    def place(self) -> tuple[object, ...]:
        """Where the case stands in the tables."""
        gpu, schedule = GPUS.index(self.gpu), SCHEDULES.index(self.schedule)
        recompute = RECOMPUTE.index(self.recompute)
        return self.model, gpu, schedule, self.batch, self.devices, recompute


@dataclass(frozen=True, slots=True)
class Result:
    """The model of a case, and the values printed for it by quantity."""

    case: Case
    instance: str
    model: PerformanceModel
    printed: dict[str, str]

    def value(self, quantity: str) -> Fraction:
        """A quantity as the model gives it."""
        if quantity == "ratio":
            assert self.model.ratio is not None
            return self.model.ratio
        preconditioned = quantity == "throughput-preconditioned"
        per_ms = self.model.throughput(self.case.batch, precondition=preconditioned)
        return PER_SECOND * per_ms

    def rounded(self, quantity: str) -> str:
        """A quantity to the digits in which it was printed."""
        decimals = QUANTITIES[quantity]
        return f"{float(round(self.value(quantity), decimals)):.{decimals}f}"

    def agreements(self) -> list[bool]:
        """For every printed value whether it came out."""
        return [self.rounded(name) == text for name, text in self.printed.items()]

    def row(self) -> dict[str, str | int]:
        """The line of the table of all cases."""
        case, model = self.case, self.model
        agreements = self.agreements()
        printed = {
            f"{name}_printed".replace("-", "_"): self.printed.get(name, "")
            for name in QUANTITIES
        }
        return {
            "instance": self.instance,
            "model": case.model,
            "gpu": case.gpu,
            "microbatch_size": case.batch,
            "devices": case.devices,
            "schedule": case.schedule,
            "recompute": case.recompute,
            "pipeline_ms": decimal(model.pipeline),
            "bubble_ms": decimal(model.bubble),
            "kfac_ms": decimal(model.kfac),
            "precondition_ms": decimal(model.stage.precondition),
            "memory_mib": decimal(model.memory),
            "least_interval": model.least_interval or "",
            **{
                name.replace("-", "_"): decimal(self.value(name)) for name in QUANTITIES
            },
            **printed,
            "agrees": ("yes" if all(agreements) else "no") if agreements else "",
        }


def decimal(value: Fraction) -> str:
    """A number to six decimals, without trailing zeros."""
    return f"{float(value):.6f}".rstrip("0").rstrip(".")


def printed_values() -> dict[Case, dict[str, str]]:
    """The values printed before, by case and quantity."""
    found: dict[Case, dict[str, str]] = {}
    with (HERE / "printed.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            case = Case(
                row["model"],
                row["gpu"],
                int(row["microbatch_size"]),
                row["schedule"],
                int(row["devices"]),
                row["recompute"],
            )
            values = found.setdefault(case, {})
            assert row["quantity"] in QUANTITIES
            assert row["quantity"] not in values
            values[row["quantity"]] = row["printed"]
    return found


def results() -> list[Result]:
    """Every instance of one block per stage, without and with recomputation."""
    printed = printed_values()
    found = []
    for path in sorted(INSTANCES.glob("*-x1*-kfac.yaml")):
        instance = load_instance(path)
        name = NAME.fullmatch(instance.name)
        assert name, instance.name
        assert instance.time_unit == "ms"
        everywhere = frozenset(range(len(instance.stages)))
        for recompute in RECOMPUTE:
            stages = everywhere if recompute == "full" else frozenset[int]()
            case = Case(
                name["model"],
                name["gpu"],
                int(name["batch"]),
                SCHEDULES[bool(name["chimera"])],
                int(name["devices"]),
                recompute,
            )
            model = performance_model(replace(instance, recompute=stages))
            found.append(Result(case, instance.name, model, printed.pop(case, {})))
    assert not printed, f"no instance for {next(iter(printed))}"
    return sorted(found, key=lambda result: result.case.place)


def table_csv(found: Sequence[Result]) -> str:
    """The table of all cases."""
    rows = [result.row() for result in found]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def page(found: Sequence[Result]) -> str:
    """The values beside the printed ones, then the ratios of all other profiles."""
    agreements = [agrees for result in found for agrees in result.agreements()]
    by_case = {result.case: result for result in found}
    lines = [
        "# PipeFisher's closed forms",
        "",
        f"Of {len(agreements)} printed values {sum(agreements)} came out to the last"
        " digit. Written by `python results/pipefisher/closed_form.py`; what the words"
        " mean and where the printed values come from is in [README.md](README.md).",
        "",
        "## T_kfac / T_bubble, in brackets with recomputation",
        "",
        *_ratio_table(by_case, with_printed=True),
        "",
        "## Sequences per second, without and with preconditioning",
        "",
        *_throughput_table(found),
        "",
        "## T_kfac / T_bubble of the other profiles",
        "",
        *_ratio_table(by_case, with_printed=False),
    ]
    return "\n".join(lines) + "\n"


def _ratio_table(by_case: dict[Case, Result], *, with_printed: bool) -> Iterator[str]:
    heads = ["model", "GPU", "microbatch size", "schedule"]
    for depth in DEPTHS:
        heads += [f"D = {depth}", "printed"] if with_printed else [f"D = {depth}"]
    heads += ["agree"] if with_printed else []
    yield _line(heads)
    yield "|" + "---|" * len(heads)
    done = set()
    for case, result in by_case.items():
        group = replace(case, devices=0, recompute="")
        if bool(result.printed) is not with_printed or group in done:
            continue
        done.add(group)
        cells = [case.model, case.gpu, str(case.batch), case.schedule]
        agreements = []
        for depth in DEPTHS:
            pair = [
                by_case[replace(case, devices=depth, recompute=recompute)]
                for recompute in RECOMPUTE
            ]
            cells.append("{} ({})".format(*(r.rounded("ratio") for r in pair)))
            if with_printed:
                cells.append("{} ({})".format(*(r.printed["ratio"] for r in pair)))
            agreements += [r.rounded("ratio") == r.printed.get("ratio") for r in pair]
        yield _line([*cells, _verdict(agreements)] if with_printed else cells)


def _throughput_table(found: Iterable[Result]) -> Iterator[str]:
    names = ("throughput", "throughput-preconditioned")
    yield "| instance | without | printed | with | printed | agree |"
    yield "|---|---:|---:|---:|---:|---|"
    for result in found:
        if names[0] not in result.printed:
            continue
        pairs = [(result.rounded(name), result.printed[name]) for name in names]
        cells = [cell for pair in pairs for cell in pair]
        verdict = _verdict([value == text for value, text in pairs])
        yield _line([result.instance, *cells, verdict])


def _verdict(agreements: Sequence[bool]) -> str:
    return "yes" if all(agreements) else "**no**"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Write both files; the exit code says whether all printed values came out."""
    found = results()
    (HERE / "closed_form.csv").write_text(table_csv(found))
    (HERE / "closed_form.md").write_text(page(found))
    sys.exit(not all(agrees for result in found for agrees in result.agreements()))


if __name__ == "__main__":
    main()
