"""schedopt: provably good schedules for pipeline-parallel training.

Times are integers here, in ticks; ``graph.units.time_of`` turns them into the unit of
the instance. From the root of the repository:

>>> import schedopt
>>> instance = schedopt.load_instance("instances/quickstart/quickstart.yaml")
>>> solution = schedopt.solve(instance, schedopt.SolveParameters(time_limit_s=60))
>>> in_ms = solution.graph.units.time_of
>>> in_ms(solution.value), in_ms(solution.lower_bound), str(solution.status)
(371, 371, 'optimal')
>>> schedopt.violations(solution.graph, solution.schedule.start)
()
>>> hand_made = schedopt.run_baseline(schedopt.BASELINES["gpipe"], instance)
>>> in_ms(hand_made.schedule.makespan), hand_made.fits, str(hand_made.form)
(427, False, 'linear, whole')
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schedopt.baselines import BASELINES, Baseline, BaselineRun, run_baseline
    from schedopt.build import Form, build_graph, derive
    from schedopt.errors import (
        FormatError,
        InstanceError,
        NotApplicableError,
        OrderError,
        SchedOptError,
    )
    from schedopt.export import Export, Program, export, load_program, program_of
    from schedopt.formats import instance_from_document, load_instance, load_schedule
    from schedopt.instance import Instance, Objective
    from schedopt.opgraph import OpGraph
    from schedopt.ops import Op, OpKind
    from schedopt.schedule import Order, Schedule
    from schedopt.simulate import simulate
    from schedopt.solve import (
        PlacementSearch,
        Solution,
        SolveParameters,
        Status,
        bounds_of,
        solve,
        solve_placements,
    )
    from schedopt.verify import verify_file, violations

# Where each public name lives. Nothing is imported before it is used, so that the
# command line answers at once.
_HOME = {
    "BASELINES": "baselines",
    "Baseline": "baselines",
    "BaselineRun": "baselines",
    "Export": "export",
    "Form": "build",
    "FormatError": "errors",
    "Instance": "instance",
    "InstanceError": "errors",
    "NotApplicableError": "errors",
    "Objective": "instance",
    "Op": "ops",
    "OpGraph": "opgraph",
    "OpKind": "ops",
    "Order": "schedule",
    "OrderError": "errors",
    "PlacementSearch": "solve",
    "Program": "export",
    "SchedOptError": "errors",
    "Schedule": "schedule",
    "Solution": "solve",
    "SolveParameters": "solve",
    "Status": "solve",
    "bounds_of": "solve",
    "build_graph": "build",
    "derive": "build",
    "instance_from_document": "formats",
    "load_instance": "formats",
    "load_program": "export",
    "load_schedule": "formats",
    "program_of": "export",
    "run_baseline": "baselines",
    "solve_placements": "solve",
    "verify_file": "verify",
    "violations": "verify",
}

# These are packages that can be called, see ``schedopt.callable_package``.
_CALLABLE = ("export", "simulate", "solve")

__all__ = [
    "BASELINES",
    "Baseline",
    "BaselineRun",
    "Export",
    "Form",
    "FormatError",
    "Instance",
    "InstanceError",
    "NotApplicableError",
    "Objective",
    "Op",
    "OpGraph",
    "OpKind",
    "Order",
    "OrderError",
    "PlacementSearch",
    "Program",
    "SchedOptError",
    "Schedule",
    "Solution",
    "SolveParameters",
    "Status",
    "bounds_of",
    "build_graph",
    "derive",
    "export",
    "instance_from_document",
    "load_instance",
    "load_program",
    "load_schedule",
    "program_of",
    "run_baseline",
    "simulate",
    "solve",
    "solve_placements",
    "verify_file",
    "violations",
]


def __getattr__(name: str) -> object:
    if name in _CALLABLE:
        return import_module(f"schedopt.{name}")
    if name not in _HOME:
        msg = f"module 'schedopt' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"schedopt.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
