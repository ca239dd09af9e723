"""The instance format's words for K-FAC: modules of a stage, and what is unrolled."""

from __future__ import annotations

from typing import Annotated

from schedopt.formats import values
from schedopt.formats.amounts import (
    MEMORY,
    TIME,
    Amount,
    Count,
    OptionalPositive,
)
from schedopt.formats.model import Strict, field
from schedopt.instance import FactorBarrier, Inversion, StepBarrier

_module_name = values.part()
_inversion = values.word(Inversion)
_step_barrier = values.word(StepBarrier)
_factor_barrier = values.word(FactorBarrier)
ModuleName = Annotated[str, _module_name.validator, _module_name.json_schema]


class ModuleFields(Strict):
    """Equal linear layers of a stage that K-FAC preconditions; costs of one of them."""

    name: ModuleName = field("what ops call the layer; several are called ffn.0, ffn.1")
    count: Count = field("how many layers are like this one", unit="layers", default=1)
    curvature_a: Amount = field(
        "duration of a microbatch's share of factor A, of the inputs", unit=TIME
    )
    curvature_b: Amount = field(
        "duration of a microbatch's share of factor B, of the output gradients",
        unit=TIME,
    )
    inversion_a: Amount = field("duration of the inversion of factor A", unit=TIME)
    inversion_b: Amount = field("duration of the inversion of factor B", unit=TIME)
    saved_input: Amount = field(
        "the part of the stage's activation that waits for curvature A",
        unit=MEMORY,
        default=0,
    )
    saved_gradient: Amount = field(
        "memory that waits for curvature B, from the start of the backward on",
        unit=MEMORY,
        default=0,
    )
    factor_a: Amount = field(
        "memory of factor A, and as much for its inverse", unit=MEMORY, default=0
    )
    factor_b: Amount = field(
        "memory of factor B, and as much for its inverse", unit=MEMORY, default=0
    )


class KfacFields(Strict):
    """Second-order work: curvature, inversion and preconditioning of the modules."""

    interval: Count = field(
        "from one refresh of the curvature to the next", unit="steps", default=1
    )
    refreshes: Count = field(
        "how many refreshes are unrolled", unit="refreshes", default=1
    )
    inversion: Annotated[Inversion, _inversion.validator, _inversion.json_schema] = (
        field(
            "how the two devices of a stage in a bidirectional pipeline share its"
            " inversions: both do half of each (halved), or one of them does it"
            " (whole)",
            default=Inversion.HALVED,
        )
    )
    step_barrier: Annotated[
        StepBarrier, _step_barrier.validator, _step_barrier.json_schema
    ] = field(
        "what preconditioning waits for: the gradients of all stages (everyone), as"
        " clipping by the global norm needs, or those of its own (device)",
        default=StepBarrier.EVERYONE,
    )
    factor_barrier: Annotated[
        FactorBarrier, _factor_barrier.validator, _factor_barrier.json_schema
    ] = field(
        "what an inversion waits for: the curvature of its factor (factor), or that of"
        " all factors of the same side on its device (device)",
        default=FactorBarrier.FACTOR,
    )
    replicas: Count = field(
        "data-parallel copies of the pipeline, each doing its share of inversion and"
        " preconditioning",
        unit="copies",
        default=1,
    )
    latency: Amount = field("time that each collective takes", unit=TIME, default=0)
    bandwidth: OptionalPositive = field(
        "bandwidth of collectives; absent means that bytes cost nothing",
        unit="bytes per second",
        default=None,
    )
