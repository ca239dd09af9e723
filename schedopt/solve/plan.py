"""What the portfolio asks of its members, in which order and for how long.

Sides are endless or ending sequences of tasks, one side per worker. Each task is made
at the moment at which it is asked for, from what is known then.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain, count, islice

from schedopt.bounds import memory_device_bounds
from schedopt.instance import Objective
from schedopt.opgraph import OpGraph
from schedopt.solve.incumbent import Incumbent
from schedopt.solve.solution import SolveParameters
from schedopt.solve.tasks import Task, TaskKind, starts_of
from schedopt.steady import pattern_length

_LARGEST_FOR_CPSAT = 6000
"""Ops up to which the whole problem is given to CP-SAT."""

_LARGEST_PROJECTION = 1500
"""Ops of one device up to which its projection is solved."""

_TINY = 60
"""Ops up to which CP-SAT solves most problems at once, so that it is asked first."""

_TINY_S = 2.0

_SMALL = 300
"""Ops up to which the whole problem is soon proven, so that all else is brief."""

_LARGEST_DIVE = 1500
"""Ops up to which CP-SAT is asked for a schedule within windows."""

_LARGEST_FOR_SLABS = 30_000
"""Ops up to which slabs are swept; above, one replay takes as long as several slabs."""

_LARGE = 20_000
"""Ops from which on hand-made schedules and quick bounds are left to workers."""

_BASELINES_S = 10.0
_POOR = 0.5
"""Gap of schedules that almost any hand-made one beats."""

_SEARCHING = (TaskKind.SEARCH, TaskKind.SLABS, TaskKind.BASELINES)

_LEAST_EFFORT_S = 0.01
_FIRST_CPSAT_S = 20.0
_CYCLE_LENGTHS = (1, 2, 3, 4)
"""Microbatches of a cycle, in units of the least possible."""

_CYCLE_SLICES_S = (5.0, 10.0, 20.0)
_WINDOWS_S = {False: 5.0, True: 15.0}
_FIRST_WINDOWS = {False: 8, True: 2}
"""Slices of the destructive bound before CP-SAT is asked for bounds, too, by whether
the problem is small."""

_QUICK_S = 30.0

_WINDOWS_PER_DIVE = 2
_DIVE_SLICES_S = (2.0, 4.0, 8.0, 15.0, 30.0)
_SEARCH_SLICES_S = {False: (3.0, 5.0, 8.0, 12.0), True: (10.0, 20.0, 30.0)}
"""Of usual and of large graphs, on which it takes longer to begin."""


class Plan:
    """The tasks for one op graph, from what its incumbent knows."""

    def __init__(
        self, incumbent: Incumbent, parameters: SolveParameters, deadline: float
    ) -> None:
        self._incumbent = incumbent
        self._parameters = parameters
        self._deadline = deadline
        self._given_up: set[TaskKind] = set()
        self._closed_cycles: set[int] = set()
        self._spent_s = 0.0

    def give_up(self, kind: TaskKind) -> None:
        """Ask for no more tasks of a kind."""
        self._given_up.add(kind)

    def close(self, task: Task) -> None:
        """Ask for no more tasks like this one, which has nothing left to do."""
        if task.kind is TaskKind.MODULO:
            self._closed_cycles.add(task.cycle_microbatches)
        else:
            self.give_up(task.kind)

    def account(self, seconds: float) -> None:
        """Take note of a task's deterministic effort; no task is free."""
        self._spent_s += max(seconds, _LEAST_EFFORT_S)

    @property
    def is_spent(self) -> bool:
        """Whether a reproducible run has used up its effort."""
        parameters = self._parameters
        return parameters.reproducible and self._spent_s >= parameters.time_limit_s

    @property
    def _is_alone(self) -> bool:
        """Whether there is one side only."""
        return self._parameters.workers == 1 or self._parameters.reproducible

    @property
    def _gap(self) -> float:
        value = self._incumbent.value
        return 1.0 if value is None else 1 - self._incumbent.lower_bound / value

    @property
    def _graph(self) -> OpGraph:
        return self._incumbent.graph

    def sides(self) -> list[Iterator[Task]]:
        """One side per worker: a single one takes turns, further ones search too.

        So does the one that proves, when it has nothing left to try.
        """
        seed = self._parameters.seed
        if self._incumbent.objective is Objective.PERIOD:
            return self._cycle_sides(seed)
        proving, searching = self._proofs(seed), self._searches(seed)
        if self._is_alone:
            return [_in_turns(proving, searching)]
        more = (self._searches(seed + n) for n in range(2, self._parameters.workers))
        return [chain(proving, self._searches(seed + 1)), searching, *more]

    def _cycle_sides(self, seed: int) -> list[Iterator[Task]]:
        """Modulo scheduling: one side for the shortest cycle, others for longer ones.

        A single side takes turns; where there are more sides than lengths they search
        with other seeds.
        """
        shortest = pattern_length(self._graph)
        if shortest is None:
            return []
        total = len(self._graph.microbatches)
        counts = [k * shortest for k in _CYCLE_LENGTHS if k * shortest <= total]
        if self._is_alone:
            return [self._cycles(counts, seed)]
        sides = self._parameters.workers
        first = chain(self._cycles(counts[:1], seed), self._cycles(counts[1:], seed))
        more = (self._cycles(counts[1:], seed + side) for side in range(1, sides))
        return [first, *more]

    def _cycles(self, counts: list[int], seed: int) -> Iterator[Task]:
        """Cycles of several lengths in turn, for longer every time."""
        for effort in count():
            seconds = _CYCLE_SLICES_S[min(effort, len(_CYCLE_SLICES_S) - 1)]
            if self._closed_cycles.issuperset(counts):
                return
            for microbatches in counts:
                if TaskKind.MODULO in self._given_up:
                    return
                if microbatches in self._closed_cycles:
                    continue
                yield self._task(
                    TaskKind.MODULO,
                    seconds,
                    seed,
                    effort=effort,
                    cycle_microbatches=microbatches,
                )

    def _searches(self, seed: int) -> Iterator[Task]:
        """Search and slabs in slices, each from the best known schedule.

        Where hand-made schedules are left to workers, search comes first: it finds
        better ones in the time that some of them take.
        """
        for effort in count():
            slices = _SEARCH_SLICES_S[is_large(self._graph)]
            usual = slices[min(effort, len(slices) - 1)]
            is_over = True
            for kind in _SEARCHING:
                if self._asks_for(kind, seed):
                    is_over = False
                    seconds = _BASELINES_S if kind is TaskKind.BASELINES else usual
                    yield self._task(kind, seconds, seed, effort=effort)
            if is_over:
                return

    def _asks_for(self, kind: TaskKind, seed: int) -> bool:
        """Whether a searching side asks for such tasks.

        Slabs are for what is neither tiny nor huge. Hand-made schedules, where they are
        left to workers, come while what search finds is poor; else they are for
        comparison only, and for the side that has nothing left to prove.
        """
        if kind in self._given_up:
            return False
        match kind:
            case TaskKind.SLABS:
                return (
                    self._incumbent.objective is Objective.MAKESPAN
                    and self._incumbent.schedule is not None
                    and _SMALL < len(self._graph.ops) <= _LARGEST_FOR_SLABS
                )
            case TaskKind.BASELINES:
                if not is_large(self._graph):
                    return False
                if seed == self._parameters.seed:
                    return self._is_alone or self._gap > _POOR
                return seed == self._parameters.seed + 1
            case _:
                return True

    def _proofs(self, seed: int) -> Iterator[Task]:
        """Windows, with dives between; then in turns with models of parts and all.

        Where the problem is tiny, all of it comes first. Where it is large, quick
        bounds are made as soon as windows come to a halt, which prove more in the time.
        """
        if len(self._graph.ops) <= _TINY:
            yield self._task(TaskKind.CPSAT, _TINY_S, seed)
        windows, dives = self._windows(seed), self._dives(seed)
        small = len(self._graph.ops) <= _SMALL
        waits_for_quick, known = is_large(self._graph), -1
        for turn in range(_FIRST_WINDOWS[small]):
            if waits_for_quick and known == self._incumbent.lower_bound:
                waits_for_quick = False
                yield self._task(TaskKind.QUICK_BOUNDS, _QUICK_S, seed)
            known = self._incumbent.lower_bound
            if turn and turn % _WINDOWS_PER_DIVE == 0:
                yield from islice(dives, 1)
            yield from islice(windows, 1)
        if waits_for_quick:
            yield self._task(TaskKind.QUICK_BOUNDS, _QUICK_S, seed)
        yield from _in_turns(windows, dives, self._models(seed))

    def _windows(self, seed: int) -> Iterator[Task]:
        """Slices of the destructive bound, until it has nothing left to try."""
        if self._incumbent.objective is not Objective.MAKESPAN:
            return
        while TaskKind.WINDOWS not in self._given_up:
            seconds = _WINDOWS_S[is_large(self._graph)]
            yield self._task(TaskKind.WINDOWS, seconds, seed)

    def _dives(self, seed: int) -> Iterator[Task]:
        """Dives, longer every time, where the problem is small enough."""
        fits = len(self._graph.ops) <= _LARGEST_DIVE and not self._graph.choices
        if not fits or self._incumbent.objective is not Objective.MAKESPAN:
            return
        for effort in count():
            if TaskKind.DIVE in self._given_up:
                return
            seconds = _DIVE_SLICES_S[min(effort, len(_DIVE_SLICES_S) - 1)]
            yield self._task(TaskKind.DIVE, seconds, seed + effort, effort=effort)

    def _models(self, seed: int) -> Iterator[Task]:
        """What CP-SAT says of parts of the problem, then of all of it."""
        if self._holds_several_stages():
            yield from self._ends(seed)
        else:
            yield from self._projections(seed)
        if len(self._graph.ops) > _LARGEST_FOR_CPSAT:
            return
        for effort in count():
            if TaskKind.CPSAT in self._given_up:
                return
            seconds = _FIRST_CPSAT_S * 2 ** min(effort, 10)
            yield self._task(TaskKind.CPSAT, seconds, seed + effort, effort=effort)

    def _ends(self, seed: int) -> Iterator[Task]:
        """Two-ends bounds: where devices hold several stages, projections stall."""
        small = len(self._graph.ops) <= _SMALL
        devices = self._tightest_first()[: 1 if small else None]
        for effort, seconds in enumerate((6.0,) if small else (10.0, 40.0)):
            for device in devices:
                if TaskKind.ENDS in self._given_up:
                    return
                yield self._task(
                    TaskKind.ENDS, seconds, seed, devices=(device,), effort=effort
                )

    def _projections(self, seed: int) -> Iterator[Task]:
        largest = max((len(ops) for ops in self._graph.streams.values()), default=0)
        if largest > _LARGEST_PROJECTION or is_large(self._graph):
            return
        lengths = (2.0,) if len(self._graph.ops) <= _SMALL else (4.0, 12.0)
        for effort, seconds in enumerate(lengths):
            for device in self._tightest_first():
                if TaskKind.PROJECTION in self._given_up:
                    return
                yield self._task(
                    TaskKind.PROJECTION, seconds, seed, devices=(device,), effort=effort
                )

    def _holds_several_stages(self) -> bool:
        stages: dict[int, set[int]] = {}
        for op, data in self._graph.data.items():
            stages.setdefault(data.device, set()).add(op.stage)
        return any(len(held) > 1 for held in stages.values())

    def _tightest_first(self) -> list[int]:
        """Devices by what the quick bounds say of each, most promising first."""
        promise = memory_device_bounds(self._graph)
        return sorted(promise, key=lambda device: (-promise[device], device))

    def _task(
        self,
        kind: TaskKind,
        seconds: float,
        seed: int,
        *,
        devices: tuple[int, ...] = (),
        effort: int = 0,
        cycle_microbatches: int = 0,
    ) -> Task:
        best, upper = self._incumbent.schedule, self._incumbent.value
        left = self._deadline - time.monotonic()
        if self._parameters.reproducible:
            left = self._parameters.time_limit_s - self._spent_s
        seconds = max(0.0, min(seconds, left))
        return Task(
            kind=kind,
            seconds=seconds,
            seed=seed,
            incumbent=None if best is None else starts_of(best),
            lower_bound=self._incumbent.lower_bound,
            upper_bound=_serial_length(self._graph) if upper is None else upper,
            devices=devices,
            effort=effort,
            cycle_microbatches=cycle_microbatches,
            deterministic=self._parameters.reproducible,
        )


def is_large(graph: OpGraph) -> bool:
    """Whether hand-made schedules and quick bounds are left to workers."""
    return len(graph.ops) > _LARGE


def _serial_length(graph: OpGraph) -> int:
    """All ops and lags one after the other: longer than any sensible schedule."""
    return sum(data.duration for data in graph.data.values()) + sum(
        edge.lag for edge in graph.edges
    )


def _in_turns(*sides: Iterator[Task]) -> Iterator[Task]:
    """Tasks of several sides, one of each in turn."""
    waiting = list(sides)
    while waiting:
        for side in list(waiting):
            task = next(side, None)
            if task is None:
                waiting.remove(side)
            else:
                yield task
