"""What each runtime can execute, as declared runtime profiles; data only."""

from schedopt.runtimes.catalog import PROFILES, profile_of
from schedopt.runtimes.profile import (
    Evidence,
    FirstStage,
    Forms,
    MicrobatchOrder,
    Recompute,
    RuntimeProfile,
    Shape,
)
from schedopt.runtimes.table import profile_table

__all__ = [
    "PROFILES",
    "Evidence",
    "FirstStage",
    "Forms",
    "MicrobatchOrder",
    "Recompute",
    "RuntimeProfile",
    "Shape",
    "profile_of",
    "profile_table",
]
