"""Two runs with ``--reproducible`` on each of 20 instances: the same files or not.

Usage, from the repository's root: ``python results/reproducible/compare.py``. It takes
every tenth instance of ``results/solver-quality/spec.toml``, solves each twice by the
command line, with different hash seeds, and writes ``table.md``.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from schedopt.experiments.spec import instances_of, load_spec
from schedopt.formats import instance_document
from schedopt.instance import Instance

HERE = Path(__file__).parent
SPEC = HERE.parent / "solver-quality" / "spec.toml"
EFFORT_S = 3


def digest(instance: Instance, folder: Path, hash_seed: str) -> tuple[str, str]:
    """The hash of the file that one run writes, and the value in it."""
    given = folder / f"{instance.name}.json"
    given.write_text(json.dumps(instance_document(instance)))
    output = folder / f"{instance.name}-{hash_seed}.json"
    subprocess.run(
        [
            *(sys.executable, "-m", "schedopt", "solve", str(given)),
            *("--reproducible", "--time-limit", str(EFFORT_S), "-o", str(output)),
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    written = output.read_bytes()
    return hashlib.sha256(written).hexdigest(), str(json.loads(written)["value"])


def main() -> None:
    """Write the table; the exit code says whether all are the same."""
    instances = instances_of(load_spec(SPEC))[::10]
    lines = [
        f"# {len(instances)} instances, two runs each, effort {EFFORT_S}",
        "",
        "| instance | value | SHA-256 of the file | same |",
        "|---|---|---|---|",
    ]
    alike = 0
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        for instance in instances:
            first, second = pool.map(
                digest, (instance, instance), (Path(name),) * 2, ("1", "2")
            )
            same = first == second
            alike += same
            lines.append(
                f"| {instance.name} | {first[1]} | {first[0][:16]} |"
                f" {'yes' if same else '**no**'} |"
            )
    lines += ["", f"The same: {alike} of {len(instances)}."]
    (HERE / "table.md").write_text("\n".join(lines) + "\n")
    sys.exit(alike < len(instances))


if __name__ == "__main__":
    main()
