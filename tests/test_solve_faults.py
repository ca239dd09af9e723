"""Whatever a worker process does: the best hand-made schedule or better, in time."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from schedopt.build import build_graph
from schedopt.instance import Objective
from schedopt.solve import Solution, SolveParameters, Status, solve, solving
from schedopt.solve.portfolio import Grace, Portfolio
from schedopt.solve.processes import Ended, WorkerProcess, event_queue
from schedopt.solve.starts import starts
from schedopt.verify import violations
from tests.solve_helpers import (
    children,
    pipeline,
    processes_of_group,
    wait_until,
)

LIMIT_S = 0.5
# What the tests allow beyond the limit; a hang would take for ever.
PATIENCE_S = 20.0

# Soon solved, but neither by a hand-made schedule nor by a quick bound.
INSTANCE = pipeline(devices=4, microbatches=6, memory_limit=40)
BEST_START = min(
    start.schedule.makespan
    for start in starts(INSTANCE, build_graph(INSTANCE), Objective.MAKESPAN)
)

Stub = Callable[..., Solution]

PREAMBLE = """
import json, os, signal, sys, time, resource, subprocess

def say(**message):
    sys.stdout.write(json.dumps(message) + "\\n")
    sys.stdout.flush()

def read():
    return json.loads(sys.stdin.readline())

with open(PIDS, "a") as file:
    file.write(f"{os.getpid()}\\n")
greeting = read()
task = read()
"""


@pytest.fixture
def run_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """Solves with workers that run a given program after reading their first task."""
    pids = tmp_path / "pids"
    before = threading.active_count()

    def run(
        program: str,
        *,
        preamble: str = PREAMBLE,
        time_limit_s: float = LIMIT_S,
        grace_s: float = 0.2,
        **parameters: object,
    ) -> Solution:
        stub = tmp_path / "stub.py"
        stub.write_text(f"PIDS = {str(pids)!r}\n{preamble}\n{program}\n")
        pids.touch()
        monkeypatch.setattr(
            solving,
            "Portfolio",
            partial(Portfolio, command=(str(stub),), grace=Grace(grace_s, grace_s)),
        )
        began = time.monotonic()
        chosen = SolveParameters(time_limit_s=time_limit_s, **parameters)  # type: ignore[arg-type]  # tests name them
        solution = solve(INSTANCE, chosen)
        assert time.monotonic() - began < time_limit_s + PATIENCE_S
        return solution

    yield run
    for pid in map(int, pids.read_text().split()):
        assert processes_of_group(pid) == [], "a process is left"
    assert threading.active_count() == before, "a thread is left"


def check(solution: Solution, *words: str) -> None:
    """What holds whatever the workers do."""
    assert solution.schedule is not None
    assert violations(solution.graph, solution.schedule.start) == ()
    assert solution.value is not None
    assert solution.value == solution.schedule.makespan <= BEST_START
    assert solution.best_baseline is not None
    assert solution.value <= solution.best_baseline[1]
    assert 0 < solution.lower_bound <= OPTIMUM
    assert solution.status is Status.FEASIBLE
    assert not solution.interrupted
    for word in words:
        assert word in solution.reason, solution.reason


BEST = solve(INSTANCE, SolveParameters(time_limit_s=60))
assert BEST.status is Status.OPTIMAL
assert BEST.schedule is not None
OPTIMUM = BEST.schedule.makespan
BEST_STARTS = [BEST.schedule.start.get(op) for op in BEST.graph.ops]
QUICK = solve(INSTANCE, SolveParameters(time_limit_s=0)).lower_bound


def test_the_instance_leaves_something_to_find() -> None:
    assert QUICK < OPTIMUM < BEST_START


FAULTS = {
    "ends at once": ("sys.exit(3)", "ended with code 3"),
    "aborts": ("os.abort()", "died of SIGABRT"),
    "crashes": (
        "import ctypes; resource.setrlimit(resource.RLIMIT_CORE, (0, 0));"
        " ctypes.string_at(0)",
        "died of SIGSEGV",
    ),
    "dies of an unnamed signal": ("os.kill(os.getpid(), 40)", "died of "),
    "raises": ("raise RuntimeError('some reason')", "RuntimeError: some reason"),
    "floods standard error": (
        "sys.stderr.write('x' * 10**7 + '\\nlast words\\n'); sys.exit(2)",
        "ended with code 2 (last words)",
    ),
    "hangs": ("time.sleep(1000)", ""),
    "hangs and ignores signals": (
        "[signal.signal(s, signal.SIG_IGN) for s in (2, 13, 15)]; time.sleep(1000)",
        "",
    ),
    "closes its output and hangs": ("os.close(1); time.sleep(1000)", ""),
    "leaves a child that holds its output": (
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'],"
        " stdin=subprocess.DEVNULL); os._exit(5)",
        "ended with code 5",
    ),
    "ends in the middle of a line": (
        """sys.stdout.write('{"bound": 12'); sys.stdout.flush(); os._exit(0)""",
        "ended with code 0",
    ),
    "prints garbage": (
        r"""
for line in [b"hello\n", b"\xff\xfe\x00\n", b"[1, 2]\n", b"{}\n", b"null\n",
             b"[" * 100000 + b"\n", b"1" * 10000 + b"\n", b'"done"\n', b"\n",
             b'{"bund": 3}\n', b"{'done': 1}\n"]:
    os.write(1, line)
time.sleep(1000)
""",
        "",
    ),
    "writes a line without end": (
        "while True: os.write(1, b'x' * 2**20)",
        "a line without end",
    ),
    "floods with bounds": (
        "for _ in range(10**5): say(bound=1)\ntime.sleep(1000)",
        "",
    ),
    "floods for ever": ("while True: os.write(1, b'{\"bound\": 2}\\n' * 1000)", ""),
    "floods with schedules": (
        "for _ in range(10**5): say(schedule=task['incumbent'])\ntime.sleep(1000)",
        "",
    ),
    "says done at once, for ever": ("while True: say(done=True)", ""),
    "a schedule that is too short": (
        "say(schedule=task['incumbent'][1:]); time.sleep(1000)",
        "of another length",
    ),
    "a schedule that is no list": (
        "say(schedule=7); time.sleep(1000)",
        "not a list of starts",
    ),
    **{
        f"a schedule of {name}": (
            f"say(schedule=[{value}] * len(task['incumbent'])); time.sleep(1000)",
            "not a list of starts",
        )
        for name, value in {
            "text": "'5'",
            "fractions": "0.5",
            "truths": "True",
            "lists": "[]",
            "negative starts": "-1",
            "huge starts": "2**70",
            "no numbers": "float('nan')",
        }.items()
    },
    "a schedule of nothing": (
        "say(schedule=[None] * len(task['incumbent'])); time.sleep(1000)",
        "an invalid schedule",
    ),
    "a schedule that is too good": (
        "say(schedule=[s // 2 for s in task['incumbent']]); time.sleep(1000)",
        "an invalid schedule",
    ),
    "a schedule all at once": (
        "say(schedule=[0] * len(task['incumbent'])); time.sleep(1000)",
        "an invalid schedule",
    ),
    "a bound above a verified value": (
        "say(bound=task['upper_bound'] + 1); time.sleep(1000)",
        "none of its bounds counts",
    ),
    "a negative bound": ("say(bound=-5); time.sleep(1000)", ""),
    **{
        f"a bound that is {name}": (
            f"os.write(1, b'{{\"bound\": {value}}}\\n'); time.sleep(1000)",
            "a bound that is not a whole number",
        )
        for name, value in {
            "text": '"12"',
            "no number": "NaN",
            "infinite": "Infinity",
            "a fraction": "1.5",
            "nothing": "null",
            "true": "true",
            "a list": "[1]",
            "huge": "1" + "0" * 400,
        }.items()
    },
    "an effort that is none": (
        'os.write(1, b\'{"done": true, "spent": NaN}\\n\'); time.sleep(1000)',
        "an effort",
    ),
    "eats memory": (
        """
limit = greeting["memory_limit_bytes"]
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
eaten = []
while True: eaten.append(bytearray(2**22))
""",
        "MemoryError",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_cost_the_attempt_only(
    run_stub: Stub, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("schedopt.solve.portfolio._MOST_FAILURES", 1)
    program, words = FAULTS[name]
    # Where each attempt fails the run ends by itself, long before its limit.
    limit_s = 60 if words else LIMIT_S
    parameters = {"memory_limit_bytes": 2**26, "workers": 1}
    check(run_stub(program, time_limit_s=limit_s, **parameters), words)


@pytest.mark.parametrize("preamble", ["import time; time.sleep(1000)", "", "syntax!"])
def test_workers_that_never_read(run_stub: Stub, preamble: str) -> None:
    check(run_stub("", preamble=preamble, workers=3))


def test_a_hang_is_ended_and_told(run_stub: Stub) -> None:
    # The first task is shorter than the limit; nothing is awaited.
    solution = run_stub("time.sleep(1000)", time_limit_s=8.0, workers=1)
    check(solution)
    assert "windows" in solution.reason
    assert "did not come to an end in time" in solution.reason


def test_a_kind_that_fails_is_given_up_and_the_others_go_on(run_stub: Stub) -> None:
    program = """
searches = 0
while task["kind"] == "search":
    searches += 1
    say(done=True, applies=searches < 3)
    task = read()
sys.exit(4)
"""
    solution = run_stub(program, workers=1, time_limit_s=60)
    check(solution, "cp-sat: its process ended with code 4 (3 times)")
    assert "search" not in solution.reason


def test_a_reproducible_run_of_a_hang_ends(
    run_stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("schedopt.solve.tasks.Task.longest_s", 0.3)
    check(
        run_stub("time.sleep(1000)", reproducible=True),
        "did not come to an end in time",
    )


def test_what_a_worker_finds_before_it_fails_is_kept(run_stub: Stub) -> None:
    solution = run_stub(
        f"say(schedule={BEST_STARTS!r}); os.abort()", workers=1, time_limit_s=60
    )
    assert solution.value == OPTIMUM
    check(solution, "died of SIGABRT")


def test_a_bound_that_a_schedule_contradicts_is_withdrawn(run_stub: Stub) -> None:
    program = f"""
say(bound={OPTIMUM + 1})
say(bound={OPTIMUM - 1})
say(schedule={BEST_STARTS!r})
say(bound={OPTIMUM})
time.sleep(1000)
"""
    solution = run_stub(program, workers=1, time_limit_s=60)
    check(solution, "please report this")
    # Not zero: what the quick bounds proved still holds.
    assert solution.lower_bound == QUICK
    assert solution.value == OPTIMUM


def test_worker_numbers_are_never_used_again(
    run_stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = []
    employ = Portfolio._employ

    def noted(portfolio: Portfolio, side: object) -> None:
        employ(portfolio, side)  # type: ignore[arg-type]  # a side
        numbers.append(side.worker.number)  # type: ignore[attr-defined]  # a side

    monkeypatch.setattr(Portfolio, "_employ", noted)
    check(run_stub("sys.exit(1)", time_limit_s=10.0, workers=3))
    assert len(numbers) == len(set(numbers)) > 3


def test_no_process_to_be_had(run_stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("schedopt.solve.processes.subprocess.Popen", fail)
    check(run_stub(""), "no process could be started: Resource temporarily unavailable")


def test_a_progress_that_raises_leaves_no_process(run_stub: Stub) -> None:
    def progress(_: object) -> None:
        msg = "of the caller"
        raise LookupError(msg)

    run_stub("time.sleep(1000)", time_limit_s=0.1)  # installs the stub
    with pytest.raises(LookupError, match="of the caller"):
        solve(INSTANCE, SolveParameters(time_limit_s=30), progress)


# -- the real worker ------------------------------------------------------------------

MIDDLE = pipeline(devices=6, microbatches=24, memory_limit=30)


@pytest.mark.parametrize("limit", [2**20, 2**27])
def test_a_small_memory_limit_costs_attempts_only(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("schedopt.solve.portfolio._MOST_FAILURES", 1)
    solution = solve(
        MIDDLE, SolveParameters(time_limit_s=60, memory_limit_bytes=limit, workers=1)
    )
    assert solution.schedule is not None
    assert violations(solution.graph, solution.schedule.start) == ()
    # Where memory ends while a library is loaded, the library says so in its own words.
    assert solution.reason.count("its process") == 6
    assert children() == []


def test_workers_that_are_killed_while_they_solve() -> None:
    killed: list[int] = []

    def kill() -> None:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            time.sleep(0.7)
            for pid in children():
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    solution = solve(MIDDLE, SolveParameters(time_limit_s=6))
    killer.join()
    assert len(killed) > 1
    assert solution.schedule is not None
    assert violations(solution.graph, solution.schedule.start) == ()
    assert solution.best_baseline is not None
    assert solution.value is not None
    assert solution.lower_bound <= solution.value <= solution.best_baseline[1]
    assert "died of SIGKILL" in solution.reason
    assert children() == []


def test_a_module_of_the_users_folder_is_not_taken_for_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit(9)")
    (tmp_path / "schedopt.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    solution = solve(INSTANCE, SolveParameters(time_limit_s=60))
    assert (solution.reason, solution.status) == ("", Status.OPTIMAL)


@pytest.mark.parametrize("slow", [1, 2, 3])
def test_a_process_that_ends_before_its_threads_begin(
    slow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Also by a Ctrl-C that reaches it before it is in a session of its own.
    start, started = threading.Thread.start, []

    def slow_start(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) == slow:
            time.sleep(0.3)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", slow_start)
    events = event_queue()
    command = ("-c", "import sys; sys.exit('no such thing')")
    worker = WorkerProcess(1, {}, events, command)
    event = events.get(timeout=PATIENCE_S)
    worker.close()
    assert event == Ended(1, "ended with code 1 (no such thing)")


def test_solving_in_another_thread() -> None:
    found: list[Solution] = []
    parameters = SolveParameters(time_limit_s=60)
    thread = threading.Thread(target=lambda: found.append(solve(INSTANCE, parameters)))
    thread.start()
    thread.join()
    assert found[0].value == OPTIMUM


def test_an_instance_without_a_feasible_schedule_starts_no_process() -> None:
    tight = replace(
        INSTANCE,
        devices=tuple(replace(d, memory_limit=1, name="gpu") for d in INSTANCE.devices),
    )
    solution = solve(tight)
    assert solution.status is Status.INFEASIBLE
    assert solution.reason.count("memory limit of 1") == 1
    assert "device 0 (gpu)" in solution.reason
    assert solution.reason.endswith("; 3 more devices too")
    assert wait_until(lambda: children() == [])
