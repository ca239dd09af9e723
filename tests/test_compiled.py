"""What numba keeps on disk is that of the present sources."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

OUTER = """
from schedopt.compiled import compiled
from inner import added

def outer(number):
    return 10 * added(number)

print(compiled(outer, added)(1))
"""


def test_a_change_of_a_called_function_is_seen(tmp_path: Path) -> None:
    """Its file changes, that of the compiled function does not."""
    (tmp_path / "outer.py").write_text(OUTER, encoding="utf-8")
    assert [printed(tmp_path, term) for term in (1, 2, 1)] == [20, 30, 20]
    assert list(tmp_path.glob("__pycache__/*.nbc")), "something was kept"


def printed(folder: Path, term: int) -> int:
    """What a process prints in which the called function adds ``term``."""
    inner = f"def added(number):\n    return number + {term}\n"
    (folder / "inner.py").write_text(inner, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", "import outer"],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)
