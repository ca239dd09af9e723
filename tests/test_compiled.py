"""What numba keeps on disk is that of the present sources."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

OUTER = """
from schedopt.compiled import compiled
from inner import added
from shape import Pair

def outer(pair):
    return 10 * added(pair)

print(compiled(outer, added)(Pair(one=1, two=2)))
"""
INNER = "def added(pair):\n    return pair.one + {term}\n"
SHAPE = "from typing import NamedTuple\n\nclass Pair(NamedTuple):\n    {}\n    {}\n"
FIELDS = ("one: int", "two: int")


def test_a_change_of_what_a_compiled_function_needs_is_seen(tmp_path: Path) -> None:
    """Of a function that it calls, and of a named tuple; its own file stays."""
    (tmp_path / "outer.py").write_text(OUTER, encoding="utf-8")
    (tmp_path / "shape.py").write_text(SHAPE.format(*FIELDS), encoding="utf-8")
    for term, value in ((1, 20), (2, 30), (1, 20)):
        (tmp_path / "inner.py").write_text(INNER.format(term=term), encoding="utf-8")
        assert printed(tmp_path) == value
    assert list(tmp_path.glob("__pycache__/*.nbc")), "something was kept"
    (tmp_path / "shape.py").write_text(SHAPE.format(*FIELDS[::-1]), encoding="utf-8")
    assert printed(tmp_path) == 20


def test_functions_in_a_zip_file_are_compiled(tmp_path: Path) -> None:
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("outer.py", OUTER)
        packed.writestr("inner.py", INNER.format(term=1))
        packed.writestr("shape.py", SHAPE.format(*FIELDS))
    assert printed(tmp_path, f"import sys; sys.path.insert(0, {str(path)!r});") == 20


def printed(folder: Path, before: str = "pass;") -> int:
    """What a new process prints."""
    done = subprocess.run(
        [sys.executable, "-c", f"{before} import outer"],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)
