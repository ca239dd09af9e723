"""Solving: the best hand-made schedule, improved, with a bound on what is possible."""

from schedopt.callable_package import make_callable
from schedopt.solve.placements import (
    PlacementSearch,
    PlacementTrial,
    solve_placements,
)
from schedopt.solve.runtime_price import RuntimePrice, solve_with_price
from schedopt.solve.solution import Solution, SolveParameters, Status, TraceEntry
from schedopt.solve.solving import bounds_of, solve

__all__ = [
    "PlacementSearch",
    "PlacementTrial",
    "RuntimePrice",
    "Solution",
    "SolveParameters",
    "Status",
    "TraceEntry",
    "bounds_of",
    "solve",
    "solve_placements",
    "solve_with_price",
]

make_callable(__name__, solve)  # schedopt.solve(instance)
