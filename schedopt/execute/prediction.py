"""How long torch's runtime should need for a step, and each op in it.

The rows are replayed with torch's rules in place of the instance's: on stage 0, ``I``
does nothing and ``W`` is a whole backward (torch 2.13, ``stage.py``:
``backward_one_chunk`` and ``backward_weight_one_chunk``; read, and measured), and
between processes of one machine small tensors travel in no time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from schedopt.build import build_graph
from schedopt.export.program import Program
from schedopt.instance import Backward, Communication, Instance, StageCost
from schedopt.opgraph import Stream, StreamKind
from schedopt.schedule import Order, Schedule
from schedopt.simulate import simulate

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A step as predicted.

    Attributes
    ----------
    schedule : Schedule
        When each op should run; ticks, not scaled.
    step_s : float
        From the first start to the last end, seconds.
    op_s : dict
        Seconds that each op takes, by notation.
    """

    schedule: Schedule
    step_s: float
    op_s: dict[str, float]


def predict(program: Program) -> Prediction:
    """Replay a program by torch's rules.

    Raises
    ------
    OrderError
        If its ops wait for each other.
    """
    instance = as_torch_runs(program.instance)
    graph = build_graph(instance)
    order = Order(
        {
            Stream(StreamKind.COMPUTE, device): row
            for device, row in enumerate(program.rows)
            if row
        }
    )
    schedule = simulate(graph, order)
    per_tick = seconds_per_unit(instance) / graph.units.ticks_per_unit
    return Prediction(
        schedule=schedule,
        step_s=schedule.makespan * per_tick,
        op_s={str(op): graph.data[op].duration * per_tick for op in schedule.start},
    )


def as_torch_runs(instance: Instance) -> Instance:
    """The instance with the durations that torch's runtime makes of it."""
    first, *others = instance.stages
    return replace(
        instance,
        stages=(_first(first, instance.backward), *others),
        devices=tuple(replace(d, memory_limit=None) for d in instance.devices),
        communication=Communication(),
    )


def seconds_per_unit(instance: Instance) -> float:
    """How many seconds the instance's time unit has."""
    return _SECONDS[instance.time_unit]


def _first(stage: StageCost, backward: Backward) -> StageCost:
    if backward is Backward.WHOLE:
        return stage
    whole = stage.whole_backward
    return replace(stage, backward=whole, backward_input=0, backward_weight=whole)
