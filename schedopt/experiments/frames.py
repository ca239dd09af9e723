"""Records as a data frame, and how runs are grouped in tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from schedopt.experiments.record import FIELDS, Record
from schedopt.experiments.store import read_records

# Of a record, what makes two runs of one method on one instance comparable.
_SETTINGS = ("parameters", "versions")
# The fields of a record that are mappings, or null.
_MAPPINGS = (*_SETTINGS, "measures")


def load_records(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The records of a run store or of a bundle, one row per run.

    The columns are the record's fields, with those of ``parameters``, ``versions`` and
    ``measures`` as columns of their own (``parameters.seed``), and

    - ``row``: the instance's name, with the start of its hash if several instances
      share the name;
    - ``label``: the method, with the settings in which its runs differ, seeds aside;
    - ``best_bound``: the largest lower bound that any run proved for this run's very
      problem (instance in this form) and objective;
    - ``gap_to_best_bound``: (value - best_bound) / value.

    Rows are ordered by name, method and settings.

    Raises
    ------
    FormatError
        If there is no such store or bundle.
    """
    records = read_records(path)
    frame = pd.DataFrame(
        [_flat(record) for record in records], columns=_columns(records)
    )
    frame["row"] = _rows(frame)
    frame["label"] = _labels(records)
    frame["best_bound"] = _best_bounds(records)
    frame["gap_to_best_bound"] = [
        _gap(value, bound)
        for value, bound in zip(frame["value"], frame["best_bound"], strict=True)
    ]
    order = ["row", "method", "label", "parameters.seed", "key"]
    return frame.sort_values(order, kind="stable", ignore_index=True)


def known(value: object) -> bool:
    """Whether a cell holds something."""
    return value is not None and value == value  # noqa: PLR0124 (NaN is not itself)


def _columns(records: Iterable[Record]) -> list[str]:
    inner = {
        f"{group}.{name}"
        for record in records
        for group in _MAPPINGS
        for name in record[group] or ()
    }
    plain = [name for name in FIELDS if name not in _MAPPINGS]
    return [*plain, *sorted(inner | {"parameters.seed"})]


def _flat(record: Record) -> dict[str, Any]:
    flat = {name: record[name] for name in FIELDS if name not in _MAPPINGS}
    for group in _MAPPINGS:
        inner = record[group] or {}
        flat |= {f"{group}.{name}": value for name, value in inner.items()}
    return flat


def _rows(frame: pd.DataFrame) -> list[str]:
    hashes = frame.groupby("instance")["instance_sha256"].nunique()
    return [
        name if hashes[name] == 1 else f"{name} #{sha256[:8]}"
        for name, sha256 in zip(
            frame["instance"], frame["instance_sha256"], strict=True
        )
    ]


def _labels(records: Iterable[Record]) -> list[str]:
    """Each record's method and the settings that tell its runs apart."""
    values: dict[tuple[str, str], set[str]] = {}
    for record in records:
        for name, value in _settings(record).items():
            values.setdefault((record["method"], name), set()).add(str(value))
    labels = []
    for record in records:
        apart = [
            f"{name}={value}"
            for name, value in sorted(_settings(record).items())
            if len(values[record["method"], name]) > 1
        ]
        labels.append(" ".join([record["method"], *apart]))
    return labels


def _settings(record: Record) -> Mapping[str, Any]:
    together = {**record["parameters"], **record["versions"]}
    return {name: value for name, value in together.items() if name != "seed"}


def _best_bounds(records: Iterable[Record]) -> list[float | None]:
    best: dict[tuple[str, str], float] = {}
    for record in records:
        bound = record["lower_bound"]
        if bound is not None:
            problem = record["problem_sha256"], record["objective"]
            best[problem] = max(best.get(problem, bound), bound)
    return [
        best.get((record["problem_sha256"], record["objective"])) for record in records
    ]


def _gap(value: float | None, bound: float | None) -> float | None:
    if not known(value) or not known(bound):
        return None
    assert value is not None
    assert bound is not None
    return (value - bound) / value if value else 0.0
