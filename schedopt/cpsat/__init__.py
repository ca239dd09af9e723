"""The CP-SAT model of an op graph; the only package that imports ortools.

Reading order: ``rules`` (the problem as one function per rule), ``variables``,
``model`` (build, run, read off), ``projection`` (what one device sees), ``members``
(how the portfolio uses them); ``dive`` (windows as domains); ``slab_scope`` and
``slabs`` (all that is near one moment); ``modulo`` and ``cycles`` for the steady state;
``packing`` for a refresh of second-order information, ``sliding`` and ``reordering``
where the pipeline's ops move.
"""

from schedopt.cpsat.coarse import exact_scale
from schedopt.cpsat.cycles import CycleSearch, search_cycles
from schedopt.cpsat.dive import Answer, dive
from schedopt.cpsat.ends import two_ends
from schedopt.cpsat.members import project_bound, prove, solve_graph
from schedopt.cpsat.model import Effort, Outcome, Result, build_model, run
from schedopt.cpsat.packing import PackingResult, components, pack
from schedopt.cpsat.reordering import pack_reordered
from schedopt.cpsat.rules import OBJECTIVES, PROBLEM, REDUNDANT, SYMMETRY
from schedopt.cpsat.slabs import Slabs
from schedopt.cpsat.sliding import Sliding, cannot_slide, fits_no_space, pack_sliding
from schedopt.cpsat.sliding_counts import require_known, require_no_alternatives
from schedopt.cpsat.variables import Scope, Variables

__all__ = [
    "OBJECTIVES",
    "PROBLEM",
    "REDUNDANT",
    "SYMMETRY",
    "Answer",
    "CycleSearch",
    "Effort",
    "Outcome",
    "PackingResult",
    "Result",
    "Scope",
    "Slabs",
    "Sliding",
    "Variables",
    "build_model",
    "cannot_slide",
    "components",
    "dive",
    "exact_scale",
    "fits_no_space",
    "pack",
    "pack_reordered",
    "pack_sliding",
    "project_bound",
    "prove",
    "require_known",
    "require_no_alternatives",
    "run",
    "search_cycles",
    "solve_graph",
    "two_ends",
]
