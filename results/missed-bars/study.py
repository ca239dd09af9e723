"""Instances that missed a bar, run again with the present solver.

Usage, from the repository's root: ``python results/missed-bars/study.py``. What the
stores hold is not run again; ``--no-runs`` only writes ``gaps.md`` from the records.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from schedopt.experiments import publish

HERE = Path(__file__).resolve().parent
BEFORE = {"60s": "solver-quality", "120s": "large/longer"}
"""For each time limit the study that had the same instances."""


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """A study's records, by instance."""
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["instance"]: record for record in map(json.loads, lines)}


def table() -> str:
    """Gaps before and now."""
    lines = [
        "# Gaps then and now",
        "",
        "Gap: (value - lower bound) / value. 2 workers.",
        "",
        "| instance | before, s | gap | now, s | value | bound | gap | found by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for folder, study in BEFORE.items():
        known = records(HERE.parent / study)
        for name, now in records(HERE / folder).items():
            before = known[name]
            cells = [
                name,
                before["parameters"]["time_limit_s"],
                f"{100 * before['gap']:.3f} %",
                now["parameters"]["time_limit_s"],
                now["value"],
                now["lower_bound"],
                f"{100 * now['gap']:.3f} %",
                now["member"],
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing; write the tables."""
    if "--no-runs" not in sys.argv:
        for folder in BEFORE:
            publish(HERE / folder / "spec.toml")
    (HERE / "gaps.md").write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
