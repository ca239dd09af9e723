"""What a person probably meant by a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most like this one; None if none is like it at all."""
    found = difflib.get_close_matches(name[:40], list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message that suggests the nearest name; empty without one."""
    near = nearest(name, known)
    return f"; did you mean {near}?" if near else ""
