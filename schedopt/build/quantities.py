"""User's numbers become integers, rounded once: ticks of time and grains of memory."""

from __future__ import annotations

from fractions import Fraction

from schedopt.instance import Communication, Instance, Number, exact
from schedopt.opgraph import Units

_SECONDS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def units_of(instance: Instance) -> Units:
    """The instance's units and how many ticks and grains they hold."""
    per_unit = round(1 / exact(instance.resolution))
    return Units(instance.time_unit, instance.memory_unit, per_unit, per_unit)


def ticks(value: Fraction, units: Units) -> int:
    """A duration in time units as ticks, to the nearest."""
    return round(value * units.ticks_per_unit)


def grains(value: Number | Fraction, units: Units) -> int:
    """A size in memory units as grains, to the nearest."""
    size = value if isinstance(value, Fraction) else exact(value)
    return round(size * units.grains_per_unit)


def memory_units_of_bytes(count: Number, units: Units) -> Fraction:
    """A number of bytes in the user's memory unit."""
    return exact(count) / _BYTES[units.memory]


def bytes_of_memory_units(size: Number, units: Units) -> Fraction:
    """A size in the user's memory unit in bytes."""
    return exact(size) * _BYTES[units.memory]


def in_time_units(seconds: Fraction, units: Units) -> Fraction:
    """A time in seconds in the user's time unit."""
    return seconds * _SECONDS[units.time]


def transfer_time(
    communication: Communication, source: int, target: int, count: Number, unit: str
) -> Fraction:
    """Latency + bytes / bandwidth of the directed link, in time units.

    Raises
    ------
    KeyError
        If ``unit`` is not a time unit.
    """
    latency, bandwidth = communication.latency, communication.bandwidth
    for link in communication.links:
        if (link.source, link.target) == (source, target):
            latency = latency if link.latency is None else link.latency
            bandwidth = bandwidth if link.bandwidth is None else link.bandwidth
    time = exact(latency)
    if bandwidth is not None:
        time += exact(count) / exact(bandwidth) * _SECONDS[unit]
    return time
