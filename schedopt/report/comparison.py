"""Hand-made schedules and the optimizer side by side, at equal memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from rich import box
from rich.table import Table

from schedopt.baselines import BaselineRun
from schedopt.build import form_of
from schedopt.instance import Backward, Instance, Placement
from schedopt.report.memory import (
    DevicePeak,
    device_peaks,
    over_limit_text,
    peak_and_limit,
    tightest,
)
from schedopt.report.quantities import (
    BUBBLE_FORMULA,
    number_text,
    share_text,
)
from schedopt.schedule import Schedule
from schedopt.solve.solution import Solution

OPTIMIZER = "schedopt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One schedule in a comparison.

    Attributes
    ----------
    name : str
        The hand-made schedule, the file of a given order, or ``schedopt`` for the
        optimizer.
    form : str
        The form in which it runs.
    own_form : bool
        Whether that is the form of the instance as it is written.
    cap : int or None
        What a hand-made schedule in flight was capped at to fit.
    fits : bool
        Whether every device stays within its memory limit.
    gap : float or None
        To the proven bound of the row's form; None where no bound is known.
    """

    name: str
    form: str
    own_form: bool
    cap: int | None
    fits: bool
    schedule: Schedule
    gap: float | None

    @property
    def tightest(self) -> DevicePeak:
        """The device closest to its limit."""
        return tightest(device_peaks(self.schedule))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All schedules of an instance.

    Attributes
    ----------
    rows : tuple of Row
        Those that fit, then those that do not; each part by makespan.
    not_applicable : tuple of (name, reason)
        The hand-made schedules that do not exist for the instance.
    solutions : tuple of Solution
        What the optimizer found: on the instance's own form first.
    """

    instance: Instance
    rows: tuple[Row, ...]
    not_applicable: tuple[tuple[str, str], ...]
    solutions: tuple[Solution, ...]


@dataclass(frozen=True, slots=True)
class GivenOrder:
    """A user's own order, replayed on the instance in the form that it has."""

    name: str
    derived: Instance
    schedule: Schedule


def comparison_of(
    instance: Instance,
    runs: tuple[BaselineRun, ...],
    not_applicable: tuple[tuple[str, str], ...],
    solutions: tuple[Solution, ...],
    orders: tuple[GivenOrder, ...] = (),
) -> Comparison:
    """Put finished runs side by side; gaps are of the instance's objective."""
    rows = [_baseline_row(run, instance, solutions) for run in runs]
    rows += [_order_row(order, instance, solutions) for order in orders]
    rows += [
        _solution_row(solution, instance) for solution in solutions if solution.schedule
    ]
    rows.sort(key=lambda row: (not row.fits, _exact(row.schedule), row.name))
    return Comparison(
        instance=instance,
        rows=tuple(rows),
        not_applicable=not_applicable,
        solutions=solutions,
    )


def is_of_form(derived: Instance, instance: Instance) -> bool:
    """Whether every schedule of ``derived`` is one of ``instance``.

    So it is if they differ at most in the placement's name and in the backward, where
    ``instance`` leaves the choice.
    """
    two_way = Placement.BIDIRECTIONAL
    if (derived.placement is two_way) != (instance.placement is two_way):
        return False
    if instance.backward not in (derived.backward, Backward.CHOOSE):
        return False
    same = replace(derived, placement=instance.placement, backward=instance.backward)
    return same == instance


def comparison_table(comparison: Comparison) -> Table:
    """One row per schedule; the notes say what the columns are."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.show_edge = False
    table.add_column("schedule", no_wrap=True)
    table.add_column("form")
    titles = ("makespan", "device span", "bubble", "bubble span", "peak/limit", "gap")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=" " not in title)
    for row in comparison.rows:
        table.add_row(*_cells(row))
    return table


def comparison_notes(comparison: Comparison) -> list[str]:
    """The lines under the table: formula, forms, and what is not in it."""
    instance = comparison.instance
    notes = [
        f"Times in {instance.time_unit}, memory in {instance.memory_unit}. Bubble ratio"
        f" = {BUBBLE_FORMULA}, with T = makespan and T = device span. Peak memory is"
        " that of the device closest to its limit. The gap is to the proven bound of"
        " the row's form."
    ]
    if instance.kfac is not None:
        notes.append("Second-order work counts as work in the bubble ratios.")
    if any(not row.own_form for row in comparison.rows):
        own = form_of(comparison.instance)
        notes.append(
            f"* another form than the instance's own ({own}): the stages are cut,"
            " merged or placed anew, or the backward is run in another way."
        )
    if any(not row.fits for row in comparison.rows):
        notes.append("! exceeds a memory limit, capped or not; listed after the rest.")
    notes += [
        f"{name}: does not apply: {why}" for name, why in comparison.not_applicable
    ]
    notes += [
        f"{OPTIMIZER} on {form_of(solution.instance)}: {solution.status.value}"
        + (f": {solution.reason}" if solution.reason else "")
        for solution in comparison.solutions
        if solution.schedule is None
    ]
    return notes


def _cells(row: Row) -> list[str]:
    schedule = row.schedule
    units = schedule.graph.units
    cap = f" (cap {row.cap})" if row.cap is not None else ""
    return [
        f"{'' if row.fits else '! '}{row.name}{cap}",
        f"{row.form}{'' if row.own_form else ' *'}",
        number_text(units.time_of(schedule.makespan)),
        number_text(units.time_of(schedule.device_span)),
        share_text(schedule.bubble_ratio(schedule.makespan)),
        share_text(schedule.bubble_ratio(schedule.device_span)),
        peak_and_limit(row.tightest, units),
        share_text(row.gap),
    ]


def _baseline_row(
    run: BaselineRun,
    instance: Instance,
    solutions: tuple[Solution, ...],
) -> Row:
    return Row(
        name=run.baseline.name,
        form=str(run.form),
        own_form=is_of_form(run.derived, instance),
        cap=run.cap,
        fits=run.fits,
        schedule=run.schedule,
        gap=_gap(run.schedule, run.derived, instance, solutions, fits=run.fits),
    )


def _order_row(
    order: GivenOrder, instance: Instance, solutions: tuple[Solution, ...]
) -> Row:
    fits = not over_limit_text(order.schedule)
    return Row(
        name=order.name,
        form=str(form_of(order.derived)),
        own_form=is_of_form(order.derived, instance),
        cap=None,
        fits=fits,
        schedule=order.schedule,
        gap=_gap(order.schedule, order.derived, instance, solutions, fits=fits),
    )


def _gap(
    schedule: Schedule,
    derived: Instance,
    instance: Instance,
    solutions: tuple[Solution, ...],
    *,
    fits: bool,
) -> float | None:
    """To the best bound of the form; None without one.

    A schedule that exceeds the limit may be shorter than the bound, which obeys it.
    """
    bounds = [
        Fraction(solution.lower_bound, solution.graph.units.ticks_per_unit)
        for solution in solutions
        if is_of_form(derived, solution.instance)
    ]
    if not bounds or not fits:
        return None
    ticks = schedule.value(instance.objective.of_finite)
    value = Fraction(ticks, schedule.graph.units.ticks_per_unit)
    return float((value - max(bounds)) / value) if value else 0.0


def _solution_row(solution: Solution, instance: Instance) -> Row:
    if solution.schedule is None:
        msg = "a solution without a schedule has no row"
        raise ValueError(msg)
    return Row(
        name=OPTIMIZER,
        form=str(form_of(solution.instance)),
        own_form=is_of_form(solution.instance, instance),
        cap=None,
        fits=True,
        schedule=solution.schedule,
        gap=solution.gap,
    )


def _exact(schedule: Schedule) -> Fraction:
    return Fraction(schedule.makespan, schedule.graph.units.ticks_per_unit)
