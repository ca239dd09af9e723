"""A spec's results as a few files that can be committed beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from schedopt.experiments.driver import Progress, RunSummary, run_spec
from schedopt.experiments.methods import DEFAULT_REGISTRY
from schedopt.experiments.store import BUNDLE, read_records, write_bundle
from schedopt.experiments.tables import table
from schedopt.formats.writing import write_text_atomically

STORE = "store"


def publish(
    spec_path: str | os.PathLike[str],
    progress: Callable[[Progress], None] | None = None,
    *,
    registry: str = DEFAULT_REGISTRY,
) -> RunSummary:
    """Run what is missing of a spec, and write its tables beside it.

    The run store is ``store/`` beside the spec. From it come ``records.jsonl``, all
    records in one file; ``table.md``, the tables by method and by instance, and by run
    where methods tell measures; and ``table.csv``, the values by instance. An
    interrupted call writes none of these: call it again.

    Raises
    ------
    SchedOptError
        As ``run_spec``.
    """
    folder = Path(spec_path).parent
    store = folder / STORE
    summary = run_spec(spec_path, store, progress, registry=registry)
    if not summary.interrupted:
        write_tables(store, folder)
    return summary


def write_tables(source: Path, folder: Path) -> None:
    """Write the bundle and the tables of a store or a bundle."""
    records = read_records(source)
    write_bundle(records, folder / BUNDLE)
    by_method, by_instance = table(source, "method"), table(source, "instance")
    tables = [by_method, by_instance]
    if any(record["measures"] for record in records):
        tables.append(table(source, "run"))
    pages = "\n".join(one.markdown() for one in tables)
    write_text_atomically(folder / "table.md", pages)
    write_text_atomically(folder / "table.csv", by_instance.csv())
