"""``solve --objective refresh``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from schedopt.baselines import BASELINES
from schedopt.cli.exits import DONE, INTERRUPTED, REFUSED, WRONG_USAGE
from schedopt.cli.output import complain, console, print_json, print_lines
from schedopt.cli.pictures import print_gantt
from schedopt.cli.refresh_front import FrontAsked, print_front
from schedopt.cli.saving import check_writable, save_cycle
from schedopt.errors import NotApplicableError
from schedopt.export.stored import schedule_in
from schedopt.formats import Limits, load_instance, load_schedule
from schedopt.instance import Instance, Objective
from schedopt.nearest import did_you_mean
from schedopt.refresh.greedy import greedy_of
from schedopt.refresh.settings import Freedom, Minimise
from schedopt.report.quantities import seconds_text
from schedopt.report.refresh import (
    refresh_document,
    refresh_lines,
    target_document,
    target_lines,
)
from schedopt.solve.frames import (
    NamedFrame,
    frame_around,
    frame_named,
    shortest_frames,
    time_to_target,
)
from schedopt.solve.interrupts import TERMINATION, hearing_interrupts
from schedopt.solve.refresh_frames import solve_in_frames
from schedopt.solve.refresh_solution import RefreshParameters
from schedopt.solve.solution import SolveParameters, Status

NEEDS_REFRESH = (
    "--minimise, --freedom, --front, --interval, --pipeline, --wrap and"
    " --steps-to-target need --objective refresh"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options that only a refresh has."""

    minimise: Minimise | None = None
    freedom: Freedom | None = None
    pipeline: str | None = None
    steps_to_target: tuple[int, int] | None = None
    interval: int | None = None
    wrap: bool = False
    front: bool = False

    @property
    def conflict(self) -> str:
        """Which options do not go together; empty if all do."""
        if self.front and self.minimise:
            return "--front has all intervals: --minimise does not go with it"
        if self.interval is not None and not self.front:
            return "--interval needs --front"
        return ""


def is_asked_for(path: Path, objective: Objective | None, limits: Limits) -> bool:
    """Whether the command line, or else the instance, asks for a refresh."""
    if objective is not None:
        return objective is Objective.REFRESH
    return load_instance(path, limits).objective is Objective.REFRESH


def refresh(
    path: Path,
    output: Path | None,
    parameters: SolveParameters,
    limits: Limits,
    asked: Asked,
    *,
    as_json: bool,
    gantt: bool | None,
) -> int:
    """Pack second-order work, print what was found, write two refreshes of it."""
    if asked.conflict:
        complain(asked.conflict)
        return WRONG_USAGE
    check_writable(output)
    instance = load_instance(path, limits)
    if instance.kfac is None:
        msg = f"{path}: objective refresh needs second-order work; the file has no kfac"
        raise NotApplicableError(msg)
    frames = _frames(path, instance, asked.pipeline, limits)
    progress = _Progress()
    mine = RefreshParameters(
        minimise=asked.minimise or Minimise.AGE,
        wrap=asked.wrap,
        freedom=asked.freedom or Freedom.FROZEN,
        time_limit_s=parameters.time_limit_s - progress.elapsed(),
        workers=parameters.workers,
        seed=parameters.seed,
    )
    try:
        if asked.front:
            front = FrontAsked(
                interval=asked.interval,
                steps_to_target=asked.steps_to_target,
                may_add_own=asked.pipeline is None,
                output=output,
                as_json=as_json,
                gantt=gantt,
            )
            return print_front(path, frames, mine, front)
        with hearing_interrupts(*TERMINATION):
            named, solution = solve_in_frames(frames, mine, progress.of)
    except NotApplicableError as error:
        msg = str(error)
        raise NotApplicableError(
            msg if msg.startswith(f"{path}: ") else f"{path}: {msg}"
        ) from None
    greedy = greedy_of(named.frame)
    target = asked.steps_to_target and time_to_target(named, *asked.steps_to_target)
    if as_json:
        document = refresh_document(named, solution, greedy)
        if target:
            document["time_to_target"] = target_document(target, named)
        print_json(document)
    else:
        lines = refresh_lines(named, solution, greedy)
        print_lines(lines + (target_lines(target, named) if target else []))
        if solution.cycle is not None:
            print_gantt(solution.cycle.schedule, wanted=gantt)
    if solution.cycle is None:
        word = "infeasible" if solution.status is Status.INFEASIBLE else "no result"
        complain(f"{path}: {word}: {solution.reason}")
        return INTERRUPTED if solution.is_interrupted else REFUSED
    if output is not None:
        method = f"refresh in {named.name}, {solution.freedom.value}"
        save_cycle(output, solution.cycle, method)
    if solution.is_interrupted:
        complain("interrupted; this is what was found so far")
        return INTERRUPTED
    return DONE


def _frames(
    path: Path, instance: Instance, pipeline: str | None, limits: Limits
) -> tuple[NamedFrame, ...]:
    """The frames that were asked for, or those with the shortest step."""
    if pipeline is None:
        frames = shortest_frames(instance)
        if not frames:
            msg = f"{path}: no hand-made schedule has this form; give --pipeline FILE"
            raise NotApplicableError(msg)
        return frames
    if pipeline in BASELINES:
        try:
            return (frame_named(pipeline, instance),)
        except NotApplicableError as error:
            msg = f"{path}: {error}"
            raise NotApplicableError(msg) from None
    file = Path(pipeline)
    if not file.exists():
        hint = did_you_mean(pipeline, BASELINES)
        msg = f"--pipeline {pipeline}: neither a hand-made schedule nor a file{hint}"
        raise NotApplicableError(msg)
    schedule = schedule_in(load_schedule(file, limits), pipeline)
    return (frame_around(schedule, pipeline, instance),)


class _Progress:
    """Prints what was found, and when, on stderr."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._out = console(stderr=True)

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def of(self, name: str) -> Callable[[str], None]:
        """What one pipeline schedule's packings are told to."""

        def tell(text: str) -> None:
            clock = seconds_text(self.elapsed()).rjust(8)
            self._out.print(f"{clock}  {name}: {text}")

        return tell
