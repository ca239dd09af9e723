"""Each device's peak memory against its limit."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple, Protocol

from schedopt.opgraph import OpGraph, Units
from schedopt.report.quantities import memory_text
from schedopt.schedule import Schedule

_MOST_LINES = 8


class WithPeaks(Protocol):
    """A schedule, periodic or not: each device's peak memory on its op graph."""

    @property
    def graph(self) -> OpGraph: ...  # noqa: D102 (explained by the class)
    @property
    def peak_memory(self) -> tuple[int, ...]: ...  # noqa: D102 (likewise)


class DevicePeak(NamedTuple):
    """A device's peak memory and its limit (None: unlimited), grains."""

    device: int
    name: str
    peak: int
    limit: int | None

    @property
    def share(self) -> float:
        """The part of the limit that is used; 0 without a limit."""
        return self.peak / self.limit if self.limit else 0.0


def device_peaks(schedule: WithPeaks) -> tuple[DevicePeak, ...]:
    """Every device's peak, in device order."""
    return tuple(
        DevicePeak(index, device.name, peak, device.limit)
        for index, (device, peak) in enumerate(
            zip(schedule.graph.devices, schedule.peak_memory, strict=True)
        )
    )


def tightest(peaks: tuple[DevicePeak, ...]) -> DevicePeak:
    """The device that is closest to its limit; of unlimited ones the fullest."""
    return max(peaks, key=lambda peak: (peak.share, peak.peak, -peak.device))


def peak_text(peak: DevicePeak, units: Units) -> str:
    """``38 of 40 MiB (95 %)``, or ``38 MiB (no limit)``."""
    used = memory_text(peak.peak, units)
    if peak.limit is None:
        return f"{used} {units.memory} (no limit)"
    share = f" ({100 * peak.share:.0f} %)" if peak.limit else ""
    return f"{used} of {memory_text(peak.limit, units)} {units.memory}{share}"


def peak_lines(schedule: WithPeaks) -> tuple[str, ...]:
    """A line per run of neighbours with the same peak and limit; or a dense list.

    If there were many lines, they are one for the device that is closest to its limit,
    and the peaks of all devices in order.
    """
    units = schedule.graph.units
    peaks = device_peaks(schedule)
    lines = []
    for (_, _), group in groupby(peaks, key=lambda peak: (peak.peak, peak.limit)):
        members = list(group)
        names = members[0].name
        if len(members) > 1:
            names = f"{members[0].name} to {members[-1].name}"
        lines.append(f"{names}: {peak_text(members[0], units)}")
    if len(lines) <= _MOST_LINES:
        return tuple(lines)
    closest = tightest(peaks)
    texts = [peak_and_limit(peak, units) for peak in peaks]
    rows = [texts[i : i + _MOST_LINES] for i in range(0, len(texts), _MOST_LINES)]
    return (
        f"tightest {closest.name}: {peak_text(closest, units)}",
        f"all devices, peak/limit in {units.memory}:",
        *("  ".join(row) for row in rows),
    )


def peak_and_limit(peak: DevicePeak, units: Units) -> str:
    """``38/40``, or ``38/none``."""
    limit = "none" if peak.limit is None else memory_text(peak.limit, units)
    return f"{memory_text(peak.peak, units)}/{limit}"


def over_limit_text(schedule: Schedule) -> str:
    """Which device exceeds its limit most, and by how much; empty if none does."""
    over = [
        peak
        for peak in device_peaks(schedule)
        if peak.limit is not None and peak.peak > peak.limit
    ]
    if not over:
        return ""
    worst = max(over, key=lambda peak: (peak.peak - (peak.limit or 0), -peak.device))
    units = schedule.graph.units
    more = f" (and {len(over) - 1} more)" if len(over) > 1 else ""
    return (
        f"exceeds a memory limit: {worst.name} needs {peak_text(worst, units)}{more};"
        " raise its memory_limit or keep fewer microbatches in flight"
    )
