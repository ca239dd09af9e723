"""The ranks' processes: started together, watched, and ended together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple

from schedopt.errors import ExecutionError
from schedopt.execute.choices import Backend
from schedopt.execute.job import Job
from schedopt.execute.outcome import Outcome, StepOutcome
from schedopt.formats.complaints import one_line

TORCH = "2.13"
"""The release of torch whose private runtime is used."""

START_S = 120.0  # importing torch takes long on a busy machine
GRACE_S = 1.0  # for the others to say what happened to them
POLL_S = 0.05
LONGEST_CAUSE = 300

Progress = Callable[[int, int], None]
"""Called with how many steps are done, of how many; 0 when the ranks are ready."""


class _Failure(NamedTuple):
    at_s: float
    rank: int
    cause: str
    done: int  # steps


def torch_version() -> str:
    """The version of torch that is installed.

    Raises
    ------
    ExecutionError
        If there is none.
    """
    if util.find_spec("torch") is None:
        msg = (
            "executing needs torch, which is not installed;"
            " pip install 'schedopt[torch]' brings it"
        )
        raise ExecutionError(msg)
    return metadata.version("torch")


def run_ranks(
    jobs: Sequence[Job],
    *,
    backend: Backend = Backend.GLOO,
    timeout_s: float = 60.0,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Execute jobs one after the other in one set of processes.

    Parameters
    ----------
    jobs
        All for the same number of ranks.
    timeout_s
        How long a rank waits for another beyond what a step should take, seconds.

    Raises
    ------
    ExecutionError
        If torch is not there or a rank fails; the message names the rank, the job and
        the cause, and no process is left behind.
    """
    torch_version()
    ranks = {job.ranks for job in jobs}
    if len(ranks) != 1:
        msg = "jobs that run together need the same number of ranks"
        raise ValueError(msg)
    (count,) = ranks
    patience_s = timeout_s + max(2 * (job.predicted_s or 0.0) for job in jobs)
    with tempfile.TemporaryDirectory(prefix="schedopt-") as name, ExitStack() as stack:
        folder = Path(name)
        plan = {
            "jobs": [job.document() for job in jobs],
            "backend": backend.value,
            "ranks": count,
            "timeout_s": patience_s,
        }
        (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        for number, job in enumerate(jobs):
            path = folder / f"job-{number}.csv"
            path.write_text(job.csv, encoding="utf-8")
            if job.kfac is not None:
                path.with_suffix("").mkdir()
                for file, text in job.kfac.files.items():
                    (path.with_suffix("") / file).write_text(text, encoding="utf-8")
        watched = _Ranks(folder, jobs, count)
        stack.callback(watched.end)
        watched.start()
        watched.wait(patience_s, progress)
        return watched.outcomes()


class _Ranks:
    """The processes of one set of ranks, and what they have written so far."""

    def __init__(self, folder: Path, jobs: Sequence[Job], count: int) -> None:
        self.folder = folder
        self.jobs = jobs
        self.count = count
        self.launcher: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the launcher, which starts every rank."""
        environment = dict(os.environ)
        if sys.platform == "linux":
            # Or gloo looks for the machine's own name, which may lead nowhere.
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        with (self.folder / "launcher.log").open("wb") as log:
            self.launcher = subprocess.Popen(
                [sys.executable, "-m", "schedopt.execute.launcher", str(self.folder)],
                stdin=subprocess.PIPE,  # at its end the launcher knows that we are gone
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # so that all are ended together
            )

    def wait(self, patience_s: float, progress: Progress | None) -> None:
        """Return when all are done."""
        assert self.launcher is not None
        done, since = -1, time.monotonic()
        while True:
            code = self.launcher.poll()
            if code or any(end["code"] for end in self._ends().values()):
                raise self._failed(code)
            if code == 0:
                return
            now = time.monotonic()
            reached = self._reached()
            if reached > done:
                done, since = reached, now
                if progress is not None:
                    progress(done, sum(job.all_steps for job in self.jobs))
            # The ranks give up first; this is for a rank that cannot.
            if now - since > START_S + 3 * patience_s:
                msg = (
                    f"{self._where(done)}: no rank has come on for {now - since:.0f} s"
                )
                raise ExecutionError(msg)
            time.sleep(POLL_S)

    def _reached(self) -> int:
        """How many steps all ranks have done; -1 before all are ready."""
        paths = [self._path(rank) for rank in range(self.count)]
        counts = [path.read_bytes().count(b"\n") for path in paths if path.exists()]
        return min(counts) - 1 if len(counts) == self.count else -1

    def outcomes(self) -> list[Outcome]:
        """What all ranks found, job by job."""
        found: list[list[list[StepOutcome]]] = [
            [[] for _ in range(self.count)] for _ in self.jobs
        ]
        for rank, lines in enumerate(self._lines()):
            for line in lines[1:]:
                if "traced" in line:
                    continue
                step = StepOutcome.from_document(line["step"])
                found[line["job"]][rank].append(step)
        return [
            Outcome(job, tuple(map(tuple, ranks)))
            for job, ranks in zip(self.jobs, found, strict=True)
        ]

    def end(self) -> None:
        """End every process that is still there."""
        if self.launcher is None:
            return
        # A launcher that has ended by itself has waited for every rank.
        if self.launcher.returncode is None or self.launcher.returncode < 0:
            with suppress(ProcessLookupError):
                os.killpg(self.launcher.pid, signal.SIGKILL)
        self.launcher.wait()
        assert self.launcher.stdin is not None
        self.launcher.stdin.close()

    def _failed(self, launcher_code: int | None) -> ExecutionError:
        """The first failure: what the others say then follows from it."""
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and len(self._ends()) < self.count:
            if launcher_code is not None:
                break
            time.sleep(POLL_S)
        ends = self._ends()
        failures = []
        for rank, lines in enumerate(self._lines()):
            done = sum("error" not in line for line in lines) - 1
            if lines and "error" in lines[-1]:
                failures.append(
                    _Failure(lines[-1]["at_s"], rank, lines[-1]["error"], done)
                )
            elif rank in ends and ends[rank]["code"]:  # it died without a word
                code = ends[rank]["code"]
                death = self._death(f"rank-{rank}.log", code)
                # Others may notice before the launcher does. But torch may abort a
                # rank because another one is gone.
                at_s = ends[rank]["at_s"] if code == -signal.SIGABRT else 0.0
                failures.append(_Failure(at_s, rank, death, done))
        if not failures:
            death = self._death("launcher.log", launcher_code or 0)
            return ExecutionError(f"the process that starts the ranks {death}")
        first = min(failures)
        cause = one_line(first.cause)
        if len(cause) > LONGEST_CAUSE:
            cause = f"{cause[:LONGEST_CAUSE]}..."
        return ExecutionError(
            f"{self._where(first.done)}: rank {first.rank} failed: {cause}"
        )

    def _where(self, done: int) -> str:
        """What a rank is at that has done so many steps; -1: it is not ready."""
        if done < 0:
            return "starting the ranks"
        for job in self.jobs:
            if done < job.steps:
                return f"{job.name}, step {done}"
            if done < job.all_steps:
                return f"{job.name}, traced step {done - job.steps}"
            done -= job.all_steps
        return "ending the ranks"

    def _death(self, log: str, code: int) -> str:
        how = f"died of signal {-code}" if code < 0 else f"ended with code {code}"
        path = self.folder / log
        said = path.read_bytes().decode(errors="replace") if path.exists() else ""
        return ": ".join([how, *said.strip().splitlines()[-1:]])

    def _ends(self) -> dict[int, dict[str, Any]]:
        """How and when ranks have ended."""
        return {end["rank"]: end for end in _whole_lines(self.folder / "ends.jsonl")}

    def _lines(self) -> list[list[dict[str, Any]]]:
        """What each rank has written."""
        return [_whole_lines(self._path(rank)) for rank in range(self.count)]

    def _path(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.jsonl"


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines that are written to their end."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
