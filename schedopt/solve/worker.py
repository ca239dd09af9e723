"""The main program of a worker process (``solve.processes.WORKER_COMMAND``).

A worker holds one instance's op graph and does tasks for it until its input ends.
Crashes, aborts and memory limits end this process and nothing else.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

from schedopt.bounds import Destructive, quick_bounds, without_choices
from schedopt.build import build_graph
from schedopt.formats import instance_from_document
from schedopt.instance import Instance, Objective
from schedopt.lattice import problem_of
from schedopt.opgraph import OpGraph
from schedopt.schedule import Schedule
from schedopt.search import Searcher
from schedopt.simulate import best_times, with_memory_edges
from schedopt.solve.starts import Start, starts
from schedopt.solve.tasks import (
    OUT_OF_MEMORY,
    Task,
    TaskKind,
    periodic_starts_of,
    schedule_from,
    starts_of,
)
from schedopt.steady import cycle_problem

_SETTLE_S = 0.2
"""How much earlier than its limit a task stops by itself."""

_S_PER_OP_BASELINE = 1e-4
"""What a hand-made schedule takes, about, where the clock decides nothing; seconds."""

_S_PER_OP_OFFERED = 2e-5
"""Seconds of search between offers: verifying takes the parent a good part of that."""

_S_PER_OP_SENT = 4e-6
"""How much earlier a search stops, seconds, so that its last offer arrives in time."""


def main() -> None:
    """Read the instance, then do tasks until the input ends or memory does."""
    try:
        _work()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def _work() -> None:
    gc.set_threshold(500_000)  # op graphs are many objects, none of them garbage
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    first = json.loads(lines.get())
    memory_limit = int(first["memory_limit_bytes"])
    with contextlib.suppress(ValueError, OSError):  # a lower limit may be in force
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit, memory_limit))
    instance = instance_from_document(first["instance"], "the portfolio")
    worker = _Worker(instance, Objective(first["objective"]), memory_limit)
    while True:
        task = Task.from_document(json.loads(lines.get()))
        applies = worker.do(task)
        _answer(done=True, spent=round(worker.spent, 6), applies=applies)


def _read(lines: queue.Queue[str]) -> None:
    """Pass lines on; leave at once when the parent is gone, whatever is running."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _answer(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class _Worker:
    """Does tasks for one op graph and keeps what helps the next one."""

    def __init__(
        self, instance: Instance, objective: Objective, memory_limit: int
    ) -> None:
        graph = build_graph(instance)
        self._instance = instance
        self._graph = graph
        self._objective = objective
        self._memory_limit = memory_limit
        self._searcher: Searcher | None = None
        self._steps: Iterator[str] = iter(())
        self._destructive: Destructive | None = None
        self._bounding: Iterator[None] = iter(())
        self._chosen = graph
        self._reported: int | None = None
        self._baselines: Iterator[Start] | None = None
        self._cycles: dict[int, Any] = {}
        self._slabs: Any = None
        self.spent = 0.0

    def do(self, task: Task) -> bool:  # noqa: PLR0911 - one for each kind
        """One task, to its end or its limit; whether its member applies here.

        ``spent`` is then its deterministic effort, seconds.
        """
        self.spent = 0.0
        incumbent = (
            None
            if task.incumbent is None
            else schedule_from(self._graph, task.incumbent)
        )
        self._reported = None if incumbent is None else incumbent.value(self._objective)
        match task.kind:
            case TaskKind.BASELINES:
                return self._make_baselines(task)
            case TaskKind.QUICK_BOUNDS:
                for bound in quick_bounds(self._graph, self._objective).values():
                    _answer(bound=bound)
                return False
            case TaskKind.SEARCH:
                return self._search(task, incumbent)
            case TaskKind.SLABS:
                return self._sweep(task, incumbent)
            case TaskKind.WINDOWS:
                return self._narrow(task)
            case TaskKind.DIVE:
                return self._dive(task)
            case TaskKind.PROJECTION:
                return self._project(task, incumbent)
            case TaskKind.ENDS:
                return self._ends(task)
            case TaskKind.CPSAT:
                return self._solve(task, incumbent)
            case TaskKind.MODULO:
                return self._modulo(task)

    # -- members ----------------------------------------------------------------

    def _make_baselines(self, task: Task) -> bool:
        """Hand-made schedules; it does not apply once there are no more."""
        if self._baselines is None:
            self._baselines = starts(self._instance, self._graph, self._objective)
        deadline = time.monotonic() + task.seconds
        for start in self._baselines:
            _answer(
                schedule=starts_of(start.schedule),
                baseline=start.name,
                published=start.published,
            )
            self.spent += len(self._graph.ops) * _S_PER_OP_BASELINE
            if task.deterministic:
                if self.spent >= task.seconds:
                    return True
            elif time.monotonic() > deadline:
                return True
        return False

    def _search(self, task: Task, incumbent: Schedule | None) -> bool:
        """Steps of the searcher, on the incumbent's selection of alternatives."""
        searcher = self._searcher or self._new_searcher(task, incumbent)
        if searcher is None:  # with choices it needs a schedule that has made them
            return bool(self._graph.choices) and incumbent is None
        if incumbent is not None and set(incumbent.start) == set(self._chosen.ops):
            searcher.learn(incumbent)
        settling_s = _SETTLE_S + len(self._graph.ops) * _S_PER_OP_SENT
        deadline = time.monotonic() + task.seconds - settling_s
        begun, offered, due = searcher.spent, None, 0.0
        for _ in self._steps:
            if searcher.best_makespan != offered and searcher.spent >= due:
                offered = self._offer_best(searcher)
                due = searcher.spent + len(self._graph.ops) * _S_PER_OP_OFFERED
            self.spent = searcher.spent - begun
            if task.deterministic:
                if self.spent >= task.seconds:
                    break
            elif time.monotonic() > deadline:
                break
        if searcher.best_makespan != offered:
            self._offer_best(searcher)
        return True

    def _offer_best(self, searcher: Searcher) -> int | None:
        """Report the searcher's best schedule; its makespan, ticks."""
        if searcher.best is not None:
            self._offer(searcher.best)
        return searcher.best_makespan

    def _new_searcher(self, task: Task, incumbent: Schedule | None) -> Searcher | None:
        if self._graph.choices:
            if incumbent is None:
                return None
            self._chosen = self._selected(incumbent)
        problem = problem_of(self._chosen)
        if problem is None or not Searcher.applies(problem):
            return None
        self._searcher = Searcher(problem, [], task.seed)
        self._steps = self._searcher.steps()
        return self._searcher

    def _sweep(self, task: Task, incumbent: Schedule | None) -> bool:
        """Improve the incumbent slab by slab, keeping its selection of alternatives."""
        from schedopt.cpsat import Slabs  # noqa: PLC0415 - ortools loads slowly

        if self._objective is not Objective.MAKESPAN:
            return False
        if incumbent is None:
            return True
        if self._slabs is None or set(incumbent.start) != set(self._slabs.best.start):
            chosen = Schedule(self._selected(incumbent), incumbent.start)
            self._slabs = Slabs(chosen, task.seed)
        elif incumbent.makespan < self._slabs.best.makespan:
            self._slabs.learn(Schedule(self._slabs.best.graph, incumbent.start))
        self._slabs.improve(self._effort(task), self._offer)
        return not self._slabs.is_settled

    def _selected(self, schedule: Schedule) -> OpGraph:
        """The op graph with the choices that a schedule has made."""
        literals = {self._graph.data[op].literal for op in schedule.start}
        return self._graph.select(name for name in literals if name)

    def _narrow(self, task: Task) -> bool:
        """Steps of the destructive bound; it does not apply once it has none left."""
        if self._objective is not Objective.MAKESPAN:
            return False
        if self._destructive is None:
            relaxed = without_choices(self._graph)
            problem = None if relaxed is None else problem_of(relaxed)
            if problem is None:
                return False
            self._destructive = Destructive(problem, task.lower_bound, task.upper_bound)
            self._bounding = self._destructive.steps()
        destructive = self._destructive
        destructive.learn(task.lower_bound, task.upper_bound)
        deadline = time.monotonic() + task.seconds - _SETTLE_S
        begun, known = destructive.spent, task.lower_bound
        for _ in chain(self._bounding, [None]):  # what the last step raised, too
            if destructive.lower_bound > known:
                known = destructive.lower_bound
                _answer(bound=known)
            self.spent = destructive.spent - begun
            if task.deterministic:
                if self.spent >= task.seconds:
                    return True
            elif time.monotonic() > deadline:
                return True
        return False

    def _dive(self, task: Task) -> bool:
        """Ask CP-SAT whether a schedule ends by some time, within known windows.

        By the time that no bound excludes, at first and every other time; else by one
        between that and the best value.
        """
        from schedopt.cpsat import dive  # noqa: PLC0415 - ortools loads slowly

        destructive = self._destructive
        if destructive is None or self._graph.choices:
            return False
        destructive.learn(task.lower_bound, task.upper_bound)
        low, high = destructive.lower_bound, task.upper_bound
        share = (0, 2, 0, 1)[task.effort % 4]
        target = low + (high - low) * share // 4
        if low >= high or target >= high:
            return True
        windows = destructive.windows_by(target)
        if windows is None:
            if destructive.lower_bound > low:
                _answer(bound=destructive.lower_bound)
            return True
        found = dive(self._graph, windows.windows(), target, self._effort(task))
        if found.schedule is not None:
            self._offer(found.schedule)
        elif found.is_refuted:
            destructive.refute(target)
            _answer(bound=destructive.lower_bound)
        return found.applies

    def _project(self, task: Task, incumbent: Schedule | None) -> bool:
        from schedopt.cpsat import project_bound  # noqa: PLC0415 - ortools loads slowly

        relaxed = without_choices(self._graph)
        if relaxed is None:
            return False
        bound = project_bound(
            relaxed,
            frozenset(task.devices),
            self._objective,
            self._effort(task),
            lower_bound=task.lower_bound,
            upper_bound=task.upper_bound,
            incumbent=incumbent,
            on_bound=lambda bound: _answer(bound=bound),
        )
        _answer(bound=bound)
        return True

    def _ends(self, task: Task) -> bool:
        from schedopt.cpsat import two_ends  # noqa: PLC0415 - ortools loads slowly

        relaxed = without_choices(self._graph)
        if relaxed is None or self._objective is not Objective.MAKESPAN:
            return False
        bound = two_ends(
            relaxed,
            task.devices[0],
            self._effort(task),
            lower_bound=task.lower_bound,
            on_bound=lambda bound: _answer(bound=bound),
        )
        _answer(bound=bound)
        return True

    def _solve(self, task: Task, incumbent: Schedule | None) -> bool:
        from schedopt.cpsat import solve_graph  # noqa: PLC0415 - ortools loads slowly

        found = solve_graph(
            self._graph,
            self._objective,
            self._effort(task),
            incumbent=incumbent,
            lower_bound=task.lower_bound,
            on_schedule=self._offer,
            on_bound=lambda bound: _answer(bound=bound),
        )
        _answer(bound=found.lower_bound)
        return True

    def _modulo(self, task: Task) -> bool:
        """Ask for shorter cycles of so many microbatches than are known."""
        from schedopt.cpsat import (  # noqa: PLC0415 - ortools loads slowly
            CycleSearch,
            search_cycles,
        )

        count = task.cycle_microbatches
        if count not in self._cycles:
            problem = cycle_problem(self._graph, count)
            if problem is None:
                return False
            self._cycles[count] = CycleSearch(problem, task.lower_bound * count)
        search = self._cycles[count]
        search_cycles(
            search,
            self._effort(task),
            task.upper_bound,
            lambda found: _answer(
                schedule=periodic_starts_of(found), cycle=found.cycle
            ),
        )
        best = task.upper_bound if search.best is None else search.best.period
        return not search.is_over(min(best, task.upper_bound))

    def _effort(self, task: Task) -> Any:
        from schedopt.cpsat import Effort  # noqa: PLC0415 - ortools loads slowly

        return Effort(
            time_limit_s=1e9
            if task.deterministic
            else max(0.1, task.seconds - _SETTLE_S),
            seed=task.seed,
            deterministic_time=task.seconds if task.deterministic else None,
            # Levels prove more where memory binds; every third try states it otherwise.
            by_levels=task.effort % 3 != 1,
            memory_limit_mib=self._memory_limit // 2**20,
            on_spent=self._spend,
        )

    def _spend(self, seconds: float) -> None:
        self.spent += seconds

    def _offer(self, schedule: Schedule) -> None:
        """Report a schedule if it is better than what was reported."""
        value = schedule.value(self._objective)
        if self._objective is not Objective.MAKESPAN:
            whole = Schedule(self._graph, schedule.start)
            schedule = best_times(
                self._graph, with_memory_edges(whole), self._objective
            )
            value = schedule.value(self._objective)
        if self._reported is None or value < self._reported:
            self._reported = value
            _answer(schedule=starts_of(Schedule(self._graph, schedule.start)))


if __name__ == "__main__":
    main()
