"""The store to and from its file: checked when read, sorted when written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schedopt.errors import FormatError
from schedopt.experiments.best_known.entries import (
    BestKnown,
    Entry,
    Finder,
    KnownBound,
    KnownValue,
    Problem,
)
from schedopt.formats import Limits, write_text_atomically
from schedopt.formats.best_known_model import (
    BEST_KNOWN_SCHEMA,
    BestKnownFile,
    EntryFields,
    FinderFields,
)
from schedopt.formats.complaints import Complaint, line, show
from schedopt.formats.instance_file import require_schema
from schedopt.formats.model import checked
from schedopt.formats.reading import read_document
from schedopt.formats.writing import document_text
from schedopt.instance import Number, exact
from schedopt.opgraph import Units
from schedopt.verify.quantities import ticks_of

_LIMITS = Limits()


def load_best_known(
    path: str | os.PathLike[str], limits: Limits = _LIMITS
) -> BestKnown:
    """Read a store from a file.

    Raises
    ------
    FormatError
        If the file is not a document of the format, or one of its values is below its
        bound.
    """
    where = os.fspath(path)
    document = require_schema(read_document(path, limits), where, BEST_KNOWN_SCHEMA)
    file, complaints = checked(BestKnownFile, document)
    if file is not None:
        complaints = list(_complaints(file))
        if not complaints:
            entries = map(_entry, file.entries)
            return BestKnown({entry.problem.key: entry for entry in entries})
    raise FormatError(line(where, complaints, document))


def load_if_present(
    path: str | os.PathLike[str], limits: Limits = _LIMITS
) -> BestKnown:
    """The store in a file; an empty one where there is no file yet.

    Raises
    ------
    FormatError
        As ``load_best_known`` does.
    """
    return load_best_known(path, limits) if Path(path).exists() else BestKnown()


def write_best_known(path: str | os.PathLike[str], store: BestKnown) -> None:
    """Write a store, whole or not at all: a line per entry, equal stores alike.

    Raises
    ------
    FormatError
        If the file cannot be written.
    """
    entries = [_entry_document(entry) for entry in store.entries]
    text = document_text({"schema": BEST_KNOWN_SCHEMA, "entries": entries})
    write_text_atomically(path, text)


def _complaints(file: BestKnownFile) -> Iterator[Complaint]:
    """Entries that contradict themselves or each other."""
    seen: dict[tuple[str, str], int] = {}
    for index, entry in enumerate(file.entries):
        path = ("entries", index)
        first = seen.setdefault((entry.sha256, entry.objective), index)
        if first != index:
            rule = f"with this objective is also entries[{first}]; remove one"
            yield Complaint((*path, "sha256"), show(entry.sha256), rule)
        yield from _bound_complaints(entry, path)
        yield from _exactness_complaints(entry, path)


def _bound_complaints(
    entry: EntryFields, path: tuple[str | int, ...]
) -> Iterator[Complaint]:
    """The bound is at most the value, and is somebody's claim."""
    if (entry.lower_bound is None) != (entry.bound_claimed_by is None):
        rule = "must be given if and only if lower_bound is"
        shown = show(entry.bound_claimed_by and entry.bound_claimed_by.method)
        yield Complaint((*path, "bound_claimed_by"), shown, rule)
    if entry.lower_bound is None or exact(entry.lower_bound) <= exact(entry.value):
        return
    yield Complaint(
        (*path, "lower_bound"),
        show(entry.lower_bound),
        f"must be at most value, {show(entry.value)}: one of them is wrong, a bug;"
        " please report it",
    )


def _exactness_complaints(
    entry: EntryFields, path: tuple[str | int, ...]
) -> Iterator[Complaint]:
    """Times and sizes are whole numbers of ticks and grains."""
    per_unit = _per_unit(entry)
    amounts: list[tuple[tuple[str | int, ...], Number | None]] = [
        (("value",), entry.value),
        (("lower_bound",), entry.lower_bound),
        *((("peak_memory", i), size) for i, size in enumerate(entry.peak_memory)),
    ]
    for name, amount in amounts:
        if amount is not None and ticks_of(amount, per_unit) is None:
            rule = f"must be a multiple of the resolution, {show(entry.resolution)}"
            yield Complaint((*path, *name), show(amount), rule)


def _per_unit(entry: EntryFields) -> int:
    return round(1 / exact(entry.resolution))


def _entry(fields: EntryFields) -> Entry:
    per_unit = _per_unit(fields)
    bound = None
    if fields.lower_bound is not None and fields.bound_claimed_by is not None:
        bound = KnownBound(
            ticks=_count(fields.lower_bound, per_unit),
            claimed_by=_finder(fields.bound_claimed_by),
        )
    return Entry(
        problem=Problem(
            name=fields.name,
            sha256=fields.sha256,
            objective=fields.objective,
            units=Units(fields.time_unit, fields.memory_unit, per_unit, per_unit),
        ),
        value=KnownValue(
            ticks=_count(fields.value, per_unit),
            found_by=_finder(fields.value_found_by),
            bubble_ratio=fields.bubble_ratio,
            peak_memory_grains=tuple(
                _count(size, per_unit) for size in fields.peak_memory
            ),
        ),
        bound=bound,
    )


def _count(amount: Number, per_unit: int) -> int:
    return round(exact(amount) * per_unit)


def _finder(fields: FinderFields) -> Finder:
    return Finder(fields.method, fields.versions)


def _entry_document(entry: Entry) -> dict[str, Any]:
    problem, value, bound = entry.problem, entry.value, entry.bound
    units = problem.units
    document: dict[str, Any] = {
        "name": problem.name,
        "sha256": problem.sha256,
        "objective": problem.objective.value,
        "time_unit": units.time,
        "memory_unit": units.memory,
        "resolution": units.time_of(1),
        "value": units.time_of(value.ticks),
        "value_found_by": _finder_document(value.found_by),
        "bubble_ratio": value.bubble_ratio,
        "peak_memory": [units.memory_of(size) for size in value.peak_memory_grains],
    }
    if bound is not None:
        document["lower_bound"] = units.time_of(bound.ticks)
        document["bound_claimed_by"] = _finder_document(bound.claimed_by)
    return document


def _finder_document(finder: Finder) -> dict[str, Any]:
    return {"method": finder.method, "versions": dict(sorted(finder.versions.items()))}
