"""The portfolio: propose, improve, bound and prove until time is up or nothing is open.

The parent process holds the incumbent and verifies all that comes in; members run in
worker processes (``solve.plan`` says what they are asked). A worker that crashes,
hangs, runs out of memory or says what is wrong loses its task, never the result.
"""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from types import TracebackType

from schedopt.formats import instance_document
from schedopt.instance import Instance, Objective
from schedopt.solve.incumbent import Incumbent, Verdict
from schedopt.solve.interrupts import Interrupts
from schedopt.solve.plan import Plan
from schedopt.solve.processes import (
    WORKER_COMMAND,
    BoundFound,
    Ended,
    Event,
    ScheduleFound,
    TaskDone,
    WorkerProcess,
    event_queue,
)
from schedopt.solve.solution import SolveParameters
from schedopt.solve.tasks import (
    Task,
    TaskKind,
    periodic_from,
    schedule_from,
)

_MOST_FAILURES = 3
"""Tasks of a kind that may fail before the portfolio goes on without that kind."""

_AT_ONCE_S = 0.05
_MOST_AT_ONCE = 100
"""Tasks of a kind in a row that may come back at once: it has nothing to do."""

_CHECK_S = 0.1
"""How often workers are looked after."""


@dataclass(frozen=True, slots=True)
class Grace:
    """Seconds past its limit that a task may take before its process is ended.

    The first steps of a search may have to compile, and its steps are not cut short.
    """

    search_s: float = 30.0
    other_s: float = 5.0
    per_op_s: float = 5e-4

    def of(self, task: Task | None, ops: int) -> float:
        """The grace of a task on so many ops; reading them in takes time, too."""
        if task is not None and task.kind is TaskKind.SEARCH:
            return self.search_s + ops * self.per_op_s
        return self.other_s + ops * self.per_op_s


@dataclass(slots=True, eq=False)
class _Side:
    """A sequence of tasks, and the process that does them; None when it is over."""

    tasks: Iterator[Task]
    worker: WorkerProcess | None = None


class Portfolio:
    """Runs the members on one instance until the deadline.

    Used as a context, leaving which ends all worker processes. ``start`` starts them,
    so that they load while the caller makes the first schedules.

    Attributes
    ----------
    baselines : dict
        The values of the hand-made schedules that workers have made, ticks.
    has_all_baselines : bool
        Whether a worker has made all of them.
    """

    def __init__(
        self,
        instance: Instance,
        incumbent: Incumbent,
        parameters: SolveParameters,
        deadline: float,
        interrupts: Interrupts | None = None,
        *,
        command: tuple[str, ...] = WORKER_COMMAND,
        grace: Grace | None = None,
    ) -> None:
        self._incumbent = incumbent
        self._parameters = parameters
        self._deadline = deadline
        self._interrupts = interrupts or Interrupts()
        self._command = command
        self._grace = grace or Grace()
        self._greeting = {
            "instance": instance_document(instance),
            "objective": incumbent.objective.value,
            "memory_limit_bytes": parameters.memory_limit_bytes,
        }
        self.baselines: dict[str, int] = {}
        self.has_all_baselines = False
        self._plan = Plan(incumbent, parameters, deadline)
        self._sides = [_Side(tasks) for tasks in self._plan.sides()]
        self._numbers = count()
        self._events = event_queue()
        self._failures: Counter[str] = Counter()
        self._at_once: Counter[TaskKind] = Counter()
        self._failures_of: Counter[TaskKind] = Counter()
        self._checked_at = 0.0

    @property
    def failures(self) -> list[str]:
        """What failed, each once, with how often."""
        return [
            f"{what} ({times} times)" if times > 1 else what
            for what, times in self._failures.items()
        ]

    def __enter__(self) -> Portfolio:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        for side in self._sides:
            if side.worker is not None:
                side.worker.close()
                side.worker = None

    def start(self) -> None:
        """Start the worker processes."""
        for side in self._sides:
            self._employ(side)

    def run(self) -> None:
        """Improve and prove; returns when proven, out of time or out of tasks."""
        if self._is_over():
            return
        for side in self._sides:
            self._ask(side)
        while any(side.worker is not None for side in self._sides):
            if self._is_over():
                return
            self._listen()

    def _is_over(self) -> bool:
        if self._incumbent.is_proven or self._interrupts.heard or self._plan.is_spent:
            return True
        return not self._parameters.reproducible and time.monotonic() >= self._deadline

    def _listen(self) -> None:
        """Handle one event, and look after the workers now and then."""
        try:
            event = self._events.get(timeout=_CHECK_S)
        except queue.Empty:
            event = None
        for side in self._sides:
            worker = side.worker
            if event and worker and worker.number == event.worker:
                self._handle(event, side, worker)
        if time.monotonic() < self._checked_at + _CHECK_S:
            return
        self._checked_at = time.monotonic()
        for side in self._sides:
            if side.worker is not None:
                ops = len(self._incumbent.graph.ops)
                side.worker.check(self._grace.of(side.worker.task, ops))

    def _handle(self, event: Event, side: _Side, worker: WorkerProcess) -> None:
        task = worker.task
        match event:
            case ScheduleFound():
                self._take_schedule(event, worker)
            case BoundFound(bound=bound):
                self._take_bound(bound, worker)
            case TaskDone(spent=spent, applies=applies) if task is not None:
                self._plan.account(spent)
                if not applies:
                    self.has_all_baselines |= task.kind is TaskKind.BASELINES
                    self._plan.close(task)
                elif self._is_idle(worker, task):
                    self._plan.give_up(task.kind)
                self._ask(side)
            case Ended(how=how):
                self._fail(how, side, task)

    def _is_idle(self, worker: WorkerProcess, task: Task) -> bool:
        """Whether a kind's tasks come back at once, again and again."""
        if task.deterministic:  # then the clock decides nothing, and no task is free
            return False
        quick = worker.busy_s < _AT_ONCE_S
        self._at_once[task.kind] = self._at_once[task.kind] + 1 if quick else 0
        return self._at_once[task.kind] >= _MOST_AT_ONCE

    def _take_schedule(self, found: ScheduleFound, worker: WorkerProcess) -> None:
        starts, cycle = found.starts, found.cycle
        graph, member = self._incumbent.graph, found.baseline or _member(worker.task)
        if len(starts) != len(graph.ops):
            worker.end("offered a schedule of another length and was ended")
            return
        if (cycle is not None) != (self._incumbent.objective is Objective.PERIOD):
            worker.end("offered a schedule of the wrong kind and was ended")
            return
        if cycle is None:
            schedule = schedule_from(graph, starts)
            verdict = self._incumbent.offer(schedule, member)
            if found.published and verdict is not Verdict.REFUSED:
                value = schedule.value(self._incumbent.objective)
                self.baselines[member] = value
        else:
            periodic = periodic_from(graph, starts, cycle)
            verdict = Verdict.REFUSED
            if periodic is not None:
                verdict = self._incumbent.offer_periodic(periodic, member)
        if verdict is Verdict.REFUSED:
            worker.end("offered an invalid schedule and was ended")

    def _take_bound(self, bound: int, worker: WorkerProcess) -> None:
        task = worker.task
        if task is None or task.lower_bound > self._incumbent.lower_bound:
            return  # it rests on a bound that has been withdrawn since
        verdict = self._incumbent.prove(bound, _member(task), task.kind.value)
        if verdict is Verdict.REFUSED:
            worker.end("claimed a wrong bound and was ended")

    def _fail(self, how: str, side: _Side, task: Task | None) -> None:
        """A process is gone: go on with another; give up a kind that often fails."""
        self._failures[f"{_member(task)}: its process {how}"] += 1
        if side.worker is not None:
            side.worker.close()
            side.worker = None
        if task is not None:
            self._plan.account(task.seconds)
            self._failures_of[task.kind] += 1
            if self._failures_of[task.kind] >= _MOST_FAILURES:
                self._plan.give_up(task.kind)
        self._employ(side)
        self._ask(side)

    def _employ(self, side: _Side) -> None:
        """Give a side a process; without one the side is over."""
        with self._interrupts.hold_back():
            try:
                side.worker = WorkerProcess(
                    next(self._numbers), self._greeting, self._events, self._command
                )
            except OSError as error:
                self._failures[f"no process could be started: {error.strerror}"] += 1

    def _ask(self, side: _Side) -> None:
        """Give a side's process its next task; end it if there is none."""
        if side.worker is None:
            return
        task = next(side.tasks, None)
        if task is not None:
            side.worker.ask(task)
            return
        side.worker.close()
        side.worker = None


def _member(task: Task | None) -> str:
    return "start" if task is None else member_name(task)


def member_name(task: Task) -> str:
    """The member as progress and results name it."""
    match task.kind:
        case TaskKind.ENDS:
            return f"two ends of device {task.devices[0]}"
        case TaskKind.MODULO:
            count = task.cycle_microbatches
            return f"modulo {count}" if count > 1 else "modulo"
        case TaskKind.PROJECTION:
            return f"projection of device {', '.join(map(str, task.devices))}"
        case _:
            return task.kind.value
