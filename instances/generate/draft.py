"""An instance to be written, and its text: YAML with comments that people can read."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTH = 86
MEBIBYTE = 2**20

Number = int | float
Stage = Mapping[str, Number]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One instance file; ``notes`` are paragraphs for the comment at its top.

    ``modules`` are what K-FAC preconditions in each stage; the stages are equal then.
    """

    family: str
    name: str
    notes: Sequence[str]
    source: str
    stages: Sequence[Stage]
    devices: int | Sequence[Mapping[str, str | Number]]
    microbatches: int
    backward: str
    time_unit: str
    memory_unit: str = "MiB"
    placement: str = "linear"
    memory_limit: Number | None = None
    communication: Mapping[str, Any] = field(default_factory=dict)
    modules: Sequence[Mapping[str, str | Number]] = ()
    kfac: Mapping[str, str | Number] | None = None

    @property
    def device_count(self) -> int:
        """How many devices there are."""
        return self.devices if isinstance(self.devices, int) else len(self.devices)

    def text(self) -> str:
        """The file's content."""
        lines = [f"# {line}".rstrip() for line in _comment(self.notes)]
        lines += ["schema: schedopt/instance/v1", f"name: {self.name}", "source: >-"]
        lines += textwrap.wrap(
            self.source,
            WIDTH,
            initial_indent="  ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += [
            f"time_unit: {self.time_unit}",
            f"memory_unit: {self.memory_unit}",
            f"microbatches: {self.microbatches}",
            *self._devices(),
        ]
        if self.memory_limit is not None:
            lines.append(f"memory_limit: {_scalar(self.memory_limit)}")
        lines += [f"placement: {self.placement}", f"backward: {self.backward}"]
        lines += self._communication()
        lines += self._stages()
        if self.kfac is not None:
            pairs = (f"{key}: {_scalar(value)}" for key, value in self.kfac.items())
            lines.append(f"kfac: {{{', '.join(pairs)}}}")
        return "\n".join(lines) + "\n"

    def _devices(self) -> list[str]:
        if isinstance(self.devices, int):
            return [f"devices: {self.devices}"]
        return ["devices:", *(line for d in self.devices for line in _item(d))]

    def _communication(self) -> list[str]:
        if not self.communication:
            return []
        links = self.communication.get("links", ())
        plain = {k: v for k, v in self.communication.items() if k != "links"}
        lines = ["communication:"]
        lines += [f"  {key}: {_scalar(value)}" for key, value in plain.items()]
        if links:
            lines.append("  links:")
            lines += [f"  {line}" for link in links for line in _item(link)]
        return lines

    def _stages(self) -> list[str]:
        if len(self.stages) > 1 and all(s == self.stages[0] for s in self.stages):
            equal = {"count": len(self.stages), **self.stages[0]}
            costs = [f"  {key}: {_scalar(value)}" for key, value in equal.items()]
            return ["stages:", *costs, *self._modules()]
        assert not self.modules
        return ["stages:", *(line for stage in self.stages for line in _item(stage))]

    def _modules(self) -> list[str]:
        items = [f"  {line}" for module in self.modules for line in _item(module)]
        return ["  modules:", *items] if items else []


def mebibytes(size: Number) -> Number:
    """Bytes in MiB, to six decimals (about one byte)."""
    return tidy(size / MEBIBYTE)


def tidy(value: Number) -> Number:
    """A number without float noise: six decimals, an int where it is one."""
    rounded = round(value, 6)
    return int(rounded) if rounded == int(rounded) else rounded


def _comment(notes: Sequence[str]) -> list[str]:
    return [line for note in notes for line in [*textwrap.wrap(note, WIDTH - 2), ""]][
        :-1
    ]


def _scalar(value: str | Number) -> str:
    return value if isinstance(value, str) else str(tidy(value))


def _item(mapping: Mapping[str, str | Number]) -> list[str]:
    """A flow mapping as an item of a list, broken between pairs only."""
    lines = ["  - {"]
    for key, value in mapping.items():
        pair = f"{key}: {_scalar(value)}, "
        if len(lines[-1] + pair) > WIDTH:
            lines.append("     ")
        lines[-1] += pair
    lines[-1] = f"{lines[-1].removesuffix(', ')}}}"
    return [line.rstrip() for line in lines]
