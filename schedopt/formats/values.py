"""The kinds of values that fields take; each says its rule in words.

A kind is a validator for pydantic plus the JSON Schema of what it accepts. The numbers
of pydantic itself are not used: in a union of int and float its messages name the
union's members instead of the field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from schedopt.formats.complaints import listed, shortened
from schedopt.nearest import did_you_mean

# Above this a number is a mistake in its unit (a petabyte, 11 days in nanoseconds), and
# below it a float still tells neighbouring integers apart.
LARGEST = 10**15
LARGEST_COUNT = 10**6
LONGEST_TEXT = 10_000

# Control characters, line separators and halves of surrogate pairs.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CONTROL_BUT_LINES = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
)
# What stands between the parts of an op's name, and between ops in rows of them.
_SEPARATORS = r':@,;"\s'

Schema = dict[str, Any]


class Kind:
    """A rule for a value, with its JSON Schema."""

    def __init__(self, check: Callable[[object], object], schema: Schema) -> None:
        self.check = check
        self.schema = schema

    def or_null(self) -> Kind:
        """The kind that also takes null."""
        kinds = self.schema.get("type", "string")
        schema = {**self.schema, "type": [kinds, "null"]}
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
        return Kind(lambda value: None if value is None else self.check(value), schema)

    @property
    def validator(self) -> PlainValidator:
        """For pydantic's Annotated."""
        return PlainValidator(self.check)

    @property
    def json_schema(self) -> WithJsonSchema:
        """For pydantic's Annotated."""
        return WithJsonSchema(self.schema)


def broken(rule: str) -> PydanticCustomError:
    """The error that carries a rule's words through pydantic."""
    return PydanticCustomError("rule", "{rule}", {"rule": rule})


def number(
    *, least: int | None = 0, positive: bool = False, most: int = LARGEST
) -> Kind:
    """A finite number between two others; by default it is not negative."""

    def check(value: object) -> object:
        _refuse_disguised_number(value, "number")
        if not isinstance(value, (int, float)):
            raise broken("must be a number")
        if isinstance(value, float) and not math.isfinite(value):
            raise broken("must be a finite number")
        if positive and value <= 0:
            raise broken("must be greater than 0")
        if least is not None and value < least:
            raise broken(f"must be at least {least}")
        if value > most:
            raise broken(f"must be at most {most:g}; check the unit")
        return value

    schema: Schema = {"type": "number", "maximum": most}
    if positive:
        schema["exclusiveMinimum"] = 0
    elif least is not None:
        schema["minimum"] = least
    return Kind(check, schema)


def whole(least: int, most: int = LARGEST_COUNT) -> Kind:
    """An integer between two others, both allowed."""

    def check(value: object) -> object:
        _refuse_disguised_number(value, "whole number")
        if not isinstance(value, int):
            raise broken("must be a whole number, such as 4")
        if value < least:
            raise broken(f"must be at least {least}")
        if value > most:
            raise broken(f"must be at most {most}")
        return value

    return Kind(check, {"type": "integer", "minimum": least, "maximum": most})


def flag() -> Kind:
    """True or false, as JSON spells them."""

    def check(value: object) -> object:
        if not isinstance(value, bool):
            raise broken("must be true or false, without quotes")
        return value

    return Kind(check, {"type": "boolean"})


def text(*, least: int = 0, lines: bool = False) -> Kind:
    """A text; printable on one line unless ``lines``."""

    def check(value: object) -> object:
        if not isinstance(value, str):
            raise broken("must be text; put it in quotes")
        if len(value) < least:
            raise broken("must not be empty")
        if len(value) > LONGEST_TEXT:
            raise broken(f"must have at most {LONGEST_TEXT} characters")
        if (_CONTROL_BUT_LINES if lines else _CONTROL).search(value):
            raise broken("must be plain text without control characters")
        return value

    return Kind(
        check, {"type": "string", "minLength": least, "maxLength": LONGEST_TEXT}
    )


def part() -> Kind:
    """A text that may be the part in an op's name, or a piece of it."""
    plain = text(least=1)

    def check(value: object) -> object:
        plain.check(value)
        if re.search(f"[{_SEPARATORS}]", str(value)):
            raise broken(
                "must have no colon, @, comma, semicolon, double quote or white space,"
                " because ops are named after it"
            )
        return value

    return Kind(check, {**plain.schema, "pattern": f"^[^{_SEPARATORS}]*$"})


def hexadecimal(length: int) -> Kind:
    """A text of so many hexadecimal digits."""
    pattern = f"^[0-9a-f]{{{length}}}$"

    def check(value: object) -> object:
        if not isinstance(value, str) or not re.fullmatch(pattern[1:-1], value):
            raise broken(f"must be {length} digits from 0 to 9 and a to f")
        return value

    return Kind(check, {"type": "string", "pattern": pattern})


def word(words: type[StrEnum] | tuple[str, ...]) -> Kind:
    """One of a few words; of an enum, its member."""
    allowed = {str(item): item for item in words}

    def check(value: object) -> object:
        if isinstance(value, str) and value in allowed:
            return allowed[value]
        hint = did_you_mean(str(value), allowed)
        raise broken(f"must be {listed(allowed)}{hint}")

    return Kind(check, {"type": "string", "enum": list(allowed)})


def power_of_ten(least: int, most: int) -> Kind:
    """10**least, ..., 10**most."""
    allowed = {float(f"1e{exponent}"): exponent for exponent in range(least, most + 1)}

    def check(value: object) -> object:
        _refuse_disguised_number(value, "number")
        if not isinstance(value, (int, float)) or value not in allowed:
            raise broken(f"must be a power of ten from 1e{least} to 1e{most}")
        return value

    return Kind(check, {"type": "number", "enum": list(allowed)})


def _refuse_disguised_number(value: object, wanted: str) -> None:
    """Say what mends a number in quotes, or a flag where a number stands."""
    if isinstance(value, bool):
        raise broken(f"must be a {wanted}, not true or false")
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            raise broken(f"must be a {wanted}, not text") from None
        raise broken(f"must be a {wanted}: write {shortened(value)} without quotes")
