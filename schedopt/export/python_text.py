"""What the generated Python modules share: their first lines and their data."""

from __future__ import annotations

from collections.abc import Sequence

from schedopt.export.program import Program
from schedopt.version import own_version


def header(program: Program, runtime: str) -> str:
    """The beginning of a module's docstring, not closed: what it is and made from."""
    name = " ".join(program.name.replace("\\", "/").replace('"', "'").split())
    return (
        f'"""Schedule of the instance {name} for {runtime}.\n'
        f"\nWritten by schedopt {own_version()}; {len(program.rows)} ranks,"
        f" {len(program.device_of_stage)} stages, {program.microbatches} microbatches."
    )


def tuple_text(entries: Sequence[str]) -> str:
    """A tuple at the top of a module, one entry per line."""
    return "(\n" + "".join(f"    {entry},\n" for entry in entries) + ")"


def words_text(rows: Sequence[Sequence[str]]) -> str:
    """A tuple of one text per rank, its words in lines of readable length."""
    return tuple_text([_wrapped(rank, row) for rank, row in enumerate(rows)])


def _wrapped(rank: int, words: Sequence[str]) -> str:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(word) < _WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    texts = "".join(
        f'        "{line}{" " if index < len(lines) else ""}"\n'
        for index, line in enumerate(lines, start=1)
    )
    return f"(  # rank {rank}\n{texts or _EMPTY}    )"


_WIDTH = 72
_EMPTY = '        ""\n'
