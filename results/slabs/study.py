"""Instances that missed a bar of solver quality before there were slabs, run again.

Usage, from the repository's root: ``python results/slabs/study.py``. What the stores
hold is not run again.
"""

from __future__ import annotations

from pathlib import Path

from schedopt.experiments import publish

if __name__ == "__main__":
    for time_limit in ("60s", "120s"):
        publish(Path(__file__).parent / time_limit / "spec.toml")
