"""The table of what was found on a GPU: ``python results/measured/study.py``.

It reads ``checks.json``, which ``on_gpu.py`` writes on a machine with a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MEBIBYTE = 2**20


def table(checks: dict[str, Any]) -> str:
    """Memory and times; MiB and microseconds."""
    sections = [
        "# What was found on a GPU",
        "",
        f"{checks['device']}, driver {checks['driver']}.",
        "",
        "Memory of two training steps on one GPU, MiB",
        "",
        *_rows(_head(), (_peak(examples(checks), peak) for peak in checks["peaks"])),
        "",
        "Memory that no op asks for, MiB",
        "",
        *_rows(
            ("what", "size"),
            (
                ("taken of the card before torch allocates", _mib(checks["context"])),
                ("cuBLAS's workspaces", _mib(checks["held_by_libraries"])),
                *(_rounding(one) for one in checks["rounding"]),
            ),
        ),
        "",
        "Times of a stage without ends, us",
        "",
        *_rows(
            ("hidden", "blocks", "sequences", "measured", *"FIWB"),
            map(_times, checks["timings"]),
        ),
    ]
    return "\n".join(sections) + "\n"


def _head() -> tuple[str, ...]:
    words = ("schedule", "level", "kept by the runtime", "examples", "workspace")
    return (*words, "predicted", "measured", "measured - predicted")


def _peak(examples: int, peak: dict[str, Any]) -> tuple[str, ...]:
    sizes = [peak["level"], peak["kept"], examples, peak["workspace"]]
    predicted, measured = sum(sizes), peak["measured"]
    return (
        peak["schedule"],
        *map(_mib, sizes),
        _mib(predicted),
        _mib(measured),
        f"{100 * (measured / predicted - 1):+.2f} %",
    )


def examples(checks: dict[str, Any]) -> int:
    """Bytes of one microbatch's inputs and outputs of every stage, where kept."""
    if not checks.get("examples_kept", True):
        return 0
    model = checks["model"]
    tokens = model["microbatch_size"] * model["sequence"]
    hidden = 2 * (model["stages"] - 1) * model["hidden"]
    return int(8 * tokens + 2 * tokens * (hidden + model["vocabulary"]))


def _rounding(found: dict[str, int]) -> tuple[str, str]:
    share = found["given"] / found["asked"] - 1
    what = f"given out beyond {_mib(found['asked'])} asked for, width {found['hidden']}"
    return what, f"{_mib(found['given'] - found['asked'])} ({100 * share:.2f} %)"


def _times(row: dict[str, Any]) -> tuple[str, ...]:
    sizes = (row["hidden"], row["blocks"], row["microbatch_size"], row["how"])
    times = (f"{row['times'][kind]['median']:.0f}" for kind in "FIWB")
    return (*map(str, sizes), *times)


def _mib(size: int) -> str:
    return f"{size / MEBIBYTE:.2f}"


def _rows(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def main() -> None:
    """Write ``table.md``."""
    checks = json.loads((HERE / "checks.json").read_text(encoding="utf-8"))
    (HERE / "table.md").write_text(table(checks), encoding="utf-8")


if __name__ == "__main__":
    main()
