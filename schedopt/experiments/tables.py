"""Tables of a run store: one row per instance, per method, or per run.

Every column says in the table's header how its figure is defined.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from schedopt.errors import SchedOptError
from schedopt.experiments.frames import known, load_records
from schedopt.experiments.measures import MEASURES
from schedopt.experiments.record import RunStatus
from schedopt.experiments.render import Cell, to_csv, to_markdown, to_text
from schedopt.formats.complaints import listed

# Added to every time before the geometric mean, so that runs of milliseconds do not
# decide it.
TIME_SHIFT_S = 1.0
BY = ("instance", "method", "run")


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name and what its figures mean."""

    name: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Table:
    """A finished table."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def text(self) -> str:
        """For a terminal."""
        return to_text(self.title, self._header(), self.rows)

    def csv(self) -> str:
        """For spreadsheets and programs: the header cells hold the definitions."""
        return to_csv(self._header(), self.rows)

    def markdown(self) -> str:
        """For a page."""
        return to_markdown(self.title, self._header(), self.rows)

    def frame(self) -> pd.DataFrame:
        """As a data frame with short column names."""
        return pd.DataFrame(self.rows, columns=[column.name for column in self.columns])

    def _header(self) -> list[tuple[str, str]]:
        return [(column.name, column.meaning) for column in self.columns]


def table(path: str | os.PathLike[str], by: str = "method") -> Table:
    """The table of a run store or a bundle, with a row per instance, method or run.

    Raises
    ------
    SchedOptError
        If there is no such store or bundle, or ``by`` is none of ``BY``.
    """
    if by not in BY:
        msg = f"by = {by}: must be {listed(BY)}"
        raise SchedOptError(msg)
    records = load_records(path)
    match by:
        case "instance":
            return instance_table(records)
        case "method":
            return method_table(records)
        case _:
            return run_table(records)


def instance_table(records: pd.DataFrame) -> Table:
    """Each instance's values by method, from ``load_records``."""
    groups = _labels(records)
    columns = [
        Column("instance", "name"),
        Column("P", "devices"),
        Column("stages", "stages as written"),
        Column("m", "microbatches"),
        Column("unit", "unit of the values"),
        Column(
            "bound",
            "largest lower bound that any run proved for the instance as written;"
            " it does not hold for other forms",
        ),
    ]
    cells: list[tuple[str, str]] = []  # label, field
    for label, group in groups:
        for field, column in _result_columns(label, group):
            columns.append(column)
            cells.append((label, field))
    rows = []
    for name, group in records.groupby("row", sort=True):
        first = group.iloc[0]
        bounds = [
            b for b in group[group["as_written"].isin([True])]["best_bound"] if known(b)
        ]
        head: list[Cell] = [
            str(name),
            int(first["devices"]),
            int(first["stages"]),
            int(first["microbatches"]),
            str(first["time_unit"]),
            _number(max(bounds)) if bounds else "",
        ]
        values = [
            _result_of(group[group["label"] == label], field) for label, field in cells
        ]
        rows.append((*head, *values))
    return Table("Values by instance", tuple(columns), tuple(rows))


def method_table(records: pd.DataFrame) -> Table:
    """Each method's figures over all instances, from ``load_records``."""
    any_form = _best_baselines(records, own_form=False)
    own_form = _best_baselines(records, own_form=True)
    rows = []
    for label, group in _labels(records):
        solved = group[group["status"].isin(_SOLVED)]
        gaps = [float(gap) for gap in solved["gap_to_best_bound"] if known(gap)]
        times = [float(t) for t in _ran(group)["wall_s"] if known(t)]
        statuses = list(group["status"])
        rows.append(
            (
                label,
                len(group),
                statuses.count(RunStatus.NOT_APPLICABLE.value),
                len(solved),
                statuses.count(RunStatus.OPTIMAL.value),
                sum(RunStatus(status).broke for status in statuses),
                _figure(median(gaps) if gaps else None),
                _figure(_percentile(gaps, 0.9)),
                _figure(max(gaps, default=None)),
                _figure(_shifted_mean(times)),
                _figure(_ratio(solved, own_form)),
                _figure(_ratio(solved, any_form)),
                _wins(solved, any_form),
            )
        )
    return Table("Figures by method", _METHOD_COLUMNS, tuple(rows))


_SOLVED = (RunStatus.OPTIMAL.value, RunStatus.FEASIBLE.value)
_GAP = "(value - bound) / value, bound: the largest proven for the run's own problem"
_METHOD_COLUMNS = (
    Column("method", "with the settings in which its runs differ, seeds aside"),
    Column("runs", "instances x seeds"),
    Column(
        "n/a",
        "not applicable: the method does not exist for the instance, or its schedule"
        " does not fit memory",
    ),
    Column("solved", "runs with a schedule that fits"),
    Column("optimal", "runs whose value equals a proven bound"),
    Column("broke", "runs that failed, timed out or ran out of memory"),
    Column("gap median", f"median over solved runs that have one of {_GAP}"),
    Column(
        "gap p90", "90th percentile of the same: the least gap that 90 % do not pass"
    ),
    Column("gap max", "largest of the same"),
    Column(
        "time s",
        f"geometric mean of wall seconds + {TIME_SHIFT_S:g}, minus {TIME_SHIFT_S:g},"
        " over runs that were not n/a, broken ones until they ended",
    ),
    Column(
        "ratio own form",
        "geometric mean over solved runs of value / best baseline of those run in the"
        " form in which the instance is written",
    ),
    Column(
        "ratio any form",
        "geometric mean over solved runs of value / best baseline in whatever form,"
        " at equal memory per device",
    ),
    Column("best", "solved runs whose value is at most that of every baseline"),
)


def _labels(records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The methods in order: baselines by name, then the others."""
    groups = [(str(label), group) for label, group in records.groupby("label")]
    return sorted(groups, key=lambda item: (not item[1]["baseline"].any(), item[0]))


def _result_columns(label: str, group: pd.DataFrame) -> list[tuple[str, Column]]:
    """What a method's runs are compared by: field of the records, and column.

    That is the value, or the main measures where runs have these and no value.
    """
    several = ", median over seeds" if group["parameters.seed"].nunique() > 1 else ""
    told = "or the status without one"
    main = [m for m in MEASURES if m.is_main and _has_any(group, f"measures.{m.name}")]
    if main and not group["value"].notna().any():
        return [
            (
                f"measures.{measure.name}",
                Column(
                    f"{label} {measure.column}", f"{measure.meaning}{several}, {told}"
                ),
            )
            for measure in main
        ]
    forms = sorted({form for form in group["form"] if known(form) and form})
    where = "; ".join(forms[:3]) + ("; ..." if len(forms) > 3 else "")
    objectives = " or ".join(sorted(set(group["objective"])))
    run = f", run in form: {where}" if where else ""
    return [("value", Column(label, f"{objectives}{several}, {told}{run}"))]


def _result_of(runs: pd.DataFrame, field: str) -> Cell:
    """The median of a field, or the status that most runs without one have."""
    values = [float(value) for value in runs[field] if known(value)]
    if values:
        return _number(median(values))
    statuses = sorted(runs["status"])
    if not statuses:
        return ""
    return _status_text(max(statuses, key=statuses.count))


def _status_text(status: str) -> str:
    return "n/a" if status == RunStatus.NOT_APPLICABLE else str(status)


def _has_any(records: pd.DataFrame, field: str) -> bool:
    return field in records and bool(records[field].notna().any())


def run_table(records: pd.DataFrame) -> Table:
    """Each run with all that it measured, from ``load_records``."""
    columns = [c for c in _RUN_COLUMNS if c[0] in _ALWAYS or _has_any(records, c[0])]
    if records["parameters.seed"].nunique() < 2:
        columns = [column for column in columns if column[0] != "parameters.seed"]
    rows = [
        tuple(_run_cell(field, run[field]) for field, _ in columns)
        for run in records.to_dict(orient="records")
    ]
    return Table("Runs", tuple(column for _, column in columns), tuple(rows))


def _run_cell(field: str, value: Any) -> Cell:
    """A field of a record as a cell."""
    if isinstance(value, list):
        return ", ".join(str(_number(one)) for one in value)
    if not known(value):
        return ""
    if field == "status":
        return _status_text(value)
    if isinstance(value, str):
        return value
    return _figure(float(value)) if field in _ROUNDED else _number(float(value))


# Fields of the records, and the columns that they are in; those that no run has are
# left out.
_ALWAYS = ("row", "label", "status")
_ROUNDED = ("measures.fill", "measures.tolerance", "wall_s")
_RUN_COLUMNS = (
    ("row", Column("instance", "name")),
    ("label", Column("method", "with the settings in which its runs differ")),
    ("parameters.seed", Column("seed", "seed of the run")),
    ("status", Column("status", "how the run ended")),
    ("value", Column("value", "of the objective, in the instance's unit")),
    ("lower_bound", Column("bound", "proven by the run: no value is below")),
    *((f"measures.{m.name}", Column(m.column, m.meaning)) for m in MEASURES),
    ("wall_s", Column("time s", "wall seconds of the run")),
    ("reason", Column("reason", "why there is no result")),
)


def _ran(group: pd.DataFrame) -> pd.DataFrame:
    return group[group["status"] != RunStatus.NOT_APPLICABLE.value]


def _best_baselines(
    records: pd.DataFrame, *, own_form: bool
) -> dict[tuple[str, str], float]:
    """The smallest baseline value of each instance and objective."""
    best: dict[tuple[str, str], float] = {}
    for row in records.itertuples():
        if not row.baseline or not known(row.value):
            continue
        if own_form and not row.as_written:
            continue
        where = str(row.instance_sha256), str(row.objective)
        value = float(str(row.value))
        best[where] = min(best.get(where, value), value)
    return best


def _ratios(solved: pd.DataFrame, best: dict[tuple[str, str], float]) -> list[float]:
    columns = ("instance_sha256", "objective", "value")
    found = []
    for sha256, objective, value in zip(*(solved[c] for c in columns), strict=True):
        reference = best.get((sha256, objective))
        if reference and known(value):
            found.append(float(value) / reference)
    return found


def _ratio(solved: pd.DataFrame, best: dict[tuple[str, str], float]) -> float | None:
    ratios = _ratios(solved, best)
    if not ratios or min(ratios) <= 0:
        return None
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


def _wins(solved: pd.DataFrame, best: dict[tuple[str, str], float]) -> int:
    return sum(ratio <= 1 for ratio in _ratios(solved, best))


def _percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that ``share`` of all values do not pass (nearest rank)."""
    if not values:
        return None
    return sorted(values)[math.ceil(share * len(values)) - 1]


def _shifted_mean(times: Iterable[float]) -> float | None:
    logs = [math.log(time + TIME_SHIFT_S) for time in times]
    if not logs:
        return None
    return math.exp(math.fsum(logs) / len(logs)) - TIME_SHIFT_S


def _number(value: float) -> Cell:
    return int(value) if value == int(value) else value


def _figure(value: float | None) -> Cell:
    """Six digits: the last ones of a float sum are noise."""
    return "" if value is None else float(f"{value:.6g}")
