"""Measures: what a run tells beside the value and the times of a schedule.

Some methods find more than a schedule with a value: a refresh has an interval, an age
and bounds on both. Their records name such results as in ``MEASURES``, and tables take
meanings and order from there.
"""

from __future__ import annotations

from typing import NamedTuple

Measured = str | int | float | list[int] | None
"""A measure's value; a list has one number per device."""


class Measure(NamedTuple):
    """A measure's name in records, its column's name in tables, and what it means.

    ``is_main``: tables by instance show it too.
    """

    name: str
    column: str
    meaning: str
    is_main: bool = False


MEASURES = (
    Measure(
        "pipeline", "pipeline", "hand-made schedule that is repeated in every step"
    ),
    Measure(
        "step", "step", "length of a step with preconditioning, in the instance's unit"
    ),
    Measure("interval", "interval", "steps from one refresh to the next", is_main=True),
    Measure(
        "interval_lower_bound",
        "interval bound",
        "proven: no refresh has a shorter interval",
    ),
    Measure(
        "largest_age",
        "age",
        "most steps from the step of the data to one that uses an inverse of it",
        is_main=True,
    ),
    Measure("age_lower_bound", "age bound", "proven: no refresh has a smaller age"),
    Measure(
        "peak_memory",
        "peak",
        "peak memory of the fullest device, in the instance's unit",
    ),
    Measure(
        "peak_memory_lower_bound",
        "peak bound",
        "proven: no refresh of this interval and age has a lower peak",
    ),
    Measure(
        "fill", "fill", "share of the gaps that is filled: (work / idle) / interval"
    ),
    Measure("tolerance", "tolerance", "by what share all second-order work may grow"),
    Measure(
        "greedy_intervals",
        "greedy",
        "interval that PipeFisher's rule reaches on each device",
    ),
)
