"""The instance that an importer makes: what was measured, and what the user adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schedopt.errors import FormatError
from schedopt.formats.instance_model import INSTANCE_SCHEMA
from schedopt.instance import Number, Placement, place

Stage = Mapping[str, Number]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user says about the instance; None leaves it to the file.

    Times and sizes are in the units of the instance that comes out.
    """

    name: str | None = None
    stages: int | None = None
    devices: int | None = None
    microbatches: int | None = None
    placement: Placement | None = None
    memory_limit: Number | None = None
    latency: Number | None = None
    bandwidth: Number | None = None
    time_unit: str | None = None
    memory_unit: str | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """An instance's document, and what a reader should know of it."""

    document: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a file says; the attributes are named as in an instance.

    ``devices`` and ``device_of_stage`` are None where the file does not say how many
    devices there are, or where stages live; ``memory_limits`` has one per device.
    """

    name: str
    source: str
    stages: Sequence[Stage]
    time_unit: str
    memory_unit: str = "MiB"
    backward: str | None = None
    devices: int | None = None
    device_of_stage: Sequence[int] | None = None
    microbatches: int | None = None
    memory_limits: Sequence[Number] = ()
    latency: Number = 0
    notes: Sequence[str] = field(default_factory=tuple)


def imported(draft: Draft, wanted: Wanted, where: Path) -> Imported:
    """The instance's document: the draft, and over it what the user says.

    Raises
    ------
    FormatError
        If neither says how many microbatches there are, or the memory limits are those
        of another number of devices.
    """
    microbatches = wanted.microbatches or draft.microbatches
    if microbatches is None:
        msg = (
            f"{where}: does not say how many microbatches a batch has; give"
            " --microbatches"
        )
        raise FormatError(msg)
    devices = wanted.devices or draft.devices or len(draft.stages)
    document: dict[str, Any] = {
        "schema": INSTANCE_SCHEMA,
        "name": wanted.name or draft.name,
        "source": draft.source,
        "time_unit": draft.time_unit,
        "memory_unit": draft.memory_unit,
        "microbatches": microbatches,
        "devices": devices,
        "placement": _placement(draft, wanted, devices),
    }
    if draft.backward is not None:
        document["backward"] = draft.backward
    if wanted.memory_limit is not None:
        document["memory_limit"] = wanted.memory_limit
    elif draft.memory_limits and len(set(draft.memory_limits)) == 1:
        document["memory_limit"] = draft.memory_limits[0]
    elif draft.memory_limits:
        if len(draft.memory_limits) != devices:
            msg = (
                f"{where}: has the memory limits of {len(draft.memory_limits)} devices,"
                f" which differ; with --devices {devices} give --memory-limit too"
            )
            raise FormatError(msg)
        document["devices"] = [{"memory_limit": x} for x in draft.memory_limits]
    communication = {
        "latency": draft.latency if wanted.latency is None else wanted.latency,
        "bandwidth": wanted.bandwidth,
    }
    document["communication"] = {
        "mode": "lag",
        **{name: value for name, value in communication.items() if value},
    }
    document["stages"] = [dict(stage) for stage in draft.stages]
    return Imported(document, tuple(draft.notes))


def _placement(draft: Draft, wanted: Wanted, devices: int) -> str | list[int]:
    """A word where a word says it."""
    if wanted.placement is not None:
        return wanted.placement.value
    if draft.device_of_stage is None or wanted.devices not in (None, draft.devices):
        return Placement.LINEAR.value
    homes = tuple(draft.device_of_stage)
    for word in (Placement.LINEAR, Placement.LOOPED, Placement.V):
        if homes == place(word, len(homes), devices):
            return word.value
    return list(homes)
