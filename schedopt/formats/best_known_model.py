"""The best-known format, version 1: its fields, each with meaning, unit and default."""

from __future__ import annotations

from typing import Annotated

from schedopt.formats import values
from schedopt.formats.amounts import (
    MEMORY,
    TIME,
    MemoryUnit,
    Name,
    Resolution,
    Source,
    TimeUnit,
)
from schedopt.formats.model import Strict, field
from schedopt.formats.schedule_model import Digest, OptionalTotal, Share, Total
from schedopt.instance import Objective

BEST_KNOWN_SCHEMA = "schedopt/best-known/v1"

_schema = values.word((BEST_KNOWN_SCHEMA,))
_objective = values.word(Objective)


class FinderFields(Strict):
    """What found a value, or what claims a lower bound."""

    method: Source = field(
        "hand-made schedule, bound or member of the solver; empty if the schedule file"
        " does not say",
        default="",
    )
    versions: dict[Name, Source] = field(
        "the versions of schedopt and ortools that it used", default={}
    )


class EntryFields(Strict):
    """What is known of one instance under one objective."""

    name: Name = field("the instance's name when it was first recorded")
    sha256: Digest = field("hash of the instance without its name and source")
    objective: Annotated[Objective, _objective.validator, _objective.json_schema] = (
        field("what was minimised")
    )
    time_unit: TimeUnit = field("the instance's")
    memory_unit: MemoryUnit = field("the instance's")
    resolution: Resolution = field("the instance's")
    value: Total = field(
        "the smallest of all schedules recorded, each replayed exactly", unit=TIME
    )
    value_found_by: FinderFields = field("what made that schedule")
    bubble_ratio: Share = field(
        "idle share of its compute time: 1 - work / (devices x value)"
    )
    peak_memory: list[Total] = field(
        "its highest level of each device's memory, static memory included",
        unit=MEMORY,
    )
    lower_bound: OptionalTotal = field(
        "the largest claimed of all; absent if none was", unit=TIME, default=None
    )
    bound_claimed_by: FinderFields | None = field(
        "whose claim that is; absent without one", default=None
    )


class BestKnownFile(Strict):
    """The best values and bounds that are known, by instance and objective."""

    schema_: Annotated[str, _schema.validator, _schema.json_schema] = field(
        "name and version of the format", alias="schema"
    )
    entries: list[EntryFields] = field(
        "one per instance and objective, sorted by name, hash and objective"
    )
