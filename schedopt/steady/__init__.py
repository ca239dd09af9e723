"""The steady state: periodic schedules, bounds on the period, and their unrolling.

Reading order: ``problem`` (one cycle of an op graph), ``periodic`` (a schedule of it),
``bounds``, ``direct`` (schedules without search), ``shortening``, ``unrolling``. The
rules of a periodic schedule are judged by ``schedopt.verify.steady_violations``.
"""

from schedopt.steady.bounds import memory_throughput, stream_load
from schedopt.steady.direct import direct_schedules, placed_directly
from schedopt.steady.periodic import Periodic
from schedopt.steady.problem import CycleOp, CycleProblem, cycle_problem, pattern_length
from schedopt.steady.shortening import shortened, stretched
from schedopt.steady.unrolling import as_repeated, unrolled

__all__ = [
    "CycleOp",
    "CycleProblem",
    "Periodic",
    "as_repeated",
    "cycle_problem",
    "direct_schedules",
    "memory_throughput",
    "pattern_length",
    "placed_directly",
    "shortened",
    "stream_load",
    "stretched",
    "unrolled",
]
