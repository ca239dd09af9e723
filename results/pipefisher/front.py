"""The front of step time against refresh interval, of PipeFisher's examples.

Usage, from the repository's root: ``python results/pipefisher/front.py``. What
``front.jsonl`` holds is not run again (remove lines to run them); ``--no-runs`` only
writes ``front.md``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from schedopt.formats import load_instance
from schedopt.refresh.settings import Freedom
from schedopt.report.refresh_front import front_document
from schedopt.solve.frames import shortest_frames
from schedopt.solve.refresh_front import solve_front
from schedopt.solve.refresh_solution import RefreshParameters

HERE = Path(__file__).resolve().parent
INSTANCES = HERE.parent.parent / "instances" / "pipefisher" / "kfac"
RECORDS = HERE / "front.jsonl"
TIME_LIMIT_S = 120.0
NAMES = (
    "pipefisher-bert-base-p100-b32-d4-x3-kfac",
    "pipefisher-bert-base-p100-b32-d4-x3-chimera-kfac",
    "pipefisher-bert-large-p100-b32-d8-x3-kfac",
    "pipefisher-bert-large-p100-b32-d8-x3-chimera-kfac",
    "pipefisher-bert-large-p100-b32-d8-x1-chimera-kfac",
)


def main() -> None:
    """Run what is missing; write the table."""
    if "--no-runs" not in sys.argv:
        done = {record["instance"] for record in records()}
        for name in NAMES:
            if name not in done:
                with RECORDS.open("a") as file:
                    file.write(json.dumps(run(name)) + "\n")
    (HERE / "front.md").write_text(table(records()))


def records() -> list[dict[str, Any]]:
    """What has been run."""
    if not RECORDS.exists():
        return []
    return [json.loads(line) for line in RECORDS.read_text().splitlines()]


def run(name: str) -> dict[str, Any]:
    """The front of one training, around its shortest hand-made pipelines."""
    parameters = RefreshParameters(freedom=Freedom.SLIDING, time_limit_s=TIME_LIMIT_S)
    frames = shortest_frames(load_instance(INSTANCES / f"{name}.yaml"))
    front = solve_front(frames, parameters, may_add_own=True)
    sys.stderr.write(f"{name}: {len(front.points)} points\n")
    return front_document(front, None)


def table(found: list[dict[str, Any]]) -> str:
    """A row for each point."""
    lines = [
        "# Step time against refresh interval",
        "",
        f"`--objective refresh --front --freedom sliding`, {TIME_LIMIT_S:g} s each, 2"
        " workers; strict, inversions halved. Step: a cycle's length divided by its"
        " steps; in brackets how much longer than without a refresh. At least: no steps"
        " are shorter at this interval, at any times and in any order. Exposed: plain"
        " K-FAC, whose second-order work nothing hides, at this interval.",
        "",
        "| training | interval | age | step | at least | bound | gap | exposed |"
        " pipeline | freedom |",
        "|" + "---|" * 10,
    ]
    for record in found:
        unit = record["time_unit"]
        for point in record["points"]:
            longer = point["step"] / record["shortest_step"] - 1
            cells = [
                record["instance"].removeprefix("pipefisher-").removesuffix("-kfac"),
                point["interval"],
                point["largest_age"],
                f"{point['step']:.2f} {unit} (+{100 * longer:.1f} %)",
                f"{point['step_lower_bound']:.2f}",
                point["bound"],
                f"{100 * point['gap']:.2f} %",
                f"{point['exposed_step']:.2f}",
                point["pipeline"],
                point["freedom_needed"],
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
