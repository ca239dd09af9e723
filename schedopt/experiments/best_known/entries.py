"""What the store holds; times in ticks, sizes in grains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schedopt.instance import Objective
from schedopt.opgraph import Units

Key = tuple[str, Objective]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An instance under an objective; ``sha256`` is that of ``instance_sha256``."""

    name: str
    sha256: str
    objective: Objective
    units: Units

    def time_text(self, ticks: int) -> str:
        """A time with all of its digits, and its unit."""
        return f"{self.units.time_of(ticks)} {self.units.time}"

    @property
    def key(self) -> Key:
        """What tells it from others: not the name."""
        return self.sha256, self.objective

    def __str__(self) -> str:
        """As messages call it."""
        return f"{self.name} ({self.objective.value})"


@dataclass(frozen=True, slots=True)
class Finder:
    """What found a value or claims a bound: an empty method is one that is not known.

    ``versions`` are those of schedopt and ortools.
    """

    method: str
    versions: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """As messages call it."""
        versions = ", ".join(f"{name} {text}" for name, text in self.versions.items())
        method = self.method or "a member that its file does not name"
        return f"{method} ({versions})" if versions else method


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownValue:
    """The value of a schedule that was replayed exactly.

    ``bubble_ratio`` is 1 - work / (devices x value).
    """

    ticks: int
    found_by: Finder
    bubble_ratio: float
    peak_memory_grains: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBound:
    """A lower bound that somebody claims; no schedule file can prove one."""

    ticks: int
    claimed_by: Finder


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known of a problem; the bound is at most the value."""

    problem: Problem
    value: KnownValue
    bound: KnownBound | None = None

    @property
    def is_proven(self) -> bool:
        """Whether the value equals the bound."""
        return self.bound is not None and self.bound.ticks == self.value.ticks


@dataclass(frozen=True, slots=True)
class BestKnown:
    """What is known of every problem."""

    by_problem: Mapping[Key, Entry] = field(default_factory=dict)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries sorted by name, hash and objective, as the file has them."""
        return tuple(
            sorted(
                self.by_problem.values(),
                key=lambda entry: (entry.problem.name, *entry.problem.key),
            )
        )

    def get(self, problem: Problem) -> Entry | None:
        """What is known of a problem; None if nothing is."""
        return self.by_problem.get(problem.key)

    def with_entry(self, entry: Entry) -> BestKnown:
        """The store with an entry in the place of the one of its problem."""
        return BestKnown({**self.by_problem, entry.problem.key: entry})
