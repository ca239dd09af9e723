"""Batches of runs: specs, the run store, the engine that runs them, and tables.

``run_spec`` does every run of a spec that its store does not hold yet; ``table`` and
``load_records`` read a store. Nothing here is needed to solve one instance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schedopt.lazy import lazy_names

if TYPE_CHECKING:
    from schedopt.experiments.driver import Progress, RunSummary, run_spec
    from schedopt.experiments.frames import load_records
    from schedopt.experiments.publishing import publish
    from schedopt.experiments.spec import Spec, SpecError, load_spec
    from schedopt.experiments.store import read_records, write_bundle
    from schedopt.experiments.tables import Table, table

# Where each public name lives: pandas and pydantic are imported on first use only.
_HOME = {
    "Progress": "driver",
    "RunSummary": "driver",
    "Spec": "spec",
    "SpecError": "spec",
    "Table": "tables",
    "load_records": "frames",
    "load_spec": "spec",
    "publish": "publishing",
    "read_records": "store",
    "run_spec": "driver",
    "table": "tables",
    "write_bundle": "store",
}

__all__ = [
    "Progress",
    "RunSummary",
    "Spec",
    "SpecError",
    "Table",
    "load_records",
    "load_spec",
    "publish",
    "read_records",
    "run_spec",
    "table",
    "write_bundle",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
