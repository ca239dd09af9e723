"""``solve`` and ``bound``."""

from __future__ import annotations

import time
from pathlib import Path

from schedopt.build import build_graph
from schedopt.build.placements import placed
from schedopt.build.quantities import units_of
from schedopt.cli.exits import DONE, INTERRUPTED, REFUSED
from schedopt.cli.options import PlacementChoice, file_stem
from schedopt.cli.output import (
    complain,
    print_json,
    print_lines,
    print_rich,
    print_text,
)
from schedopt.cli.pictures import print_gantt
from schedopt.cli.progress import showing_progress
from schedopt.cli.saving import check_writable, free_path, save_solution
from schedopt.errors import NotApplicableError
from schedopt.formats import Limits, load_instance, with_runtime
from schedopt.formats.complaints import one_line
from schedopt.instance import Instance, Objective, Placement
from schedopt.opgraph import Units
from schedopt.report.documents import Bound, bounds_document, solution_document
from schedopt.report.placements import (
    placements_document,
    placements_notes,
    placements_table,
)
from schedopt.report.quantities import seconds_text, time_text
from schedopt.report.runtime_price import price_document, price_lines
from schedopt.report.summary import solution_lines
from schedopt.solve import (
    PlacementSearch,
    RuntimePrice,
    bounds_of,
    solve_placements,
    solve_with_price,
)
from schedopt.solve import solve as solve_instance
from schedopt.solve.interrupts import TERMINATION, hearing_interrupts
from schedopt.solve.solution import Solution, SolveParameters, Status

_NAME_WIDTH = 24  # bounds are printed as they come, so their names' lengths are unknown


def solve(  # noqa: PLR0913 (one argument per option)
    path: Path,
    output: Path | None,
    parameters: SolveParameters,
    limits: Limits,
    *,
    placement: PlacementChoice | None = None,
    runtime: str | None = None,
    as_json: bool,
    gantt: bool | None,
) -> int:
    """Solve an instance, print what was found, write the schedule."""
    check_writable(output)
    with hearing_interrupts(*TERMINATION) as interrupts:
        with interrupts.let_in():
            instance, free = _load(path, placement, runtime, limits)
        search = price = None
        with showing_progress(units_of(instance)) as progress:
            if placement is PlacementChoice.ANY:
                search = solve_placements(instance, parameters, progress, limits=limits)
                solution = search.best
            elif free is not None:
                price = solve_with_price(free, instance, parameters, progress)
                solution = price.solution
            else:
                solution = solve_instance(instance, parameters, progress)
        if solution.interrupted and output is None and solution.schedule is not None:
            output = free_path(f"{file_stem(instance.name)}.schedule.json")
        if output is not None and solution.schedule is not None:
            save_solution(output, solution)
    _print(solution, search, price, as_json=as_json, gantt=gantt)
    return _outcome(path, solution, output)


def _load(
    path: Path,
    placement: PlacementChoice | None,
    runtime: str | None,
    limits: Limits,
) -> tuple[Instance, Instance | None]:
    """The instance as it is asked for; with a runtime, also without its rules."""
    if placement is None or placement is PlacementChoice.ANY:
        instance = load_instance(path, limits, runtime=runtime)
        if runtime is None or placement is PlacementChoice.ANY:
            return instance, None
        return instance, load_instance(path, limits, runtime="")
    free = load_instance(path, limits, runtime=None if runtime is None else "")
    try:
        free = placed(free, Placement(placement.value), limits)
    except NotApplicableError as error:
        msg = f"{path}: cannot be placed as --placement {placement.value} asks: {error}"
        raise NotApplicableError(msg) from None
    if runtime is None:
        return free, None
    return with_runtime(free, runtime), free


def _print(
    solution: Solution,
    search: PlacementSearch | None,
    price: RuntimePrice | None,
    *,
    as_json: bool,
    gantt: bool | None,
) -> None:
    if as_json:
        document = solution_document(solution)
        if search is not None:
            document["placements"] = placements_document(search)
        if price is not None:
            document["runtime"] = price_document(price)
        print_json(document)
        return
    if solution.schedule is not None:
        print_lines(
            solution_lines(solution) + ([] if price is None else price_lines(price))
        )
    if search is not None:
        print_text("")
        print_rich(placements_table(search))
        print_text("")
        for note in placements_notes(search):
            print_text(one_line(note))
    if solution.schedule is not None:
        print_gantt(solution.schedule, wanted=gantt)


def _outcome(path: Path, solution: Solution, output: Path | None) -> int:
    """The last word on stderr, and the exit code."""
    if solution.interrupted:
        saved = "no schedule had been found"
        if solution.schedule is not None:
            saved = f"the best schedule so far is in {output}"
        complain(f"interrupted; {saved}")
        return INTERRUPTED
    if solution.schedule is not None:
        return DONE
    if solution.status is Status.INFEASIBLE:
        complain(f"{path}: infeasible: {solution.reason}")
    else:
        limit = seconds_text(solution.parameters.time_limit_s)
        reason = solution.reason or f"no schedule was found within {limit}"
        complain(f"{path}: {reason}; raise --time-limit")
    return REFUSED


def bound(
    path: Path,
    objective: Objective | None,
    time_limit_s: float,
    limits: Limits,
    *,
    as_json: bool,
) -> int:
    """Print each lower bound as it is found, and the best."""
    instance = load_instance(path, limits)
    units = units_of(instance)
    began = time.monotonic()
    bounds: list[Bound] = []
    code = DONE
    with hearing_interrupts(*TERMINATION) as interrupts:
        try:
            with interrupts.let_in():
                found = bounds_of(instance, objective, time_limit_s=time_limit_s)
                for name, ticks in found:
                    bounds.append(Bound(name, ticks, time.monotonic() - began))
                    if not as_json:
                        _print_bound(name, _bound_text(bounds[-1], units))
        except KeyboardInterrupt:
            code = INTERRUPTED
    if as_json:
        chosen = objective or instance.objective
        print_json(bounds_document(instance, build_graph(instance), chosen, bounds))
    elif bounds:
        best = max(bounds, key=lambda bound: bound.ticks)
        _print_bound("best", f"{time_text(best.ticks, units)} ({best.name})")
    if code == INTERRUPTED:
        complain("interrupted; the bounds are those that were known then")
    return code


def _print_bound(name: str, text: str) -> None:
    """One line; names are aligned."""
    print_lines([(name.ljust(_NAME_WIDTH), text)])


def _bound_text(found: Bound, units: Units) -> str:
    return f"{time_text(found.ticks, units)}, after {seconds_text(found.seconds)}"
