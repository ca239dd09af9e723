"""The judge of schedules: every rule of the op graph, and every claim of a file.

It is written from the rules alone and shares no code with what proposes, times or
measures schedules; it reads op graphs, and for files the format and the builders.
"""

from schedopt.verify.claims import CLAIMS, claims_violations
from schedopt.verify.file import verify_file
from schedopt.verify.kfac import Work, kfac_violations
from schedopt.verify.rules import RULES, violations
from schedopt.verify.runtime import runtime_violations
from schedopt.verify.steady import STEADY_RULES, steady_violations
from schedopt.verify.violation import Rule, Violation

__all__ = [
    "CLAIMS",
    "RULES",
    "STEADY_RULES",
    "Rule",
    "Violation",
    "Work",
    "claims_violations",
    "kfac_violations",
    "runtime_violations",
    "steady_violations",
    "verify_file",
    "violations",
]
