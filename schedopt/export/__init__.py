"""Schedules become files that runtimes execute, and traces that people look at."""

from schedopt.export.program import Program, program_of

__all__ = ["Program", "program_of"]
