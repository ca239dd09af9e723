"""The table of what was found on a GPU: ``python results/measured/study.py``.

It reads ``checks.json`` and the profiles, which ``on_gpu.py`` writes on a machine with
a GPU, and the instances that were made of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from instances.generate.measured import files, needs_of_one_f_one_b  # noqa: E402
from schedopt.formats import load_instance  # noqa: E402

MEBIBYTE = 2**20
SIZES = ("activation", "activation_until_input", "input_gradient")


def table() -> str:
    """Memory and times; MiB and microseconds."""
    checks = json.loads((HERE / "checks.json").read_text(encoding="utf-8"))
    sections = [
        "# What was found on a GPU",
        "",
        f"{checks['device']}, driver {checks['driver']}, {checks['date']}.",
        "",
        "Costs of stages, us and MiB; ±: half the distance between the quartiles",
        "",
        *_rows(
            (
                *("model", "stages", "blocks", *"FIWB", "activation", "freed by I"),
                *("added by I", "static"),
            ),
            _stages(),
        ),
        "",
        "Instances made of them, MiB; the ratio is the least over the devices",
        "",
        *_rows(
            ("instance", "least limit", "1F1B needs at most", "limit / 1F1B's need"),
            _instances(),
        ),
        "",
        "Memory of two training steps on one GPU, MiB",
        "",
        *_rows(_head(), map(_peak, checks["peaks"])),
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


def _stages() -> Iterator[tuple[str, ...]]:
    """A row for every stage that differs from those before it."""
    for path in sorted(HERE.glob("*.profile.json")):
        profile = json.loads(path.read_text(encoding="utf-8"))
        costs = profile["instance"]["stages"]
        for stage in profile["stages"]:
            first, *_, last = [*stage["stages"], stage["stages"][-1]]
            cost = costs[first]
            yield (
                profile["instance"]["name"],
                str(first) if first == last else f"{first}-{last}",
                stage["name"].rsplit(", ", 1)[1].split()[0],
                *(_spread(stage["times"][kind]) for kind in "FIWB"),
                *(f"{cost[size]:.0f}" for size in (*SIZES, "static_memory")),
            )


def _spread(time: dict[str, float]) -> str:
    half = (time["upper_quartile"] - time["lower_quartile"]) / 2
    return f"{time['median']:.0f} ±{half:.0f}"


def _instances() -> Iterator[tuple[str, ...]]:
    for path in files():
        instance = load_instance(path)
        needs = needs_of_one_f_one_b(instance)
        limits = [device.memory_limit or 0 for device in instance.devices]
        ratio = min(limit / need for limit, need in zip(limits, needs, strict=True))
        link = f"[{path.stem}](../../{path.relative_to(ROOT).as_posix()})"
        yield link, f"{min(limits):.0f}", f"{max(needs):.0f}", f"{ratio:.2f}"


def _head() -> tuple[str, ...]:
    words = ("schedule", "level", "kept by the runtime", "workspace")
    return (*words, "predicted", "measured", "measured - predicted")


def _peak(peak: dict[str, Any]) -> tuple[str, ...]:
    sizes = [peak["level"], peak["kept"], peak["workspace"]]
    predicted, measured = sum(sizes), peak["measured"]
    return (
        peak["schedule"],
        *map(_mib, sizes),
        _mib(predicted),
        _mib(measured),
        f"{100 * (measured / predicted - 1):+.2f} %",
    )


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
    (HERE / "table.md").write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
