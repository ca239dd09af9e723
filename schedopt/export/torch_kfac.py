"""The files of a training with K-FAC for torch: rows per step, table of slots, module.

``NAME.step0.csv`` and so on are the rows (torch's format ``compute_comms``),
``NAME.kfac.json`` says what the slots in them mean and which steps repeat in a training
without end, ``kfac_slots.py`` runs them, and ``run_torch_kfac.py`` trains with that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files as resources
from typing import Any

from schedopt.export.kfac_rows import KfacRows, kfac_rows, layers_of
from schedopt.export.program import Program
from schedopt.export.torch_tokens import text_of

FORMAT = "schedopt/torch-kfac/v1"
_SCRIPTS = {
    "kfac_slots.py": "torch_kfac_slots.py",
    "run_torch_kfac.py": "torch_kfac_script.py",
}
# What is written beside the rows, and where it is in this package; torch is all it
# needs.


def files(program: Program) -> Mapping[str, str]:
    """All files of a training.

    Raises
    ------
    ExportError
        If torch's runtime cannot execute it.
    """
    return {**table_and_rows(kfac_rows(program)), **_scripts()}


def table_and_rows(rows: KfacRows) -> Mapping[str, str]:
    """The table and the rows, without the scripts."""
    stem = rows.program.file_stem
    names = [f"{stem}.step{step}.csv" for step in range(len(rows.steps))]
    table = table_of(rows, names)
    return {
        f"{stem}.kfac.json": json.dumps(table, indent=1) + "\n",
        **{name: text_of(step) for name, step in zip(names, rows.steps, strict=True)},
    }


def table_of(rows: KfacRows, names: list[str]) -> dict[str, Any]:
    """What the slots mean; ``names`` are those of the steps' files."""
    return {
        "format": FORMAT,
        "microbatches": rows.program.microbatches,
        "interval": rows.kfac.interval,
        "steps": names,
        "repeated": None if rows.repeated is None else list(rows.repeated),
        "stages": list(rows.program.device_of_stage),
        "recomputed": sorted(rows.program.instance.recompute),
        "layers": [list(names) for names in layers_of(rows.program)],
        "slots": [[str(op) for op in ops] for ops in rows.slots],
    }


def _scripts() -> dict[str, str]:
    here = resources("schedopt.export")
    return {
        name: here.joinpath(source).read_text("utf-8")
        for name, source in _SCRIPTS.items()
    }
