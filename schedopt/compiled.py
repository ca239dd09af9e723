"""When loops are compiled: numba for large work, plain Python for small.

Compiling costs seconds once (it is cached on disk) and importing numba about half a
second, so small instances use neither.
"""

from __future__ import annotations

import inspect
import marshal
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")

_TYPES = Path(__file__).parent / "lattice"
"""Where most named tuples that compiled functions read are made."""


@cache
def compiled(function: Callable[P, R], *called: Callable[..., Any]) -> Callable[P, R]:
    """``function`` compiled by numba, on first use; same arguments, same result.

    ``called`` are the functions that it calls by name. They are not handed over as
    arguments: numba keeps nothing on disk of a function that takes compiled functions.
    """
    import numba  # noqa: PLC0415 - half a second that small instances do not pay
    from numba.extending import register_jitable  # noqa: PLC0415 - likewise

    for other in called:
        register_jitable(other)
    jit: Any = numba.njit(cache=True, nogil=True)
    return cast("Callable[P, R]", jit(_named_by_sources(function, *called)))


def _named_by_sources(
    function: Callable[..., Any], *called: Callable[..., Any]
) -> FunctionType:
    """The function under a name that changes with all that it may be compiled from.

    What numba keeps on disk it finds by that name, and renews it when the file of the
    function changes, but not when those of the functions that it calls do, or of the
    named tuples that it is given.
    """
    assert isinstance(function, FunctionType)
    functions: tuple[Callable[..., Any], ...] = (function, *called)
    folders, found = {_TYPES}, sha256()
    for other in functions:
        file = Path(inspect.getsourcefile(other) or "")
        if file.is_file():
            folders.add(file.parent)
        else:  # in a zip file, say
            found.update(marshal.dumps(other.__code__))
    for path in sorted(path for folder in folders for path in folder.glob("*.py")):
        found.update(_contents(path))
    named = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    named.__module__ = function.__module__
    named.__qualname__ = f"{function.__qualname__}_{found.hexdigest()[:12]}"
    return named


@cache
def _contents(path: Path) -> bytes:
    return path.read_bytes()
