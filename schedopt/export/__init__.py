"""Schedules become files that runtimes execute, and traces that people look at."""

from schedopt.callable_package import make_callable
from schedopt.export.formats import Export, export
from schedopt.export.program import Program, program_of
from schedopt.export.stored import load_program

__all__ = ["Export", "Program", "export", "load_program", "program_of"]

make_callable(__name__, export)  # schedopt.export(program, "torch-csv")
