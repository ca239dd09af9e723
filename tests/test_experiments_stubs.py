"""Methods that do what a run may do: work, refuse, raise, crash, hang, eat memory.

Named as a registry by the other tests; there is nothing to collect here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from schedopt.build import build_graph
from schedopt.errors import NotApplicableError
from schedopt.experiments.methods import Method, Registry
from schedopt.experiments.outcome import Outcome
from schedopt.experiments.record import RunStatus
from schedopt.instance import Instance, Objective
from schedopt.solve.solution import SolveParameters

REGISTRY = "test_experiments_stubs:registry"
LOG = "SCHEDOPT_TEST_LOG"
PAUSE = "SCHEDOPT_TEST_PAUSE"


def note(word: str) -> None:
    """Append a line to the log; one write, so lines of several processes stay whole."""
    if path := os.environ.get(LOG):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, f"{word}\n".encode())
        os.close(descriptor)


def outcome(instance: Instance, value: int) -> Outcome:
    graph = build_graph(instance)
    return Outcome(
        status=RunStatus.FEASIBLE,
        objective=Objective.MAKESPAN,
        problem=instance,
        form="as written",
        graph=graph,
        value=value * graph.units.ticks_per_unit,
        lower_bound=value * graph.units.ticks_per_unit // 2,
    )


def work(instance: Instance, parameters: SolveParameters) -> Outcome:
    note(f"{instance.name} {parameters.seed}")
    time.sleep(float(os.environ.get(PAUSE, "0")))
    return outcome(instance, 100 + parameters.seed)


def chatter(instance: Instance, _parameters: SolveParameters) -> Outcome:
    print("a library's noise\n" * 20_000, flush=True)  # noqa: T201 (what is tested)
    return outcome(instance, 7)


def refuse(_instance: Instance, _parameters: SolveParameters) -> Outcome:
    msg = "needs an even number of devices"
    raise NotApplicableError(msg)


def broken(_instance: Instance, _parameters: SolveParameters) -> Outcome:
    msg = "the method has a bug"
    raise RuntimeError(msg)


def abort(_instance: Instance, _parameters: SolveParameters) -> Outcome:
    os.abort()


def leave(_instance: Instance, _parameters: SolveParameters) -> Outcome:
    os._exit(3)


def hang(_instance: Instance, _parameters: SolveParameters) -> Outcome:
    """With a grandchild in a session of its own."""
    grandchild = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    note(f"{grandchild.pid}")
    while True:
        time.sleep(1)


def hog(_instance: Instance, _parameters: SolveParameters) -> Outcome:
    """In a grandchild: the memory of the whole tree counts."""
    eat = (
        "import time\nkept = []\n"
        "while True:\n kept.append(bytearray(b'x' * 2**24)); time.sleep(0.01)"
    )
    subprocess.run([sys.executable, "-c", eat], check=True)
    raise AssertionError


def no_memory(_instance: Instance, _parameters: SolveParameters) -> Outcome:
    raise MemoryError


def poisoned(instance: Instance, parameters: SolveParameters) -> Outcome:
    """Crash if another run used this process before; alone it works."""
    mark = "schedopt_test_used"
    used = mark in os.environ
    os.environ[mark] = "1"
    note(f"{instance.name} {'used' if used else 'fresh'}")
    if used:
        os.abort()
    return outcome(instance, 5)


def _method(
    run: Callable[[Instance, SolveParameters], Outcome], **options: bool
) -> Method:
    return Method(name=run.__name__.replace("_", "-"), run=run, **options)


def registry() -> Registry:
    assert Path(__file__).is_file()
    methods = [
        _method(work),
        _method(chatter, seeded=False),
        _method(refuse, seeded=False, cheap=True),
        _method(broken, seeded=False, cheap=True),
        _method(abort, seeded=False),
        _method(leave, seeded=False, cheap=True),
        _method(hang, seeded=False),
        _method(hog, seeded=False),
        _method(no_memory, seeded=False, cheap=True),
        _method(poisoned, seeded=False, cheap=True),
        Method(name="quick", run=work, cheap=True),
        Method(name="by-hand", run=work, cheap=True, seeded=False, baseline=True),
    ]
    return {method.name: method for method in methods}
