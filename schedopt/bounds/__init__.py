"""Lower bounds: promises that no schedule of the op graph is better.

Each is valid for the exact costs; docs/bounds.md has the proofs. ``quick_bounds`` need
no solver; bounds that solve small models are asked of ``schedopt.cpsat``.
"""

from schedopt.bounds.destructive import Destructive
from schedopt.bounds.quick import (
    LOAD_BOUNDS,
    QUICK_BOUNDS,
    memory_device_bounds,
    quick_bounds,
)
from schedopt.bounds.relaxed import without_choices

__all__ = [
    "LOAD_BOUNDS",
    "QUICK_BOUNDS",
    "Destructive",
    "memory_device_bounds",
    "quick_bounds",
    "without_choices",
]
