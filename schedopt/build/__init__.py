"""Instances become op graphs here, one builder per concern.

A builder is a function from an instance to a part of the op graph; a new kind of work
is a new builder, and the solver, the verifier and the exporters do not change.
"""

from schedopt.build.capacity import Shortfall, least_peaks, shortfalls
from schedopt.build.derive import Form, derive, form_of
from schedopt.build.graph import build_graph
from schedopt.build.renaming import (
    class_of,
    in_microbatch_order,
    numbered_by_last_stage,
    numbered_in_one_order,
    numbers_are_free,
)
from schedopt.build.runtime_rules import ops_as_built

__all__ = [
    "Form",
    "Shortfall",
    "build_graph",
    "class_of",
    "derive",
    "form_of",
    "in_microbatch_order",
    "least_peaks",
    "numbered_by_last_stage",
    "numbered_in_one_order",
    "numbers_are_free",
    "ops_as_built",
    "shortfalls",
]
