"""Reading the files of others: text and JSON, of limited size, perhaps compressed."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from pathlib import Path
from typing import Any, TypeGuard

from schedopt.errors import FormatError
from schedopt.formats.complaints import one_line, show
from schedopt.formats.limits import Limits
from schedopt.instance import Number


def wrong(path: Path, place: str, value: object, rule: str) -> FormatError:
    """The error about a value at a place of a file: a line, a field or an event."""
    where = f"{place} = {show(value)}" if place else show(value)
    return FormatError(f"{one_line(str(path))}: {one_line(f'{where}: {rule}')}")


def read_text(path: Path, limits: Limits) -> str:
    """A UTF-8 text file, or one in a ``.gz``; what is no UTF-8 is replaced.

    Raises
    ------
    FormatError
        If it cannot be read, is empty, or is larger than allowed (uncompressed).
    """
    most = limits.max_bytes
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as packed:
                data = packed.read(most + 1)
        else:
            with path.open("rb") as file:
                data = file.read(most + 1)
    except FileNotFoundError:
        raise _error(path, "there is no such file; check the path") from None
    except IsADirectoryError:
        raise _error(path, "is a directory; name the files in it") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _error(
            path,
            f"is not a whole gzip file ({error}); copy it anew, or take .gz off its"
            " name if it is not compressed",
        ) from None
    if len(data) > most:
        raise _error(
            path,
            f"has more than the {most} bytes allowed; raise the cap with --max-bytes",
        )
    text = data.decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise _error(path, "is empty")
    return text


def read_json(path: Path, limits: Limits) -> dict[str, Any]:
    """The mapping in a JSON file, which may be compressed.

    Raises
    ------
    FormatError
        If there is none.
    """
    try:
        document = json.loads(read_text(path, limits))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        rule = f"{place}: not JSON: {error.msg}; is the file whole?"
        raise _error(path, rule) from None
    except RecursionError:
        raise _error(
            path, "not JSON that can be read here: too deeply nested"
        ) from None
    except ValueError as error:
        raise _error(path, f"not JSON that can be read here: {error}") from None
    if not isinstance(document, dict):
        raise _error(path, f"must be a JSON object, found {show(document)}")
    return document


def is_number(value: object) -> TypeGuard[Number]:
    """Whether a parsed value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def number_of(text: str) -> Number | None:
    """The number at least 0 that a text spells, an int where it is written as one.

    None for anything else: what is no number, negative or infinite, and spellings that
    only Python knows (``1_000``).
    """
    if not text.isascii() or "_" in text:
        return None
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if is_number(value) and value >= 0 else None
    return None


def _error(path: Path, rule: str) -> FormatError:
    return FormatError(f"{one_line(str(path))}: {one_line(rule)}")
