"""Modulo scheduling: whether the ops of one cycle can repeat every T ticks.

On each stream the op that comes first in every cycle is fixed: the others lie between
its start and its next one, so that no interval wraps. An op starts
frame + cycles x T + phase ticks after 0, where ``frame`` is the start of the stream's
first op. Two ops of a stream are ordered by a literal. Alive when buffer b's maker
starts are, of each buffer, the cycles between its maker and its last user, and one
more or less by their phases: sums of literals.

The answer "infeasible" holds for every shorter cycle, too (``steady.shortening``). It
is not given where an op has no duration: of such ops that start together not every
order is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import gcd
from typing import Any

from ortools.sat.python import cp_model

from schedopt.cpsat.model import Effort, Outcome, solver_of
from schedopt.opgraph import Stream
from schedopt.steady import CycleProblem, Periodic

Linear = Any
"""An expression of the solver's; its types do not say which operators it has."""


@dataclass(frozen=True, slots=True)
class ModuloResult:
    """Whether there is a periodic schedule of the cycle asked for, and one of them."""

    outcome: Outcome
    periodic: Periodic | None


def schedule_cycle(
    problem: CycleProblem,
    cycle: int,
    effort: Effort,
    *,
    tight: tuple[int, ...] = (),
    hint: Periodic | None = None,
) -> ModuloResult:
    """Look for a periodic schedule whose cycle is at most ``cycle`` ticks.

    Parameters
    ----------
    tight : tuple of int
        Ops that start as soon as what they wait for lets them; a restriction, under
        which "infeasible" says nothing of the problem.
    hint : Periodic, optional
        A schedule of another cycle whose decisions are tried first.

    The outcome is ``FEASIBLE``, ``INFEASIBLE`` or ``UNKNOWN``.
    """
    beat = beat_of(problem)
    beats = cycle // beat
    loads = (
        sum(problem.ops[number].duration for number in numbers)
        for numbers in problem.streams.values()
    )
    if beats < 1 or max(loads, default=0) > beats * beat:
        return ModuloResult(Outcome.INFEASIBLE, None)
    model = _Modulo(problem, beats, beat)
    model.make_tight(tight)
    if hint is not None:
        model.hint(hint)
    solver = solver_of(effort)
    status = solver.solve(model.model)
    if effort.on_spent is not None:
        effort.on_spent(solver.response_proto.deterministic_time)
    if status == cp_model.INFEASIBLE and all(op.duration for op in problem.ops):
        return ModuloResult(Outcome.INFEASIBLE, None)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return ModuloResult(Outcome.UNKNOWN, None)
    starts = [solver.value(start) * beat for start in model.start]
    first = min(starts, default=0)
    found = Periodic(problem, tuple(time - first for time in starts), beats * beat)
    return ModuloResult(Outcome.FEASIBLE, found)


def beat_of(problem: CycleProblem) -> int:
    """Ticks of a beat: what divides all durations and lags."""
    beat = gcd(*(op.duration for op in problem.ops), *(e.lag for e in problem.edges))
    return max(beat, 1)


class _Modulo:
    """The model for one problem and cycle length, in beats."""

    def __init__(self, problem: CycleProblem, beats: int, beat: int) -> None:
        self.model = cp_model.CpModel()
        self._problem = problem
        self._beats = beats
        self._beat = beat
        self._duration = [op.duration // beat for op in problem.ops]
        # All ops of a cycle one after the other, each a cycle after it could start.
        self._horizon = sum(self._duration) + len(problem.ops) * beats
        self._horizon += sum(edge.lag for edge in problem.edges) // beat
        self._most = self._horizon // beats + 2
        self.start = self._starts()
        # An op's start is that of its stream's first op, cycles and a phase later; for
        # two ops of a stream, whether the phase of one comes before that of the other.
        self._cycles: dict[tuple[Stream, int], Linear] = {}
        self._phase: dict[tuple[Stream, int], Linear] = {}
        self._before: dict[tuple[Stream, int, int], Linear] = {}
        self._wait()
        for stream, numbers in problem.streams.items():
            self._share(stream, numbers)
        for device in problem.limited_buffers:
            self._fit(device)
        self._pass_in_order()

    def make_tight(self, numbers: tuple[int, ...]) -> None:
        """These ops start as soon as their one predecessor lets them."""
        for number in numbers:
            ((before, needed),) = self._problem.predecessors[number]
            self.model.add(
                self.start[number] == self.start[before] + needed // self._beat
            )

    def hint(self, periodic: Periodic) -> None:
        """The starts of a schedule of another cycle; phases in proportion."""
        for time, start in zip(periodic.start, self.start, strict=True):
            cycles, phase = divmod(time, periodic.cycle)
            self.model.add_hint(
                start, cycles * self._beats + phase * self._beats // periodic.cycle
            )

    def _starts(self) -> list[cp_model.IntVar]:
        """Ops that no path joins may be moved by whole cycles, and all ops together.

        So the first op starts at 0, and the first ones of other parts in the cycle
        after it. Nothing starts earlier if what a part begins with is one op.
        """
        problem = self._problem
        part = list(range(len(problem.ops)))
        sources: dict[int, int] = {}
        for number in range(len(problem.ops)):
            for before, _ in problem.predecessors[number]:
                old, new = part[number], part[before]
                part = [new if p == old else p for p in part]
        for number in range(len(problem.ops)):
            if not problem.predecessors[number]:
                sources[part[number]] = sources.get(part[number], 0) + 1
        least = 0 if all(count == 1 for count in sources.values()) else -self._horizon
        starts: list[cp_model.IntVar] = []
        seen: set[int] = set()
        for number, op in enumerate(problem.ops):
            low, high = least, self._horizon
            if part[number] not in seen and op.twin is None:
                low, high = 0, self._beats - 1 if number else 0
            seen.add(part[number])
            starts.append(self.model.new_int_var(low, high, f"start {op.op}"))
        return starts

    def _wait(self) -> None:
        for before, after, lag in self._problem.edges:
            needed = self._duration[before] + lag // self._beat
            self.model.add(self.start[after] >= self.start[before] + needed)

    def _share(self, stream: Stream, numbers: tuple[int, ...]) -> None:
        """One op at a time, counted from the start of the first one, the longest."""
        first = max(numbers, key=lambda n: (self._duration[n], -n))
        self._cycles[stream, first] = self._phase[stream, first] = 0
        rest = [number for number in numbers if number != first]
        for number in rest:
            name = f"{self._problem.ops[number].op} on {stream}"
            cycles = self.model.new_int_var(-self._most, self._most, f"cycles {name}")
            last = min(self._beats - self._duration[number], self._beats - 1)
            phase = self.model.new_int_var(self._duration[first], last, f"phase {name}")
            self._cycles[stream, number] = cycles
            self._phase[stream, number] = phase
            self.model.add(
                self.start[number] == self.start[first] + cycles * self._beats + phase
            )
            self._before[stream, first, number] = 1
            self._before[stream, number, first] = 0
        self.model.add_no_overlap(
            self.model.new_fixed_size_interval_var(
                self._phase[stream, number], self._duration[number], f"op {number}"
            )
            for number in rest
        )
        for one, other in combinations(rest, 2):
            self._put_in_order(stream, one, other)

    def _put_in_order(self, stream: Stream, one: int, other: int) -> None:
        literal = self.model.new_bool_var(f"{one} before {other} on {stream}")
        self._before[stream, one, other] = literal
        self._before[stream, other, one] = 1 - literal
        one_phase, other_phase = self._phase[stream, one], self._phase[stream, other]
        one_end = one_phase + self._duration[one]
        other_end = other_phase + self._duration[other]
        self.model.add(one_end <= other_phase).only_enforce_if(literal)
        self.model.add(other_end <= one_phase).only_enforce_if(~literal)

    def _fit(self, device: int) -> None:
        """At no start of a maker is more alive than there is room."""
        buffers = self._problem.limited_buffers[device]
        room = self._problem.rooms[device]
        assert room is not None, "limited_buffers has limited devices only"
        unit = gcd(*(buffer.size for buffer in buffers))
        alike: dict[tuple[int, tuple[int, ...]], int] = {}
        for buffer in buffers:
            key = buffer.maker, buffer.users
            alike[key] = alike.get(key, 0) + buffer.size // unit
        for at in dict.fromkeys(buffer.maker for buffer in buffers):
            level: list[Linear] = [
                size * self._alive(maker, users, at)
                for (maker, users), size in alike.items()
            ]
            self.model.add(sum(level) <= room // unit)
        # The mean level over a cycle is no more than the highest.
        held: list[Linear] = [
            size
            * (self.start[users[-1]] + self._duration[users[-1]] - self.start[maker])
            for (maker, users), size in alike.items()
        ]
        self.model.add(sum(held) <= room // unit * self._beats)

    def _alive(self, maker: int, users: tuple[int, ...], at: int) -> Linear:
        """How many of a buffer are alive when op ``at`` starts."""
        made = self._rounds(maker, at)
        gone = [self._rounds(user, at, ended=True) for user in users]
        if len(gone) == 1:
            return made - gone[0]
        last = self.model.new_int_var(-self._most, self._most, f"gone {maker} {at}")
        for rounds in gone:
            self.model.add(last <= rounds)
        return made - last

    def _rounds(self, number: int, at: int, *, ended: bool = False) -> Linear:
        """floor((start of ``at`` - start or end of ``number``) / T)."""
        for stream in self._problem.ops[at].streams:
            if (stream, number) not in self._cycles:
                continue
            if number == at:
                return -1 if ended and self._duration[at] else 0
            difference = self._cycles[stream, at] - self._cycles[stream, number]
            return difference - 1 + self._before[stream, number, at]
        rounds = self.model.new_int_var(
            -self._most, self._most, f"rounds {number} {at} {ended}"
        )
        end = self.start[number] + (self._duration[number] if ended else 0)
        self.model.add_linear_constraint(
            self.start[at] - end - rounds * self._beats, 0, self._beats - 1
        )
        return rounds

    def _pass_in_order(self) -> None:
        """Equal microbatches of a cycle start in order, those of the next after them.

        It keeps a solution: call the k-th start of each op the k-th.
        """
        first_of: dict[int, int] = {}
        for number, op in enumerate(self._problem.ops):
            first = first_of[number] = number if op.twin is None else first_of[op.twin]
            if op.twin is not None:
                self.model.add(self.start[number] >= self.start[op.twin])
                self.model.add(self.start[number] <= self.start[first] + self._beats)
