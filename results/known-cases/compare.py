"""Compare this study's records with what was known before; writes comparison.md.

Usage, from the repository's root: ``python results/known-cases/compare.py``. It reads
``records.jsonl`` and ``known.json`` (by instance hash: a proven optimum, or the best
known value and bound, in us) beside this file.
"""

from __future__ import annotations

import json
from math import inf
from pathlib import Path

HERE = Path(__file__).parent

_BAR_S = 60


def main() -> None:
    """Write the comparison and say whether the bars of the study are met."""
    known = json.loads((HERE / "known.json").read_text())
    records = map(json.loads, (HERE / "records.jsonl").read_text().splitlines())
    found = {record["instance_sha256"]: record for record in records}
    lines = [
        "# Known cases: what was known, and what 120 s with 2 workers give",
        "",
        "Times in us. Known: a proven optimum, or best value / bound. Above known:",
        "value / best known value - 1. Gap: (value - bound) / value. s: wall seconds.",
        "",
        "| case | known | value | bound | gap | above known | status | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    unproven, far, unsound = [], [], []
    for sha256, case in known.items():
        record = found[sha256]
        best = case.get("optimum", case.get("best_known"))
        value, bound = record["value"], record["lower_bound"]
        text = str(best) if "optimum" in case else f"{best} / {case['bound']}"
        lines.append(
            f"| {case['case']} | {text} | {value} | {bound} | {record['gap']:.2%} |"
            f" {value / best - 1:+.2%} | {record['status']} | {record['wall_s']:.0f} |"
        )
        proven_s = record["wall_s"] if record["status"] == "optimal" else inf
        if "optimum" in case and proven_s > _BAR_S:
            unproven.append(case["case"])
        if value > 1.03 * best:
            far.append(case["case"])
        if bound > min(value, best):  # what is known was reached by a schedule
            unsound.append(case["case"])
    lines += [
        "",
        f"Optima not proven within {_BAR_S} s: {', '.join(unproven) or 'none'}.",
        f"Values more than 3 % above what was known: {', '.join(far) or 'none'}.",
        f"Bounds above a known value: {', '.join(unsound) or 'none'}.",
        "",
    ]
    (HERE / "comparison.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
