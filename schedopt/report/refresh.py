"""A refresh as people and programs read it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from schedopt.instance import Instance
from schedopt.opgraph import Units
from schedopt.refresh.exposed import exposed_of
from schedopt.refresh.greedy import Greedy
from schedopt.refresh.measures import Measures, measures_of
from schedopt.refresh.settings import Freedom
from schedopt.report.quantities import (
    count_text,
    memory_text,
    seconds_text,
    share_text,
    time_text,
)
from schedopt.solve.frames import NamedFrame, TimeToTarget
from schedopt.solve.refresh_solution import RefreshParameters, RefreshSolution
from schedopt.solve.solution import Status

Lines = list[tuple[str, str]]


def refresh_lines(
    named: NamedFrame, solution: RefreshSolution, greedy: Greedy
) -> Lines:
    """What was found, what it cannot beat, and what the greedy rule reaches."""
    frame = named.frame
    units = frame.graph.units
    exposed = exposed_of(frame)
    lines = [
        ("instance", frame.instance.name),
        ("pipeline", f"{named.name}, {time_text(frame.pipeline_end, units)}"),
        (
            "step",
            f"{time_text(frame.period, units)} with preconditioning; where a step's"
            f" second-order work is exposed {time_text(exposed.refreshing, units)}",
        ),
        ("settings", settings_text(frame.instance, solution.parameters)),
    ]
    if solution.cycle is None:
        lines.append(("refresh", solution.reason))
    else:
        if solution.parameters.freedom is not Freedom.FROZEN:
            lines.append(("freedom needed", _needed(solution, named)))
        lines += _found(solution, measures_of(solution.cycle), units)
    lines.append(("greedy rule", _greedy_text(greedy)))
    lines.append(("solved in", seconds_text(solution.wall_seconds)))
    return lines


def settings_text(instance: Instance, parameters: RefreshParameters) -> str:
    """The settings of a packing in a line."""
    kfac = instance.kfac
    barrier = "" if kfac is None else kfac.step_barrier.value
    inversion = "" if kfac is None else kfac.inversion.value
    wrap = "wrap" if parameters.wrap else "no wrap"
    freedom = parameters.freedom.value
    return f"step barrier {barrier}, {wrap}, inversion {inversion}, pipeline {freedom}"


def _needed(solution: RefreshSolution, named: NamedFrame) -> str:
    """What the pipeline's ops do, in the words of the glossary."""
    match solution.freedom:
        case Freedom.FROZEN:
            return f"{solution.freedom.value}: the times of {named.name}"
        case Freedom.SLIDING:
            return f"{solution.freedom.value}: the order of {named.name}, other times"
        case Freedom.REORDERED:
            swaps = count_text(solution.swaps, "swap")
            return f"{solution.freedom.value}: {swaps} from the order of {named.name}"


def _found(solution: RefreshSolution, measures: Measures, units: Units) -> Lines:
    least = solution.least_interval
    age = solution.least_age
    bound = solution.bound
    named = "" if bound is None else f"; {bound.name} bound {bound.interval}"
    memory = solution.memory_bound
    peak = memory_text(measures.peak_memory, units)
    return [
        (
            "refresh interval",
            f"{count_text(measures.interval, 'step')} ({_at_least(least)}{named})",
        ),
        (
            "largest age at use",
            "none"
            if measures.largest_age is None
            else f"{count_text(measures.largest_age, 'step')} ({_at_least(age)})",
        ),
        (
            "peak memory",
            f"{peak} {units.memory}"
            + (
                ""
                if memory is None
                else " (at least"
                f" {memory_text(memory, units)} at this interval and age)"
            ),
        ),
        ("fill of the gaps", _share(measures.fill)),
        (
            "busy with the pipeline",
            f"{_share(measures.pipeline_share)} of a step, as N (F + B) / step",
        ),
        (
            "busy over the cycle",
            f"{_share(measures.compute_share)} with curvature and inversion,"
            f" {_share(measures.busy_share)} with preconditioning and collectives too",
        ),
        (
            "tolerance",
            "-"
            if measures.tolerance is None
            else f"second-order work may take {_share(measures.tolerance)} longer",
        ),
        ("status", _status(solution)),
    ]


def _at_least(proven: int | None) -> str:
    return "no bound" if proven is None else f"proven: at least {proven}"


def _status(solution: RefreshSolution) -> str:
    first = solution.parameters.minimise.value
    if solution.status is Status.OPTIMAL:
        return f"optimal: nothing better by {first} in these settings"
    return f"feasible: better by {first} is not excluded"


def _share(share: Fraction | None) -> str:
    return share_text(None if share is None else float(share))


def _greedy_text(greedy: Greedy) -> str:
    intervals = [device.interval for device in greedy.devices]
    listed = ", ".join(map(str, intervals))
    text = f"PipeFisher's: interval {greedy.interval} ({listed} by device)"
    serial = _serial(greedy)
    if serial:
        text += f"; {serial} of its works fit into no gap and make a step longer"
    return text


def _serial(greedy: Greedy) -> int:
    """How many works the rule puts after a step, since no gap holds them."""
    return sum(len(device.serial) for device in greedy.devices)


def refresh_document(
    named: NamedFrame, solution: RefreshSolution, greedy: Greedy
) -> dict[str, Any]:
    """What was found; times and sizes in the instance's units."""
    frame, units = named.frame, named.frame.graph.units
    kfac = frame.instance.kfac
    document: dict[str, Any] = {
        "instance": frame.instance.name,
        "time_unit": units.time,
        "memory_unit": units.memory,
        "pipeline": named.name,
        "pipeline_makespan": units.time_of(frame.pipeline_end),
        "step": units.time_of(frame.period),
        "exposed_step": units.time_of(exposed_of(frame).refreshing),
        "step_barrier": None if kfac is None else kfac.step_barrier.value,
        "inversion": None if kfac is None else kfac.inversion.value,
        "wrap": solution.parameters.wrap,
        "freedom": solution.parameters.freedom.value,
        "minimise": solution.parameters.minimise.value,
        "status": solution.status.value,
        "reason": solution.reason,
        "interval_lower_bound": solution.least_interval,
        "age_lower_bound": solution.least_age,
        "counting_bound": solution.bound
        and {"name": solution.bound.name, "interval": solution.bound.interval},
        "greedy_intervals": [device.interval for device in greedy.devices],
        "greedy_serial": _serial(greedy),
        "wall_seconds": solution.wall_seconds,
    }
    if solution.cycle is not None:
        document |= {
            "freedom_needed": solution.freedom.value,
            "swaps": solution.swaps,
        }
        document |= _measures(measures_of(solution.cycle), units)
        memory = solution.memory_bound
        document["peak_memory_lower_bound"] = (
            None if memory is None else units.memory_of(memory)
        )
    return document


def target_lines(target: TimeToTarget, named: NamedFrame) -> Lines:
    """Time to target of both optimizers, with all that goes into it."""
    units = named.frame.graph.units
    lines = []
    for name, steps, step in (
        ("first order", target.first_steps, target.first_step),
        ("second order", target.second_steps, target.second_step),
    ):
        total = time_text(steps * step, units)
        given = f"{count_text(steps, 'step')} (as given) x {time_text(step, units)}"
        lines.append((f"{name} to target", f"{given} = {total}"))
    lines.append(("second / first", share_text(target.ratio)))
    return lines


def target_document(target: TimeToTarget, named: NamedFrame) -> dict[str, Any]:
    """The same for programs."""
    units = named.frame.graph.units
    return {
        "first_order_steps": target.first_steps,
        "first_order_step": units.time_of(target.first_step),
        "second_order_steps": target.second_steps,
        "second_order_step": units.time_of(target.second_step),
        "ratio": target.ratio,
    }


def _measures(measures: Measures, units: Units) -> dict[str, Any]:
    return {
        "interval": measures.interval,
        "largest_age": measures.largest_age,
        "peak_memory": units.memory_of(measures.peak_memory),
        "fill": _number(measures.fill),
        "pipeline_share": _number(measures.pipeline_share),
        "compute_share": _number(measures.compute_share),
        "busy_share": _number(measures.busy_share),
        "tolerance": _number(measures.tolerance),
        "devices": [
            {
                "device": one.device,
                "largest_age": one.largest_age,
                "peak_memory": units.memory_of(one.peak_memory),
                "fill": _number(one.fill),
            }
            for one in measures.devices
        ],
    }


def _number(share: Fraction | None) -> float | None:
    return None if share is None else float(share)
