"""``baseline`` and ``compare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from schedopt.baselines import BASELINES, BaselineRun, run_baseline
from schedopt.build import build_graph
from schedopt.build.quantities import units_of
from schedopt.cli.exits import DONE, INTERRUPTED, REFUSED, WRONG_USAGE
from schedopt.cli.order_file import in_form_of_order, load_order
from schedopt.cli.output import (
    complain,
    print_json,
    print_lines,
    print_rich,
    print_text,
)
from schedopt.cli.pictures import print_gantt
from schedopt.cli.progress import showing_progress
from schedopt.cli.saving import check_writable, save_schedule
from schedopt.errors import NotApplicableError, OrderError
from schedopt.formats import Limits, load_instance
from schedopt.formats.complaints import listed, one_line
from schedopt.instance import FINITE_OBJECTIVES, Instance
from schedopt.report.baseline_list import baselines_document, baselines_table
from schedopt.report.comparison import (
    Comparison,
    GivenOrder,
    comparison_notes,
    comparison_of,
    comparison_table,
    is_of_form,
)
from schedopt.report.documents import baseline_document, comparison_document
from schedopt.report.memory import over_limit_text
from schedopt.report.summary import baseline_lines, instance_lines
from schedopt.simulate import simulate as replay
from schedopt.solve import solve as solve_instance
from schedopt.solve.interrupts import TERMINATION, hearing_interrupts
from schedopt.solve.solution import Solution, SolveParameters
from schedopt.verify import Rule, runtime_violations, violations


def list_baselines(*, as_json: bool) -> int:
    """Print every hand-made schedule with its form and reference."""
    if as_json:
        print_json(baselines_document(BASELINES.values()))
        return DONE
    print_rich(baselines_table(BASELINES.values()))
    return DONE


def baseline(
    name: str,
    path: Path,
    output: Path | None,
    limits: Limits,
    *,
    as_json: bool,
    gantt: bool | None,
) -> int:
    """Run a hand-made schedule on an instance, in the form that it needs."""
    if name not in BASELINES:
        complain(f"there is no hand-made schedule {name!r}; use {listed(BASELINES)}")
        return WRONG_USAGE
    check_writable(output)
    instance = load_instance(path, limits)
    try:
        run = run_baseline(BASELINES[name], instance)
    except NotApplicableError as error:
        msg = f"{path}: {name} does not apply: {error}"
        raise NotApplicableError(msg) from None
    if as_json:
        print_json(baseline_document(run))
    else:
        print_lines(baseline_lines(run))
        print_gantt(run.schedule, wanted=gantt)
    if not run.fits:
        complain(f"{path}: {name} {over_limit_text(run.schedule)}")
        return REFUSED
    if output is not None:
        save_schedule(output, run.derived, run.graph, run.schedule, name)
    return DONE


def compare(
    paths: list[Path],
    parameters: SolveParameters,
    limits: Limits,
    *,
    run_optimizer: bool,
    forms: bool,
    order_paths: Sequence[Path] = (),
    as_json: bool,
) -> int:
    """Compare every hand-made schedule, given orders and the optimizer."""
    documents = []
    code = DONE
    optimizer = parameters if run_optimizer else None
    with hearing_interrupts(*TERMINATION) as interrupts:
        try:
            for number, path in enumerate(paths):
                with interrupts.let_in():
                    instance = _instance(path, parameters, limits)
                    orders = tuple(
                        _given_order(order_path, instance, limits)
                        for order_path in order_paths
                    )
                    comparison = _compare(instance, optimizer, orders, forms=forms)
                if as_json:
                    documents.append(comparison_document(comparison))
                else:
                    _print_comparison(comparison, number)
                if any(solution.interrupted for solution in comparison.solutions):
                    raise KeyboardInterrupt
                if not _has_schedule(comparison, path):
                    code = REFUSED
        except KeyboardInterrupt:
            complain("interrupted; the comparison is of what was found so far")
            code = INTERRUPTED
    if as_json:
        print_json(documents)
    return code


def _has_schedule(comparison: Comparison, path: Path) -> bool:
    """Whether the optimizer found one, if it was asked; complains if not."""
    own = comparison.solutions[:1]
    if not own or own[0].schedule is not None:
        return True
    reason = own[0].reason or "no schedule was found; raise --time-limit"
    complain(f"{path}: {own[0].status.value}: {reason}")
    return False


def _instance(path: Path, parameters: SolveParameters, limits: Limits) -> Instance:
    instance = load_instance(path, limits)
    if parameters.objective is not None:
        instance = replace(instance, objective=parameters.objective)
    if instance.objective not in FINITE_OBJECTIVES:
        names = " or ".join(objective.value for objective in FINITE_OBJECTIVES)
        msg = (
            f"{path}: objective = {instance.objective.value}: only schedules of one"
            f" batch are compared; give --objective {names}"
        )
        raise NotApplicableError(msg)
    return instance


def _print_comparison(comparison: Comparison, number: int) -> None:
    if number:
        print_text("")
    print_lines(instance_lines(comparison.instance))
    print_text("")
    if comparison.rows:
        print_rich(comparison_table(comparison))
        print_text("")
    for note in comparison_notes(comparison):
        print_text(one_line(note))


def _given_order(path: Path, instance: Instance, limits: Limits) -> GivenOrder:
    """Replay an order in the form that it has; only memory limits may be exceeded.

    Raises
    ------
    OrderError
        If it cannot be executed, or the verifier refuses its replay.
    NotApplicableError
        If the instance lacks a duration that it needs.
    """
    try:
        derived = in_form_of_order(path, instance, limits)
        graph = build_graph(derived)
        schedule = replay(graph, load_order(path, graph, limits))
    except OrderError as error:
        raise OrderError(_of_file(path, error)) from None
    except NotApplicableError as error:
        raise NotApplicableError(_of_file(path, error)) from None
    found = violations(graph, schedule.start)
    found += runtime_violations(derived.runtime, schedule.start)
    for violation in found:
        if violation.rule is not Rule.MEMORY:
            msg = f"{path}: breaks a rule: {violation}"
            raise OrderError(msg)
    return GivenOrder(path.name, derived, schedule)


def _of_file(path: Path, error: Exception) -> str:
    """The error's line, which names the file once."""
    text = str(error)
    return text if text.startswith(f"{path}: ") else f"{path}: {text}"


def _compare(
    instance: Instance,
    parameters: SolveParameters | None,
    orders: tuple[GivenOrder, ...],
    *,
    forms: bool,
) -> Comparison:
    runs: list[BaselineRun] = []
    not_applicable: list[tuple[str, str]] = []
    for candidate in BASELINES.values():
        try:
            runs.append(run_baseline(candidate, instance))
        except (NotApplicableError, OrderError) as error:
            not_applicable.append((candidate.name, str(error)))
    solutions = []
    if parameters is not None:
        others = _other_forms(runs, instance) if forms else []
        solutions = _solutions([instance, *others], parameters)
    return comparison_of(
        instance, tuple(runs), tuple(not_applicable), tuple(solutions), orders
    )


def _other_forms(runs: list[BaselineRun], instance: Instance) -> list[Instance]:
    """The instance in every other form that a fitting hand-made schedule uses."""
    found = {
        run.form: run.derived
        for run in runs
        if run.fits and not is_of_form(run.derived, instance)
    }
    return list(found.values())


def _solutions(
    instances: list[Instance], parameters: SolveParameters
) -> list[Solution]:
    solutions = []
    for instance in instances:
        with showing_progress(units_of(instance)) as progress:
            solution = solve_instance(instance, parameters, progress)
        solutions.append(solution)
        if solution.interrupted:
            break
    return solutions
