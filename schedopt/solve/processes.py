"""Worker processes as the portfolio sees them: start, ask, listen, end.

Whatever happens in a worker - a crash, an abort, a hang, running out of memory,
nonsense on its output - arrives here as the event ``Ended``, and costs the task that it
was doing. The caller never waits for a worker: talking and listening have threads of
their own.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schedopt.solve.tasks import OUT_OF_MEMORY, Starts, Task


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a worker said; ``worker`` is its number."""

    worker: int


@dataclass(frozen=True, slots=True)
class ScheduleFound(Event):
    """A schedule, not yet verified; a periodic one has a ``cycle``, ticks.

    ``baseline`` names a hand-made one, ``published`` as in ``starts.Start``.
    """

    starts: Starts
    cycle: int | None = None
    baseline: str | None = None
    published: bool = False


@dataclass(frozen=True, slots=True)
class BoundFound(Event):
    """A lower bound, ticks."""

    bound: int


@dataclass(frozen=True, slots=True)
class TaskDone(Event):
    """The task is over; the worker is free.

    ``spent`` is its deterministic effort, seconds; ``applies`` says whether the member
    can do anything for this instance.
    """

    spent: float
    applies: bool


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """The process is gone; ``how`` says in a few words what happened."""

    how: str


_PROGRAM = """
import sys
if {root!r} not in sys.path:
    sys.path.insert(0, {root!r})
from schedopt.solve.worker import main
main()
"""

WORKER_COMMAND = ("-P", "-c", _PROGRAM.format(root=str(Path(__file__).parents[2])))
"""What a worker process runs: arguments of this Python.

Unlike ``-m`` it looks for no modules in the current folder, where a user's ``queue.py``
may lie, and it finds the same schedopt as its parent.
"""

_LONGEST_LINE = 2**26
"""Bytes; starts of a million ops are a quarter of it."""

_MOST_EVENTS = 1000
"""Events that wait for the portfolio; a worker that says more has to wait, too."""

_LAST_WORDS = 4096
"""Bytes of standard error that are kept."""

Events = queue.Queue[Event]


def event_queue() -> Events:
    """What workers put their events in."""
    return queue.Queue(_MOST_EVENTS)


class WorkerProcess:
    """A child process in its own session, so that Ctrl-C reaches the parent only.

    Raises
    ------
    OSError
        If the system does not give a process.
    """

    def __init__(
        self,
        number: int,
        greeting: dict[str, Any],
        events: Events,
        command: tuple[str, ...] = WORKER_COMMAND,
    ) -> None:
        self.number = number
        self.task: Task | None = None
        self._asked_at = 0.0
        self._events = events
        self._why = ""
        self._closed = False
        self._gone = False
        self._to_say: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._last_words = b""
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        # The listener comes last: it waits for the last words when the process has
        # ended, which can be at once.
        self._errors, *_ = self._threads = [
            threading.Thread(target=work, name=f"worker {number}", daemon=True)
            for work in (self._keep_last_words, self._talk, self._listen)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError as error:  # no more threads are to be had
            self._kill()
            raise OSError(errno.EAGAIN, str(error)) from None
        self._to_say.put(json.dumps(greeting) + "\n")

    def ask(self, task: Task) -> None:
        """Begin a task."""
        self.task = task
        self._asked_at = time.monotonic()
        self._to_say.put(task.to_line())

    @property
    def busy_s(self) -> float:
        """Seconds since it was asked."""
        return time.monotonic() - self._asked_at

    def check(self, grace_s: float) -> None:
        """End the process if it is past its limit by more than the grace.

        Also what it left behind, if it has ended itself: a child of its own could keep
        its output open, and its end would never be seen.
        """
        if self._process.poll() is not None:
            self._kill()
        if self.task is None:
            return
        if self.busy_s > self.task.longest_s + grace_s:
            self.end("did not come to an end in time and was ended")

    def end(self, why: str) -> None:
        """End the process now; its end arrives as an event that says why."""
        self._why = self._why or why
        self._kill()

    def close(self) -> None:
        """End the process and its threads now, without an event."""
        self._closed = True
        self._kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(timeout=1.0)

    def _kill(self) -> None:
        """End the process and all that it started; nothing once it is known to be gone.

        Its number may then be another's.
        """
        if not self._gone:
            self._gone = self._process.poll() is not None
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._to_say.put(None)

    # -- threads ------------------------------------------------------------------

    def _talk(self) -> None:
        """Write what there is to say, without making anybody wait."""
        stream = self._process.stdin
        # A worker that is gone is reported by its listener; saying nothing is right.
        with contextlib.suppress(OSError):
            while stream is not None and (line := self._to_say.get()) is not None:
                stream.write(line.encode())
                stream.flush()
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()

    def _listen(self) -> None:
        stream = self._process.stdout
        while stream is not None and (line := stream.readline(_LONGEST_LINE)):
            if len(line) == _LONGEST_LINE:
                self.end("wrote a line without end and was ended")
                break
            try:
                event = _event(self.number, line)
            except ValueError as error:
                self.end(f"wrote {error} and was ended")
                break
            if event is not None:
                self._put(event)
        code = self._process.wait()
        self._kill()  # what it started and left
        if stream is not None:
            stream.close()
        self._errors.join(timeout=1.0)
        self._put(Ended(self.number, self._why or self._how(code)))

    def _put(self, event: Event) -> None:
        while not self._closed:
            with contextlib.suppress(queue.Full):
                self._events.put(event, timeout=0.1)
                return

    def _keep_last_words(self) -> None:
        stream = self._process.stderr
        if stream is None:
            return
        while words := os.read(stream.fileno(), _LAST_WORDS):
            self._last_words = (self._last_words + words)[-_LAST_WORDS:]
        stream.close()

    def _how(self, code: int) -> str:
        if code == OUT_OF_MEMORY:
            return "ran out of memory"
        how = f"ended with code {code}"
        if code < 0:
            known = {number.value for number in signal.Signals}
            name = signal.Signals(-code).name if -code in known else f"signal {-code}"
            how = f"died of {name}"
        lines = self._last_words.decode(errors="replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        return f"{how} ({words[-1][:200]})" if words and code > 0 else how


def _event(worker: int, line: bytes) -> Event | None:
    """What a line says; None if it is no message (a library wrote to the output).

    Raises
    ------
    ValueError
        If it looks like a message and is none.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    if "schedule" in message:
        starts = message["schedule"]
        if not isinstance(starts, list) or not all(map(_is_start, starts)):
            msg = "a schedule that is not a list of starts"
            raise ValueError(msg)
        cycle = message.get("cycle")
        if cycle is not None and not _is_start(cycle):
            msg = "a cycle that is not a whole number of ticks"
            raise ValueError(msg)
        baseline = message.get("baseline")
        if baseline is not None and not isinstance(baseline, str):
            msg = "a hand-made schedule without a name"
            raise ValueError(msg)
        published = message.get("published") is True
        return ScheduleFound(worker, starts, cycle, baseline, published)
    if "bound" in message:
        bound = message["bound"]
        if type(bound) is not int or abs(bound) > _LARGEST:
            msg = "a bound that is not a whole number of ticks"
            raise ValueError(msg)
        return BoundFound(worker, bound)
    if "done" in message:
        spent = message.get("spent", 0.0)
        if type(spent) not in (int, float) or not 0 <= spent < _LARGEST:
            msg = "an effort that is not a number of seconds"
            raise ValueError(msg)
        return TaskDone(worker, float(spent), message.get("applies") is not False)
    return None


_LARGEST = 2**62


def _is_start(value: object) -> bool:
    return value is None or (type(value) is int and 0 <= value < _LARGEST)
