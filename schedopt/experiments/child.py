"""The process that does runs: ``python -m schedopt.experiments.child DESCRIPTOR``.

It reads the runs to do, a JSON document, from an open file that it inherits, and
answers in lines of JSON on what was its standard output. On standard input comes a byte
for each result that is safely kept: only then the next run begins, so that a killed
driver loses no more than the runs at hand. When standard input closes the driver is
gone, and this process ends itself with all that it started.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from schedopt.errors import NotApplicableError, OrderError, SchedOptError
from schedopt.experiments.methods import Method, load_registry
from schedopt.experiments.outcome import Outcome, record_fields
from schedopt.experiments.processes import ProcessTree
from schedopt.experiments.record import RunStatus
from schedopt.formats import (
    instance_from_document,
    instance_sha256,
    schedule_document,
    write_schedule_document,
)
from schedopt.instance import Instance, Objective
from schedopt.simulate import with_memory_edges
from schedopt.solve.solution import SolveParameters
from schedopt.verify import violations

Message = dict[str, Any]
SMALL_OPS = 2_000


class BrokenScheduleError(SchedOptError):
    """A method gave a schedule that is none; the method is at fault."""


def main() -> None:
    """Do the runs that the inherited file names."""
    lifeline, replies = _private_streams()
    kept = threading.Semaphore(0)
    threading.Thread(target=_follow, args=(lifeline, kept), daemon=True).start()
    with os.fdopen(int(sys.argv[1])) as requests:
        header = json.load(requests)
    methods = load_registry(header["registry"])
    for number, job in enumerate(header["jobs"]):
        if number:
            kept.acquire()
        _reply(replies, {"event": "start", "key": job["key"]})
        result = run_job(methods[job["method"]], job)
        _reply(replies, {"event": "end", "key": job["key"], "result": result})
    # No clean-up: a solver's threads must not keep a finished child alive.
    os._exit(0)


def run_job(method: Method, job: Message) -> Message:
    """Do one run; what the driver cannot know goes into the result."""
    instance = instance_from_document(job["instance"], "instance")
    parameters = parameters_from(job["parameters"])
    settings = {name: job["parameters"][name] for name in method.settings}
    _forget_peak()
    started, cpu = time.perf_counter(), _cpu_seconds()
    result: Message = {}
    try:
        outcome = method.run(instance, parameters, **settings)
        result = {
            "wall_s": time.perf_counter() - started,
            "cpu_s": _cpu_seconds() - cpu,
        }
        _verify(outcome)
        result |= {
            **record_fields(outcome),
            **_problem(instance, outcome),
            "schedule": _keep(outcome, job, parameters),
        }
    except NotApplicableError as error:
        result |= {"status": RunStatus.NOT_APPLICABLE.value, "reason": str(error)}
    except SchedOptError as error:
        result |= {"status": RunStatus.FAILED.value, "reason": str(error)}
    except MemoryError:
        reason = "could not allocate memory"
        result |= {"status": RunStatus.OUT_OF_MEMORY.value, "reason": reason}
    used = {
        "wall_s": time.perf_counter() - started,
        "cpu_s": _cpu_seconds() - cpu,
        "peak_rss_bytes": _peak_bytes(),
    }
    return used | result


def parameters_from(fields: Message) -> SolveParameters:
    """The parameters that a record's ``parameters`` stand for."""
    objective, workers = fields["objective"], fields.get("workers", 1)
    return SolveParameters(
        time_limit_s=fields["time_limit_s"],
        workers=workers,
        seed=fields.get("seed", 0),
        objective=None if objective is None else Objective(objective),
        # The record's limit is that of all processes: the workers and this one.
        memory_limit_bytes=fields["memory_limit_bytes"] // (workers + 1),
    )


def _problem(instance: Instance, outcome: Outcome) -> Message:
    written, run = instance_sha256(instance), instance_sha256(outcome.problem)
    return {"problem_sha256": run, "as_written": written == run}


def _verify(outcome: Outcome) -> None:
    """No figure leaves a run whose schedule breaks a rule; see ``schedopt.verify``."""
    if outcome.schedule is None or outcome.graph is None:
        return
    found = violations(outcome.graph, outcome.schedule.start)
    if found:
        msg = f"its schedule breaks a rule: {found[0].detail}"
        raise BrokenScheduleError(msg)


def _keep(outcome: Outcome, job: Message, parameters: SolveParameters) -> bool:
    """Write the schedule if it is wanted; say whether it was."""
    schedule, graph = outcome.schedule, outcome.graph
    wanted = job["schedules"]
    if schedule is None or wanted == "none":
        return False
    if wanted == "small" and len(schedule.start) > SMALL_OPS:
        return False
    try:
        memory_edges = with_memory_edges(schedule).memory_edges
    except OrderError:
        return False  # no order makes a runtime stay within the limits as it does
    status, objective, value = outcome.status, outcome.objective, outcome.value
    if value is None:
        # The objective is no measure of a schedule, so the file claims none.
        status, objective = RunStatus.FEASIBLE, objective.of_finite
        value = schedule.value(objective)
    write_schedule_document(
        Path(job["schedule_path"]),
        schedule_document(
            outcome.problem,
            schedule,
            method=job["method"],
            status=status.value,
            objective=objective.value,
            value_ticks=value,
            lower_bound_ticks=outcome.lower_bound,
            wall_seconds=None,
            seed=parameters.seed,
            versions=job["versions"],
            reason=outcome.reason,
            trace=outcome.trace,
            memory_edges=memory_edges,
            steady=outcome.periodic,
            graph=graph,
        ),
    )
    return True


def _private_streams() -> tuple[int, int]:
    """Standard input and output under other numbers, not inherited by grandchildren.

    Whatever a solver's library prints goes to standard error.
    """
    lifeline, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return lifeline, replies


def _follow(descriptor: int, kept: threading.Semaphore) -> None:
    """Count the records that are kept; end all processes here with the driver."""
    while os.read(descriptor, 1):
        kept.release()
    ProcessTree(os.getpid()).kill()


def _reply(descriptor: int, message: Message) -> None:
    data = memoryview(json.dumps(message).encode() + b"\n")
    while data:
        data = data[os.write(descriptor, data) :]


def _cpu_seconds() -> float:
    """CPU time of this process and the children that it has waited for."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, both))


def _forget_peak() -> None:
    """Start measuring the highest resident memory anew, where Linux can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    """The highest resident memory of this process since it was last forgotten."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
