"""From a schedule in one op graph's durations to one in another's."""

from __future__ import annotations

from schedopt.errors import OrderError
from schedopt.instance import Objective
from schedopt.opgraph import OpGraph
from schedopt.schedule import Order, Schedule
from schedopt.simulate import best_times, with_memory_edges


def replayed(
    graph: OpGraph, schedule: Schedule, objective: Objective
) -> Schedule | None:
    """The schedule's order in the durations of ``graph``; None if it does not fit.

    Where all ops take time it fits. What ops of no duration allocate may be alive for
    no time in a schedule and for some time in its replay.
    """
    found = replayed_with_order(graph, schedule, objective)
    return None if found is None else found[0]


def replayed_with_order(
    graph: OpGraph, schedule: Schedule, objective: Objective
) -> tuple[Schedule, Order] | None:
    """What ``replayed`` gives, and the order of which it is the replay."""
    try:
        order = with_memory_edges(schedule)
        replay = best_times(graph, order, objective)
    except OrderError:
        return None
    fits = all(
        device.limit is None or peak <= device.limit
        for device, peak in zip(graph.devices, replay.peak_memory, strict=True)
    )
    return (replay, order) if fits else None
