"""Fast search: greedies with many rules, climbing on the rules, annealing of orders.

Everything here works on problems folded into classes (``schedopt.lattice``), with
schedules as arrays of ends, and is skipped where the op graph has no such structure.
The loops are plain functions over arrays, compiled where that pays.
"""

from schedopt.search.anneal import Annealing, anneal
from schedopt.search.climbing import Climber
from schedopt.search.grid import Grid
from schedopt.search.searcher import Searcher

__all__ = ["Annealing", "Climber", "Grid", "Searcher", "anneal"]
