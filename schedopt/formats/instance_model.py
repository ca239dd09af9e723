"""The instance format, version 1: its fields, each with meaning, unit and default."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Tag

from schedopt.formats import values
from schedopt.formats.amounts import (
    MEMORY,
    TIME,
    Amount,
    Count,
    Flag,
    Index,
    MemoryUnit,
    Name,
    OptionalAmount,
    OptionalName,
    OptionalPositive,
    Positive,
    Resolution,
    Source,
    TimeUnit,
)
from schedopt.formats.kfac_model import KfacFields, ModuleFields
from schedopt.formats.model import (
    LIST,
    MAPPING,
    ONE,
    Strict,
    by_shape,
    field,
    json_schema,
)
from schedopt.instance import Backward, CommunicationMode, Objective, Placement
from schedopt.runtimes import PROFILES

INSTANCE_SCHEMA = "schedopt/instance/v1"

_schema = values.word((INSTANCE_SCHEMA,))
_mode = values.word(CommunicationMode)
_backward = values.word(Backward).or_null()
_placement = values.word(tuple(p for p in Placement if p is not Placement.EXPLICIT))
_objective = values.word(Objective)
_recompute = values.word(("none", "full"))
_runtime = values.word(tuple(PROFILES)).or_null()


class CostFields(Strict):
    """Costs of a stage for one microbatch on a device of speed 1."""

    forward: Amount = field("duration of F", unit=TIME)
    backward: OptionalAmount = field(
        "duration of B, the whole backward; absent means backward_input and"
        " backward_weight together",
        unit=TIME,
        default=None,
    )
    backward_input: OptionalAmount = field(
        "duration of I, the backward for the input", unit=TIME, default=None
    )
    backward_weight: OptionalAmount = field(
        "duration of W, the backward for the weights", unit=TIME, default=None
    )
    activation: Amount = field(
        "memory alive from the start of F to the end of W (or B)",
        unit=MEMORY,
        default=0,
    )
    activation_until_input: Amount = field(
        "the part of activation that is freed already at the end of I",
        unit=MEMORY,
        default=0,
    )
    input_gradient: Amount = field(
        "memory alive from the start of I to the end of W", unit=MEMORY, default=0
    )
    static_memory: Amount = field(
        "weights, gradients and optimizer state", unit=MEMORY, default=0
    )
    output_bytes: Amount = field(
        "what F sends to the next stage, and what that stage's backward sends back",
        unit="bytes",
        default=0,
    )
    recompute: OptionalAmount = field(
        "duration of R, where the stage is recomputed; absent means that of F",
        unit=TIME,
        default=None,
    )
    checkpoint: OptionalAmount = field(
        "memory kept from F to R where the stage is recomputed; absent means the"
        " previous stage's output_bytes (0 for stage 0)",
        unit=MEMORY,
        default=None,
    )
    overlap: OptionalAmount = field(
        "duration of one F and one whole backward of different microbatches run as one"
        " op; absent means that they cannot be",
        unit=TIME,
        default=None,
    )
    precondition: Amount = field(
        "duration of preconditioning the stage's gradients, once a step",
        unit=TIME,
        default=0,
    )
    optimizer_step: Amount = field(
        "duration of the optimizer's step", unit=TIME, default=0
    )
    gradient_bytes: Amount = field(
        "size of the stage's gradients, which its copies reduce and gather each step",
        unit="bytes",
        default=0,
    )
    modules: list[ModuleFields] = field("what K-FAC preconditions", default=[])


class StageFields(CostFields):
    """One stage of the model."""

    parts: list[CostFields] = field(
        "how the stage is cut where a schedule needs several stages per device; empty"
        " means equal parts",
        default=[],
    )


class EqualStagesFields(StageFields):
    """Several equal stages, written once."""

    count: Count = field("how many stages are like this one", unit="stages")


class DeviceFields(Strict):
    """One device."""

    name: OptionalName = field(
        'what tables call the device; absent means "device" and its number',
        default=None,
    )
    memory_limit: OptionalAmount = field(
        "memory of the device; null means unlimited, absent means the instance's"
        " memory_limit",
        unit=MEMORY,
        default=None,
    )
    static_memory: Amount = field(
        "memory taken on the device whatever its stages", unit=MEMORY, default=0
    )
    speed: Positive = field("durations on the device are divided by this", default=1)


class LinkFields(Strict):
    """A directed link that differs from the others."""

    source: Index = field("device that sends", unit="device number", alias="from")
    target: Index = field("device that receives", unit="device number", alias="to")
    latency: OptionalAmount = field(
        "latency of this link; absent means the general one", unit=TIME, default=None
    )
    bandwidth: OptionalPositive = field(
        "bandwidth of this link; absent means the general one",
        unit="bytes per second",
        default=None,
    )


class CommunicationFields(Strict):
    """How long a transfer between devices takes: latency + bytes / bandwidth."""

    mode: Annotated[CommunicationMode, _mode.validator, _mode.json_schema] = field(
        "what a transfer occupies: nothing (lag), the directed link (link), or the"
        " compute streams of both ends (blocking)",
        default=CommunicationMode.LAG,
    )
    latency: Amount = field("time that each transfer takes", unit=TIME, default=0)
    bandwidth: OptionalPositive = field(
        "bandwidth of each link; absent means that bytes cost nothing",
        unit="bytes per second",
        default=None,
    )
    links: list[LinkFields] = field("links that differ from the others", default=[])
    transfer_buffers: Flag = field(
        "whether a transfer holds output_bytes on both ends while it waits and runs",
        default=False,
    )


Stages = Annotated[
    Annotated[list[StageFields], Tag(LIST)]
    | Annotated[EqualStagesFields, Tag(MAPPING)],
    by_shape(
        "must be a list of stages, or one mapping with count for equal stages",
        LIST,
        MAPPING,
    ),
]
Devices = Annotated[
    Annotated[list[DeviceFields], Tag(LIST)] | Annotated[Count, Tag(ONE)],
    by_shape("must be a number of devices or a list of devices", LIST, ONE),
]
PlacementOrDevices = Annotated[
    Annotated[list[Index], Tag(LIST)]
    | Annotated[Placement, _placement.validator, _placement.json_schema, Tag(ONE)],
    by_shape("must be a word or a list of device numbers", LIST, ONE),
]
RecomputedStages = Annotated[
    Annotated[list[Index], Tag(LIST)]
    | Annotated[str, _recompute.validator, _recompute.json_schema, Tag(ONE)],
    by_shape("must be none, full or a list of stage numbers", LIST, ONE),
]


class InstanceFields(Strict):
    """A pipeline to schedule."""

    schema_: Annotated[str, _schema.validator, _schema.json_schema] = field(
        "name and version of the format", alias="schema"
    )
    name: Name = field("what tables call the instance")
    source: Source = field("where the numbers come from", default="")
    time_unit: TimeUnit = field("unit of every duration", default="us")
    memory_unit: MemoryUnit = field(
        "unit of every size but output_bytes", default="MiB"
    )
    microbatches: Count = field(
        "how many microbatches a batch has", unit="microbatches"
    )
    devices: Devices = field("how many devices there are, or a list of them")
    memory_limit: OptionalAmount = field(
        "memory of every device that does not give its own; absent means unlimited",
        unit=MEMORY,
        default=None,
    )
    placement: PlacementOrDevices = field(
        "on which device each stage lives: a word, or for each stage its device",
        default=Placement.LINEAR,
    )
    backward: Annotated[Backward | None, _backward.validator, _backward.json_schema] = (
        field(
            "whether the backward is one op (whole), two (split), or either per stage"
            " and microbatch (choose); absent means split where every stage gives"
            " backward_input and backward_weight and the runtime can, else whole",
            default=None,
        )
    )
    communication: CommunicationFields = field(
        "transfers between devices", default_factory=CommunicationFields
    )
    stages: Stages = field(
        "the stages in model order, or one mapping with count for equal stages"
    )
    recompute: RecomputedStages = field(
        "stages whose forward is run again before the backward: none, full, or a list"
        " of stage numbers",
        default="none",
    )
    microbatch_scale: list[Positive] = field(
        "for each microbatch a factor on its durations; empty means 1", default=[]
    )
    resolution: Resolution = field(
        "length of a tick in time_unit and of a grain in memory_unit, to which every"
        " number is rounded once",
        default=1e-6,
    )
    objective: Annotated[Objective, _objective.validator, _objective.json_schema] = (
        field(
            "what is minimised: the last end of all (makespan), the longest device's"
            " own (device-span), or the time per microbatch of a cycle that repeats"
            " (period)",
            default=Objective.MAKESPAN,
        )
    )
    runtime: Annotated[str | None, _runtime.validator, _runtime.json_schema] = field(
        "the runtime that will execute the schedule, whose rules then hold; absent"
        " means none",
        default=None,
    )
    steps: Count = field("training steps that are unrolled", unit="steps", default=1)
    kfac: KfacFields | None = field(
        "second-order work; absent means none", default=None
    )


def instance_schema() -> dict[str, Any]:
    """The JSON Schema of the instance format."""
    return json_schema(InstanceFields)
