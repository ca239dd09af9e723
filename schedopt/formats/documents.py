"""What canonical documents are made of: whole numbers as integers, no defaults."""

from __future__ import annotations

from typing import Any

from schedopt.formats.model import Strict
from schedopt.instance import Number


def number(value: Number) -> Number:
    """The number, an integer where it is one: 1 and 1.0 are written alike."""
    return int(value) if value == int(value) else value


def optional(value: Number | None) -> Number | None:
    """The same of a number that may be absent."""
    return None if value is None else number(value)


def without(document: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The document without the fields that have their default."""
    return {
        key: value
        for key, value in document.items()
        if key not in defaults or value != defaults[key]
    }


def defaults_of(fields: type[Strict]) -> dict[str, Any]:
    """The default of every field that has one."""
    return {
        name: info.default
        for name, info in fields.model_fields.items()
        if not info.is_required()
    }
